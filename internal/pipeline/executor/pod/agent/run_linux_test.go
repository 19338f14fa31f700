package agent

import (
	"os"
	"path/filepath"
	"testing"

	"keelson.dev/keelson/internal/pipeline/executor/script"
)

// An order that was revoked before it came is not carried out; what comes after it has its setup.
func TestStoppedOrder(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &agent{family: newFamily(), log: newOutbox(), null: null, shell: "/bin/sh"}
	if a.out, err = script.NewOutput(a.log); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	setup := &Setup{Dir: filepath.Join(dir, "work"), Temp: filepath.Join(dir, "temp")}
	file := filepath.Join(dir, "file")
	for _, o := range []struct {
		stop, runs bool
		setup      *Setup
	}{{true, false, setup}, {false, true, nil}} {
		exit := a.phase(Order{Phase: Script, Text: "echo > " + file, Stop: o.stop, Setup: o.setup}, make(chan struct{}))
		_, err := os.Stat(file)
		if ran := err == nil; ran != o.runs || exit.Stopped != o.stop || exit.Err != "" {
			t.Errorf("stop %v: %+v, it has run: %v", o.stop, exit, ran)
		}
	}
}
