// Package notify decides who is told what about an event of an app: it reads Flux's Alert and Provider, and gives the HTTP
// requests that tell it.
//
//	rule := notify.Compile(alert, policy)               // what an Alert asks for, and what in it cannot be had
//	if rule.Matches(news) { job := rule.Job(news, id) } // the event with the Alert's metadata
//	target, err := notify.Resolve(provider, secrets)    // where it goes
//	requests, err := target.Requests(job)               // what is sent: the payloads of Slack, Teams, GitLab …
//	result := request.Judge(status, header, body)       // sent, try again, or hopeless
//
// [Queue] keeps what is not sent yet, within bounds, in order per object, at a bounded rate per Provider; [Seen] knows what was
// told already. The package is pure: no clock, no network, no cluster. Its subpackage send does the requests.
//
// What is written follows notification-controller's payloads where it has them, so that what reads them works on. Where it
// matters to people who read, it is stricter: fields are in a fixed order, and what a service would take for markup or for a
// mention of everybody is escaped.
package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
)

// Controller is the name under which events are reported.
const Controller = "keelson"

// MaxMessage is the most bytes of an event's message.
const MaxMessage = 8 << 10

// News is an event and the labels of the object that it is about. The keys of its metadata have the API group of the object, or
// event.toolkit.fluxcd.io for what an annotation says, in front, as in Flux.
type News struct {
	eventv1.Event
	Labels map[string]string
}

// Object names what the news is about: "Kustomization/NAMESPACE/NAME".
func (n News) Object() string { return ObjectOf(n.Event) }

// ObjectOf names what an event is about: "Kustomization/NAMESPACE/NAME".
func ObjectOf(e eventv1.Event) string {
	o := e.InvolvedObject
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// group gives the API group of the object.
func (n News) group() string { return n.InvolvedObject.GroupVersionKind().Group }

// Key is the same for the same event: object, message, reason, severity, revision and token.
func (n News) Key() string {
	h := sha256.New()
	for _, part := range []string{
		n.Object(), n.Severity, n.Reason, n.Message,
		n.Metadata[n.group()+"/"+eventv1.MetaRevisionKey], n.Metadata[n.group()+"/"+eventv1.MetaTokenKey],
	} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// statusOnly tells of an event that only marks a commit as delivered: nobody else is told.
func (n News) statusOnly() bool {
	return n.Metadata[n.group()+"/"+eventv1.MetaCommitStatusKey] == eventv1.MetaCommitStatusUpdateValue
}

// recovered tells of an event that says that its object is well.
func recovered(e eventv1.Event) bool {
	return e.Severity != eventv1.EventSeverityError &&
		(strings.HasSuffix(e.Reason, "Succeeded") || e.Reason == "NewArtifact" || e.Reason == "OperationCompleted")
}

// progressing tells of an event about something under way.
func progressing(e eventv1.Event) bool { return e.Reason == fluxmeta.ProgressingReason }

// keysOf gives the keys of metadata as they are shown: the summary first.
func keysOf(metadata map[string]string) []string {
	keys := slices.Sorted(maps.Keys(metadata))
	if i := slices.Index(keys, summaryKey); i > 0 {
		keys = slices.Insert(slices.Delete(keys, i, i+1), 0, summaryKey)
	}
	return keys
}

// cut bounds a text to some bytes.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
