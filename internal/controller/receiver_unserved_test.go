package controller

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/hook"
)

// A server that nobody can send webhooks to does not say that it takes any.
func TestReceiverThatNobodyServes(t *testing.T) {
	r := &receivers{now: time.Now, log: slog.New(slog.NewTextHandler(io.Discard, nil)), gate: hook.NewGate()}
	obj := &notificationv1.Receiver{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "github", Generation: 1}}
	obj.Spec.Type, obj.Spec.SecretRef = "github", &meta.LocalObjectReference{Name: "token"}
	claimed := false
	n := r.step(t.Context(), obj, pen{claim: func(map[string]string) error { claimed = true; return nil }})
	if dialect.ReceiverReady(obj) || len(obj.Status.Conditions) == 0 || !strings.Contains(obj.Status.Conditions[0].Message, "--webhooks") || !claimed {
		t.Errorf("it says %+v", obj.Status)
	}
	if len(n.events) != 1 || n.events[0].reason != "WebhooksNotServed" {
		t.Errorf("events: %+v", n.events)
	}
	if n = r.step(t.Context(), obj, pen{claim: func(map[string]string) error { return nil }}); len(n.events) != 0 {
		t.Errorf("it says so again: %+v", n.events)
	}
	obj.Spec.Suspend = true
	before := obj.Status.DeepCopy()
	if n = r.step(t.Context(), obj, pen{claim: func(map[string]string) error { return nil }}); len(n.events) != 0 || before.Conditions[0] != obj.Status.Conditions[0] {
		t.Errorf("suspended: %+v, %+v", n, obj.Status)
	}
}
