package realnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tunables are what every kubelet sets on its machine: to panic and reboot when
// the kernel oopses, to overcommit memory. This one must not, so it sees files.
var tunables = []string{
	"vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// isolateMounts gives the process, which has a mount namespace of its own, a /run
// of its own, and its own directories in place of those that kubelet, containerd
// and CNI have built in. What the machine mounts later is seen, the reverse is not.
func isolateMounts(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("leave the machine's mounts: %w", err)
	}
	// Shared again, among the node's own: volumes may propagate.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the node's mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	nameservers, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the machine's name servers: %w", err)
	}
	if upstream, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
		nameservers = upstream // the other one names a server on the machine's loopback
	}
	if err := ownRun(spec.Dir); err != nil {
		return err
	}
	if err := os.WriteFile(resolvConf, []byte(reachable(string(nameservers))), 0o644); err != nil {
		return fmt.Errorf("write name servers: %w", err)
	}
	if err := overResolvConf(); err != nil {
		return err
	}
	for _, over := range []struct {
		dir   string
		names map[string]string
	}{
		{"/var/lib", map[string]string{"kubelet": spec.file("kubelet"), "cni": "/run/cni"}},
		{"/var/log", map[string]string{"pods": spec.file("logs"), "containers": "/run/container-logs"}},
	} {
		if err := shadow(over.dir, over.names); err != nil {
			return fmt.Errorf("shadow %s: %w", over.dir, err)
		}
	}
	return hideTunables()
}

// resolvConf is what pods that ask for the node's name servers get.
const resolvConf = "/run/resolv.conf"

// reachable drops the name servers on loopback: in the node's network nobody is there.
func reachable(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "nameserver" && (strings.HasPrefix(fields[1], "127.") || fields[1] == "::1") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// ownRun mounts an empty /run: sockets, network namespaces and the state of
// running containers are worth nothing after the end. A data directory that is
// itself below /run stays visible.
func ownRun(dir string) error {
	keep, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer keep.Close()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if strings.HasPrefix(dir, "/run/") {
		if err := bind(fmt.Sprintf("/proc/self/fd/%d", keep.Fd()), dir); err != nil {
			return err
		}
	}
	for _, name := range []string{"containerd", "netns", "cni", "container-logs", "lock"} {
		if err := os.Mkdir(filepath.Join("/run", name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// overResolvConf lets containerd, too, ask the name servers that it can reach.
func overResolvConf() error {
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err == nil {
		return mountFile(resolvConf, target)
	}
	link, err := os.Readlink("/etc/resolv.conf") // into the /run that is no longer seen
	if err != nil {
		return nil //nolint:nilerr // the machine has none
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join("/etc", link)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	return os.Symlink(resolvConf, link)
}

// shadow replaces dir by a directory with the same entries, but for those in
// names, which are other directories. Nothing is made on the machine.
func shadow(dir string, names map[string]string) error {
	double := filepath.Join("/run/shadow", dir)
	if err := os.MkdirAll(double, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		from, to := filepath.Join(dir, entry.Name()), filepath.Join(double, entry.Name())
		_, replaced := names[entry.Name()]
		switch {
		case replaced:
			continue
		case entry.Type()&os.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(from); err == nil {
				err = os.Symlink(target, to)
			}
		case entry.IsDir():
			err = bind(from, to)
		case entry.Type().IsRegular():
			if err = os.WriteFile(to, nil, 0o600); err == nil {
				err = mountFile(from, to)
			}
		}
		if err != nil {
			return err
		}
	}
	for name, source := range names {
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := bind(source, filepath.Join(double, name)); err != nil {
			return err
		}
	}
	return bind(double, dir)
}

// bind shows the directory from at to, which it makes.
func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return mountFile(from, to)
}

func mountFile(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	return nil
}

func hideTunables() error {
	for _, name := range tunables {
		path := filepath.Join("/proc/sys", name)
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read kernel setting: %w", err)
		}
		double := filepath.Join("/run/shadow", path)
		if err := os.MkdirAll(filepath.Dir(double), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(double, text, 0o644); err != nil {
			return err
		}
		if err := mountFile(double, path); err != nil {
			return err
		}
	}
	return nil
}
