package realnode

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
)

const (
	containerdSocket = "/run/containerd/containerd.sock" // in the node's own /run
	pauseImage       = "keelson.dev/pause:1"
)

// pluginDirs are where CNI plugins are installed: by Debian, by everybody else.
var pluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin"}

// plugins are those that the node's network needs. Pods are routed, not bridged:
// what a Service's address was turned into goes back through the same tables
// without the kernel's br_netfilter.
var plugins = []string{"ptp", "host-local", "portmap", "loopback"}

// pluginDir returns the directory that has all plugins, or which are missing from
// the best one.
func pluginDir() (dir string, missing []string) {
	for _, candidate := range pluginDirs {
		var lacks []string
		for _, plugin := range plugins {
			if info, err := os.Stat(filepath.Join(candidate, plugin)); err != nil || !info.Mode().IsRegular() {
				lacks = append(lacks, plugin)
			}
		}
		if dir == "" || len(lacks) < len(missing) {
			dir, missing = candidate, lacks
		}
	}
	return dir, missing
}

// containerdConfig is version 2 of the format, which containerd 1.6 to 2.x read.
// The plugin "opt" would make /opt/containerd on the machine.
func containerdConfig(spec Spec, snapshotter, pluginDir string) string {
	return fmt.Sprintf(`version = 2
root = %s
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # Where lowering is not allowed, runc fails without saying why.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %s
    conf_dir = %s
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %s
`, strconv.Quote(spec.file("containerd")), containerdSocket, pauseImage, snapshotter,
		strconv.Quote(pluginDir), strconv.Quote(spec.file("config", "cni")), strconv.Quote(RegistriesDir(spec.Dir)))
}

func cniConfig() string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "keelson",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}
`, PodCIDR)
}

// kubeletConfig: the limits on requests are out of the way, as those of the
// controller manager are; the machine's own memory settings are left alone; the
// pause image cannot be pulled again, so images are never collected. No Pod takes
// all processes of the machine, nor the last of its disk.
func kubeletConfig(spec Spec) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %q}
authorization: {mode: Webhook}
tlsCertFile: %q
tlsPrivateKeyFile: %q
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
cgroupRoot: /%s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {memory.available: 50Mi, nodefs.available: 5%%, imagefs.available: 5%%, nodefs.inodesFree: 5%%}
podPidsLimit: 4096
imageGCHighThresholdPercent: 100
kubeAPIQPS: 1000
kubeAPIBurst: 2000
eventRecordQPS: 0
registryPullQPS: 0
serializeImagePulls: false
maxPods: 250
oomScoreAdj: 0
resolvConf: %s
volumePluginDir: /var/lib/kubelet/volume-plugins
makeIPTablesUtilChains: false
`, spec.Link.Node, spec.ClientCA, spec.KubeletCert, spec.KubeletKey, containerdSocket, spec.cgroup(), resolvConf)
}

// proxyConfig: limits on tracked connections are the machine's and stay as they are.
func proxyConfig(spec Spec) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
clientConnection: {kubeconfig: %q, qps: 1000, burst: 2000}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 100ms}
oomScoreAdj: 0
hostnameOverride: %s
`, PodCIDR, spec.ProxyKubeconfig, Name)
}

func writeConfiguration(spec Spec, snapshotter string) error {
	dir, missing := pluginDir()
	if len(missing) > 0 {
		return fmt.Errorf("CNI plugins %v are missing from %s", missing, dir)
	}
	for name, text := range map[string]string{
		"containerd.toml":      containerdConfig(spec, snapshotter, dir),
		"cni/keelson.conflist": cniConfig(),
		"kubelet.yaml":         kubeletConfig(spec),
		"kube-proxy.yaml":      proxyConfig(spec),
	} {
		path := spec.file("config", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

// AllowPlainHTTP lets the node with that state directory pull from the registry HOST:PORT over plain HTTP, with a login (USER:PASSWORD) of
// its own; empty: with none. It takes effect at the next pull.
func AllowPlainHTTP(dir, registry, login string) error {
	if _, err := netip.ParseAddrPort(registry); err != nil {
		return fmt.Errorf("registry %q: want an address and a port: %w", registry, err)
	}
	path := filepath.Join(RegistriesDir(dir), registry)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("registry %s: %w", registry, err)
	}
	text := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry, registry)
	if login != "" {
		text += fmt.Sprintf("  [host.\"http://%s\".header]\n    Authorization = \"Basic %s\"\n", registry, base64.StdEncoding.EncodeToString([]byte(login)))
	}
	if err := os.WriteFile(filepath.Join(path, "hosts.toml"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("registry %s: %w", registry, err)
	}
	return nil
}
