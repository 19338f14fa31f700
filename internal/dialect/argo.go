package dialect

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// Argo is what an Application's meaning depends on besides itself.
type Argo struct {
	Namespace    string               // of Argo CD's own objects: projects, credentials, clusters
	Project      *argocdv1.AppProject // that the Application names; nil: it does not exist
	Repositories []ArgoRepository
	Clusters     []ArgoCluster
	Sync         *argocdv1.SyncOperation // not nil: read the Application as this operation overrides it (revisions, sources)
	Now          time.Time
}

// ArgoApp is an Application in our words.
type ArgoApp struct {
	App         delivery.App                    // of kind Application; its Generation is a hash of the spec, as its own grows with the status too
	Sources     []delivery.Source               // to follow, one for each of spec.source(s); their ids are of kind Repository, with the Application's namespace and a hash as name
	Destination ArgoCluster                     // the zero one: the cluster that the Application is in
	Conditions  []argocdv1.ApplicationCondition // what is wrong or unsupported; any of type InvalidSpecError keeps it from being delivered
}

// Application reads an Application.
func Application(a *argocdv1.Application, in Argo) ArgoApp { return ArgoApp{} }

// Labels that mark an object as an Application's. Argo CD's own mark is the tracking annotation, which is set too; a watch needs labels.
const (
	ArgoNameLabel      = "keelson.dev/application"
	ArgoNamespaceLabel = "keelson.dev/application-namespace"
)

// ArgoLabel marks an object as owned by an Application.
func ArgoLabel(app delivery.ID, obj delivery.Object) {}

// ArgoOwner reads what [ArgoLabel] wrote; the zero ID: nobody's.
func ArgoOwner(labels map[string]string) delivery.ID { return delivery.ID{} }

// ArgoRead fills in what a rendered object says about its delivery: Asks, Wave and Hook.
func ArgoRead(obj *delivery.Object) {}

// ArgoMarks reads what an object in the cluster asks for.
func ArgoMarks(u *unstructured.Unstructured) delivery.Marks { return 0 }

// ArgoInventory is what an Application owns, by its status, and what it was about to ([IntentAnnotation]).
func ArgoInventory(a *argocdv1.Application) delivery.Inventory { return nil }

// ArgoIntent gives the value of [IntentAnnotation] for an inventory that is to be widened; false: it would be too large.
func ArgoIntent(a *argocdv1.Application, widened delivery.Inventory) (string, bool) { return "", false }

// ArgoRequest reads an Application's operation, in the light of its policy.
func ArgoRequest(a *argocdv1.Application) *delivery.OperationRequest { return nil }

// ArgoOperation reads how the last operation has come; nil: there was none.
func ArgoOperation(a *argocdv1.Application) *delivery.Operation { return nil }

// ArgoBegun gives the status and the operation of an Application whose operation begins: both are written at once.
func ArgoBegun(a *argocdv1.Application, op delivery.Operation) *argocdv1.OperationState { return nil }

// ArgoNews is what a step leaves to say about an Application.
type ArgoNews struct {
	Known       bool // the app was compared; else sync is Unknown and what was known of the rest stays
	Revisions   []string
	InSync      bool
	Compared    []delivery.Comparison
	Health      delivery.Health
	Operation   *delivery.Operation     // nil: as before
	Source      *argocdv1.SyncOperation // what the operation overrode, if it did
	Conditions  []argocdv1.ApplicationCondition
	SourceTypes []string // Helm, Kustomize or Directory, one for each source
	Images      []string
	URLs        []string
}

// ArgoStatus gives the status that says news. It changes nothing in old that stays the same: times move only with what they are about.
func ArgoStatus(old argocdv1.ApplicationStatus, a *argocdv1.Application, news ArgoNews, now time.Time) argocdv1.ApplicationStatus {
	return old
}

// ArgoHold is the content of the annotation keelson.dev/hold (JSON): nothing automated is done until it is taken away.
type ArgoHold struct {
	Revisions []string  `json:"revisions,omitempty"` // that the app was rolled back to
	HistoryID int64     `json:"historyId,omitempty"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
}

// ArgoRepository is what a labelled Secret says about a repository, or about all whose URL begins like its.
type ArgoRepository struct {
	Secret      string // its name
	URL         string
	Name        string
	Type        string // git (default), helm or oci
	Project     string
	Template    bool // of type repo-creds
	OCI         bool // enableOCI: a Helm repository
	Credentials delivery.Credentials
	Refused     []string // fields that are not supported
}

// ReadArgoRepository reads a Secret with the label argocd.argoproj.io/secret-type: repository or repo-creds.
func ReadArgoRepository(name string, template bool, data map[string][]byte) ArgoRepository {
	return ArgoRepository{}
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
	return ArgoCluster{}
}
