package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline/scratch"
)

type downOptions struct {
	purge   bool
	timeout time.Duration
}

func downCommand(g *global) *cobra.Command {
	var opts downOptions
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the instance; its data stays for the next up",
		Args:  args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runDown(cmd.Context(), g, opts) },
	}
	cmd.Flags().BoolVar(&opts.purge, "purge", false, "forget the instance: its repositories and its embedded cluster too")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", time.Minute, "how long to wait for it to stop")
	return cmd
}

func runDown(ctx context.Context, g *global, opts downOptions) error {
	pid, err := daemonPID(g.data)
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := stopDaemon(ctx, g.data, pid, opts.timeout); err != nil {
			return err
		}
	}
	if opts.purge {
		if err := purge(g.data); err != nil {
			return err
		}
	}
	v := map[string]bool{"stopped": pid != 0, "purged": opts.purge}
	switch {
	case opts.purge:
		return g.print(v, printf("stopped and forgotten: %s", g.data))
	case pid == 0:
		return g.print(v, printf("nothing runs on %s", g.data))
	default:
		return g.print(v, printf("stopped; keelson up starts it again"))
	}
}

// stopDaemon asks the daemon to stop and waits until it has let go of its data directory.
func stopDaemon(ctx context.Context, dir string, pid int, timeout time.Duration) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the daemon (process %d): %w", pid, err)
	}
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := poll(wait, 50*time.Millisecond, func(context.Context) (bool, error) {
		now, err := daemonPID(dir)
		return now != pid, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return withCode(exitUnhealthy, hintf(fmt.Errorf("the daemon (process %d) did not stop within %s", pid, timeout),
			"%s tells what it is doing; kill -9 %d ends it, and no data is lost", filepath.Join(dir, logFile), pid))
	}
	return err
}

// checkOurs makes sure that a directory is an instance's: its instance file is one of ours, not just one of that name.
// A damaged one still passes if the directory is private and locked as ours are.
func checkOurs(dir string) error {
	refuse := func(why string) error {
		return hintf(fmt.Errorf("%s is not an instance of keelson: %s", dir, why), "nothing was removed; --data names the instance's directory")
	}
	b, err := os.ReadFile(filepath.Join(dir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return hintf(fmt.Errorf("there is no instance in %s", dir), "nothing was removed; --data names the instance's directory")
	}
	if err != nil {
		return fmt.Errorf("look for the instance: %w", err)
	}
	var inst instance
	if err := json.Unmarshal(b, &inst); err != nil {
		if _, err := os.Stat(filepath.Join(dir, lockFile)); err == nil {
			if info, err := os.Stat(filepath.Join(dir, logDir)); err == nil && info.IsDir() && info.Mode().Perm() == 0o700 {
				return nil
			}
		}
		return refuse(instanceFile + " cannot be read as one")
	}
	if inst.Version == 0 || inst.Token == "" {
		return refuse(instanceFile + " is another program's")
	}
	return nil
}

// purge removes what keelson made in a data directory, and the directory itself if nothing else is in it.
func purge(dir string) error {
	if err := checkOurs(dir); err != nil {
		return err
	}
	// The marker goes last, so that a purge that was cut short can be done again.
	for _, name := range []string{clusterDir, ciDir, gitDir, serverDir, logDir, lockFile, instanceFile} {
		if err := scratch.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("forget the instance: %w", err)
		}
	}
	leftovers, err := filepath.Glob(filepath.Join(dir, instanceFile+".*")) // of a write that was cut short
	if err != nil {
		return fmt.Errorf("forget the instance: %w", err)
	}
	for _, name := range leftovers {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("forget the instance: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("forget the instance: %w", err)
	}
	return nil
}
