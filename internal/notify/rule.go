package notify

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"k8s.io/apimachinery/pkg/labels"

	"keelson.dev/keelson/internal/delivery"
)

const summaryKey = "summary"

// Rule is an Alert, compiled. It may be used by many at once.
type Rule struct {
	// Problems name what in the Alert cannot be had, for people; the rest of it holds.
	Problems []string

	spec             notificationv1beta3.AlertSpec
	namespace        string
	include, exclude []*regexp.Regexp
	blocked          bool // nothing from other namespaces
}

// kinds are those whose events there are. ImagePolicy and the like belong to controllers of Flux that send for themselves.
var kinds = []string{
	"Kustomization", "HelmRelease", "GitRepository", "OCIRepository", "HelmRepository", "HelmChart", "Receiver",
	"Application", "ApplicationSet", "Project",
}

// Compile reads an Alert.
func Compile(a *notificationv1beta3.Alert, policy delivery.Policy) *Rule {
	r := &Rule{spec: a.Spec, namespace: a.Namespace, blocked: policy.NoCrossNamespaceRefs}
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	for _, list := range []struct {
		field string
		texts []string
		into  *[]*regexp.Regexp
	}{{"inclusionList", a.Spec.InclusionList, &r.include}, {"exclusionList", a.Spec.ExclusionList, &r.exclude}} {
		for i, text := range list.texts {
			e, err := regexp.Compile(text)
			if err != nil {
				problem("spec.%s[%d]: %v", list.field, i, err)
				continue
			}
			*list.into = append(*list.into, e)
		}
	}
	for i, src := range a.Spec.EventSources {
		switch {
		case !slices.Contains(kinds, src.Kind):
			problem("spec.eventSources[%d]: no events of the kind %s come from Keelson", i, src.Kind)
		case r.blocked && src.Namespace != "" && src.Namespace != a.Namespace:
			problem("spec.eventSources[%d]: %s %s/%s: cross-namespace references have been blocked", i, src.Kind, src.Namespace, src.Name)
		}
	}
	return r
}

// Matches tells whether an event is one that the Alert asks for.
func (r *Rule) Matches(n News) bool {
	if r.spec.Suspend || r.blocked && n.InvolvedObject.Namespace != r.namespace {
		return false
	}
	if r.spec.EventSeverity == eventv1.EventSeverityError && n.Severity != eventv1.EventSeverityError {
		return false
	}
	if !slices.ContainsFunc(r.spec.EventSources, func(s notificationv1.CrossNamespaceObjectReference) bool { return r.selects(s, n) }) {
		return false
	}
	says := func(e *regexp.Regexp) bool { return e.MatchString(n.Message) }
	if len(r.spec.InclusionList) > 0 && !slices.ContainsFunc(r.include, says) {
		return false
	}
	return !slices.ContainsFunc(r.exclude, says)
}

func (r *Rule) selects(s notificationv1.CrossNamespaceObjectReference, n News) bool {
	if s.Namespace == "" {
		s.Namespace = r.namespace
	}
	return s.Kind == n.InvolvedObject.Kind && s.Namespace == n.InvolvedObject.Namespace && (s.Name == "*" || s.Name == n.InvolvedObject.Name) &&
		(len(s.MatchLabels) == 0 || labels.SelectorFromSet(s.MatchLabels).Matches(labels.Set(n.Labels)))
}

// Event gives an event as it is told: with the metadata of its object and of the Alert, without prefixes. From the lowest to the
// highest precedence these are what annotations of the object say (event.toolkit.fluxcd.io/…), the Alert's eventMetadata, its
// summary, and what the controller says.
func (r *Rule) Event(n News) eventv1.Event {
	e := *n.DeepCopy()
	e.Message = cut(e.Message, MaxMessage)
	e.Metadata = map[string]string{}
	take := func(prefix string) {
		for k, v := range n.Metadata {
			if key, ok := strings.CutPrefix(k, prefix+"/"); ok {
				e.Metadata[key] = v
			}
		}
	}
	take(eventv1.Group)
	for k, v := range r.spec.EventMetadata {
		e.Metadata[k] = v
	}
	if r.spec.Summary != "" {
		e.Metadata[summaryKey] = r.spec.Summary
	}
	take(n.group())
	for _, internal := range []string{eventv1.MetaTokenKey, eventv1.MetaDigestKey, eventv1.MetaChecksumKey} {
		if _, ok := n.Metadata[n.group()+"/"+internal]; ok {
			delete(e.Metadata, internal)
		}
	}
	if len(e.Metadata) == 0 {
		e.Metadata = nil
	}
	return e
}
