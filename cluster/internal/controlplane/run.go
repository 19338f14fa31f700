// Package controlplane runs a Kubernetes control plane and simulated nodes on
// this machine: etcd, kube-apiserver, kube-controller-manager, kube-scheduler
// and KWOK, each a child process that is this same binary ([RunComponent]).
//
// [Run] is the whole of it, in order: take the data directory, choose ports,
// make certificates, write configuration, start etcd and wait for it, start the
// API server and wait for it, start the rest, create the nodes and wait until
// they are ready. Then it waits for the end and stops everything in reverse.
//
// Everything listens on 127.0.0.1 and asks for a client certificate or a service
// account token: other users of the machine get no further than the TLS
// handshake with etcd, and 401 from the API server.
package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/cluster/internal/certs"
	"keelson.dev/keelson/cluster/internal/kwoknodes"
	"keelson.dev/keelson/cluster/internal/realnode"
	"keelson.dev/keelson/cluster/internal/supervise"
)

// startTimeout bounds the whole start. It takes seconds; a machine that is busy
// with other things may need a minute.
const startTimeout = 3 * time.Minute

// Options are the flags of `keelson-cluster run`.
type Options struct {
	Data          string // directory of the cluster, made if need be
	Nodes         int
	Port          int    // of the API server; 0: that of the last run or any free one
	UnsafeNoFsync bool   // faster, but a power failure may lose the cluster
	AuditLog      string // file for the API server's audit log; "": none
	RealNode      bool   // a node that runs containers, instead of simulated ones
	Publish       []int  // ports on 127.0.0.1 that its pods reach at its address
	Outbound      bool   // its pods and its image pulls reach what this machine reaches
	PlainHTTP     []int  // those of them where a registry is pulled from over plain HTTP
	RegistryLogin string // file with USER:PASSWORD, with which the node pulls from these registries; "": without
}

// Started is what Run tells once the cluster is ready for work.
type Started struct {
	Ready      bool   `json:"ready"`
	Kubeconfig string `json:"kubeconfig"`
	Server     string `json:"server"`
	Node       *Node  `json:"node,omitempty"` // the real node; nil: there is none
}

// Node is what others need to know of the real node.
type Node struct {
	Name    string `json:"name"`
	Address string `json:"address"` // where pods, and this machine, reach the API server and what is published
}

// Run runs the cluster until ctx ends, and writes one line of JSON ([Started])
// to out when it is ready. It returns nil after an orderly stop, also one that
// was asked for during the start.
func Run(ctx context.Context, options Options, out io.Writer, log *slog.Logger) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	p, err := prepare(ctx, options, executable)
	if err != nil {
		return err
	}
	defer p.dir.release()
	if p.node != nil {
		if err := p.outbound(); err != nil {
			return err
		}
		defer func() {
			if err := realnode.NoOutbound(p.dir.file("node"), *p.node); err != nil {
				log.Warn("end", "err", err)
			}
		}()
	}
	if p.node == nil {
		if err := realnode.Sweep(p.dir.file("node")); err != nil {
			return err
		}
	}
	supervisor := &supervise.Supervisor{Executable: executable, LogDir: p.dir.file("logs"), HomeDir: p.dir.path, Log: log}
	defer supervisor.Stop()

	began := time.Now()
	startCtx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	if err := start(startCtx, p, supervisor, log); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	log.Info("cluster is ready", "server", p.server(), "nodes", options.Nodes, "after", time.Since(began).Round(time.Millisecond))
	started := Started{Ready: true, Kubeconfig: p.dir.file("kubeconfig"), Server: p.server()}
	if p.node != nil {
		started.Node = &Node{Name: realnode.Name, Address: p.node.Node.String()}
	}
	if err := json.NewEncoder(out).Encode(started); err != nil {
		return fmt.Errorf("announce the cluster: %w", err)
	}
	<-ctx.Done()
	log.Info("stopping the cluster")
	return nil
}

// outbound takes back what a run that was killed left in the machine's firewall,
// and opens the way out if that is asked for.
func (p plan) outbound() error {
	dir := p.dir.file("node")
	if err := realnode.NoOutbound(dir, *p.node); err != nil || !p.options.Outbound {
		return err
	}
	return realnode.Outbound(dir, *p.node)
}

// prepare does what comes before the first process: directory, ports,
// certificates and configuration files.
func prepare(ctx context.Context, options Options, executable string) (_ plan, err error) {
	if options.AuditLog != "" {
		if options.AuditLog, err = filepath.Abs(options.AuditLog); err != nil {
			return plan{}, fmt.Errorf("audit log: %w", err)
		}
	}
	p := plan{options: options}
	if p.dir, err = openDataDir(options.Data); err != nil {
		return p, err
	}
	defer func() {
		if err != nil {
			p.dir.release()
		}
	}()
	if p.ports, err = p.dir.choosePorts(options.Port); err != nil {
		return p, err
	}
	names := certs.Names{APIServer: apiHosts}
	if options.RealNode {
		if err := realnode.Missing(realnode.Check(ctx, p.dir.path, probe(executable))); err != nil {
			return p, err
		}
		link, err := realnode.Choose(p.dir.file("node"))
		if err != nil {
			return p, err
		}
		p.node = &link
		names.APIServer = append(slices.Clone(apiHosts), p.advertised())
		names.Node, names.NodeHosts = realnode.Name, []string{realnode.Name, link.Node.String()}
	}
	if p.certs, err = certs.Ensure(p.dir.file("pki"), names, time.Now()); err != nil {
		return p, err
	}
	return p, p.writeConfiguration()
}

func probe(executable string) []string { return []string{executable, ComponentVerb, nodeProbe} }

// CheckNode writes what this machine has and lacks for a real node, a line each.
// dir is where the cluster would be; "": anywhere. It returns an error if
// something is missing.
func CheckNode(ctx context.Context, dir string, out io.Writer) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if dir == "" {
		dir = os.TempDir()
	}
	findings := realnode.Check(ctx, dir, probe(executable))
	missing := 0
	for _, finding := range findings {
		fmt.Fprintln(out, finding)
		if !finding.OK {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("this machine cannot run a real node: %d of %d things are missing", missing, len(findings))
	}
	return nil
}

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

func (p plan) writeConfiguration() error {
	kwokConfig, err := kwoknodes.Config(p.volumes())
	if err != nil {
		return err
	}
	if err := replaceFile(p.dir.file("config", "kwok.yaml"), kwokConfig); err != nil {
		return err
	}
	if err := replaceFile(p.dir.file("config", "audit-policy.yaml"), []byte(auditPolicy)); err != nil {
		return err
	}
	for _, name := range []string{certs.ControllerManager, certs.Scheduler, certs.Kwok} {
		if err := p.writeKubeconfig(p.kubeconfig(name), name, p.server()); err != nil {
			return err
		}
	}
	if p.node != nil {
		if err := p.writeNode(); err != nil {
			return err
		}
	}
	return p.writeKubeconfig(p.dir.file("kubeconfig"), certs.Admin, p.server())
}

// volumes is where the volumes of claims are.
func (p plan) volumes() string {
	if p.node != nil {
		return realnode.VolumesDir(p.dir.file("node"))
	}
	return "/var/lib/keelson-simulated" // no kubelet ever mounts it: it names nothing on this machine
}

// writeNode writes what the node's process is told. It is made anew at each start.
func (p plan) writeNode() error {
	dir := p.dir.file("node")
	server := "https://" + net.JoinHostPort(p.advertised(), strconv.Itoa(p.ports.APIServer))
	for _, name := range []string{certs.Kubelet, certs.KubeProxy} {
		if err := p.writeKubeconfig(p.kubeconfig(name), name, server); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of the node: %w", err)
	}
	// The node's address may have changed since the last run.
	if err := os.RemoveAll(realnode.RegistriesDir(dir)); err != nil {
		return fmt.Errorf("registries of the last run: %w", err)
	}
	login, err := readLogin(p.options.RegistryLogin)
	if err != nil {
		return err
	}
	for _, port := range p.options.PlainHTTP {
		if err := realnode.AllowPlainHTTP(dir, net.JoinHostPort(p.advertised(), strconv.Itoa(port)), login); err != nil {
			return err
		}
	}
	spec := realnode.Spec{
		Dir: dir, LogDir: p.dir.file("logs"), Link: *p.node,
		MachineNet: fmt.Sprintf("/proc/%d/ns/net", os.Getpid()),
		Publish:    slices.Compact(slices.Sorted(slices.Values(slices.Concat([]int{p.ports.APIServer}, p.options.Publish, p.options.PlainHTTP)))),

		KubeletKubeconfig: p.kubeconfig(certs.Kubelet), ProxyKubeconfig: p.kubeconfig(certs.KubeProxy),
		ClientCA: p.certs.Cert(certs.CA), KubeletCert: p.certs.Cert(certs.KubeletServing), KubeletKey: p.certs.Key(certs.KubeletServing),
	}
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the node's file: %w", err)
	}
	return replaceFile(p.dir.file("config", "node.json"), append(text, '\n'))
}

// readLogin reads USER:PASSWORD from a file; without one there is none.
func readLogin(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the login for registries: %w", err)
	}
	login := strings.TrimSpace(string(text))
	if user, password, ok := strings.Cut(login, ":"); !ok || user == "" || password == "" || strings.ContainsAny(login, "\r\n") {
		return "", fmt.Errorf("read the login for registries: %s does not hold USER:PASSWORD", file)
	}
	return login, nil
}

// writeKubeconfig writes a kubeconfig that carries its certificate and key, so
// that it works wherever it is copied to on this machine.
func (p plan) writeKubeconfig(path, user, server string) error {
	ca, err := os.ReadFile(p.certs.Cert(certs.CA))
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", user, err)
	}
	cert, err := os.ReadFile(p.certs.Cert(user))
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", user, err)
	}
	key, err := os.ReadFile(p.certs.Key(user))
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", user, err)
	}
	const name = "keelson"
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: user}},
		CurrentContext: name,
	})
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", user, err)
	}
	return replaceFile(path, text)
}

// start brings up the components, each when what it needs is there.
func start(ctx context.Context, p plan, supervisor *supervise.Supervisor, log *slog.Logger) error {
	began := time.Now()
	etcdProbe, err := p.probe(p.etcdServer()+"/health", certs.EtcdClient, certs.EtcdCA)
	if err != nil {
		return err
	}
	supervisor.Start(p.etcd())
	if err := supervisor.Await(ctx, etcd, etcdProbe); err != nil {
		return err
	}
	log.Debug("etcd is ready")

	apiProbe, err := p.probe(p.server()+"/readyz", certs.Admin, certs.CA)
	if err != nil {
		return err
	}
	supervisor.Start(p.apiServer())
	if err := supervisor.Await(ctx, kubeAPIServer, apiProbe); err != nil {
		return err
	}
	log.Debug("kube-apiserver is ready")

	supervisor.Start(p.controllerManager())
	supervisor.Start(p.scheduler())
	supervisor.Start(p.kwok())
	if p.node != nil {
		supervisor.Start(p.realNode())
	}
	client, err := p.client()
	if err != nil {
		return err
	}
	err = supervisor.Await(ctx, "the first objects", func(ctx context.Context) error {
		return kwoknodes.Bootstrap(ctx, client, certs.KwokUser, p.options.Nodes)
	})
	if err != nil {
		return err
	}
	err = supervisor.Await(ctx, "the nodes", func(ctx context.Context) error {
		return kwoknodes.Ready(ctx, client, p.options.Nodes)
	})
	if err != nil {
		return err
	}
	if p.node == nil {
		return realnode.Forget(ctx, client)
	}
	err = supervisor.Await(ctx, "the rights of the node", func(ctx context.Context) error {
		return realnode.Bootstrap(ctx, client, certs.KubeletClientUser, realnode.VolumesDir(p.dir.file("node")))
	})
	if err != nil {
		return err
	}
	return supervisor.Await(ctx, "the real node", func(ctx context.Context) error {
		return realnode.Ready(ctx, client, p.node.Node.String(), began)
	})
}

// probe returns a function that succeeds when url answers 200 to the holder of
// the named certificate.
func (p plan) probe(url, name, authority string) (func(context.Context) error, error) {
	config, err := p.certs.TLS(name, authority)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
			return errors.Join(fmt.Errorf("%s answered %s: %s", url, response.Status, text), err)
		}
		return nil
	}, nil
}

// client returns a client for the administrator, without a limit of its own.
func (p plan) client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.dir.file("kubeconfig"))
	if err != nil {
		return nil, fmt.Errorf("load kubeconfig: %w", err)
	}
	config.QPS = -1
	config.UserAgent = "keelson-cluster"
	config.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}
