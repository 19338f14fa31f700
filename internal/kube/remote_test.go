package kube_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
)

// kubeconfig gives one whose cluster and user are as stated, in JSON.
func kubeconfig(cluster, user string) string {
	return `{apiVersion: v1, kind: Config, current-context: here,
contexts: [{name: here, context: {cluster: there, user: me}}, {name: other, context: {cluster: other, user: other}}],
clusters: [{name: there, cluster: ` + cluster + `}], users: [{name: me, user: ` + user + `}]}`
}

func TestRemoteFromSecret(t *testing.T) {
	const server = `{server: "https://API.example.com:6443/"}`
	tests := map[string]struct {
		data   map[string]string
		key    string
		policy kube.Policy
		want   kube.Remote
		reason string // of the fault; empty: any error
		err    string // part of it; empty: there is none
	}{
		"token": {
			data: map[string]string{"value": kubeconfig(server, "{token: t}")},
			want: kube.Remote{Host: "https://api.example.com:6443", Token: "t"},
		},
		"the other usual key": {
			data: map[string]string{"value.yaml": kubeconfig(server, "{username: u, password: p}")},
			want: kube.Remote{Host: "https://api.example.com:6443", Username: "u", Password: "p"},
		},
		"a named key": {
			data: map[string]string{"value": "junk", "kubeconfig": kubeconfig(`{server: "https://a/k8s/clusters/c-1", tls-server-name: b, proxy-url: "socks5://p:1"}`, "{token: t}")},
			key:  "kubeconfig",
			want: kube.Remote{Host: "https://a/k8s/clusters/c-1", ServerName: "b", Proxy: "socks5://p:1", Token: "t"},
		},
		"unsafe, by flag": {
			data:   map[string]string{"value": kubeconfig(`{server: "http://a", insecure-skip-tls-verify: true}`, "{token: t}")},
			policy: kube.Policy{InsecureTLS: true},
			want:   kube.Remote{Host: "http://a", Insecure: true, Token: "t"},
		},
		"no key":            {data: map[string]string{"other": ""}, err: `no key "value"`},
		"no such key":       {data: map[string]string{"value": ""}, key: "k", err: `no key "k"`},
		"no kubeconfig":     {data: map[string]string{"value": "token: ][ s3cret"}, err: "cannot be read"},
		"empty":             {data: map[string]string{"value": ""}, err: `no context ""`},
		"program":           {data: map[string]string{"value": kubeconfig(server, "{exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/x], interactiveMode: Never}}")}, reason: "FieldsNotSupported", err: "user.exec"},
		"auth provider":     {data: map[string]string{"value": kubeconfig(server, "{auth-provider: {name: gcp, config: {cmd-path: /bin/x}}}")}, reason: "FieldsNotSupported", err: "user.auth-provider"},
		"impersonation":     {data: map[string]string{"value": kubeconfig(server, "{token: t, as: root}")}, reason: "FieldsNotSupported", err: "user.as"},
		"token file":        {data: map[string]string{"value": kubeconfig(server, "{tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}")}, reason: "FieldsNotSupported", err: "user.tokenFile"},
		"certificate file":  {data: map[string]string{"value": kubeconfig(server, "{client-certificate: /x, client-key: /y}")}, reason: "FieldsNotSupported", err: "user.client-certificate"},
		"key file":          {data: map[string]string{"value": kubeconfig(server, "{client-key: /y}")}, reason: "FieldsNotSupported", err: "user.client-key"},
		"authority file":    {data: map[string]string{"value": kubeconfig(`{server: "https://a", certificate-authority: /etc/passwd}`, "{token: t}")}, reason: "FieldsNotSupported", err: "cluster.certificate-authority"},
		"not verified":      {data: map[string]string{"value": kubeconfig(`{server: "https://a", insecure-skip-tls-verify: true}`, "{token: t}")}, reason: "FieldsNotSupported", err: "insecure-skip-tls-verify"},
		"without TLS":       {data: map[string]string{"value": kubeconfig(`{server: "http://a"}`, "{token: t}")}, err: "without TLS"},
		"another scheme":    {data: map[string]string{"value": kubeconfig(`{server: "file:///etc/passwd"}`, "{token: t}")}, err: "no URL of an API server"},
		"credentials":       {data: map[string]string{"value": kubeconfig(`{server: "https://u:s3cret@a"}`, "{token: t}")}, err: "holds credentials"},
		"no server":         {data: map[string]string{"value": kubeconfig(`{}`, "{token: t}")}, err: "no URL of an API server"},
		"junk as authority": {data: map[string]string{"value": kubeconfig(`{server: "https://a", certificate-authority-data: czNjcmV0}`, "{token: t}")}, err: "CA certificate"},
		"junk as identity":  {data: map[string]string{"value": kubeconfig(server, "{client-certificate-data: czNjcmV0, client-key-data: czNjcmV0}")}, err: "client certificate"},
		"odd proxy":         {data: map[string]string{"value": kubeconfig(`{server: "https://a", proxy-url: "ftp://u:s3cret@p"}`, "{token: t}")}, err: "proxy-url"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{}
			for k, v := range tt.data {
				data[k] = []byte(v)
			}
			got, err := kube.RemoteFromSecret(data, tt.key, tt.policy)
			checkRemote(t, got, err, tt.want, tt.reason, tt.err)
		})
	}
}

func TestRemoteFromConfigMap(t *testing.T) {
	tests := map[string]struct {
		data   map[string]string
		want   kube.Remote
		reason string
		err    string
	}{
		"address alone": {
			data: map[string]string{"provider": "generic", "address": "Api.example.com", "serviceAccountName": "deployer"},
			want: kube.Remote{Host: "https://api.example.com", Account: kube.Account{Namespace: "team", Name: "deployer", Audiences: []string{"Api.example.com"}}},
		},
		"audiences": {
			data: map[string]string{"provider": "generic", "address": "https://a:6443", "serviceAccountName": "d", "audiences": " one\n\ntwo \n", "cluster": "unused"},
			want: kube.Remote{Host: "https://a:6443", Account: kube.Account{Namespace: "team", Name: "d", Audiences: []string{"one", "two"}}},
		},
		"a cloud's":       {data: map[string]string{"provider": "aws", "cluster": "arn:aws:eks:x"}, reason: "FieldsNotSupported", err: "provider aws is not supported"},
		"unknown":         {data: map[string]string{"provider": "magic"}, err: `provider "magic" is none of`},
		"none":            {data: map[string]string{}, err: `provider ""`},
		"our own account": {data: map[string]string{"provider": "generic", "address": "https://a"}, reason: "FieldsNotSupported", err: "no serviceAccountName"},
		"another's path":  {data: map[string]string{"provider": "generic", "address": "https://a", "serviceAccountName": "../../x/y"}, err: "no name of a ServiceAccount"},
		"no address":      {data: map[string]string{"provider": "generic", "serviceAccountName": "d"}, err: "no address"},
		"without TLS":     {data: map[string]string{"provider": "generic", "serviceAccountName": "d", "address": "http://a"}, err: "without TLS"},
		"junk":            {data: map[string]string{"provider": "generic", "serviceAccountName": "d", "address": "https://a", "ca.crt": "s3cret"}, err: "CA certificate"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := kube.RemoteFromConfigMap("team", tt.data)
			checkRemote(t, got, err, tt.want, tt.reason, tt.err)
		})
	}
}

func checkRemote(t *testing.T, got kube.Remote, err error, want kube.Remote, reason, message string) {
	t.Helper()
	if message == "" {
		if err != nil {
			t.Fatal(err)
		}
		if len(got.CA) == 0 {
			got.CA = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("remote (-want +got):\n%s", diff)
		}
		return
	}
	if err == nil {
		t.Fatalf("no error, want one with %q; got %+v", message, got)
	}
	if !strings.Contains(err.Error(), message) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %q, want %q in it, and no secret", err, message)
	}
	var f *delivery.Fault
	if errors.As(err, &f); reason != "" && (f == nil || f.Reason != reason) {
		t.Errorf("error %v has not the reason %s", err, reason)
	}
}

// TestWhatTellsClustersApart: a cluster is the same whoever uses it; a connection is not.
func TestWhatTellsClustersApart(t *testing.T) {
	base := kube.Remote{Host: "https://a", CA: []byte("ca"), Token: "one"}
	if a, b := (kube.Remote{Proxy: "http://one@p"}), (kube.Remote{Proxy: "http://two@p"}); a.Cluster() != b.Cluster() || a.Connection() == b.Connection() {
		t.Error("the user of a proxy is taken for another cluster, or not for another connection")
	}
	tests := map[string]struct {
		change              func(*kube.Remote)
		cluster, connection bool // the same
	}{
		"nothing":     {func(*kube.Remote) {}, true, true},
		"token":       {func(r *kube.Remote) { r.Token = "two" }, true, false},
		"user":        {func(r *kube.Remote) { r.Token, r.Username = "", "one" }, true, false},
		"account":     {func(r *kube.Remote) { r.Token, r.Account.Name = "", "one" }, true, false},
		"authority":   {func(r *kube.Remote) { r.CA = []byte("other") }, false, false},
		"server":      {func(r *kube.Remote) { r.Host = "https://b" }, false, false},
		"server name": {func(r *kube.Remote) { r.ServerName = "b" }, false, false},
		"proxy":       {func(r *kube.Remote) { r.Proxy = "http://p" }, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			other := base
			tt.change(&other)
			if got := other.Cluster() == base.Cluster(); got != tt.cluster {
				t.Errorf("same cluster: %v, want %v", got, tt.cluster)
			}
			if got := other.Connection() == base.Connection(); got != tt.connection {
				t.Errorf("same connection: %v, want %v", got, tt.connection)
			}
			if strings.Contains(other.Connection(), "two") {
				t.Errorf("the connection's name tells the token: %s", other.Connection())
			}
		})
	}
}
