package dialect

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

// OCIRepository reads a Flux OCIRepository; what its Secrets hold is not in it yet.
func OCIRepository(o *sourcev1.OCIRepository) delivery.Source {
	spec := &o.Spec
	src := delivery.Source{
		ID:  delivery.ID{Kind: sourcev1.OCIRepositoryKind, Namespace: o.Namespace, Name: o.Name},
		URL: spec.URL, OCI: true, Interval: spec.Interval.Duration, Timeout: boundedTimeout(spec.Timeout), Suspend: spec.Suspend,
		Requested: o.Annotations[fluxmeta.ReconcileRequestAnnotation],
		Secrets: delivery.SecretRefs{
			Credentials: secretName(spec.SecretRef), Certificates: secretName(spec.CertSecretRef), Proxy: secretName(spec.ProxySecretRef),
			Account: spec.ServiceAccountName,
		},
		Layer: delivery.Layer{First: true},
		// With "insecure", upstream speaks plain HTTP where TLS is not spoken, and checks no certificate where it is.
		Credentials: delivery.Credentials{PlainHTTP: spec.Insecure, Insecure: spec.Insecure},
	}
	if r := spec.Reference; r != nil {
		src.Ref = delivery.GitRef{Commit: r.Digest, SemVer: r.SemVer, Filter: r.SemverFilter, Tag: r.Tag}
	}
	if l := spec.LayerSelector; l != nil {
		if l.MediaType != "" {
			src.Layer = delivery.Layer{Type: l.MediaType}
		}
		src.Whole = l.Operation == sourcev1.OCILayerCopy // as it is: nothing of it is left out
	}
	if spec.Ignore != nil {
		src.Ignore, src.HasIgnore = *spec.Ignore, true
	}
	src.Refused = set([]field{
		{cloudProvider(spec.Provider), isCloud(spec.Provider)},
		{"spec.verify", spec.Verify != nil},
	})
	return src
}

func boundedTimeout(d *metav1.Duration) time.Duration {
	if d == nil || d.Duration <= 0 {
		return time.Minute
	}
	return min(d.Duration, maxTimeout)
}

func secretName(ref *fluxmeta.LocalObjectReference) string {
	if ref == nil {
		return ""
	}
	return ref.Name
}

func isCloud(provider string) bool {
	return provider != "" && provider != sourcev1.GenericOCIProvider
}

func cloudProvider(provider string) string {
	return "spec.provider " + provider + " (identities of clouds are not spoken: give user name and password in spec.secretRef)"
}

// OCIRepositoryStatus gives the status that follows from an outcome.
func OCIRepositoryStatus(o *sourcev1.OCIRepository, out delivery.Outcome, art Artifact, now time.Time) sourcev1.OCIRepositoryStatus {
	s := *o.Status.DeepCopy()
	c := conditions{list: s.Conditions, generation: o.Generation, now: now}
	c.summary(out)
	c.fetched(out)
	s.Conditions = c.list
	if out.Phase != delivery.Working {
		s.ObservedGeneration = o.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	s.Artifact = artifactOf(s.Artifact, o, sourcev1.OCIRepositoryKind, out, art, now)
	if s.Artifact != nil {
		s.URL = s.Artifact.URL
	}
	if out.Phase == delivery.Ready {
		s.ObservedIgnore, s.ObservedLayerSelector = nil, o.Spec.LayerSelector.DeepCopy()
		if o.Spec.Ignore != nil {
			ignore := *o.Spec.Ignore
			s.ObservedIgnore = &ignore
		}
	}
	return s
}

// fetched sets FetchFailed and ArtifactInStorage of a source.
func (c *conditions) fetched(out delivery.Outcome) {
	switch out.Phase {
	case delivery.Ready:
		c.set(sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, out.Reason, out.Message)
		c.remove(sourcev1.FetchFailedCondition)
	case delivery.Failing, delivery.Stalled:
		c.set(sourcev1.FetchFailedCondition, metav1.ConditionTrue, out.Reason, out.Message)
	}
}

// artifactOf gives what a status says of the snapshot, which is as it was unless something of it has changed.
func artifactOf(old *fluxmeta.Artifact, obj metav1.Object, kind string, out delivery.Outcome, art Artifact, now time.Time) *fluxmeta.Artifact {
	rev := out.Applied.String()
	if rev == "" || old != nil && old.Revision == rev && old.Digest == art.Digest && old.URL == art.URL {
		return old
	}
	a := &fluxmeta.Artifact{
		Revision: rev, Digest: art.Digest, URL: art.URL, LastUpdateTime: metav1.NewTime(now),
		Path: strings.ToLower(kind+"/"+obj.GetNamespace()) + "/" + obj.GetName() + "/" + out.Applied.Commit,
	}
	if art.Origin != "" {
		a.Metadata = map[string]string{originKey: art.Origin}
	}
	return a
}

// originKey is what OCI calls the revision that an artifact was made from.
const originKey = "org.opencontainers.image.revision"

// keyDockerConfig and keyDockerLegacy are those of Secrets for registries, of the types kubernetes.io/dockerconfigjson and dockercfg.
const keyDockerConfig, keyDockerLegacy = ".dockerconfigjson", ".dockercfg"

// registryAuth is an entry of a Docker configuration.
type registryAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // user name and password in base64
	RegistryToken string `json:"registrytoken"`
	IdentityToken string `json:"identitytoken"`
}

// RegistryCredentials reads the data of a Secret for an OCI registry: a Docker configuration, of which the entry that fits the
// address best counts, or user name and password. found is false where a configuration has nothing for the registry.
func RegistryCredentials(address string, data map[string][]byte) (c delivery.Credentials, found bool, err error) {
	auths := map[string]registryAuth{}
	switch {
	case data[keyDockerConfig] != nil:
		var config struct {
			Auths map[string]registryAuth `json:"auths"`
		}
		err = json.Unmarshal(data[keyDockerConfig], &config)
		auths = config.Auths
	case data[keyDockerLegacy] != nil:
		err = json.Unmarshal(data[keyDockerLegacy], &auths)
	default:
		c = delivery.Credentials{Username: string(data[keyUsername]), Password: string(data[keyPassword])}
		if c.Username == "" || c.Password == "" {
			return c, false, errors.New("it has neither .dockerconfigjson nor username and password")
		}
		return c, true, nil
	}
	if err != nil {
		return c, false, errors.New("its Docker configuration is not valid JSON") // the parser's message might repeat some of it
	}
	host, repo, _ := strings.Cut(strings.TrimPrefix(address, sourcev1.OCIRepositoryPrefix), "/")
	best := -1
	for key, a := range auths {
		at, below := registryKey(key)
		if ok, err := path.Match(at, dockerHub(host)); err != nil || !ok || below != "" && repo != below && !strings.HasPrefix(repo, below+"/") || len(key) <= best {
			continue
		}
		best = len(key)
		if c, err = a.credentials(); err != nil {
			return c, false, fmt.Errorf("the entry for %s of its Docker configuration: %w", at, err)
		}
	}
	return c, best >= 0, nil
}

// registryKey takes the key of a Docker configuration apart: a host, maybe with "*", and a folder of it.
func registryKey(key string) (host, below string) {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, below, _ = strings.Cut(strings.TrimRight(key, "/"), "/")
	if below == "v1" || below == "v2" {
		below = ""
	}
	return dockerHub(host), below
}

// dockerHub gives one of the names of Docker's registry for all of them.
func dockerHub(host string) string {
	switch host {
	case "docker.io", "registry-1.docker.io":
		return "index.docker.io"
	}
	return host
}

func (a registryAuth) credentials() (delivery.Credentials, error) {
	c := delivery.Credentials{Username: a.Username, Password: a.Password, BearerToken: a.RegistryToken}
	if a.IdentityToken != "" {
		return c, errors.New("an identitytoken is not spoken: give user name and password")
	}
	if c.Username == "" && a.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(text), ":")
		if err != nil || !ok {
			return c, errors.New(`"auth" is not user name and password in base64`)
		}
		c.Username, c.Password = user, password
	}
	return c, nil
}

// Certificates reads the data of the Secret of a registry's or repository's certificates, over credentials that were read before.
func Certificates(c delivery.Credentials, data map[string][]byte) (delivery.Credentials, error) {
	get := func(names ...string) string {
		for _, name := range names {
			if text := string(data[name]); text != "" {
				return text
			}
		}
		return ""
	}
	c.CA, c.ClientCert, c.ClientKey = get("ca.crt", "caFile"), get("tls.crt", "certFile"), get("tls.key", "keyFile")
	switch {
	case (c.ClientCert == "") != (c.ClientKey == ""):
		return c, errors.New(`of "tls.crt" and "tls.key" it has only one`)
	case c.CA == "" && c.ClientCert == "":
		return c, errors.New(`it has neither "ca.crt" nor "tls.crt" and "tls.key"`)
	}
	return c, nil
}
