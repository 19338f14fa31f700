//go:build !linux

package shell

import (
	"os"

	"keelson.dev/keelson/internal/pipeline/executor"
)

// bounds bound nothing elsewhere.
type bounds struct{}

func newBounds(cpu, memory int64, _ int, trace *executor.Trace) *bounds {
	if cpu > 0 || memory > 0 {
		trace.Warningf("What the job takes is not bounded, as its project says: that takes Linux")
	}
	return nil
}

func (b *bounds) joins() ([]*os.File, error) { return nil, nil }
func (b *bounds) exceeded() string           { return "" }
func (b *bounds) close()                     {}

func (b *bounds) start(c *cage, name string, args []string, attr *os.ProcAttr) (*os.Process, error) {
	return c.start(name, args, attr)
}
