package controller_test

import (
	"testing"
	"time"
)

// TestHelmReleaseRests: what fails before anything is written, which no retry budget counts, is tried again less and less often, and at once
// when something of it changes.
func TestHelmReleaseRests(t *testing.T) {
	w := newWorld(t)
	w.push(chart("1.0.0", map[string]string{
		"templates/fail.yaml": `{{ if .Values.bad }}{{ lookup "v1" "ConfigMap" .Release.Namespace "probe" }}{{ fail "not so" }}{{ end }}`,
	}))
	_, from := requests(t, 0)
	w.helmRelease("web", "  values: {bad: true}\n")
	w.helmSays("web", "Ready", "False", "InstallFailed", "fail.yaml", "not so")
	time.Sleep(2 * time.Second)
	tried := 0
	all, _ := requests(t, from)
	for _, r := range all {
		if r.ObjectRef.Namespace == w.ns && r.ObjectRef.Name == "probe" {
			tried++
		}
	}
	if tried < 1 || tried > 4 {
		t.Errorf("it was tried %d times within two seconds", tried)
	}
	w.helmRelease("web", "  values: {bad: false}\n")
	w.released("web", 1)
}
