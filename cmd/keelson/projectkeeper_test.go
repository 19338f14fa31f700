package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/store"
)

func TestPipelineEnd(t *testing.T) {
	row := func(status, why, title string) store.Pipeline {
		return store.Pipeline{IID: 7, Ref: "main", SHA: "731f7eaddfb6af01cb2173e18f0f75b0ba780ef1", Status: status, Why: why, Title: title}
	}
	at := delivery.Revision{Name: "main", Commit: "731f7eaddfb6af01cb2173e18f0f75b0ba780ef1"}
	for name, test := range map[string]struct {
		ended ci.Ended
		want  controller.PipelineEnd
	}{
		"success":        {ci.Ended{Pipeline: row("success", "", "Add it")}, controller.PipelineEnd{Reason: "PipelineSucceeded", Message: "pipeline 7 of main: success (Add it)", Revision: at}},
		"jobs":           {ci.Ended{Pipeline: row("failed", "x", "Add it"), Failed: []string{"build", "test"}}, controller.PipelineEnd{Failed: true, Reason: "PipelineFailed", Message: "pipeline 7 of main: failed: build, test (Add it)", Revision: at}},
		"no jobs":        {ci.Ended{Pipeline: row("failed", ".gitlab-ci.yml:1: see https://bob:pw@x/y", "")}, controller.PipelineEnd{Failed: true, Reason: "PipelineFailed", Message: "pipeline 7 of main: failed: .gitlab-ci.yml:1: see https://x/y", Revision: at}},
		"somebody stops": {ci.Ended{Pipeline: row("canceled", "", ""), Failed: []string{"build"}}, controller.PipelineEnd{Reason: "PipelineCanceled", Message: "pipeline 7 of main: canceled", Revision: at}},
	} {
		if got := pipelineEnd(test.ended); got != test.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// What ended is kept for its Project, within bounds, and told once.
func TestPipelineEndsAreToldOnce(t *testing.T) {
	k := newProjectKeeper(nil)
	woken := 0
	k.Tell(func(types.NamespacedName) { woken++ })
	k.paths[types.NamespacedName{Namespace: "a", Name: "shop"}] = "group/shop"
	for range maxEnded + 5 {
		k.over(ci.Ended{Project: "group/shop", Pipeline: store.Pipeline{Status: "success"}})
	}
	k.over(ci.Ended{Project: "group/other", Pipeline: store.Pipeline{Status: "success"}})
	if n := len(k.untold("group/shop")); n != maxEnded || woken != maxEnded+5 {
		t.Errorf("%d were kept, the Project was woken %d times", n, woken)
	}
	if n := len(k.untold("group/shop")); n != 0 {
		t.Errorf("%d would be told again", n)
	}
}
