package history

import (
	"testing"
)

func TestCreditOfSeveralCommits(t *testing.T) {
	web := Object{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: "web"}
	rendered := web
	rendered.Namespace = "" // it is set when it is delivered
	image, replicas := "spec.template.spec.containers[name=web].image", "spec.replicas"
	commit := func(sha string) Commit {
		return Commit{SHA: sha, Author: "author of " + sha, MergeRequest: "!" + sha, Approvers: []string{"approver of " + sha}}
	}
	parts := []Part{
		{Commit: commit("1"), Changed: []PartChange{{Object: rendered, Fields: []string{image}}}},
		{Commit: commit("2"), Changed: []PartChange{{Object: rendered, Fields: []string{replicas}}}},
		{Commit: commit("3")},
	}
	change := Change{Object: web, Verb: "update", Fields: []Field{{Path: image, Before: "1", After: "2"}, {Path: replicas, Before: "1", After: "3"}, {Path: "spec.paused", After: "true"}}}
	for _, c := range []struct {
		name, field, sha, head, among, unsure string
		parts                                 []Part
	}{
		{"one field", "image", "1", "3", "", "", parts},
		{"another field", "replicas", "2", "3", "", "", parts},
		{"the object", "", "2", "3", "1", "", parts},
		{"a field that no commit has", "paused", "3", "", "21", "it is one of the commits that came at once", parts},
		{"a single commit", "image", "3", "", "", "", nil},
		{"others that are not known", "image", "3", "", "", "other commits may have come with this one, which are not known here", parts[2:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := Decide(Question{Kind: "deploy", Name: "web", Field: c.field}, Evidence{
				Steps: []Step{{Delivery: Delivery{Trigger: ByCommit, Commit: commit("3")}, Change: change}}, Parts: c.parts,
			})
			head, among := "", ""
			if a.Head != nil {
				head = a.Head.SHA
			}
			for _, m := range a.Among {
				among += m.SHA
			}
			if a.Delivery.SHA != c.sha || head != c.head || among != c.among || a.Unsure != c.unsure {
				t.Errorf("%s: commit %s, head %q, among %q, %q", c.name, a.Delivery.SHA, head, among, a.Unsure)
			}
			if who := a.Approvals[0].By; who != "approver of "+c.sha || a.Delivery.MergeRequest != "!"+c.sha || a.Delivery.Author != "author of "+c.sha {
				t.Errorf("%s: approved by %s, %+v", c.name, who, a.Delivery)
			}
		})
	}
}
