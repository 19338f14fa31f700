package dialect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpproxy"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// source reads the repository that one source of an Application names.
func (r *argoReader) source(field string, s *argocdv1.ApplicationSource) (delivery.Source, bool) {
	if s.Chart != "" && s.TargetRevision == "" {
		r.invalid("%s.targetRevision is required if the manifest source is a helm chart", field)
		return delivery.Source{}, false
	}
	cred := r.repository(s.RepoURL)
	for _, name := range cred.Refused {
		r.refuse("Secret "+r.in.Namespace+"/"+cred.Secret+": "+name, "give a user name and password, a token, a key or a GitHub App")
	}
	for _, name := range cred.Ignored {
		r.ignored = append(r.ignored, "Secret "+r.in.Namespace+"/"+cred.Secret+": "+name)
	}
	src := delivery.Source{
		Tenant: projectName(r.a) + "/" + cred.Secret,
		URL:    s.RepoURL, Credentials: cred.Credentials, GitHub: cred.Credentials.App.ID != "",
		Interval: argoInterval, Timeout: argoExchange, Requested: r.a.Annotations[argocdv1.RefreshAnnotation],
		Ref: delivery.GitRef{Any: orElse(s.TargetRevision, "HEAD")}, Whole: true,
	}
	switch {
	case s.Chart != "":
		src.Chart = s.Chart
		src.Credentials.PassAll = s.Helm != nil && s.Helm.PassCredentials
		if cred.OCI && !isOCI(s.RepoURL) {
			src.URL = ociScheme + s.RepoURL
		}
	case isOCI(s.RepoURL):
		src.OCI, src.Ref.Any = true, orElse(s.TargetRevision, "latest")
	default:
		src.URL = gitURL(s.RepoURL)
		src.Ref.TagPrefix, src.Submodules = s.TagPrefix, true
	}
	r.verification(field, s, &src)
	if app := &src.Credentials.App; app.ID != "" && app.InstallationID == "" {
		app.Owner = firstFolder(src.URL) // whose installation it is, is found out
	}
	r.trust(&src)
	if direct(src.URL, cred) {
		src.Credentials.Proxy = ""
	}
	src.ID = delivery.ID{Kind: RepositoryKind, Namespace: r.a.Namespace, Name: sourceName(src)}
	return src, true
}

// noProject is the project of what has none, where credentials are looked for: no AppProject can have the name.
const noProject = "-"

// ArgoFiles gives the Git repository that an ApplicationSet reads to find out what Applications of a project to make; in.Project is that
// project. Where the set's template leaves the project open the name is empty: the credentials of no project are used then, and
// no commit has to be signed, as nobody can know yet whose keys count. Argo CD does the same, and as with it spec.sourceRepos and
// spec.destinations are about the Applications alone. That holds in its own namespace, where whoever writes ApplicationSets may use any
// project: a set of another namespace has to name one that serves the namespace, and reads what its spec.sourceRepos allows.
func ArgoFiles(namespace, project, url, revision string, in Argo) (delivery.Source, error) {
	outside, open := namespace != in.Namespace, project == ""
	switch {
	case url == "":
		return delivery.Source{}, errors.New("repoURL is empty")
	case isOCI(url):
		return delivery.Source{}, errors.New("it is no Git repository")
	case open && outside:
		return delivery.Source{}, fmt.Errorf("the template of an ApplicationSet in namespace %s has to name its project: only in namespace %s may it be a template", namespace, in.Namespace)
	}
	if open {
		project, in.Project = noProject, nil
	} else if in.Project == nil && project == DefaultProject {
		in.Project = DefaultArgoProject(in.Namespace)
	}
	r := &argoReader{in: in, a: &argocdv1.Application{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: argocdv1.ApplicationSpec{Project: project},
	}}
	if p := in.Project; !open {
		switch {
		case p == nil:
			return delivery.Source{}, fmt.Errorf("project %s does not exist", project)
		case outside && !ArgoServes(p, namespace):
			return delivery.Source{}, fmt.Errorf("project %s is not for namespace %s: no entry of its spec.sourceNamespaces matches it", project, namespace)
		}
		if why := r.denySource(p, url); outside && why != "" {
			return delivery.Source{}, fmt.Errorf("project %s does not permit it: %s", project, why)
		}
		r.integrity(p)
	}
	src, _ := r.source("repoURL", &argocdv1.ApplicationSource{RepoURL: url, TargetRevision: revision})
	if why := r.out.Invalid(); why != "" {
		return delivery.Source{}, errors.New(why)
	}
	return src, nil
}

const ociScheme = "oci://"

func isOCI(rawURL string) bool { return strings.HasPrefix(strings.ToLower(rawURL), ociScheme) }

var (
	fullCommit = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
	scpLike    = regexp.MustCompile(`^([^/:@]+@)([^/:@]+):/*(.*)$`)
)

// gitURL gives a repository's address as a URL, where it is written as scp does: "git@example.com:team/app.git".
func gitURL(raw string) string {
	raw = strings.TrimSpace(raw)
	if m := scpLike.FindStringSubmatch(raw); m != nil && !strings.Contains(raw, "://") {
		return "ssh://" + m[1] + m[2] + "/" + m[3]
	}
	return raw
}

// firstFolder gives the first part of a URL's path: whom a repository belongs to.
func firstFolder(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return first
}

// direct tells whether a repository is reached without the proxy that its Secret names.
func direct(rawURL string, cred ArgoRepository) bool {
	u, err := url.Parse(rawURL)
	if err != nil || cred.NoProxy == "" || cred.Credentials.Proxy == "" {
		return false
	}
	u.Scheme = "https" // the rules are about hosts
	config := httpproxy.Config{HTTPSProxy: "http://proxy", NoProxy: cred.NoProxy}
	proxy, err := config.ProxyFunc()(u)
	return err == nil && proxy == nil
}

// trust adds what Argo CD's ConfigMaps say about servers to credentials that say nothing of them.
func (r *argoReader) trust(src *delivery.Source) {
	if OverSSH(src.URL) {
		if src.Credentials.KnownHosts == "" {
			src.Credentials.KnownHosts = r.in.KnownHosts
		}
		return
	}
	u, err := url.Parse(src.URL)
	if err == nil && src.Credentials.CA == "" {
		src.Credentials.CA = r.in.Certificates[u.Hostname()]
		if pem, ok := r.in.Certificates[u.Host]; ok {
			src.Credentials.CA = pem
		}
	}
}

// sourceName is made of everything that tells one repository to follow from another.
func sourceName(src delivery.Source) string {
	h := sha256.New()
	for _, part := range []string{
		src.URL, src.Chart, src.Ref.Any, src.Ref.TagPrefix, src.Tenant, strings.Join(src.Verify.PGP, "\n"), fmt.Sprint(src.OCI, src.Credentials.PassAll),
	} {
		h.Write([]byte(part + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// verification: commits have to be signed where the project says so.
func (r *argoReader) verification(field string, s *argocdv1.ApplicationSource, src *delivery.Source) {
	p := r.in.Project
	if p == nil || len(p.Spec.SignatureKeys) == 0 {
		return
	}
	if src.OCI || src.Chart != "" {
		r.invalid("%s: project '%s' wants signed commits (spec.signatureKeys), and %s is no Git repository", field, p.Name, s.RepoURL)
		return
	}
	src.Verify.Head = true
	for _, key := range p.Spec.SignatureKeys {
		id := strings.ToUpper(key.KeyID)
		armored, ok := r.publicKey(id)
		if !ok {
			r.invalid("project '%s': the key %s of spec.signatureKeys is not in the ConfigMap %s/%s", p.Name, key.KeyID, r.in.Namespace, ArgoKeysConfigMap)
			continue
		}
		src.Verify.PGP = append(src.Verify.PGP, armored)
	}
}

// keyID is the length of a PGP key's id: the last digits of its fingerprint.
const keyID = 16

// publicKey finds a key by its id, or by its fingerprint.
func (r *argoReader) publicKey(id string) (string, bool) {
	for name, armored := range r.in.Keys {
		name = strings.ToUpper(name)
		if len(name) >= keyID && len(id) >= keyID && (strings.HasSuffix(id, name) || strings.HasSuffix(name, id)) {
			return armored, true
		}
	}
	return "", false
}
