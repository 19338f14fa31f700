package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/web"
)

func TestStatusOf(t *testing.T) {
	ready := func(status metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: "Ready", Status: status, Reason: reason, Message: message}
	}
	cases := map[string]struct {
		suspend    bool
		observed   int64
		conditions []metav1.Condition
		want       web.Status
	}{
		"nobody has looked":  {want: web.Status{State: web.Unknown}},
		"ready":              {observed: 2, conditions: []metav1.Condition{ready("True", "R", "m")}, want: web.Status{State: web.Ready, Reason: "R", Message: "m"}},
		"ready, older spec":  {observed: 1, conditions: []metav1.Condition{ready("True", "R", "m")}, want: web.Status{State: web.Working, Reason: "R", Message: "m"}},
		"on its way":         {observed: 1, conditions: []metav1.Condition{ready("Unknown", "R", "m")}, want: web.Status{State: web.Working, Reason: "R", Message: "m"}},
		"failing":            {observed: 2, conditions: []metav1.Condition{ready("False", "R", "m")}, want: web.Status{State: web.Failing, Reason: "R", Message: "m"}},
		"suspended":          {suspend: true, observed: 2, conditions: []metav1.Condition{ready("True", "R", "m")}, want: web.Status{State: web.Suspended, Reason: "R", Message: "m"}},
		"a secret in a text": {observed: 2, conditions: []metav1.Condition{ready("False", "R", "fetch https://bob:pw@example.com/a.git: no")}, want: web.Status{State: web.Failing, Reason: "R", Message: "fetch https://example.com/a.git: no"}},
		"a field is ignored": {observed: 2, conditions: []metav1.Condition{ready("True", "R", "m"), {Type: dialect.IgnoredCondition, Status: "True", Message: "spec.decryption"}},
			want: web.Status{State: web.Ready, Reason: "R", Message: "m", Warnings: []string{"spec.decryption"}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", Generation: 2}}
			tc.want.Kind, tc.want.Namespace, tc.want.Name = "Kustomization", "ns", "app"
			got := statusOf("Kustomization", k, tc.suspend, tc.observed, tc.conditions)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSourceOf(t *testing.T) {
	g := &sourcev1.GitRepository{}
	g.Spec.URL = "https://bob:pw@example.com/a.git"
	g.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: "main", Tag: "v1"}
	if got := sourceOf(g); got.URL != "https://example.com/a.git" || got.Ref != "v1" {
		t.Errorf("URL %q and ref %q, want no userinfo and the tag", got.URL, got.Ref)
	}
}

func TestMessage(t *testing.T) {
	long := strings.Repeat("x", 200)
	cases := map[string]struct {
		status web.Status
		whole  bool
		want   string
	}{
		"one line":      {web.Status{State: web.Ready, Message: "a\nb"}, false, "a b"},
		"cut":           {web.Status{State: web.Ready, Message: long}, false, long[:89] + "…"},
		"whole":         {web.Status{State: web.Ready, Message: long}, true, long},
		"with a reason": {web.Status{State: web.Failing, Reason: "BuildFailed", Message: "no"}, false, "BuildFailed: no"},
		"warnings":      {web.Status{State: web.Ready, Message: "ok", Warnings: []string{"w"}}, false, "ok; w"},
		"nothing":       {web.Status{}, false, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := message(tc.status, tc.whole); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestPrintError(t *testing.T) {
	fault := &delivery.Fault{Where: "a.yaml:3", Hint: "mend it", Err: errors.New("bad indent")}
	cases := map[string]struct {
		err  error
		code int
		want string
	}{
		"plain":               {errors.New("no"), 1, "error: no\n"},
		"a fault":             {fmt.Errorf("render: %w", fault), 1, "error: render: a.yaml:3: bad indent\nhint: mend it\n"},
		"two hints":           {hintf(hintf(errors.New("no"), "one"), "two"), 1, "error: no\nhint: one\nhint: two\n"},
		"a code keeps hints":  {withCode(exitUnhealthy, hintf(errors.New("no"), "one")), 3, "error: no\nhint: one\n"},
		"a hint keeps a code": {hintf(usagef("no"), "one"), 2, "error: no\nhint: one\n"},
		"wrapped":             {fmt.Errorf("outer: %w", usagef("no")), 2, "error: outer: no\n"},
		"a secret":            {errors.New("fetch https://u:pw@h/x: no"), 1, "error: fetch https://h/x: no\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			printError(&b, tc.err)
			if diff := cmp.Diff(tc.want, b.String()); diff != "" || exitCode(tc.err) != tc.code {
				t.Errorf("code %d, want %d; text (-want +got):\n%s", exitCode(tc.err), tc.code, diff)
			}
		})
	}
}

func TestIsOurs(t *testing.T) {
	for version, want := range map[string]bool{
		"kustomize.toolkit.fluxcd.io/v1": true, "helm.toolkit.fluxcd.io/v2": true, "source.toolkit.fluxcd.io/v1": true, "argoproj.io/v1alpha1": true,
		"v1": false, "apps/v1": false,
	} {
		if got := isOurs(&corev1.Event{InvolvedObject: corev1.ObjectReference{APIVersion: version}}); got != want {
			t.Errorf("events of objects of %s are shown: %t, want %t", version, got, want)
		}
	}
}

func TestHappeningWrites(t *testing.T) {
	h := happening{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Type: "Normal", Object: "Kustomization/dev",
		Reason: "DriftRepaired", Message: "a\nb", Count: 2}
	var b strings.Builder
	if err := h.write(&b); err != nil {
		t.Fatal(err)
	}
	want := "03:04:05  Normal   Kustomization/dev  DriftRepaired (2 times): a\n            b\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}
