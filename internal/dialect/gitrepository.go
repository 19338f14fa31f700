package dialect

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// maxTimeout bounds one exchange with a repository, whatever is asked for: the number of exchanges at once is bounded too.
const maxTimeout = 10 * time.Minute

// GitRepository reads a Flux GitRepository; what its Secrets hold is not in it yet ([Credentials], [Proxy], [PublicKeys]).
func GitRepository(g *sourcev1.GitRepository) delivery.Source {
	spec := &g.Spec
	src := delivery.Source{
		ID:  delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: g.Namespace, Name: g.Name},
		URL: spec.URL, Interval: spec.Interval.Duration, Timeout: time.Minute, Suspend: spec.Suspend,
		Requested: g.Annotations[fluxmeta.ReconcileRequestAnnotation],
		GitHub:    spec.Provider == sourcev1.GitProviderGitHub, Submodules: spec.RecurseSubmodules,
	}
	if spec.Timeout != nil {
		src.Timeout = min(spec.Timeout.Duration, maxTimeout)
	}
	if spec.Ignore != nil {
		src.Ignore, src.HasIgnore = *spec.Ignore, true
	}
	if r := spec.Reference; r != nil {
		src.Ref = delivery.GitRef{Branch: r.Branch, Tag: r.Tag, SemVer: r.SemVer, Commit: r.Commit, Name: r.Name}
	}
	if spec.SecretRef != nil {
		src.Secrets.Credentials = spec.SecretRef.Name
	}
	if spec.ProxySecretRef != nil {
		src.Secrets.Proxy = spec.ProxySecretRef.Name
	}
	for _, dir := range spec.SparseCheckout {
		src.Sparse = append(src.Sparse, inRepository(dir))
	}
	for i := range spec.Include {
		inc := &spec.Include[i]
		src.Include = append(src.Include, delivery.Include{
			Source: delivery.ID{Kind: sourcev1.GitRepositoryKind, Namespace: g.Namespace, Name: inc.GitRepositoryRef.Name},
			From:   inRepository(inc.GetFromPath()), To: inRepository(inc.GetToPath()),
		})
	}
	if v := spec.Verification; v != nil {
		src.Verify = delivery.Verification{Head: v.VerifyHEAD(), Tag: v.VerifyTag()}
		src.Secrets.Verify = v.SecretRef.Name
	}
	provider := spec.Provider != "" && spec.Provider != sourcev1.GitProviderGeneric && !src.GitHub
	src.Refused = set([]field{
		{"spec.provider " + spec.Provider + " (identities of clouds are not spoken: give a token or a key in spec.secretRef)", provider},
		{"spec.serviceAccountName (it is for identities of clouds: give a token or a key in spec.secretRef)", spec.ServiceAccountName != ""},
	})
	return src
}

// inRepository cleans a path: nothing above the repository's root can be named (as upstream's SecureJoin).
func inRepository(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// Keys of a GitRepository's Secret.
const (
	keyUsername, keyPassword, keyBearer = "username", "password", "bearerToken"
	keyIdentity, keyKnownHosts          = "identity", "known_hosts"
	keyAppID                            = "githubAppID"
)

// Credentials reads the data of a GitRepository's Secret, as its URL and provider want them: for http and https user name
// and password, or a bearer token, and certificates; for ssh a key with the passphrase that opens it, and host keys; for
// a GitHub App the app's.
func Credentials(src delivery.Source, data map[string][]byte) (delivery.Credentials, error) {
	get := func(key string) string { return string(data[key]) }
	if OverSSH(src.URL) {
		c := delivery.Credentials{Identity: get(keyIdentity), Passphrase: get(keyPassword), KnownHosts: get(keyKnownHosts)}
		for _, key := range []string{keyIdentity, keyKnownHosts} {
			if get(key) == "" {
				return c, fmt.Errorf("it has no key %q, which ssh needs", key)
			}
		}
		return c, nil
	}
	c := delivery.Credentials{
		Username: get(keyUsername), Password: get(keyPassword), BearerToken: get(keyBearer),
		CA: cmp.Or(get("ca.crt"), get("caFile")), ClientCert: cmp.Or(get("tls.crt"), get("certFile")), ClientKey: cmp.Or(get("tls.key"), get("keyFile")),
	}
	switch {
	case c.Username == "" && c.Password != "":
		return c, fmt.Errorf("its key %q wants %q as well", keyPassword, keyUsername)
	case (c.ClientCert == "") != (c.ClientKey == ""):
		return c, errors.New(`of "tls.crt" and "tls.key" it has only one`)
	case get("githubAppClientID") != "":
		return c, fmt.Errorf("its key %q is not read: give %q", "githubAppClientID", keyAppID)
	case get(keyAppID) != "" && !src.GitHub:
		return c, errors.New("it has the data of a GitHub App, but spec.provider is not github")
	case src.GitHub:
		var err error
		c.Username, c.Password, c.BearerToken = "", "", ""
		c.App, err = gitHubApp(get)
		return c, err
	case c == (delivery.Credentials{}):
		return c, errors.New("it holds neither username and password nor bearerToken nor certificates")
	}
	return c, nil
}

// OverSSH tells whether a repository is spoken to over ssh.
func OverSSH(rawURL string) bool { return strings.HasPrefix(strings.ToLower(rawURL), "ssh://") }

// gitHubApp reads the data of a GitHub App.
func gitHubApp(get func(string) string) (delivery.GitHubApp, error) {
	app := delivery.GitHubApp{
		ID: get(keyAppID), InstallationID: get("githubAppInstallationID"), Owner: get("githubAppInstallationOwner"),
		PrivateKey: get("githubAppPrivateKey"), BaseURL: get("githubAppBaseURL"),
	}
	switch {
	case app.ID == "":
		return app, fmt.Errorf("it has no key %q, which spec.provider github needs", keyAppID)
	case app.PrivateKey == "":
		return app, errors.New(`it has no key "githubAppPrivateKey"`)
	case (app.InstallationID == "") == (app.Owner == ""):
		return app, errors.New(`it needs one of "githubAppInstallationID" and "githubAppInstallationOwner"`)
	}
	return app, nil
}

// Proxy reads the data of a GitRepository's proxy Secret: address, and a user name with or without a password.
func Proxy(data map[string][]byte) (string, error) {
	address := string(data["address"])
	if address == "" {
		return "", errors.New(`it has no key "address"`)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return "", errors.New("its address is not a URL as http://proxy.example.com:3128 (http, https or socks5)")
	}
	user, hasUser := data[keyUsername]
	password, hasPassword := data[keyPassword]
	switch {
	case hasUser && hasPassword:
		u.User = url.UserPassword(string(user), string(password))
	case hasUser:
		u.User = url.User(string(user))
	}
	return u.String(), nil
}

// PublicKeys reads the data of a GitRepository's Secret of trusted keys: SSH keys below names that end in ".sshpub", armored
// PGP key rings below all others (as upstream).
func PublicKeys(data map[string][]byte) (pgp, ssh []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if strings.HasSuffix(key, ".sshpub") {
			ssh = append(ssh, string(data[key]))
		} else {
			pgp = append(pgp, string(data[key]))
		}
	}
	if len(pgp)+len(ssh) == 0 {
		return nil, nil, errors.New("it holds no public keys")
	}
	return pgp, ssh, nil
}

// verification reasons are those of a signature, not of a fetch.
var verificationReasons = []string{sourceVerificationError, "InvalidVerificationMode", "InvalidGitObject", "InvalidTagSignature", "InvalidCommitSignature"}

const sourceVerificationError = "VerificationError"

// verified sets SourceVerified as upstream does: an older success stays until a look at signatures ends otherwise.
func (c *conditions) verified(g *sourcev1.GitRepository, out delivery.Outcome, art Artifact) {
	failed := slices.Contains(verificationReasons, out.Reason)
	switch {
	case g.Spec.Verification == nil:
		c.remove(sourcev1.SourceVerifiedCondition)
	case out.Phase == delivery.Ready && art.Verified != "":
		c.set(sourcev1.SourceVerifiedCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, art.Verified)
	case failed && (out.Phase == delivery.Failing || out.Phase == delivery.Stalled):
		c.set(sourcev1.SourceVerifiedCondition, metav1.ConditionFalse, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition)
	case meta.IsStatusConditionFalse(c.list, sourcev1.SourceVerifiedCondition):
		c.remove(sourcev1.SourceVerifiedCondition)
	}
}

// Artifact is what a GitRepository's status says of the snapshot. Keelson serves no tarball: it reads the object store,
// so URL is the repository's own and Path names the commit.
type Artifact struct {
	Digest string // of the visible tree, "sha256:…"
	URL    string // of the repository, without userinfo

	Origin   string // what the content of an OCI artifact was made from
	Verified string // whose signatures were verified; empty: none was wanted
	Included []*fluxmeta.Artifact
}

// IncludedArtifact is what a GitRepository's status says of a source that it includes, at a snapshot.
func IncludedArtifact(g *sourcev1.GitRepository, snap delivery.Snapshot) *fluxmeta.Artifact {
	art := &fluxmeta.Artifact{LastUpdateTime: g.CreationTimestamp}
	if g.Status.Artifact != nil {
		art = g.Status.Artifact.DeepCopy()
	}
	art.Revision, art.Digest = snap.Revision.String(), snap.Digest
	art.Path = artifactPath(g, snap.Revision.Commit)
	return art
}

func artifactPath(g *sourcev1.GitRepository, commit string) string {
	return strings.ToLower("gitrepository/" + g.Namespace + "/" + g.Name + "/" + commit)
}

// includeReasons are those of a source that waits for one it includes.
var includeReasons = []string{"NotFound", "NoArtifact"}

// GitRepositoryStatus gives the status that follows from an outcome.
func GitRepositoryStatus(old sourcev1.GitRepositoryStatus, g *sourcev1.GitRepository, out delivery.Outcome, art Artifact, now time.Time) sourcev1.GitRepositoryStatus {
	s := *old.DeepCopy()
	c := conditions{list: s.Conditions, generation: g.Generation, now: now}
	c.summary(out)
	switch out.Phase {
	case delivery.Ready:
		c.set(sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition)
	case delivery.Failing, delivery.Stalled:
		c.set(sourcev1.FetchFailedCondition, metav1.ConditionTrue, out.Reason, out.Message)
	}
	c.verified(g, out, art)
	if out.Phase != delivery.Ready && slices.Contains(includeReasons, out.Reason) {
		c.set(sourcev1.IncludeUnavailableCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition)
	} else if out.Phase != delivery.Working {
		c.remove(sourcev1.IncludeUnavailableCondition)
	}
	s.Conditions = c.list
	if out.Phase != delivery.Working {
		s.ObservedGeneration = g.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	if rev := out.Applied.String(); rev != "" && (s.Artifact == nil || s.Artifact.Revision != rev || s.Artifact.Digest != art.Digest || s.Artifact.URL != art.URL) {
		s.Artifact = &fluxmeta.Artifact{
			Revision: rev, Digest: art.Digest, URL: art.URL, LastUpdateTime: metav1.NewTime(now),
			Path: artifactPath(g, out.Applied.Commit),
		}
	}
	if g.Spec.Ignore != nil {
		ignore := *g.Spec.Ignore
		s.ObservedIgnore = &ignore
	} else {
		s.ObservedIgnore = nil
	}
	if out.Phase == delivery.Ready {
		s.IncludedArtifacts, s.ObservedInclude = art.Included, slices.Clone(g.Spec.Include)
		s.ObservedRecurseSubmodules = g.Spec.RecurseSubmodules
		s.ObservedSparseCheckout = slices.Clone(g.Spec.SparseCheckout)
		s.SourceVerificationMode = nil
		if v := g.Spec.Verification; v != nil {
			mode := v.GetMode()
			s.SourceVerificationMode = &mode
		}
	}
	return s
}
