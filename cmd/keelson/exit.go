package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
)

// The exit codes; [exitCodes] explains them to people.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitUnhealthy = 3
	exitDiffers   = 4
)

const exitCodes = `Every keelson command ends with one of these codes:

  0  it worked; nothing differs; everything asked about is healthy
  1  it failed: the error says what, where and what to do; "keelson status": not all is well
  2  it was called wrongly: an unknown command, flag or argument
  3  it worked, but what it waited for is not healthy, or did not get there in time
  4  "keelson diff" found differences; "keelson plan" and "keelson apply --dry-run" found something to do
`

// commandError is an error with an exit code and hints; the zero code stands for exitFailure.
type commandError struct {
	code  int
	hints []string
	err   error
}

// errSilent is wrapped by an outcome that has an exit code of its own but is no failure: nothing is printed.
var errSilent = errors.New("")

func (e *commandError) Error() string { return e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// hintf adds a hint to an error, without changing its exit code.
func hintf(err error, format string, args ...any) error {
	return &commandError{code: exitCode(err), hints: append(hintsOf(err), fmt.Sprintf(format, args...)), err: bare(err)}
}

// withCode sets an error's exit code and keeps its hints.
func withCode(code int, err error) error {
	return &commandError{code: code, hints: hintsOf(err), err: bare(err)}
}

func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// bare takes the outermost commandError off, so that hints are not collected twice.
func bare(err error) error {
	if c, ok := err.(*commandError); ok { //nolint:errorlint // only the outermost layer is meant
		return c.err
	}
	return err
}

func exitCode(err error) int {
	var c *commandError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c) && c.code != exitOK:
		return c.code
	default:
		return exitFailure
	}
}

func hintsOf(err error) []string {
	var hints []string
	var c *commandError
	if errors.As(err, &c) {
		hints = append(hints, c.hints...)
	}
	var f *delivery.Fault
	if errors.As(err, &f) && f.Hint != "" {
		hints = append(hints, f.Hint)
	}
	return hints
}

// printError writes an error as people read it: one line "error: …" and a line "hint: …" for each hint.
func printError(w io.Writer, err error) {
	text := err.Error()
	hints := hintsOf(err)
	for _, h := range hints { // a Fault prints its own hint inside its text
		text = strings.Replace(text, " (hint: "+h+")", "", 1)
	}
	fmt.Fprintln(w, "error: "+redact.Text(text))
	for _, h := range hints {
		fmt.Fprintln(w, "hint: "+redact.Text(h))
	}
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodes}
}
