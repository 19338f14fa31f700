package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// load is the one-minute load average: what else the machine was doing.
func load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return -1
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return -1
	}
	return v
}

// memory is what proc(5) tells about a process's resident memory, in MiB.
type memory struct{ resident, anonymous, peak float64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return memory{}, err
	}
	m := memory{}
	for name, field := range map[string]*float64{"VmRSS": &m.resident, "RssAnon": &m.anonymous, "VmHWM": &m.peak} {
		if *field, err = statusField(b, name); err != nil {
			return m, err
		}
	}
	return m, nil
}

// statusField gives a size from the text of /proc/PID/status in MiB.
func statusField(status []byte, name string) (float64, error) {
	for line := range bytes.Lines(status) {
		value, ok := bytes.CutPrefix(line, []byte(name+":"))
		if !ok {
			continue
		}
		kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(value)), "kB")), 64)
		return kib / 1024, err
	}
	return 0, fmt.Errorf("/proc/PID/status has no %s", name)
}

// cpuOf is the CPU time that a process has used so far, user and system.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	return cpuTime(b)
}

// ownCPU is the CPU time that this process has used so far.
func ownCPU() (time.Duration, error) { return cpuOf(os.Getpid()) }

// cpuTime reads utime and stime (fields 14 and 15) from the text of /proc/PID/stat.
func cpuTime(stat []byte) (time.Duration, error) {
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") ")) // a name may hold spaces
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is malformed")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ is 100 on every architecture that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// cpuUse is CPU time by the name of a program or of a component of the cluster.
type cpuUse map[string]time.Duration

func (c cpuUse) sub(before cpuUse) cpuUse {
	use := cpuUse{}
	for name, d := range c {
		use[name] = d - before[name]
	}
	return use
}

func (c cpuUse) total() (sum time.Duration) {
	for _, d := range c {
		sum += d
	}
	return sum
}

// cluster is the sum of all that is not Keelson.
func (c cpuUse) cluster() time.Duration { return c.total() - c[keelsonCPU] }

// childrenCPU is the CPU time of a running cluster's processes, by component: the supervisor and its children.
func childrenCPU(pid int) (cpuUse, error) {
	own, err := cpuOf(pid)
	if err != nil {
		return nil, err
	}
	use := cpuUse{"supervisor": own}
	// A thread has the children that it has started; a Go program may start them from any.
	lists, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "children"))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended; its children are another one's now
		}
		for _, child := range strings.Fields(string(text)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				return nil, fmt.Errorf("%s is malformed: %q", list, child)
			}
			spent, err1 := cpuOf(id)
			args, err2 := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			use[componentOf(args)] += spent
		}
	}
	if len(use) == 1 {
		return nil, fmt.Errorf("process %d has no children: it is no cluster, or this kernel does not list them", pid)
	}
	return use, nil
}

// componentOf names the component by the command line of its process: PROGRAM component NAME …
func componentOf(cmdline []byte) string {
	args := strings.Split(string(cmdline), "\x00")
	if len(args) > 2 {
		return args[2]
	}
	return filepath.Base(args[0])
}

// usage is what one run of a command took.
type usage struct {
	Wall     time.Duration `json:"wall"`
	CPU      time.Duration `json:"cpu"`      // user and system
	Resident int64         `json:"resident"` // peak, KiB
}

// measureVerb is the first argument of the process that measures a command.
const measureVerb = "measure-command"

// measureCommand runs a command some times and writes a usage for each: N PROGRAM ARGS…
//
// It runs in a process of its own, because the kernel counts the memory of the process that starts a program into the
// peak of that program: this one is small. What it measures for a tiny program tells how small.
func measureCommand(args []string, w io.Writer) error {
	n, err := strconv.Atoi(args[0])
	if err != nil || len(args) < 2 {
		return errors.New(measureVerb + " takes N PROGRAM ARGS…")
	}
	out := json.NewEncoder(w)
	for range n {
		cmd := exec.Command(args[1], args[2:]...)
		start := time.Now()
		err := cmd.Run()
		u := usage{Wall: time.Since(start)}
		if err != nil {
			return fmt.Errorf("%s: %w", args[1], err)
		}
		u.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			u.Resident = ru.Maxrss
		}
		if err := out.Encode(u); err != nil {
			return err
		}
	}
	return nil
}
