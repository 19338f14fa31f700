package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"keelson.dev/keelson/internal/delivery"
)

// argoConfig is the JSON under "config" in a Secret that describes a cluster to Argo CD (operator-manual/declarative-setup, "Clusters").
type argoConfig struct {
	Username        string `json:"username"`
	Password        string `json:"password"`
	BearerToken     string `json:"bearerToken"`
	ProxyURL        string `json:"proxyUrl"`
	TLSClientConfig struct {
		Insecure   bool   `json:"insecure"`
		ServerName string `json:"serverName"`
		CAData     []byte `json:"caData"`
		CertData   []byte `json:"certData"`
		KeyData    []byte `json:"keyData"`
	} `json:"tlsClientConfig"`
	AWSAuthConfig      json.RawMessage `json:"awsAuthConfig"`
	ExecProviderConfig json.RawMessage `json:"execProviderConfig"`
}

// RemoteFromArgo reads how Argo CD reaches a cluster. What would run a program, or lend it this process's own identity, is refused
// by name. The Secret is an administrator's: it may turn off the check of certificates, or TLS.
func RemoteFromArgo(server string, config []byte) (Remote, error) {
	var c argoConfig
	if len(config) > 0 && json.Unmarshal(config, &c) != nil { // the parser's words may quote what it could not read
		return Remote{}, errors.New("its config cannot be read: it is no JSON as Argo CD describes it")
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
	}{{"execProviderConfig", c.ExecProviderConfig}, {"awsAuthConfig", c.AWSAuthConfig}} {
		if len(f.raw) > 0 && string(f.raw) != "null" {
			return Remote{}, &delivery.Fault{
				Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: "use bearerToken, or certData and keyData",
				Err: fmt.Errorf("its config's %s is refused: no program is run to get credentials; nothing is applied", f.name),
			}
		}
	}
	tls := c.TLSClientConfig
	r := Remote{
		ServerName: tls.ServerName, CA: tls.CAData, Insecure: tls.Insecure, Proxy: c.ProxyURL,
		Cert: tls.CertData, Key: tls.KeyData, Token: c.BearerToken, Username: c.Username, Password: c.Password,
	}
	if r.Insecure {
		r.CA = nil
	}
	var err error
	if r.Host, err = address(server, Policy{InsecureTLS: r.Insecure}); err != nil {
		return Remote{}, fmt.Errorf("its server: %w", err)
	}
	if r.Proxy != "" {
		u, err := url.Parse(r.Proxy)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			return Remote{}, errors.New("its config's proxyUrl is no URL of http, https or socks5")
		}
	}
	return r, r.check()
}
