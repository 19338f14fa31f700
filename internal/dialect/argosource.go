package dialect

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"

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
	src := delivery.Source{
		URL: s.RepoURL, Credentials: cred.Credentials, GitHub: cred.Credentials.App.ID != "",
		Interval: argoInterval, Timeout: argoTimeout, Requested: r.a.Annotations[argocdv1.RefreshAnnotation],
		Submodules: true, // as Argo CD unless told otherwise
		HasIgnore:  true, // nothing is left out
	}
	switch {
	case s.Chart != "":
		src.Chart, src.Ref.SemVer, src.Submodules = s.Chart, s.TargetRevision, false
		if cred.OCI && !isOCI(s.RepoURL) {
			src.URL = ociScheme + s.RepoURL
		}
	case isOCI(s.RepoURL):
		src.OCI, src.Submodules = true, false
		src.Ref = ociRef(s.TargetRevision)
	default:
		src.URL = gitURL(s.RepoURL)
		src.Ref = gitRef(s)
	}
	r.verification(field, s, &src)
	r.trust(&src)
	src.ID = delivery.ID{Kind: RepositoryKind, Namespace: r.a.Namespace, Name: sourceName(src, cred)}
	return src, true
}

const ociScheme = "oci://"

func isOCI(rawURL string) bool { return strings.HasPrefix(strings.ToLower(rawURL), ociScheme) }

var (
	fullCommit = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
	scpLike    = regexp.MustCompile(`^([^/:@]+@)([^/:]+):([^/].*)$`)
)

// gitRef reads what an Application calls a target revision.
func gitRef(s *argocdv1.ApplicationSource) delivery.GitRef {
	if fullCommit.MatchString(s.TargetRevision) {
		return delivery.GitRef{Commit: strings.ToLower(s.TargetRevision)}
	}
	return delivery.GitRef{Any: orElse(s.TargetRevision, "HEAD"), TagPrefix: s.TagPrefix}
}

// ociRef reads the target revision of an OCI artifact: a digest, a range of versions, or a tag.
func ociRef(revision string) delivery.GitRef {
	if digest, ok := strings.CutPrefix(revision, "sha256:"); ok {
		return delivery.GitRef{Commit: digest}
	}
	if _, err := semver.NewVersion(revision); err != nil {
		if _, err := semver.NewConstraint(revision); err == nil {
			return delivery.GitRef{SemVer: revision}
		}
	}
	return delivery.GitRef{Tag: orElse(revision, "latest")}
}

// gitURL gives a repository's address as a URL, where it is written as scp does: "git@example.com:team/app.git".
func gitURL(raw string) string {
	raw = strings.TrimSpace(raw)
	if m := scpLike.FindStringSubmatch(raw); m != nil && !strings.Contains(raw, "://") {
		return "ssh://" + m[1] + m[2] + "/" + m[3]
	}
	return raw
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
func sourceName(src delivery.Source, cred ArgoRepository) string {
	h := sha256.New()
	for _, part := range []string{
		src.URL, src.Chart, src.Ref.Any, src.Ref.TagPrefix, src.Ref.Commit, src.Ref.SemVer, src.Ref.Tag, cred.Secret,
		strings.Join(src.Verify.PGP, "\n"),
	} {
		h.Write([]byte(part + "\x00"))
	}
	if src.OCI {
		h.Write([]byte("oci"))
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
			r.invalid("project '%s': the key %s of spec.signatureKeys is not in the ConfigMap %s/argocd-gpg-keys-cm", p.Name, key.KeyID, r.in.Namespace)
			continue
		}
		src.Verify.PGP = append(src.Verify.PGP, armored)
	}
}

// publicKey finds a key by its id: the last 16 digits of its fingerprint, or more of them.
func (r *argoReader) publicKey(id string) (string, bool) {
	for name, armored := range r.in.Keys {
		name = strings.ToUpper(name)
		if id != "" && (strings.HasSuffix(id, name) || strings.HasSuffix(name, id)) && name != "" {
			return armored, true
		}
	}
	return "", false
}
