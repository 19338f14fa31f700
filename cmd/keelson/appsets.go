package main

import (
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

// shownAppSet is an ApplicationSet as it is told to people and programs.
type shownAppSet struct {
	web.Status
	Apps int `json:"apps"`
}

var appSetListing = listing{
	use: "appsets", short: "List the ApplicationSets", aliases: []string{"appset", "applicationsets"}, key: "appsets",
	headings: []string{"NAMESPACE", "NAME", "STATE", "APPS", "AGE", "MESSAGE"},
	kinds:    []listedKind{{list: func() client.ObjectList { return &argocdv1.ApplicationSetList{} }}},
	of: func(obj client.Object) (web.Status, func(web.Status) any, func(web.Status, bool) []string) {
		s, ok := obj.(*argocdv1.ApplicationSet)
		if !ok {
			return web.Status{}, nil, nil
		}
		set := shownAppSet{Status: appSetStatus(s), Apps: len(s.Status.Resources)}
		return set.Status, func(st web.Status) any { set.Status = st; return set }, func(st web.Status, whole bool) []string {
			return []string{st.Namespace, st.Name, string(st.State), fmt.Sprint(set.Apps), ageOf(st.Created), message(st, whole)}
		}
	},
}

// appSetStatus weighs the conditions of an ApplicationSet.
func appSetStatus(s *argocdv1.ApplicationSet) web.Status {
	out := web.Status{
		Kind: argocdv1.ApplicationSetKind, Namespace: s.Namespace, Name: s.Name, State: web.Unknown, Created: s.CreationTimestamp.UTC(),
	}
	say := func(state web.State, c argocdv1.ApplicationSetCondition) {
		out.State, out.Reason, out.Message, out.Since = state, c.Reason, redact.Text(c.Message), time.Time{}
		if c.LastTransitionTime != nil {
			out.Since = c.LastTransitionTime.UTC()
		}
	}
	for _, c := range s.Status.Conditions {
		switch {
		case c.Type == "ErrorOccurred" && c.Status == "True":
			say(web.Failing, c)
			return out
		case c.Type == "RolloutProgressing" && c.Status == "True":
			say(web.Working, c)
		case c.Type == "ResourcesUpToDate" && out.State != web.Working:
			if say(web.Ready, c); c.Status != "True" {
				out.State = web.Working
			}
		}
	}
	return out
}
