package realnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Finding is one line of a check.
type Finding struct {
	What   string `json:"what"`
	Detail string `json:"detail,omitempty"` // what there is, or why it does not work
	Hint   string `json:"hint,omitempty"`   // what to do
	OK     bool   `json:"ok"`
}

// String is the finding as a person reads it.
func (f Finding) String() string {
	word := "ok"
	if !f.OK {
		word = "missing"
	}
	line := fmt.Sprintf("%-8s %s", word, f.What)
	if f.Detail != "" {
		line += ": " + f.Detail
	}
	if f.Hint != "" {
		line += "; " + f.Hint
	}
	return line
}

// Missing returns an error that lists the findings that are not OK; nil: there are none.
func Missing(findings []Finding) error {
	var lines []string
	for _, f := range findings {
		if !f.OK {
			lines = append(lines, "  "+f.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("this machine cannot run a real node:\n%s", strings.Join(lines, "\n"))
}

// programs and the packages that have them.
var programs = []struct{ name, pkg string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"iptables", "iptables"},
	{"iptables-restore", "iptables"},
	{"iptables-save", "iptables"},
	{"conntrack", "conntrack"},
	{pauseProgram, "catatonit"},
}

// searchPath is PATH with the directories of administration, which root lacks in some shells.
func searchPath() string {
	return strings.TrimPrefix(os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin", ":")
}

func find(program string) string {
	for _, dir := range filepath.SplitList(searchPath()) {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Check says what a node would find on this machine. dir is on the file system
// that the node's state would be on. probe starts this program as [Probe], in
// namespaces of its own, where what a node does at its start can be tried.
func Check(ctx context.Context, dir string, probe []string) []Finding {
	root := Finding{What: "root", OK: os.Geteuid() == 0}
	if !root.OK {
		root.Detail, root.Hint = fmt.Sprintf("this is user %d", os.Geteuid()), "namespaces, mounts and cgroups need root"
	}
	findings := []Finding{root}
	for _, program := range programs {
		f := Finding{What: program.name, Detail: find(program.name)}
		if f.OK = f.Detail != ""; !f.OK {
			f.Detail, f.Hint = "no such program", "apt-get install "+program.pkg
		}
		findings = append(findings, f)
	}
	dirOfPlugins, missing := pluginDir()
	network := Finding{What: "CNI plugins", Detail: dirOfPlugins, OK: len(missing) == 0}
	if !network.OK {
		network.Detail, network.Hint = fmt.Sprintf("%s: not in %s", strings.Join(missing, ", "), strings.Join(pluginDirs, " or ")), "apt-get install containernetworking-plugins"
	}
	findings = append(findings, network, checkCgroups())
	if !root.OK {
		return append(findings, Finding{What: "namespaces, mounts, iptables", Detail: "not tried", Hint: "try again as root"})
	}
	return append(findings, tryOut(ctx, dir, probe)...)
}

func checkCgroups() Finding {
	f := Finding{What: "cgroups"}
	all, err := hierarchies()
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	if missing := missingControllers(all); len(missing) > 0 {
		f.Detail, f.Hint = "no controller "+strings.Join(missing, ", "), "mount cgroup2 on /sys/fs/cgroup"
		return f
	}
	f.OK, f.Detail = true, "v1"
	for _, h := range all {
		if h.unified && len(missingControllers([]hierarchy{h})) == 0 {
			f.Detail = "v2"
		}
	}
	for _, h := range all {
		if err := unix.Access(h.path, unix.W_OK); os.Geteuid() == 0 && err != nil {
			return Finding{What: "cgroups", Detail: fmt.Sprintf("%s cannot be written: %v", h.path, err), Hint: "in a container: run it with --privileged"}
		}
	}
	return f
}

// tryOut runs [Probe].
func tryOut(ctx context.Context, dir string, probe []string) []Finding {
	cmd := exec.CommandContext(ctx, probe[0], append(probe[1:], dir)...)
	cmd.Env = []string{"PATH=" + searchPath()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: Namespaces}
	out, err := cmd.Output()
	var findings []Finding
	if err == nil {
		err = json.Unmarshal(out, &findings)
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return []Finding{{What: "namespaces", Detail: err.Error(), Hint: "in a container: run it with --privileged"}}
	}
	return append([]Finding{{What: "namespaces", OK: true}}, findings...)
}

// Probe tries what a node does at its start, in namespaces that end with this
// process, and writes the findings to out as JSON.
func Probe(dir string, out io.Writer) error {
	tried := func(what, hint string, err error) Finding {
		if err != nil {
			return Finding{What: what, Detail: err.Error(), Hint: hint}
		}
		return Finding{What: what, OK: true}
	}
	mounts := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if mounts == nil {
		mounts = unix.Mount("proc", "/proc", "proc", 0, "")
	}
	findings := []Finding{tried("mounts", "in a container: run it with --privileged", mounts)}
	if mounts == nil {
		overlay := Finding{What: "overlayfs", Detail: "images are unpacked in layers", OK: true}
		if snapshotter(dir) != overlayfs {
			overlay.Detail = "not on " + dir + ", so each container is a full copy of its image"
		}
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"}
		filter, err := exec.Command("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", PodCIDR, "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(filter)))
		}
		findings = append(findings, overlay,
			tried("veth devices", "modprobe veth", netlink.LinkAdd(pair)),
			tried("ip_forward", "in a container: run it with --privileged", os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)),
			tried("iptables nat", "modprobe iptable_nat, or nf_tables and nft_compat", err))
	}
	return json.NewEncoder(out).Encode(findings)
}

const overlayfs = "overlayfs"

// snapshotter is how containerd stores images: overlayfs where dir's file system
// can be the upper one. It mounts, so the mount namespace must be the caller's own.
func snapshotter(dir string) string {
	const native = "native"
	base, err := os.MkdirTemp(dir, "overlay-")
	if err != nil {
		return native
	}
	defer os.RemoveAll(base)
	at := func(name string) string { return filepath.Join(base, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			return native
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at("lower"), at("upper"), at("work"))
	if err := unix.Mount("overlay", at("merged"), "overlay", 0, options); err != nil {
		return native
	}
	defer func() { _ = unix.Unmount(at("merged"), unix.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(at("merged"), "file"), nil, 0o600); err != nil {
		return native
	}
	return overlayfs
}
