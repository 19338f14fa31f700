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
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/cluster/internal/certs"
	"keelson.dev/keelson/cluster/internal/kwoknodes"
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
}

// Started is what Run tells once the cluster is ready for work.
type Started struct {
	Ready      bool   `json:"ready"`
	Kubeconfig string `json:"kubeconfig"`
	Server     string `json:"server"`
}

// Run runs the cluster until ctx ends, and writes one line of JSON ([Started])
// to out when it is ready. It returns nil after an orderly stop, also one that
// was asked for during the start.
func Run(ctx context.Context, options Options, out io.Writer, log *slog.Logger) error {
	p, err := prepare(options)
	if err != nil {
		return err
	}
	defer p.dir.release()
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
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
	if err := json.NewEncoder(out).Encode(Started{Ready: true, Kubeconfig: p.dir.file("kubeconfig"), Server: p.server()}); err != nil {
		return fmt.Errorf("announce the cluster: %w", err)
	}
	<-ctx.Done()
	log.Info("stopping the cluster")
	return nil
}

// prepare does what comes before the first process: directory, ports,
// certificates and configuration files.
func prepare(options Options) (_ plan, err error) {
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
	if p.certs, err = certs.Ensure(p.dir.file("pki"), apiHosts, time.Now()); err != nil {
		return p, err
	}
	return p, p.writeConfiguration()
}

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

func (p plan) writeConfiguration() error {
	kwokConfig, err := kwoknodes.Config()
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
		if err := p.writeKubeconfig(p.kubeconfig(name), name); err != nil {
			return err
		}
	}
	return p.writeKubeconfig(p.dir.file("kubeconfig"), certs.Admin)
}

// writeKubeconfig writes a kubeconfig that carries its certificate and key, so
// that it works wherever it is copied to on this machine.
func (p plan) writeKubeconfig(path, user string) error {
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
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: p.server(), CertificateAuthorityData: ca}},
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
	return supervisor.Await(ctx, "the nodes", func(ctx context.Context) error {
		return kwoknodes.Ready(ctx, client, p.options.Nodes)
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
