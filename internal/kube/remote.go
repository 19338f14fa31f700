package kube

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/internal/delivery"
)

// Remote says how another cluster than our own is reached, and as whom. It comes from people who may not be trusted with
// what this process can do: it holds nothing but what is sent over the wire. There is no way to name a program or a file in it.
type Remote struct {
	Host       string // "https://api.example.com:6443", perhaps with a path
	ServerName string // that the server's certificate is for; empty: that of Host
	CA         []byte // PEM; empty: the system's roots
	Insecure   bool   // the server's certificate is not looked at
	Proxy      string // URL; empty: as the environment of this process says

	Cert, Key          []byte // PEM
	Token              string
	Username, Password string
	Account            Account // whose tokens are used, in place of the above
}

// Account is a service account of our own cluster whose tokens another cluster trusts.
type Account struct {
	Namespace, Name string
	Audiences       []string
}

// Policy says what the owners of kubeconfigs are trusted with.
type Policy struct {
	// InsecureTLS lets a kubeconfig turn off the check of the server's certificate, or do without TLS
	// (Flux: --insecure-kubeconfig-tls).
	InsecureTLS bool
}

// Cluster identifies the cluster, whoever uses it: by the way to it and by whose certificates are believed. It begins with Host.
func (r Remote) Cluster() string {
	proxy, _ := url.Parse(r.Proxy) // it was checked
	if proxy != nil {
		proxy.User = nil // who uses it
		return r.Host + " " + digest(r.ServerName, string(r.CA), fmt.Sprint(r.Insecure), proxy.String())
	}
	return r.Host + " " + digest(r.ServerName, string(r.CA), fmt.Sprint(r.Insecure))
}

// Connection identifies the cluster and who uses it, without telling any secret.
func (r Remote) Connection() string {
	return r.Cluster() + " " + digest(r.Proxy, string(r.Cert), string(r.Key), r.Token, r.Username, r.Password,
		r.Account.Namespace, r.Account.Name, strings.Join(r.Account.Audiences, "\n"))
}

// digest identifies a list of texts.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// The keys under which a Secret has its kubeconfig where none is named (Flux: runtime/client, Impersonator).
var kubeconfigKeys = []string{"value", "value.yaml"}

// RemoteFromSecret reads a Secret's kubeconfig: under key, or under "value" or "value.yaml" where none is named. Only its current
// context counts. What would run a program or read a file of this process is refused by name, and so is what Flux drops silently.
func RemoteFromSecret(data map[string][]byte, key string, policy Policy) (Remote, error) {
	for _, k := range kubeconfigKeys {
		if _, ok := data[k]; key == "" && ok {
			key = k
		}
	}
	text, ok := data[cmp.Or(key, kubeconfigKeys[0])]
	if !ok {
		return Remote{}, fmt.Errorf("it has no key %q with a kubeconfig", cmp.Or(key, kubeconfigKeys[0]))
	}
	config, err := clientcmd.Load(text)
	if err != nil { // the parser's words may quote what it could not read
		return Remote{}, errors.New("the kubeconfig cannot be read: it is no YAML or JSON of kind Config")
	}
	return remoteOf(config, policy)
}

func remoteOf(config *clientcmdapi.Config, policy Policy) (Remote, error) {
	context := config.Contexts[config.CurrentContext]
	if context == nil {
		return Remote{}, fmt.Errorf("the kubeconfig has no context %q, which current-context names", config.CurrentContext)
	}
	cluster, user := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	if cluster == nil {
		return Remote{}, fmt.Errorf("the kubeconfig has no cluster %q, which its current context names", context.Cluster)
	}
	if user == nil {
		if context.AuthInfo != "" {
			return Remote{}, fmt.Errorf("the kubeconfig has no user %q, which its current context names", context.AuthInfo)
		}
		user = &clientcmdapi.AuthInfo{}
	}
	if err := unsupportedIn(config, cluster, user, policy); err != nil {
		return Remote{}, err
	}
	r := Remote{
		ServerName: cluster.TLSServerName, CA: cluster.CertificateAuthorityData, Insecure: cluster.InsecureSkipTLSVerify, Proxy: cluster.ProxyURL,
		Cert: user.ClientCertificateData, Key: user.ClientKeyData, Token: user.Token, Username: user.Username, Password: user.Password,
	}
	if r.Insecure {
		r.CA = nil // as kubectl does it: the two exclude each other
	}
	var err error
	if r.Host, err = address(cluster.Server, policy); err != nil {
		return Remote{}, fmt.Errorf("the kubeconfig's server: %w", err)
	}
	if r.Proxy != "" {
		u, err := url.Parse(r.Proxy)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			return Remote{}, errors.New("the kubeconfig's proxy-url is no URL of http, https or socks5")
		}
	}
	return r, r.check()
}

// unsupportedIn names what a kubeconfig asks for and does not get.
func unsupportedIn(config *clientcmdapi.Config, cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo, policy Policy) error {
	type field struct{ name, instead string }
	var fields []field
	add := func(used bool, name, instead string) {
		if used {
			fields = append(fields, field{name, instead})
		}
	}
	add(user.Exec != nil, "user.exec", "a program would have to be run; use a token or a client certificate, or spec.kubeConfig.configMapRef")
	add(user.AuthProvider != nil, "user.auth-provider", "use a token or a client certificate, or spec.kubeConfig.configMapRef")
	add(user.Impersonate != "" || len(user.ImpersonateGroups) > 0 || len(user.ImpersonateUserExtra) > 0 || user.ImpersonateUID != "",
		"user.as", "use spec.serviceAccountName")
	add(cluster.InsecureSkipTLSVerify && !policy.InsecureTLS, "cluster.insecure-skip-tls-verify", "use certificate-authority-data")
	for _, c := range config.Clusters { // of all of them, as Flux
		add(c != nil && c.CertificateAuthority != "", "cluster.certificate-authority", "use certificate-authority-data")
	}
	for _, u := range config.AuthInfos {
		if u != nil {
			add(u.TokenFile != "", "user.tokenFile", "use token")
			add(u.ClientCertificate != "", "user.client-certificate", "use client-certificate-data")
			add(u.ClientKey != "", "user.client-key", "use client-key-data")
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return &delivery.Fault{
		Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: fields[0].instead,
		Err: fmt.Errorf("the kubeconfig's %s is refused; nothing is applied", fields[0].name),
	}
}

// RemoteFromConfigMap reads the keys of a ConfigMap as Flux defines them (apis/meta, KubeConfigReference): a service account of
// the ConfigMap's namespace is known to the other cluster by the tokens that our own one issues.
func RemoteFromConfigMap(namespace string, data map[string]string) (Remote, error) {
	switch provider := data[fluxmeta.KubeConfigKeyProvider]; provider {
	case "generic":
	case "aws", "azure", "gcp":
		return Remote{}, &delivery.Fault{
			Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: "use the provider generic, or spec.kubeConfig.secretRef",
			Err: fmt.Errorf("provider %s is not supported; nothing is applied", provider),
		}
	default:
		return Remote{}, fmt.Errorf("provider %q is none of generic, aws, azure, gcp", provider)
	}
	name := data[fluxmeta.KubeConfigKeyServiceAccountName]
	if name == "" {
		return Remote{}, &delivery.Fault{
			Reason: "FieldsNotSupported", Retry: delivery.OnEvent, Hint: "name a ServiceAccount of the namespace under serviceAccountName",
			Err: errors.New("it names no serviceAccountName, and Keelson's own identity is not lent to apps; nothing is applied"),
		}
	}
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
		return Remote{}, fmt.Errorf("serviceAccountName %q is no name of a ServiceAccount", name)
	}
	raw := data[fluxmeta.KubeConfigKeyAddress]
	if raw == "" {
		return Remote{}, errors.New("it has no address")
	}
	full := raw
	if !strings.Contains(raw, "://") {
		full = "https://" + raw
	}
	host, err := address(full, Policy{})
	if err != nil {
		return Remote{}, fmt.Errorf("address: %w", err)
	}
	r := Remote{Host: host, CA: []byte(data[fluxmeta.KubeConfigKeyCACert]), Account: Account{Namespace: namespace, Name: name}}
	for line := range strings.Lines(data[fluxmeta.KubeConfigKeyAudiences]) {
		if line = strings.TrimSpace(line); line != "" {
			r.Account.Audiences = append(r.Account.Audiences, line)
		}
	}
	if len(r.Account.Audiences) == 0 {
		r.Account.Audiences = []string{raw}
	}
	return r, r.check()
}

// address checks the URL of an API server and gives it in one form.
func address(raw string, policy Policy) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return "", errors.New("it is no URL of an API server")
	case u.User != nil:
		return "", errors.New("it holds credentials: they belong into the user")
	case u.Scheme == "http" && !policy.InsecureTLS:
		return "", fmt.Errorf("%s is without TLS: use https", raw)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("%s is not https", raw)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimSuffix(u.Path, "/"), nil
}

// check finds certificates and keys that cannot be used, without quoting them.
func (r Remote) check() error {
	if _, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: r.CA}}); err != nil {
		return errors.New("the CA certificate is no certificate in PEM")
	}
	if _, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CertData: r.Cert, KeyData: r.Key}}); err != nil {
		return errors.New("the client certificate and its key do not make a pair in PEM")
	}
	return nil
}
