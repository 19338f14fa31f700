package shell_test

import (
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/conformance"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, func(t *testing.T) (executor.Executor, string) {
		return newExecutor(t, shell.Options{}), t.TempDir()
	})
}

func newExecutor(t testing.TB, o shell.Options) *shell.Executor {
	t.Helper()
	o.TempDir = t.TempDir()
	if o.Grace == 0 {
		o.Grace = time.Second
	}
	x, err := shell.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}
