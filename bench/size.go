package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// measureSize takes the sizes of the programs.
func (b *bench) measureSize(context.Context) error {
	for _, p := range []struct{ name, path string }{{"size-keelson", b.keelson}, {"size-keelson-cluster", b.cluster}} {
		info, err := os.Stat(p.path)
		if err != nil {
			return err
		}
		r := Result{Name: p.name, What: "size of the program", Unit: "MiB"}
		if err := b.add(r, []float64{float64(info.Size()) / (1 << 20)}); err != nil {
			return err
		}
	}
	return nil
}

// measureVersion runs the shortest command there is: what it takes is what every command takes at least, since all
// packages that are linked are initialised.
func (b *bench) measureVersion(ctx context.Context) error {
	floor, err := b.runCommand(ctx, "true")
	if err != nil {
		return err
	}
	version, err := b.runCommand(ctx, b.keelson, "version")
	if err != nil {
		return err
	}
	var wall, wallFloor, cpu, rss, rssFloor []float64
	for i := range version {
		wall, wallFloor = append(wall, milliseconds(version[i].Wall)), append(wallFloor, milliseconds(floor[i].Wall))
		cpu = append(cpu, milliseconds(version[i].CPU))
		rss, rssFloor = append(rss, float64(version[i].Resident)/1024), append(rssFloor, float64(floor[i].Resident)/1024)
	}
	return errors.Join(
		b.add(Result{Name: "version-time", What: "keelson version, start to end", Unit: "ms", Target: target(40), Floor: "version-time-floor"}, wall),
		b.add(Result{Name: "version-time-floor", What: "true, start to end", Unit: "ms"}, wallFloor),
		b.add(Result{Name: "version-cpu", What: "keelson version, CPU time of all its threads: what a busy machine does not stretch as much", Unit: "ms"}, cpu),
		b.add(Result{Name: "version-memory", What: "keelson version, peak resident memory", Unit: "MiB", Target: target(60)}, rss),
		b.add(Result{Name: "version-memory-floor", What: "true, measured in the same way: what the measuring itself adds", Unit: "MiB"}, rssFloor),
	)
}

// runCommand runs a command once to warm up and then as often as samples are wanted.
func (b *bench) runCommand(ctx context.Context, program string, args ...string) ([]usage, error) {
	return b.runIn(ctx, "", program, args...)
}

// runIn is runCommand in a directory.
func (b *bench) runIn(ctx context.Context, dir, program string, args ...string) ([]usage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{measureVerb, strconv.Itoa(b.runs + 1), program}, args...)...)
	cmd.Dir, cmd.Env = dir, environment()
	out, err := output(ctx, cmd)
	if err != nil {
		return nil, err
	}
	var all []usage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var u usage
		switch err := d.Decode(&u); {
		case errors.Is(err, io.EOF) && len(all) == b.runs+1:
			return all[1:], nil
		case err != nil:
			return nil, fmt.Errorf("read what %s took: %w", program, err)
		}
		all = append(all, u)
	}
}

// ups is how many fresh instances are started: each one is a cluster.
const ups = 3

// measureUp starts instances on fresh data directories: cluster, Git host, controllers, and the sample all healthy.
func (b *bench) measureUp(ctx context.Context) error {
	var up []float64
	for i := range min(ups, b.runs) {
		in, down, err := b.up(ctx, fmt.Sprintf("up-%d", i))
		if err != nil {
			return err
		}
		up = append(up, in.took.Seconds())
		if err := down(); err != nil {
			return err
		}
	}
	return b.add(Result{Name: "up", What: "keelson up on a fresh data directory, until everything is healthy", Unit: "s", Target: target(60)}, up)
}
