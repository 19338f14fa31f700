package delivery

// Mount is where, in a snapshot that is composed of several, the tree of one source is.
type Mount struct {
	At     string // a folder of the snapshot's root, as "0"
	Source ID
}

// Part is one source of manifests of an app that may have several (Argo CD: user-guide/multiple_sources). Objects that more than
// one part gives are those of the last one.
type Part struct {
	Root string // the folder of the snapshot that is the source's root: no path of the part leads out of it; "." where there is one source
	Path string // relative to Root, clean
	Name string // of the part, for messages; may be empty

	// The format; at most one is set. None: a kustomization if there is a file of one, else a chart if there is a Chart.yaml, else a directory.
	Helm      *Helm
	Kustomize *Kustomize
	Directory *Directory

	Release   string // name of the release, where there is a chart and Helm is nil
	Namespace string // of the app's destination; of the release, where Helm is nil
	// Of the cluster of the destination, for charts whose Helm options say nothing of them; empty: Helm's defaults.
	KubeVersion string
	APIVersions []string
	Refs        map[string]string // "$name" of another source -> the folder of the snapshot that is its root
	Env         map[string]string // what "$NAME" or "${NAME}" stands for in values of Helm and in Kustomize's annotations (Argo CD: build environment)
}

// Helm says how a chart is rendered, as "helm template" does it.
type Helm struct {
	ReleaseName             string
	Namespace               string      // of the release
	ValueFiles              []string    // relative to the chart, or "/…" to Root, or "$ref/…" to another source; globs count
	Values                  string      // YAML; over ValueFiles
	Parameters              []Parameter // over Values
	FileParameters          []Parameter // values are paths, as those of ValueFiles
	IgnoreMissingValueFiles bool
	SkipCRDs                bool
	SkipTests               bool
	SkipSchemaValidation    bool
	KubeVersion             string   // of the destination
	APIVersions             []string // "apps/v1" or "apps/v1/Deployment", of the destination
}

// Parameter is one of Helm's --set options.
type Parameter struct {
	Name, Value string
	Text        bool // Value is text, whatever it looks like
}

// Kustomize is laid over a kustomization.
type Kustomize struct {
	NamePrefix, NameSuffix    string
	Namespace                 string
	Images                    []string // as "kustomize edit set image" takes them: [name=]newName[:tag][@digest]
	CommonLabels              map[string]string
	CommonAnnotations         map[string]string
	ForceCommonLabels         bool // those that the kustomization file has are overridden; else they are an error
	ForceCommonAnnotations    bool
	CommonAnnotationsEnvsubst bool
	LabelWithoutSelector      bool
	LabelIncludeTemplates     bool
	Replicas                  []Replica
	Patches                   []FilePatch
	Components                []string
	IgnoreMissingComponents   bool
	KubeVersion               string
	APIVersions               []string
}

// Replica overrides the number of replicas of a workload.
type Replica struct {
	Name  string
	Count int64
}

// FilePatch is a patch, inline or in a file of the kustomization.
type FilePatch struct {
	Patch
	Path    string
	Options map[string]bool // allowNameChange, allowKindChange
}

// Directory says which files of a folder are manifests.
type Directory struct {
	Recurse          bool
	Include, Exclude string // globs of paths relative to the folder; "{a,b}" is any of them
	AnyExtension     bool   // not only .yaml, .yml, .json and .jsonnet
	ExtVars, TLAs    []JsonnetVar
	Libs             []string // folders relative to Root
}

// JsonnetVar is text or, with Code, an expression.
type JsonnetVar struct {
	Name, Value string
	Code        bool
}
