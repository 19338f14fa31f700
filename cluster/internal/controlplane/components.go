package controlplane

import (
	"fmt"
	"strconv"

	"keelson.dev/keelson/cluster/internal/certs"
	"keelson.dev/keelson/cluster/internal/realnode"
	"keelson.dev/keelson/cluster/internal/supervise"
)

const (
	serviceCIDR = "10.96.0.0/16"
	serviceIP   = "10.96.0.1" // the first of the range: the Service "kubernetes"

	// advertiseAddress is what the API server writes into the Endpoints of the
	// Service "kubernetes". Endpoints may not be loopback, and left to itself it
	// takes the address of the default route, which a machine without network
	// does not have. This one is for documentation (RFC 5737): valid everywhere,
	// and nothing listens there. Simulated pods cannot miss it; where pods run for
	// real, the node's address takes its place.
	advertiseAddress = "192.0.2.1"

	loopback = "127.0.0.1"
)

// apiHosts are the names the API server's certificate is good for.
var apiHosts = []string{
	"localhost", loopback, "::1", serviceIP, advertiseAddress,
	"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
}

// plan is what the command lines of the components are made of.
type plan struct {
	dir     dataDir
	ports   ports
	certs   certs.Set
	options Options
	node    *realnode.Link // to the real node; nil: nodes are simulated
}

// advertised is the address of the API server for pods.
func (p plan) advertised() string {
	if p.node != nil {
		return p.node.Node.String()
	}
	return advertiseAddress
}

func (p plan) server() string     { return "https://" + hostPort(p.ports.APIServer) }
func (p plan) etcdServer() string { return "https://" + hostPort(p.ports.EtcdClient) }

func hostPort(port int) string { return loopback + ":" + strconv.Itoa(port) }

func component(name string, args ...string) supervise.Component {
	return supervise.Component{Name: name, Args: append([]string{ComponentVerb, name}, args...)}
}

// etcd is open only to holders of a certificate of its own authority: the API
// server. The peer address must exist although there are no peers.
func (p plan) etcd() supervise.Component {
	client, peer := p.etcdServer(), "https://"+hostPort(p.ports.EtcdPeer)
	cert, key, ca := p.certs.Cert(certs.Etcd), p.certs.Key(certs.Etcd), p.certs.Cert(certs.EtcdCA)
	args := []string{
		"--name=keelson",
		"--data-dir=" + p.dir.file("etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=keelson=" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + ca, "--cert-file=" + cert, "--key-file=" + key,
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + ca, "--peer-cert-file=" + cert, "--peer-key-file=" + key,
		"--quota-backend-bytes=4294967296",
		"--log-level=warn",
	}
	if p.options.UnsafeNoFsync {
		args = append(args, "--unsafe-no-fsync")
	}
	return component(etcd, args...)
}

func (p plan) apiServer() supervise.Component {
	args := []string{
		"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(p.ports.APIServer),
		"--advertise-address=" + p.advertised(),
		"--tls-cert-file=" + p.certs.Cert(certs.APIServer), "--tls-private-key-file=" + p.certs.Key(certs.APIServer),

		"--etcd-servers=" + p.etcdServer(), "--etcd-cafile=" + p.certs.Cert(certs.EtcdCA),
		"--etcd-certfile=" + p.certs.Cert(certs.EtcdClient), "--etcd-keyfile=" + p.certs.Key(certs.EtcdClient),

		"--anonymous-auth=false", "--profiling=false",
		"--client-ca-file=" + p.certs.Cert(certs.CA),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.certs.ServiceAccountKey(),
		"--service-account-signing-key-file=" + p.certs.ServiceAccountKey(),

		// The aggregator, for API services that people register.
		"--requestheader-client-ca-file=" + p.certs.Cert(certs.FrontProxyCA),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.certs.Cert(certs.FrontProxyClient),
		"--proxy-client-key-file=" + p.certs.Key(certs.FrontProxyClient),

		"--service-cluster-ip-range=" + serviceCIDR,
		"--allow-privileged",
		"--kubelet-preferred-address-types=InternalIP",
	}
	if p.node == nil {
		args = append(args, "--authorization-mode=RBAC")
	} else {
		args = append(args,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--kubelet-certificate-authority="+p.certs.Cert(certs.CA),
			"--kubelet-client-certificate="+p.certs.Cert(certs.KubeletClient),
			"--kubelet-client-key="+p.certs.Key(certs.KubeletClient),
		)
	}
	if p.options.AuditLog != "" {
		args = append(args,
			"--audit-policy-file="+p.dir.file("config", "audit-policy.yaml"),
			"--audit-log-path="+p.options.AuditLog,
			"--audit-log-maxsize=256", "--audit-log-maxbackup=2",
		)
	}
	return component(kubeAPIServer, args...)
}

// controllerManager gives no address ranges to nodes: KWOK has one for all pods. Its
// default limit of 20 requests a second would decide how fast Deployments
// become ready (about five a second), so it is out of the way; that must be said
// wherever a speed is published.
func (p plan) controllerManager() supervise.Component {
	return component(controllerManager,
		"--kubeconfig="+p.kubeconfig(certs.ControllerManager),
		"--kube-api-qps=1000", "--kube-api-burst=2000",
		"--leader-elect=false", "--secure-port=0", "--profiling=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file="+p.certs.ServiceAccountKey(),
		"--root-ca-file="+p.certs.Cert(certs.CA),
		"--cluster-signing-cert-file="+p.certs.Cert(certs.CA), "--cluster-signing-key-file="+p.certs.Key(certs.CA),
		"--controllers=*,-node-ipam-controller",
	)
}

func (p plan) scheduler() supervise.Component {
	return component(kubeScheduler,
		"--kubeconfig="+p.kubeconfig(certs.Scheduler),
		"--kube-api-qps=1000", "--kube-api-burst=2000",
		"--leader-elect=false", "--secure-port=0", "--profiling=false",
	)
}

func (p plan) kwok() supervise.Component {
	return component(kwok,
		"--kubeconfig="+p.kubeconfig(certs.Kwok),
		"--config="+p.dir.file("config", "kwok.yaml"),
	)
}

// realNode is the first process of the real node. The kernel ends all others of
// the node with it.
func (p plan) realNode() supervise.Component {
	c := component(node, p.dir.file("config", "node.json"))
	c.Unshare, c.Grace = realnode.Namespaces, realnode.Grace
	return c
}

// kubeconfig is the path of a component's kubeconfig.
func (p plan) kubeconfig(name string) string {
	return p.dir.file("config", fmt.Sprintf("%s.kubeconfig", name))
}
