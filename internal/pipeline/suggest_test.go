package pipeline_test

import (
	"testing"

	"keelson.dev/keelson/internal/pipeline"
)

func TestNearest(t *testing.T) {
	names := []string{"build", "test", "deploy:production", "deploy:staging"}
	for name, want := range map[string]string{"tset": "test", "Build": "build", "deploy:prodution": "deploy:production", "deploy": "deploy:production", "xyz": "", "": ""} {
		if got := pipeline.Nearest(name, names); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
