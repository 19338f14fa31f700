package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dataDir is the directory that holds everything there is of one cluster, and
// the lock that makes this process its only owner. Layout: see docs/cluster.md.
type dataDir struct {
	path string
	lock *os.File
}

func (d dataDir) file(elements ...string) string {
	return filepath.Join(append([]string{d.path}, elements...)...)
}

// stateFile marks a directory as ours and keeps the ports.
const stateFile = "cluster.json"

// openDataDir makes the directory if need be and locks it. It refuses a
// directory that holds something else, rather than to write keys into it and
// take it away from others.
func openDataDir(path string) (dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return dataDir{}, fmt.Errorf("data directory: %w", err)
	}
	dir := dataDir{path: path}
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return dir, fmt.Errorf("read data directory: %w", err)
	}
	if len(entries) > 0 && !isOurs(entries) {
		return dir, fmt.Errorf("data directory %s: holds other files and no cluster; name an empty or a new directory", path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return dir, fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return dir, fmt.Errorf("close data directory to others: %w", err)
	}
	if err := dir.acquire(); err != nil {
		return dir, err
	}
	for _, sub := range []string{"config", "etcd", "logs"} {
		if err := os.MkdirAll(dir.file(sub), 0o700); err != nil {
			return dir, fmt.Errorf("make data directory: %w", err)
		}
	}
	return dir, nil
}

// isOurs accepts a directory that had a cluster, and one where the first start
// got no further than its lock file.
func isOurs(entries []os.DirEntry) bool {
	for _, entry := range entries {
		if entry.Name() == stateFile || entry.Name() == "lock" {
			return true
		}
	}
	return false
}

// acquire takes the lock of the directory. The kernel gives it back when the
// process ends in whatever way; the file stays and names the last owner.
func (d *dataDir) acquire() error {
	file, err := os.OpenFile(d.file("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(file.Name())
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("a cluster is already running on %s (process %s): stop it, or use another --data", d.path, strings.TrimSpace(string(owner)))
		}
		return fmt.Errorf("lock %s: %w", d.path, err)
	}
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	d.lock = file
	return nil
}

func (d *dataDir) release() { d.lock.Close() }

// ports are where the components listen, all on 127.0.0.1.
type ports struct {
	APIServer  int `json:"apiServerPort"`
	EtcdClient int `json:"etcdClientPort"`
	EtcdPeer   int `json:"etcdPeerPort"`
}

// choosePorts returns the ports of the last run where they are still free, so
// that kubeconfigs stay valid, and new ones otherwise. A wanted API server port
// (not 0) is taken as it is or refused.
func (d *dataDir) choosePorts(wanted int) (ports, error) {
	var chosen ports
	text, err := os.ReadFile(d.file(stateFile))
	if err == nil {
		err = json.Unmarshal(text, &chosen)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return chosen, fmt.Errorf("read %s: %w", d.file(stateFile), err)
	}
	if wanted != 0 {
		if !settlesFree(wanted) {
			return chosen, fmt.Errorf("port %d on 127.0.0.1 is in use: choose another --port, or 0 for any free one", wanted)
		}
		chosen.APIServer = wanted
	}
	// All listeners stay open until all ports are chosen, so that no two are the same.
	for _, port := range []*int{&chosen.APIServer, &chosen.EtcdClient, &chosen.EtcdPeer} {
		if *port == 0 || !settlesFree(*port) {
			*port = 0
		}
		listener, err := listen(*port)
		if err != nil {
			return chosen, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close()
		*port = listener.Addr().(*net.TCPAddr).Port
	}
	text, err = json.MarshalIndent(chosen, "", "  ")
	if err != nil {
		return chosen, fmt.Errorf("encode ports: %w", err)
	}
	return chosen, replaceFile(d.file(stateFile), append(text, '\n'))
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// settlesFree reports whether the port is free, or becomes so within a moment:
// the children of an instance that was just killed may still be going.
func settlesFree(port int) bool {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		listener, err := listen(port)
		if err == nil {
			listener.Close()
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// replaceFile writes a file that only its owner can read, in one step.
func replaceFile(path string, text []byte) error {
	temporary := path + ".tmp"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
