package dialect

import (
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

func TestReceiverTarget(t *testing.T) {
	r := &notificationv1.Receiver{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "hook"}}
	for name, test := range map[string]struct {
		version, kind, namespace, name string
		labels                         map[string]string
		want                           string // "group/version kind namespace/name", or "error: …"
	}{
		"a project":          {kind: "Project", name: "a", want: "keelson.dev/v1alpha1, Kind=Project apps/a"},
		"version given":      {version: "source.toolkit.fluxcd.io/v1", kind: "GitRepository", name: "a", want: "source.toolkit.fluxcd.io/v1, Kind=GitRepository apps/a"},
		"version implied":    {kind: "GitRepository", name: "a", want: "source.toolkit.fluxcd.io/v1, Kind=GitRepository apps/a"},
		"another namespace":  {kind: "OCIRepository", namespace: "infra", name: "a", want: "source.toolkit.fluxcd.io/v1, Kind=OCIRepository infra/a"},
		"forbidden":          {kind: "OCIRepository", namespace: "infra", name: "a", want: "error: OCIRepository infra/a: cross-namespace references are not allowed"},
		"forbidden, but own": {kind: "OCIRepository", namespace: "apps", name: "a", want: "source.toolkit.fluxcd.io/v1, Kind=OCIRepository apps/a"},
		"images":             {kind: "ImageRepository", name: "a", want: "image.toolkit.fluxcd.io/v1, Kind=ImageRepository apps/a"},
		"no version":         {kind: "Kustomization", name: "a", want: `error: apiVersion must be specified for kind "Kustomization"`},
		"all":                {kind: "GitRepository", name: "*", labels: map[string]string{"a": "b"}, want: "source.toolkit.fluxcd.io/v1, Kind=GitRepository apps/*"},
		"all of none":        {kind: "GitRepository", name: "*", want: "error: matchLabels field not set"},
		"another group":      {version: "objectbucket.io/v1alpha1", kind: "Bucket", name: "a", want: `error: Bucket a is of the group "objectbucket.io"`},
		"a similar group":    {version: "evilfluxcd.io/v1", kind: "Bucket", name: "a", want: `error: Bucket a is of the group "evilfluxcd.io"`},
		"the core group":     {version: "v1", kind: "Bucket", name: "a", want: `error: Bucket a is of the group ""`},
		"no version at all":  {version: "a/b/c", kind: "Bucket", name: "a", want: "error: apiVersion of Bucket a"},
	} {
		res := notificationv1.ReceiverResource{CrossNamespaceObjectReference: notificationv1.CrossNamespaceObjectReference{
			APIVersion: test.version, Kind: test.kind, Namespace: test.namespace, Name: test.name, MatchLabels: test.labels,
		}}
		target, err := ReceiverTarget(r, res, delivery.Policy{NoCrossNamespaceRefs: strings.HasPrefix(name, "forbidden")})
		got := target.Kind.String() + " " + target.Namespace + "/" + target.Name
		if err != nil {
			got = "error: " + err.Error()
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}

func TestReceiverStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &notificationv1.Receiver{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "hook", Generation: 2}}
	r.Status.ObservedGeneration = -1

	// Flux's own example: the digest of token, name and namespace.
	path := r.GetWebhookPath("token")
	r.Status = ReceiverStatus(r, ReceiverServed(path), path, now)
	if !ReceiverReady(r) || r.Status.ObservedGeneration != 2 || r.Status.WebhookPath != path || len(r.Status.Conditions) != 1 {
		t.Errorf("served: %+v", r.Status)
	}
	if c := r.Status.Conditions[0]; c.Reason != "Succeeded" || c.Message != "Receiver initialized for path: "+path {
		t.Errorf("served: %+v", c)
	}

	r.Generation = 3
	_, err := ReceiverToken("apps/secret", map[string][]byte{"key": []byte("x")})
	r.Status = ReceiverStatus(r, TokenNotFound(err), "", now)
	c := apimeta.FindStatusCondition(r.Status.Conditions, fluxmeta.ReadyCondition)
	if ReceiverReady(r) || r.Status.ObservedGeneration != 2 || r.Status.WebhookPath != "" || c.Reason != "TokenNotFound" ||
		c.Message != "invalid 'apps/secret' secret data: required fields 'token'" {
		t.Errorf("no token: %+v", r.Status)
	}
	if c := apimeta.FindStatusCondition(r.Status.Conditions, fluxmeta.ReconcilingCondition); c == nil || c.Reason != "ProgressingWithRetry" {
		t.Errorf("no token: %+v", r.Status)
	}

	r.Status = ReceiverStatus(r, ReceiverMisconfigured("InvalidCELExpression", err), path, now)
	c = apimeta.FindStatusCondition(r.Status.Conditions, fluxmeta.StalledCondition)
	if c == nil || c.Reason != "InvalidCELExpression" || !strings.HasPrefix(c.Message, "Reconciliation failed terminally") || r.Status.ObservedGeneration != 3 {
		t.Errorf("misconfigured: %+v", r.Status)
	}

	r.Status = ReceiverStatus(r, delivery.Outcome{Phase: delivery.Ready, Reason: "Succeeded", Handled: "now"}, path, now)
	if r.Status.LastHandledReconcileAt != "now" || len(r.Status.Conditions) != 1 {
		t.Errorf("served again: %+v", r.Status)
	}
}

func TestReceiverToken(t *testing.T) {
	for data, want := range map[string]string{"token=x": "x", "token=": "error: invalid 'n' secret data: 'token' is empty", "Token=x": "error: invalid 'n' secret data: required fields 'token'"} {
		key, value, _ := strings.Cut(data, "=")
		got, err := ReceiverToken("n", map[string][]byte{key: []byte(value)})
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", data, got, want)
		}
	}
}

func TestReceiverUnsupported(t *testing.T) {
	r := &notificationv1.Receiver{}
	r.Spec.Type = "gcr"
	r.Spec.OIDCProviders = make([]notificationv1.OIDCProvider, 1)
	known := func(kind string) bool { return kind == "github" }
	if got := strings.Join(ReceiverUnsupported(r, known), ", "); got != "spec.type gcr, spec.oidcProviders" {
		t.Error(got)
	}
	if got := ReceiverUnsupported(&notificationv1.Receiver{Spec: notificationv1.ReceiverSpec{Type: "github"}}, known); got != nil {
		t.Error(got)
	}
}
