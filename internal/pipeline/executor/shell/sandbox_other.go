//go:build !linux

package shell

import (
	"errors"
	"os"
	"runtime"
)

// Check tells how jobs can be kept apart here, or why they cannot.
func Check() (kind Isolation, why string) {
	return NoIsolation, "only Linux has what the sandbox of shell jobs is made of, and this is " + runtime.GOOS
}

// ServeChild is the child process of a sandbox, which only Linux has.
func ServeChild() int { return 2 }

// box is never made here.
type box struct{}

func newBox(Sandbox, *cage, string) (*box, error) {
	_, why := Check()
	return nil, errors.New(why)
}

func (*box) close() {}

func (*box) passed(env []string) []string { return env }

func (*box) open(*job) (*cell, error) { return nil, errors.ErrUnsupported }

type cell struct{}

func (*cell) private() (outside, inside string) { return "", "" }

func (*cell) give(string) error { return nil }

func (*cell) own(string) error { return nil }

func (*cell) start(*scope, string, []string, []string, string, []*os.File, bool) (*os.Process, error) {
	return nil, errors.ErrUnsupported
}

func (*cell) stop() {}

func (*cell) close() {}
