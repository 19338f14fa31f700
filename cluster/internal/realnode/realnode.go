// Package realnode is a Kubernetes node that runs containers: containerd, kubelet
// and kube-proxy, for root on Linux.
//
// # One process tree, in namespaces of its own
//
// The node is one child process of the program ([Main]), and everything else
// descends from it. It is the first process of a PID namespace: however the
// program ends, the kernel kills it, and with the first process of a namespace
// all others in it, shims and containers too. It has mount, network and IPC
// namespaces of its own, so mounts, bridges, addresses, iptables chains and
// network namespaces of pods go with the last process. Several nodes on one
// machine, and a container runtime that is there already, never meet.
//
// What is outside, and therefore cleaned up by hand, at an orderly end and at the
// next start: the node's cgroup. A pair of virtual Ethernet devices leads from
// the machine into the node's network; the kernel removes it with the network.
//
// # Addresses
//
// [Choose] picks four addresses that no route of the machine covers: one for the
// machine's end, one for the node. Services of this machine that pods must reach
// (the API server, a Git host, a registry) stay on 127.0.0.1; the node listens on
// its own address and passes connections on ([Spec.Publish]). So nothing more
// listens on the machine, and no firewall of its stands between.
package realnode

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Name is the name of the node in the cluster.
const Name = "node-real"

// PodCIDR is where the addresses of pods come from. It exists in the node's
// network only.
const PodCIDR = "10.244.0.0/16"

// Packages are the Debian and Ubuntu packages that a node needs.
var Packages = []string{"containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "catatonit"}

// Link is the way between the machine and the node.
type Link struct {
	Device  string       `json:"device"`  // the machine's end
	Subnet  netip.Prefix `json:"subnet"`  // four addresses
	Machine netip.Addr   `json:"machine"` // the machine's, in Subnet
	Node    netip.Addr   `json:"node"`    // the node's: the kubelet's, and that of what is published
}

// Spec is all that the node's process is told; it travels as JSON in a file.
type Spec struct {
	Dir        string `json:"dir"`        // state of the node; everything that is to be kept
	LogDir     string `json:"logDir"`     // logs of containerd, kubelet and kube-proxy
	MachineNet string `json:"machineNet"` // path of the machine's network namespace, under /proc
	Link       Link   `json:"link"`
	// Publish are ports on the machine's 127.0.0.1 that pods reach at the node's
	// address and the same port.
	Publish []int `json:"publish"`

	KubeletKubeconfig string `json:"kubeletKubeconfig"`
	ProxyKubeconfig   string `json:"proxyKubeconfig"`
	ClientCA          string `json:"clientCA"` // who may ask the kubelet
	KubeletCert       string `json:"kubeletCert"`
	KubeletKey        string `json:"kubeletKey"`
}

// Layout of Spec.Dir.
func (s Spec) file(elements ...string) string {
	return filepath.Join(append([]string{s.Dir}, elements...)...)
}

// RegistriesDir is where containerd looks, at each pull, for how to reach a
// registry: DIR/HOST:PORT/hosts.toml.
func RegistriesDir(dir string) string { return filepath.Join(dir, "registries") }

// VolumesDir holds the volumes of claims.
func VolumesDir(dir string) string { return filepath.Join(dir, "volumes") }

// cgroup is the name of the node's cgroup, below the root of each hierarchy.
func (s Spec) cgroup() string {
	return fmt.Sprintf("keelson-node-%s", s.Link.Device[len(devicePrefix):])
}
