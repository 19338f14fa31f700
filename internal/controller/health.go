package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/health"
)

// expressions are the CEL of one declaration, compiled.
type expressions struct {
	of    string // the declaration: uid and generation
	rules *health.Rules
	ready map[delivery.ID]*health.Readiness
	err   error
}

func compile(app delivery.App, of string) expressions {
	e := expressions{of: of}
	if e.rules, e.err = health.Compile(app.HealthExprs); e.err != nil {
		return e
	}
	for _, dep := range app.DependsOn {
		text := app.ReadyExprs[dep]
		if text == "" {
			continue
		}
		ready, err := health.CompileReady(dep, text)
		if err != nil {
			e.err = err
			return e
		}
		if e.ready == nil {
			e.ready = map[delivery.ID]*health.Readiness{}
		}
		e.ready[dep] = ready
	}
	return e
}

// expressions compiles the CEL of a declaration, once. An expression that cannot be used ends the pass for good.
func (p *pass) expressions() error {
	if of := fmt.Sprintf("%s/%d", p.app.UID, p.app.Generation); p.st.exprs.of != of {
		p.st.exprs = compile(p.app, of)
	}
	return p.st.exprs.err
}

func (k *kustomizations) expressions(_ context.Context, p *kustomizationPass) error {
	return p.pass.expressions()
}

// rules has the app's own rules of health be known where its objects are watched.
func (k *kustomizations) rules(_ context.Context, p *kustomizationPass) error {
	p.st.target.engine.Live.Judge(p.app.ID, p.st.exprs.rules)
	return nil
}

// loadRules makes the rules of an app known ahead of its first step: what a watch of another app lists is judged by them.
func (k *kustomizations) loadRules(obj *kustomizev1.Kustomization) {
	if len(obj.Spec.HealthCheckExprs) == 0 {
		return
	}
	app, err := dialect.Kustomization(obj)
	if err != nil || app.KubeConfig != (delivery.KubeConfig{}) {
		return // its step says so; another cluster is not watched before that
	}
	if rules, err := health.Compile(app.HealthExprs); err == nil {
		k.targets.home.engine.Live.Judge(app.ID, rules)
	}
}

// readyExprs asks the dependencies that say in CEL when they are ready, as they are in the cluster; self is the declaration of the pass, and
// dependencies are of its kind. What is not true yet, or cannot be evaluated yet, is waited for quietly, unless the dependency has failed.
func (a *apps) readyExprs(ctx context.Context, p *pass, self client.Object, empty func() client.Object) error {
	if len(p.st.exprs.ready) == 0 {
		return nil
	}
	here, err := runtime.DefaultUnstructuredConverter.ToUnstructured(self)
	if err != nil {
		return fmt.Errorf("read %s: %w", p.app.ID, err)
	}
	for _, id := range p.app.DependsOn {
		ready := p.st.exprs.ready[id]
		if ready == nil {
			continue
		}
		what := fmt.Sprintf("dependency '%s/%s'", id.Namespace, id.Name)
		dep := empty()
		err := a.cache.Get(ctx, types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, dep)
		if apierrors.IsNotFound(err) {
			return &delivery.Fault{
				Reason: meta.DependencyNotReadyReason, Retry: delivery.OnEvent, Err: fmt.Errorf("waiting for %s: it does not exist", what),
			}
		}
		if err != nil {
			return err
		}
		there, err := runtime.DefaultUnstructuredConverter.ToUnstructured(dep)
		if err != nil {
			return fmt.Errorf("read %s: %w", id, err)
		}
		yes, err := ready.Of(here, there)
		switch {
		case err != nil:
			what += ": its readyExpr: " + err.Error()
		case !yes:
			what += ": its readyExpr is not true"
		default:
			continue
		}
		if s := a.reg.standOf(id); s.evaluated && !s.busy && !s.ready {
			return &delivery.Fault{Reason: meta.DependencyNotReadyReason, Retry: delivery.OnEvent, Err: errors.New("waiting for " + what)}
		}
		return &waitsFor{reason: meta.DependencyNotReadyReason, what: what}
	}
	return nil
}

// changed takes in that the declaration of an app has changed in the cluster, in whatever way: expressions may look at any field of it.
func (a *apps) changed(id delivery.ID, labels bool) {
	a.wakeAll(a.reg.askers(id))
	if labels && a.reg.asks(id) {
		a.wake(id)
	}
}

func (k *kustomizations) seen(before, now *kustomizev1.Kustomization) {
	k.changed(kustomizationID(client.ObjectKeyFromObject(now)), before != nil && !maps.Equal(before.Labels, now.Labels))
}

func (h *helmReleases) seen(before, now *helmv2.HelmRelease) {
	h.changed(helmReleaseID(client.ObjectKeyFromObject(now)), before != nil && !maps.Equal(before.Labels, now.Labels))
}

// mayLook is [deliver.Engine.MayLook] once for each revision and declaration.
func (k *kustomizations) mayLook(ctx context.Context, p *kustomizationPass) error {
	about := fmt.Sprintf("%s/%d/%s", p.app.UID, p.app.Generation, p.req.Snapshot.Revision)
	if p.st.looked == about {
		return nil
	}
	if err := p.st.target.engine.MayLook(ctx, p.app, &p.st.mem); err != nil {
		return err
	}
	p.st.looked = about
	return nil
}

// stalling are the reasons that only a person can do something about: a new declaration, or a word of hers.
var stalling = map[string]bool{
	"ConfirmationRequired": true, "FieldsNotSupported": true, acl.AccessDeniedReason: true, "InvalidAnnotation": true, meta.InvalidCELExpressionReason: true,
}
