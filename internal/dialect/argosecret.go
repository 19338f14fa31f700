package dialect

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Values of the label argocd.argoproj.io/secret-type.
const (
	ArgoRepositorySecret         = "repository"
	ArgoRepositoryTemplateSecret = "repo-creds"
	ArgoClusterSecret            = "cluster"
)

// ArgoRepository is what a labelled Secret says about a repository, or about all whose URL begins like its.
type ArgoRepository struct {
	Secret      string // its name
	URL         string
	Name        string
	Type        string // git (default), helm or oci
	Project     string
	Template    bool   // of type repo-creds
	OCI         bool   // enableOCI: a Helm repository
	NoProxy     string // hosts, as in the environment variable NO_PROXY, that the proxy is not for
	Credentials delivery.Credentials
	Refused     []string // fields that are not supported, and without which it may not be read as it should be
	Ignored     []string // fields that have no effect
}

// ReadArgoRepository reads a Secret with the label argocd.argoproj.io/secret-type: repository or repo-creds.
func ReadArgoRepository(name string, template bool, data map[string][]byte) ArgoRepository {
	get := func(key string) string { return strings.TrimSpace(string(data[key])) }
	set := func(key string) bool { return strings.EqualFold(get(key), "true") }
	r := ArgoRepository{
		Secret: name, URL: get("url"), Name: get("name"), Type: strings.ToLower(orElse(get("type"), "git")), Project: get("project"),
		Template: template, OCI: set("enableOCI"), NoProxy: get("noProxy"),
		Credentials: delivery.Credentials{
			Username: get(keyUsername), Password: string(data[keyPassword]), BearerToken: get(keyBearer),
			ClientCert: string(data["tlsClientCertData"]), ClientKey: string(data["tlsClientCertKey"]),
			Identity: string(data["sshPrivateKey"]),
			Insecure: set("insecure") || set("insecureIgnoreHostKey"), PlainHTTP: set("insecureOCIForceHttp"),
			Proxy: get("proxy"), NoProxy: get("noProxy"),
			App: delivery.GitHubApp{
				ID: get(keyAppID), InstallationID: get("githubAppInstallationID"), PrivateKey: string(data["githubAppPrivateKey"]),
				BaseURL: get("githubAppEnterpriseBaseUrl"),
			},
		},
	}
	if r.Credentials.App.ID == "" {
		r.Credentials.App = delivery.GitHubApp{}
	}
	for _, key := range []string{
		"gcpServiceAccountKey", "azureServicePrincipalClientId", "azureServicePrincipalClientSecret", "azureServicePrincipalTenantId",
		"azureActiveDirectoryEndpoint",
	} {
		if get(key) != "" {
			r.Refused = append(r.Refused, key)
		}
	}
	if set("useAzureWorkloadIdentity") {
		r.Refused = append(r.Refused, "useAzureWorkloadIdentity")
	}
	if set("enableLfs") {
		r.Ignored = append(r.Ignored, "enableLfs")
	}
	return r
}

// anonymous tells whether nothing in r authenticates.
func (r ArgoRepository) anonymous() bool {
	c := r.Credentials
	return c.Username == "" && c.Password == "" && c.BearerToken == "" && c.Identity == "" && c.ClientCert == "" && c.App.ID == ""
}

// repository finds what is known of a repository: the Secret of just this URL (first that of the Application's project, then one of
// no project) and, where that has no credentials, the template with the longest URL that this one begins with.
func (r *argoReader) repository(rawURL string) ArgoRepository {
	want, project := NormalizeURL(rawURL), projectName(r.a)
	var exact, template ArgoRepository
	for _, c := range slices.SortedFunc(slices.Values(r.in.Repositories), func(a, b ArgoRepository) int { return strings.Compare(a.Secret, b.Secret) }) {
		if c.URL == "" || c.Project != "" && c.Project != project {
			continue
		}
		url := NormalizeURL(c.URL)
		switch {
		case c.Template:
			longer := len(url) > len(NormalizeURL(template.URL))
			if beginsWith(want, url) && (template.Secret == "" || longer) {
				template = c
			}
		case url == want && (exact.Secret == "" || exact.Project == "" && c.Project != ""):
			exact = c
		}
	}
	if exact.Secret == "" {
		return template
	}
	if template.Secret == "" || !exact.anonymous() {
		return exact
	}
	found := template
	found.Secret = exact.Secret + "+" + template.Secret
	found.OCI = exact.OCI || template.OCI
	found.Credentials.Insecure, found.Credentials.PlainHTTP = exact.Credentials.Insecure, exact.Credentials.PlainHTTP
	found.Credentials.Proxy, found.NoProxy = orElse(exact.Credentials.Proxy, template.Credentials.Proxy), orElse(exact.NoProxy, template.NoProxy)
	found.Refused = slices.Concat(exact.Refused, template.Refused)
	found.Ignored = slices.Concat(exact.Ignored, template.Ignored)
	return found
}

// ArgoDependencies finds the repositories that an Application's charts name for what they depend on: by address, or as "@name" or
// "alias:name" by the name in a repository's Secret. Credentials are given for what the project permits as a source; anything else is
// asked without.
func ArgoDependencies(a *argocdv1.Application, in Argo) func(named string) (url string, c delivery.Credentials, err error) {
	return func(named string) (string, delivery.Credentials, error) {
		r := &argoReader{a: a, in: in, spec: *a.Spec.DeepCopy()}
		project := r.project()
		name, ok := strings.CutPrefix(named, "@")
		if !ok {
			name, ok = strings.CutPrefix(named, "alias:")
		}
		if ok {
			i := slices.IndexFunc(in.Repositories, func(o ArgoRepository) bool {
				return !o.Template && o.Name == name && (o.Project == "" || o.Project == projectName(a))
			})
			if i < 0 {
				return "", delivery.Credentials{}, fmt.Errorf("no repository is named %q (hint: give one of Argo CD's Secrets that name, or write the address)", name)
			}
			named = in.Repositories[i].URL
			if in.Repositories[i].OCI && !strings.Contains(named, "://") {
				named = "oci://" + named
			}
		}
		if project == nil || r.denySource(project, named) != "" {
			return named, delivery.Credentials{}, nil
		}
		found := r.repository(named)
		return named, found.Credentials, nil
	}
}

// beginsWith tells whether a normalised URL begins with another. A host counts only as a whole: credentials for https://example.com
// are not for https://example.com.evil.org.
func beginsWith(rawURL, prefix string) bool {
	rest, ok := strings.CutPrefix(rawURL, prefix)
	if !ok || prefix == "" {
		return false
	}
	_, host, found := strings.Cut(prefix, "://")
	if !found {
		host = prefix
	}
	return rest == "" || strings.Contains(host, "/") || rest[0] == '/'
}

// NormalizeURL writes a repository's URL so that all its spellings that Argo CD takes for the same are the same: in lower case,
// without ".git" at the end, and ssh as scp does it or not.
func NormalizeURL(raw string) string {
	raw = strings.TrimPrefix(strings.ToLower(gitURL(raw)), "ssh://")
	return strings.TrimSuffix(raw, ".git")
}

// ArgoCluster is what a labelled Secret says about a cluster.
type ArgoCluster struct {
	Secret, Name, Server, Project string
	Labels, Annotations           map[string]string // of the Secret
	Namespaces                    []string          // none: all
	ClusterResources              bool
	Config                        []byte // JSON with credentials: never logged
}

// InCluster is the address of the cluster that an Application is in, and its name.
const InCluster, InClusterName = "https://kubernetes.default.svc", "in-cluster"

// ReadArgoCluster reads a Secret with the label argocd.argoproj.io/secret-type: cluster.
func ReadArgoCluster(name string, labels, annotations map[string]string, data map[string][]byte) ArgoCluster {
	get := func(key string) string { return strings.TrimSpace(string(data[key])) }
	c := ArgoCluster{
		Secret: name, Name: get("name"), Server: strings.TrimRight(get("server"), "/"), Project: get("project"),
		Labels: maps.Clone(labels), Annotations: maps.Clone(annotations),
		ClusterResources: get("clusterResources") == "true", Config: data["config"],
	}
	delete(c.Labels, argocdv1.SecretTypeLabel)
	delete(c.Annotations, corev1.LastAppliedConfigAnnotation)
	for ns := range strings.SplitSeq(get("namespaces"), ",") {
		if ns = strings.TrimSpace(ns); ns != "" {
			c.Namespaces = append(c.Namespaces, ns)
		}
	}
	return c
}

// Local tells whether it is the cluster that Applications are in.
func (c ArgoCluster) Local() bool { return c.Server == InCluster }

// ArgoClusters gives all clusters: those of the Secrets, and the one that Applications are in where none of them describes it.
func ArgoClusters(secrets []ArgoCluster) []ArgoCluster {
	if slices.ContainsFunc(secrets, ArgoCluster.Local) {
		return secrets
	}
	return append(slices.Clip(secrets), ArgoCluster{Name: InClusterName, Server: InCluster})
}

// destination finds the cluster that an Application is delivered to; false: it is not clear which.
func (r *argoReader) destination() (ArgoCluster, bool) {
	d := r.spec.Destination
	server := strings.TrimRight(d.Server, "/")
	switch {
	case d.Name != "" && d.Server != "":
		return r.nowhere("application destination can't have both name and server defined: %s %s", d.Name, d.Server)
	case d.Name == "" && d.Server == "":
		return r.nowhere("destination server missing from app spec (hint: for the cluster that the Application is in give server: %s)", InCluster)
	}
	var found []ArgoCluster
	for _, c := range ArgoClusters(r.in.Clusters) {
		if d.Name != "" && c.Name == d.Name || d.Name == "" && c.Server == server {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0 && d.Name != "":
		return r.nowhere("there are no clusters with this name: %s", d.Name)
	case len(found) == 0:
		return r.nowhere("cluster %q has not been configured (hint: it needs a Secret with the label %s: cluster in namespace %s)", server, argocdv1.SecretTypeLabel, r.in.Namespace)
	case len(found) > 1:
		var names []string
		for _, c := range found {
			names = append(names, "Secret "+c.Secret)
		}
		slices.Sort(names)
		return r.nowhere("there are %d clusters of this destination: %s", len(found), strings.Join(names, ", "))
	}
	c := found[0]
	if !c.Local() {
		r.out.Destination = c
		r.out.App.KubeConfig = delivery.KubeConfig{Kind: ClusterKind, Name: c.Secret}
	}
	return c, true
}

// nowhere says why it is not clear which cluster the Application is delivered to: then it is none, nor the one that it is in.
func (r *argoReader) nowhere(format string, args ...any) (ArgoCluster, bool) {
	r.out.Nowhere = fmt.Sprintf(format, args...)
	r.invalid("%s", r.out.Nowhere)
	d := r.spec.Destination
	r.out.App.KubeConfig = delivery.KubeConfig{Kind: ClusterKind, Name: d.Name + strings.TrimRight(d.Server, "/")}
	return ArgoCluster{}, false
}
