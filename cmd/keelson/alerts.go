package main

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/notify"
	"keelson.dev/keelson/internal/web"
)

// shownAlert is an Alert as it is told to people and programs.
type shownAlert struct {
	web.Status
	Provider string   `json:"provider"`
	Severity string   `json:"severity"`
	Sources  []string `json:"eventSources"` // KIND/NAME, or KIND/NAMESPACE/NAME
}

// shownProvider is a Provider as it is told.
type shownProvider struct {
	web.Status
	Type    string `json:"type"`
	Channel string `json:"channel,omitempty"`
	Host    string `json:"host,omitempty"` // the rest of an address may be the key to it
}

var alertListing = listing{
	use: "alerts", short: "List the Alerts: who is told about what", aliases: []string{"alert"}, key: "alerts",
	headings: []string{"NAMESPACE", "NAME", "STATE", "PROVIDER", "SEVERITY", "AGE", "MESSAGE", "|", "SOURCES"},
	kinds:    []listedKind{{list: func() client.ObjectList { return &notificationv1beta3.AlertList{} }}},
	of: func(obj client.Object) (web.Status, func(web.Status) any, func(web.Status, bool) []string) {
		a, ok := obj.(*notificationv1beta3.Alert)
		if !ok {
			return web.Status{}, nil, nil
		}
		shown := shownAlert{
			Status: uncheckedStatus(a, notificationv1beta3.AlertKind, a.Spec.Suspend), Provider: a.Spec.ProviderRef.Name,
			Severity: cmp.Or(a.Spec.EventSeverity, eventv1.EventSeverityInfo), Sources: []string{},
		}
		for _, s := range a.Spec.EventSources {
			shown.Sources = append(shown.Sources, sourceText(s))
		}
		if problems := notify.Compile(a, delivery.Policy{}).Problems; len(problems) > 0 {
			shown.wrong(strings.Join(problems, "; "))
		}
		return shown.Status, func(st web.Status) any { shown.Status = st; return shown }, func(st web.Status, whole bool) []string {
			return []string{st.Namespace, st.Name, string(st.State), shown.Provider, shown.Severity, ageOf(st.Created), message(st, whole), strings.Join(shown.Sources, ",")}
		}
	},
}

var providerListing = listing{
	use: "providers", short: "List the Providers: where Alerts are sent to", aliases: []string{"provider", "alert-providers"}, key: "providers",
	headings: []string{"NAMESPACE", "NAME", "STATE", "TYPE", "AGE", "MESSAGE", "|", "CHANNEL", "HOST"},
	kinds:    []listedKind{{list: func() client.ObjectList { return &notificationv1beta3.ProviderList{} }}},
	of: func(obj client.Object) (web.Status, func(web.Status) any, func(web.Status, bool) []string) {
		p, ok := obj.(*notificationv1beta3.Provider)
		if !ok {
			return web.Status{}, nil, nil
		}
		shown := shownProvider{
			Status: uncheckedStatus(p, notificationv1beta3.ProviderKind, p.Spec.Suspend), Type: p.Spec.Type, Channel: p.Spec.Channel,
		}
		if u, err := url.Parse(p.Spec.Address); err == nil {
			shown.Host = u.Host
		}
		if err := notify.Check(p); err != nil {
			shown.wrong(err.Error())
		}
		return shown.Status, func(st web.Status) any { shown.Status = st; return shown }, func(st web.Status, whole bool) []string {
			return []string{st.Namespace, st.Name, string(st.State), shown.Type, ageOf(st.Created), message(st, whole), cmp.Or(shown.Channel, "-"), cmp.Or(shown.Host, "-")}
		}
	},
}

// uncheckedStatus is the status of an object of a kind that has none: its spec says all.
func uncheckedStatus(obj client.Object, kind string, suspended bool) web.Status {
	s := web.Status{Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), State: web.Ready, Created: obj.GetCreationTimestamp().UTC()}
	if suspended {
		s.State = web.Suspended
	}
	return s
}

func (s *shownAlert) wrong(why string) {
	s.State, s.Reason, s.Message = web.Failing, "InvalidConfig", why
}
func (s *shownProvider) wrong(why string) {
	s.State, s.Reason, s.Message = web.Failing, "InvalidConfig", why
}

func sourceText(s notificationv1.CrossNamespaceObjectReference) string {
	text := s.Kind + "/" + s.Name
	if s.Namespace != "" {
		text = s.Kind + "/" + s.Namespace + "/" + s.Name
	}
	var labels []string
	for k, v := range s.MatchLabels {
		labels = append(labels, k+"="+v)
	}
	if slices.Sort(labels); len(labels) > 0 {
		text += fmt.Sprintf("[%s]", strings.Join(labels, ","))
	}
	return text
}
