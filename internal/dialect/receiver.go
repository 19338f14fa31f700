package dialect

import (
	"errors"
	"fmt"
	"strings"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
)

// ReceiverUnsupported names what in a Receiver is not served: an unknown kind of sender, or one whose requests can only be
// checked with the keys of somebody else's service.
func ReceiverUnsupported(r *notificationv1.Receiver, supported func(kind string) bool) []string {
	return set([]field{
		{"spec.type " + r.Spec.Type, !supported(r.Spec.Type)},
		{"spec.oidcProviders", len(r.Spec.OIDCProviders) > 0},
	})
}

// ReceiverSpecError tells what a cluster that ignores the rules of the resource definition let pass.
func ReceiverSpecError(r *notificationv1.Receiver) error {
	if r.Spec.SecretRef == nil || r.Spec.SecretRef.Name == "" {
		return errors.New("secretRef is required when type is not generic-oidc")
	}
	return nil
}

// Target is what a Receiver asks to be reconciled: one object, or all of a kind with some labels.
type Target struct {
	Kind      schema.GroupVersionKind
	Namespace string
	Name      string            // "*": all that have the labels
	Labels    map[string]string // with "*" only
	Filter    string            // a CEL expression beside the Receiver's own; may be empty
}

func (t Target) String() string { return t.Kind.Kind + " " + t.Namespace + "/" + t.Name }

// targetVersions are the versions that a reference without one means, as in Flux; other kinds have to name theirs.
var targetVersions = map[string]string{
	"Bucket":            "source.toolkit.fluxcd.io/v1",
	"HelmChart":         "source.toolkit.fluxcd.io/v1",
	"HelmRepository":    "source.toolkit.fluxcd.io/v1",
	"GitRepository":     "source.toolkit.fluxcd.io/v1",
	"OCIRepository":     "source.toolkit.fluxcd.io/v1",
	"ImageRepository":   "image.toolkit.fluxcd.io/v1",
	"ArtifactGenerator": "source.extensions.fluxcd.io/v1beta1",
	"Project":           "keelson.dev/v1alpha1",
}

// ReceiverTarget reads one of a Receiver's references. Only kinds of Flux and Keelson's own can be asked for: a Receiver is no way to write
// to whatever else its controller may write to.
func ReceiverTarget(r *notificationv1.Receiver, res notificationv1.ReceiverResource, policy delivery.Policy) (Target, error) {
	t := Target{Namespace: r.Namespace, Name: res.Name, Labels: res.MatchLabels, Filter: res.Filter}
	if res.Namespace != "" {
		if policy.NoCrossNamespaceRefs && res.Namespace != r.Namespace {
			return t, fmt.Errorf("%s %s/%s: cross-namespace references are not allowed", res.Kind, res.Namespace, res.Name)
		}
		t.Namespace = res.Namespace
	}
	version := res.APIVersion
	if version == "" {
		version = targetVersions[res.Kind]
	}
	if version == "" {
		return t, fmt.Errorf("apiVersion must be specified for kind %q", res.Kind)
	}
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		return t, fmt.Errorf("apiVersion of %s %s: %w", res.Kind, res.Name, err)
	}
	if !strings.HasSuffix(gv.Group, ".fluxcd.io") && gv.Group != "keelson.dev" {
		return t, fmt.Errorf("%s %s is of the group %q: only kinds of Flux and Keelson can be asked to reconcile", res.Kind, res.Name, gv.Group)
	}
	t.Kind = gv.WithKind(res.Kind)
	if t.Name == "*" && t.Labels == nil {
		return t, errors.New("matchLabels field not set when using wildcard '*' as name")
	}
	return t, nil
}

// ReceiverReady tells whether a Receiver takes requests.
func ReceiverReady(r *notificationv1.Receiver) bool {
	return apimeta.IsStatusConditionTrue(r.Status.Conditions, fluxmeta.ReadyCondition)
}

// ReceiverStatus gives the status that follows from an outcome; path is the webhook's, empty while there is none.
func ReceiverStatus(r *notificationv1.Receiver, out delivery.Outcome, path string, now time.Time) notificationv1.ReceiverStatus {
	s := *r.Status.DeepCopy()
	c := conditions{list: s.Conditions, generation: r.Generation, now: now}
	c.summary(out)
	s.Conditions = c.list
	if out.Phase == delivery.Ready || out.Phase == delivery.Stalled {
		s.ObservedGeneration = r.Generation
	}
	if out.Handled != "" {
		s.LastHandledReconcileAt = out.Handled
	}
	s.WebhookPath = path
	return s
}

// TokenNotFound is the outcome for a Receiver whose Secret does not give a token.
func TokenNotFound(err error) delivery.Outcome {
	return delivery.Outcome{Phase: delivery.Failing, Reason: notificationv1.TokenNotFoundReason, Message: err.Error()}
}

// ReceiverMisconfigured is the outcome for a Receiver that only another spec can help.
func ReceiverMisconfigured(reason string, err error) delivery.Outcome {
	return delivery.Outcome{
		Phase: delivery.Stalled, Reason: reason,
		Message: "Reconciliation failed terminally due to configuration error: " + err.Error(),
	}
}

// ReceiverServed is the outcome for a Receiver that takes requests at a path.
func ReceiverServed(path string) delivery.Outcome {
	return delivery.Outcome{
		Phase: delivery.Ready, Reason: fluxmeta.SucceededReason, Message: "Receiver initialized for path: " + path,
	}
}

// ReceiverToken reads the token in the data of a Receiver's Secret. An empty one is none: anybody could sign with it.
func ReceiverToken(name string, secret map[string][]byte) (string, error) {
	token, ok := secret["token"]
	switch {
	case !ok:
		return "", fmt.Errorf("invalid '%s' secret data: required fields 'token'", name)
	case len(token) == 0:
		return "", fmt.Errorf("invalid '%s' secret data: 'token' is empty", name)
	}
	return string(token), nil
}
