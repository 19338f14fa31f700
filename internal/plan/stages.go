package plan

import (
	"encoding/json"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// stageNames in the order they are carried out; an object's stage is an index into it.
var stageNames = []string{
	"CustomResourceDefinitions", // kinds must be known before their objects are sent
	"Namespaces",                // and namespaces be there
	"Classes",                   // StorageClass, IngressClass, GatewayClass, …: what the rest refers to by name
	"Objects",
	"Prune",        // what replaces an object is there before it goes
	"Prune rights", // last: a service account may need them to delete the rest
}

const pruneStage, pruneRightsStage = 4, 5

// isRight tells whether an object may be what gives an app's service account its rights.
func isRight(ref delivery.Ref) bool {
	return ref.Group == "rbac.authorization.k8s.io" || ref.Group == "" && ref.Kind == "ServiceAccount"
}

func stageOf(ref delivery.Ref) int {
	switch {
	case ref.Kind == "CustomResourceDefinition" && ref.Group == "apiextensions.k8s.io":
		return 0
	case ref.Kind == "Namespace" && ref.Group == "":
		return 1
	case strings.HasSuffix(ref.Kind, "Class") && ref.Namespace == "":
		return 2
	}
	return 3
}

// Hash identifies what would be sent. JSON of a map has sorted keys, so equal objects hash equal.
func Hash(key delivery.Key, u *unstructured.Unstructured) delivery.Hash {
	b, err := json.Marshal(u.Object)
	if err != nil { // cannot happen for decoded YAML; it hashes like its error, which the API server would refuse
		b = []byte(err.Error())
	}
	return key.Hash(b)
}
