package main

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// What an instance keeps in its data directory. instance.json is also the marker that the directory is Keelson's.
const (
	instanceFile = "instance.json"
	lockFile     = "lock" // a record lock on it is held while a daemon runs
	logDir       = "logs"
	logFile      = "logs/keelson.log"
	progressFile = "logs/progress.jsonl"
	gitDir       = "git"     // the hosted repositories
	clusterDir   = "cluster" // the embedded cluster
	serverDir    = "server"  // what the controllers keep
	mirrorDir    = "mirrors" // in it: the mirrors of remote repositories
)

// instance is what has to outlive a daemon. It holds the token, so its file is readable by its owner only.
type instance struct {
	Version    int       `json:"version"`
	Port       int       `json:"port"`       // of the Git host, the API and the dashboard, on 127.0.0.1
	AccessPort int       `json:"accessPort"` // of the jobs' way to the cluster, on 127.0.0.1
	JobsPort   int       `json:"jobsPort"`   // of what else jobs reach, the registry too, on 127.0.0.1; 0: there is no such thing
	Node       string    `json:"node"`       // "real": the embedded cluster's node runs containers
	Outbound   bool      `json:"outbound"`   // its pods reach what this machine reaches
	Runner     string    `json:"runner"`     // what runs jobs of projects that do not say: shell or pod; empty: shell
	JobImage   string    `json:"jobImage"`   // of jobs that run as Pods and name none; empty: they fail
	Address    string    `json:"address"`    // of the real node, where pods and this machine reach the ports of jobs; empty: there is none
	Token      string    `json:"token"`      // 256 random bits in hex: guards writes
	Kubeconfig string    `json:"kubeconfig"` // of the cluster, once it is known
	External   bool      `json:"external"`   // the cluster is the user's own: it is never started, stopped or purged
	Sample     bool      `json:"sample"`     // the sample repository was seeded
	Keep       retention `json:"keep"`       // how long what is kept in the database stays
	ClusterUID string    `json:"clusterUID"` // the cluster in which the sample was declared; another one gets it anew
}

// dashboard is the URL for a browser.
func (i instance) dashboard() string { return i.base() + "/" }

func (i instance) base() string { return "http://127.0.0.1:" + strconv.Itoa(i.Port) }

// registry is the container registry, HOST:PORT; empty: there is none.
func (i instance) registry() string {
	if i.JobsPort == 0 {
		return ""
	}
	return net.JoinHostPort(cmp.Or(i.Address, "127.0.0.1"), strconv.Itoa(i.JobsPort))
}

// git is the base URL of the repositories. With the token it can be used by git clone and git push as it stands.
func (i instance) git(withToken bool) string {
	u := url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(i.Port), Path: "/git"}
	if withToken {
		u.User = url.UserPassword("keelson", i.Token)
	}
	return u.String()
}

// completeData settles the data directory: the flag, else KEELSON_DATA, else the user's state directory.
func (g *global) completeData() error {
	if g.data == "" {
		g.data = os.Getenv("KEELSON_DATA")
	}
	g.dataGiven = g.data != ""
	if g.data == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if !filepath.IsAbs(state) { // the XDG specification: a relative path is to be ignored
			home, err := os.UserHomeDir()
			if err != nil {
				return hintf(fmt.Errorf("find the user's state directory: %w", err), "name a directory with --data or KEELSON_DATA")
			}
			state = filepath.Join(home, ".local", "state")
		}
		g.data = filepath.Join(state, "keelson")
	}
	dir, err := filepath.Abs(g.data)
	if err != nil {
		return fmt.Errorf("find %s: %w", g.data, err)
	}
	g.data = dir
	return nil
}

// readInstance reads the instance of a data directory; the error wraps fs.ErrNotExist where there is none.
func readInstance(dir string) (instance, error) {
	var inst instance
	path := filepath.Join(dir, instanceFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return inst, fmt.Errorf("read instance: %w", err)
	}
	if err := json.Unmarshal(b, &inst); err != nil {
		return inst, hintf(fmt.Errorf("read instance: %s: %w", path, err), "keelson down --purge --data %s forgets this instance", dir)
	}
	if inst.Version != 1 || inst.Token == "" {
		return inst, hintf(fmt.Errorf("read instance: %s is not from this version of keelson", path),
			"use the version that made it, or keelson down --purge --data %s to forget it", dir)
	}
	return inst, nil
}

// writeInstance replaces the instance file in one step.
func writeInstance(dir string, inst instance) error {
	b, err := json.MarshalIndent(inst, "", "  ")
	if err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	f, err := os.CreateTemp(dir, instanceFile+".*") // 0600
	if err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	defer os.Remove(f.Name()) // without effect once it was renamed
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, instanceFile)); err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	return nil
}

// openInstance reads the instance of dir or makes a new one, in a directory that must then be empty or new:
// what keelson down --purge removes is what keelson made.
func openInstance(dir string) (instance, error) {
	inst, err := readInstance(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return inst, err
	}
	if err := checkFresh(dir); err != nil {
		return inst, err
	}
	if err := os.MkdirAll(filepath.Join(dir, logDir), 0o700); err != nil {
		return inst, fmt.Errorf("make data directory: %w", err)
	}
	inst = instance{Version: 1, Token: newToken()}
	return inst, writeInstance(dir, inst)
}

// checkFresh refuses a directory that holds anything but what the first lines of a start leave there.
func checkFresh(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read data directory: %w", err)
	}
	for _, e := range entries {
		if n := e.Name(); n != lockFile && n != logDir && !strings.HasPrefix(n, instanceFile) {
			return hintf(fmt.Errorf("%s holds files that are not keelson's: %s", dir, n), "name an empty or a new directory with --data")
		}
	}
	return nil
}

func newToken() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// errRunning says that another daemon holds the data directory.
var errRunning = errors.New("an instance is running on this data directory")

// lock takes the data directory for this process. The kernel lets go of it when the process ends, however it ends.
func lock(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK})
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("%w: %s", errRunning, dir)
	}
	return nil, fmt.Errorf("lock data directory: %w", err)
}

// daemonPID is the process that holds the data directory, 0 if nobody does. The kernel tells, so a process id that a
// dead daemon left behind cannot be taken for a live one.
func daemonPID(dir string) (int, error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the daemon: %w", err)
	}
	defer f.Close()
	l := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &l); err != nil {
		return 0, fmt.Errorf("look for the daemon: %w", err)
	}
	if l.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(l.Pid), nil
}
