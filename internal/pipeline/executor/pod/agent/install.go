package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Main is the program in a Pod. It gives the exit code.
func Main(args []string) int {
	err := errors.New("want install DIR or run")
	switch {
	case len(args) == 2 && args[0] == "install":
		err = install(args[1])
	case len(args) == 1 && args[0] == "run":
		err = serve()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Command, err)
		return 1
	}
	return 0
}

// install copies this program into a directory, where it is there at once or not at all.
func install(dir string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	defer from.Close()
	aside := filepath.Join(dir, ".keelson.new")
	to, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("install this program: %w", err)
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Chmod(0o755)
	}
	if err := errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("install this program: %w", err)
	}
	return os.Rename(aside, filepath.Join(dir, filepath.Base(Program)))
}
