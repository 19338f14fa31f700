package realnode

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// controllers that the kubelet will not do without.
var controllers = []string{"cpu", "cpuset", "memory", "pids"}

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	path        string
	unified     bool     // cgroup v2
	controllers []string // that it has to give
}

// hierarchies reads /proc/self/mountinfo, see proc_pid_mountinfo(5).
func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []hierarchy
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		mount, source, ok := strings.Cut(lines.Text(), " - ")
		fields, sources := strings.Fields(mount), strings.Fields(source)
		if !ok || len(fields) < 5 || len(sources) < 3 {
			continue
		}
		switch sources[0] {
		case "cgroup":
			found = append(found, hierarchy{path: fields[4], controllers: strings.Split(sources[2], ",")})
		case "cgroup2":
			text, err := os.ReadFile(filepath.Join(fields[4], "cgroup.controllers"))
			if err != nil {
				return nil, err
			}
			found = append(found, hierarchy{path: fields[4], unified: true, controllers: strings.Fields(string(text))})
		}
	}
	return found, lines.Err()
}

// missingControllers returns the controllers that no hierarchy has.
func missingControllers(all []hierarchy) []string {
	return slices.DeleteFunc(slices.Clone(controllers), func(name string) bool {
		return slices.ContainsFunc(all, func(h hierarchy) bool { return slices.Contains(h.controllers, name) })
	})
}

// makeCgroup makes the node's cgroup in every hierarchy, for the kubelet to put
// its pods into.
func makeCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	for _, h := range all {
		if h.unified {
			for _, controller := range h.controllers {
				// One that cannot be had, such as cpu beside real-time processes, is reported by the kubelet if it needs it.
				_ = os.WriteFile(filepath.Join(h.path, "cgroup.subtree_control"), []byte("+"+controller), 0)
			}
		}
		if err := os.Mkdir(filepath.Join(h.path, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// removeCgroup removes the node's cgroup and all below it. Processes that were
// killed a moment ago may still be in it.
func removeCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	var errs []error
	for _, h := range all {
		root := filepath.Join(h.path, name)
		err := removeTree(root)
		for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = removeTree(root) {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes directories from the leaves up: the files in them go by themselves.
func removeTree(root string) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(root, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(root); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: root, Err: err}
	}
	return nil
}
