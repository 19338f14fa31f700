// Package delivery holds the nouns of one delivery: what a Git commit is turned into on its way
// to a cluster, and what can be said about the result.
//
// The straight line that every other package serves, in these nouns:
//
//	Source -> Revision -> Snapshot      which commit, and a read-only view of its tree
//	Snapshot + App -> []Object          what the commit wants
//	[]Object + live -> Plan             what has to change, and why
//	Plan -> Inventory, Health, Outcome  what we own now and how it is doing
//
// The package is pure: values in, values out. No context, no client, no clock.
package delivery

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Revision names one commit as the field writes it: "main@sha1:<hex>" for a ref,
// "sha1:<hex>" for a bare commit (Flux RFC-0005). What is no commit but an archive (a chart, an OCI artifact) is named by the
// SHA-256 digest of its content: "1.2.3@sha256:<hex>".
type Revision struct {
	Name   string // the ref's short name ("main", "v1.2.0", "refs/pull/7/head"), or a chart's version; empty for a bare commit
	Commit string // the full commit id, or digest, in lower-case hex
}

// Archive tells whether the revision is that of an archive.
func (r Revision) Archive() bool { return len(r.Commit) == sha256.Size*2 }

func (r Revision) algorithm() string {
	if r.Archive() {
		return "sha256:"
	}
	return "sha1:"
}

// String formats the revision; the zero Revision is the empty string.
func (r Revision) String() string {
	switch {
	case r.Commit == "":
		return ""
	case r.Name == "":
		return r.algorithm() + r.Commit
	default:
		return r.Name + "@" + r.algorithm() + r.Commit
	}
}

// ParseRevision reads what [Revision.String] wrote. Anything else gives the zero Revision.
func ParseRevision(s string) Revision {
	for _, algorithm := range []string{"sha1:", "sha256:"} {
		if name, id, ok := strings.Cut(s, "@"+algorithm); ok {
			return Revision{Name: name, Commit: id}
		}
		if id, ok := strings.CutPrefix(s, algorithm); ok {
			return Revision{Commit: id}
		}
	}
	return Revision{}
}

// Short is the revision with a seven-digit commit id, for people.
func (r Revision) Short() string {
	if len(r.Commit) <= 7 {
		return r.String()
	}
	return strings.TrimSuffix(r.String(), r.Commit[7:])
}

// ID names a source or an app: the cluster object that declares it.
type ID struct {
	Kind      string // "GitRepository", "Kustomization", …
	Namespace string
	Name      string
}

// String is "Kind/namespace/name".
func (id ID) String() string { return id.Kind + "/" + id.Namespace + "/" + id.Name }

// GitRef selects a commit of a repository. The first set field of Commit, Name, Tag, SemVer, Branch wins;
// all empty means the branch "master" (Flux's default).
type GitRef struct {
	Branch string // short name
	Tag    string // short name
	SemVer string // a range ("~1.2", ">=1.0.0 <2.0.0-0"): the highest tag in it
	Commit string // full id; Branch, if set as well, is where to look for it
	Name   string // full reference name, "refs/heads/main"
	// Any, if set, wins over all of the others. It is a name as people write it, and what it names is found out by asking the
	// remote, in this order (Argo CD: targetRevision): a range of versions ("1.2.*"), if a tag is in it; "HEAD", the branch that is
	// the remote's own; a branch or a tag, short, or a full reference name; a commit, abbreviated to at least seven digits.
	Any string
	// TagPrefix limits ranges of versions to tags that begin with it; their versions are what follows ("web/" of "web/1.2.0").
	// With Any, an exact version names the tag with the prefix before it.
	TagPrefix string
	// Filter is a regular expression: with SemVer, only tags of an OCI repository that match it count (Flux: semverFilter).
	Filter string
}

// Credentials authenticate to a remote repository, and say how it is reached. They are never logged, stored or compared
// by value.
type Credentials struct {
	Username    string
	Password    string
	BearerToken string

	CA, ClientCert, ClientKey string // PEM: authorities trusted besides the system's; the client's certificate
	// For ssh: the private key, its passphrase, and the host keys that are trusted, as in OpenSSH's known_hosts.
	Identity, Passphrase, KnownHosts string
	Proxy                            string // URL with userinfo; empty: what the environment says
	NoProxy                          string // hosts that Proxy is not for, as in the environment variable NO_PROXY
	App                              GitHubApp

	// Only where the user says so: whoever answers is trusted, whatever certificate or host key it shows; an OCI registry is spoken
	// to without TLS; user name and password of a Helm repository also go to other hosts that its index names.
	Insecure, PlainHTTP, PassAll bool
}

// GitHubApp is an app's installation at GitHub: a token for it stands for user name and password. The zero one is none.
type GitHubApp struct {
	ID             string // of the app
	InstallationID string // or
	Owner          string // the organisation or user that it is installed for
	PrivateKey     string // PEM
	BaseURL        string // of the API; empty: https://api.github.com
}

// Include lays (a part of) another source's files into a source's own.
type Include struct {
	Source   ID
	From, To string // folders, clean; "." is the root
}

// Verification says whose signature a commit has to bear. The zero Verification wants none.
type Verification struct {
	Head, Tag bool     // the commit's own, that of the tag that names it, or both
	PGP, SSH  []string // public keys: armored key rings; lines of authorized_keys
}

// Wanted tells whether any signature is wanted.
func (v Verification) Wanted() bool { return v.Head || v.Tag }

// SecretRefs names the Secrets that a source is read with, all in its own namespace. Empty: none.
type SecretRefs struct {
	Credentials, Proxy, Verify string
	Certificates               string // its own authorities and client certificate win over those of Credentials
	Account                    string // a service account: its image pull secrets count where Credentials say nothing about a registry
}

// Layer says which layer of an OCI artifact has its content. The zero Layer: the only one that is a tar archive (Argo CD).
type Layer struct {
	First bool   // the first one, of whatever type (Flux)
	Type  string // the first one of this media type
}

// Given tells whether it is said which layer it is.
func (l Layer) Given() bool { return l.First || l.Type != "" }

// Source is a repository to follow.
type Source struct {
	ID          ID
	Tenant      string // who may read what is fetched, besides those who declare the same: other tenants of the namespace may not; empty: the whole namespace may
	URL         string
	Chart       string // not empty: URL is a Helm repository, of HTTP or "oci://", and Ref.SemVer or Ref.Any a version or a range of the chart
	OCI         bool   // URL is an OCI artifact with manifests, and Ref.Tag, Ref.SemVer or Ref.Commit (a digest), or Ref.Any, which of its versions
	Layer       Layer  // of such an artifact
	Index       bool   // URL is a Helm repository over HTTP, and its index is followed: the digest of that is the revision, and the snapshot has no files
	IndexAt     string // of a chart: the digest of the index, in hex, in which its version is looked for, if that is here; otherwise it is asked for
	IndexFixed  bool   // the index is not asked for: nothing newer is wanted
	Ref         GitRef
	Secrets     SecretRefs
	GitHub      bool // the credentials are those of a GitHub App
	Credentials Credentials
	Verify      Verification
	Sparse      []string // only these folders and files, clean; none: everything
	Submodules  bool     // with the submodules' content
	Whole       bool     // nothing is left out: neither ignore files nor default rules count (Argo CD)
	Include     []Include
	Ignore      string        // exclusion rules in .gitignore syntax
	HasIgnore   bool          // Ignore was given; any rule in it turns the default rules off, an empty one does not (as upstream)
	Interval    time.Duration // how often the remote is asked
	Timeout     time.Duration // bound of one exchange with the remote
	Suspend     bool
	Requested   string   // a person's request for a reconciliation: any value not seen before starts one
	Fresh       bool     // somebody knows of news: what the remote has answered before is not good enough
	Refused     []string // fields that are not implemented, as "spec.verify": nothing is fetched
}

// Snapshot is an immutable, read-only view of one commit's tree, straight from the object store.
//
// FS is rooted at the repository's root and leaves out what the source ignores. Opening a path
// follows symbolic links inside the tree; one that leaves the repository is an error that wraps
// [ErrEscapes]. Digest identifies the visible content: equal digests mean equal trees. Rules identifies what is left out:
// where two snapshots of one source have the same Rules, folders with the same object id look the same.
type Snapshot struct {
	Revision Revision
	Origin   string // the revision that the content was made from, where the source tells one (OCI: org.opencontainers.image.revision)
	Digest   string
	Rules    string
	Verified string // whose signatures were verified, for people; empty: none was wanted
	Commit   Commit // what the commit says about itself; the zero one: it is not known, or an archive
	FS       fs.FS
}

// Commit is what a commit says about itself.
type Commit struct {
	Author, Email string
	Authored      time.Time
	Message       string // at most [MaxMessage] bytes of it
}

// MaxMessage is how much of a commit's message is kept, in bytes: its beginning and its end.
const MaxMessage = 16 << 10

// Build says how an app's objects are made from a snapshot.
type Build struct {
	Path                    string // folder in the snapshot, cleaned, without a leading "./"; "." is the root
	TargetNamespace         string
	NamePrefix, NameSuffix  string // of every object's name; they replace those of the kustomization file
	Patches                 []Patch
	Images                  []Image
	Components              []string // folders relative to Path
	IgnoreMissingComponents bool
	BuildMetadata           []string // kustomize's options of that name, as "originAnnotations"; they replace those of the kustomization file
	Parts                   []Part   // not empty: what is rendered, one after the other, instead of Path; of the fields above none counts (Argo CD)
	Substitute              bool     // run variable substitution
	Strict                  bool     // a variable that is neither given nor has a default value is an error
}

// Patch is a strategic-merge or JSON 6902 patch with an optional target, as kustomize reads it.
type Patch struct {
	Patch  string
	Target *Selector
}

// Selector picks the objects that a patch applies to; every field is an anchored regular expression
// or a label/annotation selector, as in kustomize.
type Selector struct {
	Group, Version, Kind, Namespace, Name string
	LabelSelector, AnnotationSelector     string
}

// Image overrides a container image's name, tag or digest.
type Image struct {
	Name, NewName, NewTag, Digest string
}

// VarsRef names a ConfigMap or Secret (in the app's namespace) whose data are substitution variables.
type VarsRef struct {
	Kind, Name string
	Optional   bool
}

// Secret tells whether the values are not to be told.
func (v VarsRef) Secret() bool { return v.Kind == "Secret" }

// KubeConfig names what says how another cluster is reached, in the app's namespace: a Secret with a kubeconfig, or a ConfigMap
// with an address and a service account whose tokens are used there.
type KubeConfig struct {
	Kind, Name string
	Key        string // of the Secret; empty: its usual ones
}

// String is "Kind/name", or empty.
func (k KubeConfig) String() string {
	if k == (KubeConfig{}) {
		return ""
	}
	return k.Kind + "/" + k.Name
}

// EnvironmentLabels of an app name the environment that it is of, the first of them first.
var EnvironmentLabels = []string{"keelson.dev/environment", "app.kubernetes.io/environment", "environment"}

// EnvironmentOf tells which environment an app belongs to: a label says so, else it is the namespace that the app is delivered to, else
// the one that it is declared in.
func EnvironmentOf(labels map[string]string, target, namespace string) string {
	for _, name := range EnvironmentLabels {
		if v := labels[name]; v != "" {
			return v
		}
	}
	return cmp.Or(target, namespace)
}

// App is anything that is reconciled: its declaration in our own words.
type App struct {
	ID             ID
	UID            string // of the declaration: one that is made anew under the same name is another app
	Environment    string // that it is of: see [EnvironmentOf]
	Generation     int64
	Source         ID
	Mounts         []Mount // of an app with several sources: what its snapshot is composed of; Source is not set then
	Build          Build
	Common         Metadata          // set on every object after the build, over what it has itself
	Vars           map[string]string // inline variables; they win over VarsFrom
	VarsFrom       []VarsRef         // later entries win over earlier ones
	VarsAlways     bool              // substitute even where no variable is given
	DependsOn      []ID
	ReadyExprs     map[ID]string // CEL: how those of DependsOn that are here tell that they are ready
	Namespace      string        // of namespaced objects that name none; empty: there must be none such
	KubeConfig     KubeConfig    // of the cluster to deliver to; the zero one: the cluster that the app is declared in
	ServiceAccount string        // of the cluster to deliver to; empty: as Keelson, or the kubeconfig's user
	// ServiceAccountNamespace is that of ServiceAccount; empty: the app's own. See [App.Account].
	ServiceAccountNamespace string
	Ignore                  []IgnoreRule // fields that are left to others
	Prune                   bool
	KeepOnDelete            bool          // deleting the app leaves its objects
	AwaitGone               bool          // the app stays until its objects are gone, for Timeout at most
	Propagation             string        // of deletions where the app is deleted: foreground or background; empty: background
	Force                   bool          // objects are deleted and made anew for a change that the server never allows
	Wait                    bool          // Ready only once every object is healthy
	HealthChecks            []HealthCheck // without Wait: Ready only once these objects are healthy
	HealthExprs             []HealthExpr  // CEL: how objects of some kinds tell how they are doing
	Suspend                 bool
	Limits                  *Limits      // nil: none
	Sync                    *SyncPolicy  // not nil: changes are carried out by operations (Argo CD); nil: at once, as Git wants it
	Release                 *HelmRelease // not nil: the app is a Helm release, made by Helm's own actions; nil: its objects are applied
	Interval                time.Duration
	RetryInterval           time.Duration // after a failure; zero: Interval
	Timeout                 time.Duration // bound of one attempt and of waiting for health
	Guard                   Guard
	Requested               string   // a person's request for a reconciliation: any value not seen before starts one
	RequestedBy             string   // who that is, where the request says so
	Denied                  string   // not empty: why a reference of the app must not be followed; nothing is applied
	Refused                 []string // fields whose being ignored could do harm, as "spec.decryption": nothing is applied
	Ignored                 []string // fields that have no effect yet, as "spec.force": said, not fatal
}

// Account is the service account that the app is delivered as; an empty name: none.
func (a App) Account() (namespace, name string) {
	if a.ServiceAccountNamespace != "" {
		return a.ServiceAccountNamespace, a.ServiceAccount
	}
	return a.ID.Namespace, a.ServiceAccount
}

// WaitsForHealth tells whether the app gets ready only once some objects are healthy.
func (a App) WaitsForHealth() bool { return a.Wait || len(a.HealthChecks) > 0 }

// HealthCheck names an object, of the app or not, whose health an app waits for.
type HealthCheck struct {
	Ref            // an empty namespace is that of the app, where the kind has namespaces
	Version string // the API version to look at it in; another one where this is not served
}

// HealthExpr tells in CEL how the objects of a kind are doing: Keelson knows no better than the user there. The expressions
// see the fields of the object as their variables. The first of InProgress, Failed and Current that is true decides;
// none: in progress (Flux, RFC-0009).
type HealthExpr struct {
	Group string
	Kind  string // empty: all kinds of the group that have no entry of their own

	InProgress, Failed, Current string // Current is required
}

// Metadata are labels and annotations.
type Metadata struct {
	Labels, Annotations map[string]string
}

// Guard says how an app is protected against destroying by accident.
type Guard struct {
	MaxPrunePercent int    // more than this share of the inventory is not pruned without confirmation; 100 turns it off
	AllowEmpty      bool   // an empty render is meant
	Confirmed       string // the revision (commit id, full or abbreviated to at least seven digits) that a person confirmed
}

// Ref identifies an object in a cluster, whatever version it is read in.
type Ref struct {
	Group, Kind, Namespace, Name string
}

// String is "Kind/namespace/name" or "Kind/name"; the group is shown where it is neither empty nor a built-in one.
func (r Ref) String() string {
	kind := r.Kind
	if strings.Contains(r.Group, ".") && !strings.HasSuffix(r.Group, ".k8s.io") {
		kind += "." + r.Group
	}
	if r.Namespace == "" {
		return kind + "/" + r.Name
	}
	return kind + "/" + r.Namespace + "/" + r.Name
}

// GroupKind is the ref's kind.
func (r Ref) GroupKind() schema.GroupKind { return schema.GroupKind{Group: r.Group, Kind: r.Kind} }

// Compare orders refs by namespace, name, group and kind: the order of an inventory.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(cmp.Compare(r.Namespace, o.Namespace), cmp.Compare(r.Name, o.Name),
		cmp.Compare(r.Group, o.Group), cmp.Compare(r.Kind, o.Kind))
}

// Object is one rendered object and where it came from.
type Object struct {
	*unstructured.Unstructured
	Origin string // "apps/base/deployment.yaml" where known; for error messages
	Asks   Marks  // how it wants to be treated; the engine reads it in the app's dialect
	Wave   int    // in an operation, objects of lower waves come first (Argo CD: sync waves)
	Hook   *Hook  // not nil: it is run at a moment of an operation, and not kept
	// Repeated is how often the build gave the object, where that is more than once: this is the last one, which counts.
	Repeated int
}

// Ref identifies the object.
func (o Object) Ref() Ref { return RefOf(o.Unstructured) }

// Where names the object and the file that it came from, for error messages.
func (o Object) Where() string {
	if o.Origin == "" {
		return o.Ref().String()
	}
	return o.Origin + ": " + o.Ref().String()
}

// RefOf identifies any object.
func RefOf(u *unstructured.Unstructured) Ref {
	gvk := u.GroupVersionKind()
	return Ref{Group: gvk.Group, Kind: gvk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}

// HealthStatus is how an object or an app is doing.
type HealthStatus string

// The health states (DESIGN, words).
const (
	Healthy       HealthStatus = "Healthy"
	Progressing   HealthStatus = "Progressing"
	Degraded      HealthStatus = "Degraded"
	Suspended     HealthStatus = "Suspended"
	Missing       HealthStatus = "Missing"
	UnknownHealth HealthStatus = "Unknown"
)

// Health is a status and, where it is not Healthy, why.
type Health struct {
	Status  HealthStatus
	Message string
}

// Hold keeps an object or an app as it is: an input of the plan, kept in the cluster.
type Hold struct {
	Ref    Ref      // the object; the zero Ref holds the whole app
	Fields []string // only these fields, as "spec.replicas"; none: the whole object
	Owner  string   // who asked: "HorizontalPodAutoscaler/dev/web"
	Reason string
	Until  time.Time // the zero time: until it is lifted
}

// Describe is the hold as a phrase: "spec.replicas is left to HorizontalPodAutoscaler/dev/web".
func (h Hold) Describe() string {
	what := "it"
	if len(h.Fields) > 0 {
		what = strings.Join(h.Fields, ", ")
	}
	return fmt.Sprintf("%s is left to %s: %s", what, h.Owner, h.Reason)
}
