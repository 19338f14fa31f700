package health

import (
	"keelson.dev/keelson/internal/delivery"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Eval asks a script about an object: [keelson.dev/keelson/internal/lua.Pool.Judge]. It may take as long as scripts may.
type Eval func(script delivery.HealthScript, u *unstructured.Unstructured) delivery.HealthVerdict

// NewArgo gives the rules of Argo CD, with scripts for the kinds that these are about. All Applications share them.
func NewArgo(scripts []delivery.HealthScript, eval Eval) *Rules { return nil }

// HookPhase is how far a hook has come, by its health: what has none has done what it is for once it is there.
func HookPhase(h delivery.Health) delivery.OperationPhase {
	switch h.Status {
	case "", delivery.Healthy:
		return delivery.OperationSucceeded
	case delivery.Degraded, delivery.UnknownHealth:
		return delivery.OperationFailed
	default:
		return delivery.OperationRunning
	}
}

// Settled tells whether nothing has to be waited for: the object is healthy, or has no health.
func Settled(h delivery.Health) bool { return h.Status == "" || h.Status == delivery.Healthy }
