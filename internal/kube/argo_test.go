package kube_test

import (
	"strings"
	"testing"

	"keelson.dev/keelson/internal/kube"
)

func TestRemoteFromArgo(t *testing.T) {
	for name, c := range map[string]struct {
		server, config string
		want           kube.Remote
		err            string // part of it
	}{
		"token": {"https://API.example:6443/", `{"bearerToken":"t"}`, kube.Remote{Host: "https://api.example:6443", Token: "t"}, ""},
		"basic": {"https://api.example", `{"username":"u","password":"p"}`, kube.Remote{Host: "https://api.example", Username: "u", Password: "p"}, ""},
		"insecure, without its CA": {"https://api.example", `{"bearerToken":"t","tlsClientConfig":{"insecure":true,"caData":"eA=="}}`,
			kube.Remote{Host: "https://api.example", Token: "t", Insecure: true}, ""},
		"server name":     {"https://api.example", `{"tlsClientConfig":{"serverName":"other"}}`, kube.Remote{Host: "https://api.example", ServerName: "other"}, ""},
		"nothing":         {"https://api.example", ``, kube.Remote{Host: "https://api.example"}, ""},
		"a program":       {"https://api.example", `{"execProviderConfig":{"command":"argocd-k8s-auth"}}`, kube.Remote{}, "execProviderConfig is refused"},
		"AWS":             {"https://api.example", `{"awsAuthConfig":{"clusterName":"x"}}`, kube.Remote{}, "awsAuthConfig is refused"},
		"no program":      {"https://api.example", `{"execProviderConfig":null}`, kube.Remote{Host: "https://api.example"}, ""},
		"without TLS":     {"http://api.example", `{}`, kube.Remote{}, "without TLS"},
		"a broken CA":     {"https://api.example", `{"tlsClientConfig":{"caData":"eA=="}}`, kube.Remote{}, "no certificate in PEM"},
		"no JSON":         {"https://api.example", `bearerToken: s3cret`, kube.Remote{}, "no JSON"},
		"a strange proxy": {"https://api.example", `{"proxyUrl":"ftp://x"}`, kube.Remote{}, "proxyUrl"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := kube.RemoteFromArgo(c.server, []byte(c.config))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "s3cret") {
					t.Fatalf("error %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil || got.Connection() != c.want.Connection() {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}
