package release

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// reason is the condition's reason where the action fails and nothing says it better.
func (r *run) reason() string {
	switch r.d.Action {
	case Install:
		return ReasonInstall
	case Rollback:
		return ReasonRollback
	case Uninstall:
		return ReasonUninstall
	case Test:
		return ReasonTest
	case Unlock:
		return ReasonPending
	default:
		return ReasonUpgrade
	}
}

var (
	// inTemplate is how Helm's errors of templates begin: "web/templates/a.yaml:12:3", or with words before it.
	inTemplate = regexp.MustCompile(`(?:^|\(|: )[^\s:()]+/templates/[^\s:()]+:\d+`)
	// unchangeable is how the server says that a field has its value for good.
	unchangeable = regexp.MustCompile(`immutable|may not change once set|updates to \S+ spec for fields other than|may not change fields other than`)
	owned        = regexp.MustCompile(`(\S+) "([^"]*)" in namespace "([^"]*)" exists and cannot be imported into the current release`)
)

// fault makes the error of an action one for people: what failed, where, and what to do.
func (r *run) fault(err error) error {
	f := r.explain(err)
	f.Err = &shown{text: r.shown(f.Err.Error()), err: f.Err}
	if r.ctx.Err() != nil || errors.Is(err, ErrCancelled) {
		f.Err = &shown{text: "the action was called off: " + f.Err.Error(), err: errors.Join(ErrCancelled, err)}
	}
	return f
}

// maxText bounds an error, in bytes: it goes into conditions and events.
const maxText = 1500

func (r *run) shown(text string) string {
	if r.req.Redact != nil {
		text = r.req.Redact(text)
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText/2], "") + " … " + strings.ToValidUTF8(text[len(text)-maxText/2:], "")
	}
	return strings.TrimSpace(text)
}

// shown is an error in words that may be told.
type shown struct {
	text string
	err  error
}

// Error implements error.
func (s *shown) Error() string { return s.text }

// Unwrap gives the cause.
func (s *shown) Unwrap() error { return s.err }

func (r *run) explain(err error) *delivery.Fault {
	var known *delivery.Fault
	var late *lateError
	var failed *failedError
	var status *apierrors.StatusError
	text := err.Error()
	switch {
	case errors.As(err, &known):
		f := *known
		return &f
	case strings.Contains(text, "meet the specifications of the schema"):
		return &delivery.Fault{
			Reason: r.reason(), Where: "values.schema.json", Retry: delivery.OnChange,
			Hint: "correct the values, or set disableSchemaValidation", Err: errors.New(render.WithoutValues(err)),
		}
	case errors.As(err, &late), errors.As(err, &failed):
		return r.notReady(err, late)
	case errors.As(err, &status):
		return r.rejected(err, status)
	case strings.Contains(text, "chart requires kubeVersion"):
		return &delivery.Fault{
			Reason: r.reason(), Where: "Chart.yaml", Retry: delivery.OnChange, Hint: "use a version of the chart that is made for this one",
			Err: fmt.Errorf("chart '%s' wants Kubernetes %s, and this is %s", r.req.ChartName, r.chart.Metadata.KubeVersion, r.cfg.Capabilities.KubeVersion.Version),
		}
	case inTemplate.MatchString(text):
		f := *delivery.FaultOf(render.TemplateFault(r.req.ChartName, cleared(err)), r.reason())
		f.Reason, f.Retry = r.reason(), delivery.OnChange
		return &f
	}
	if m := owned.FindStringSubmatch(text); m != nil {
		return &delivery.Fault{
			Reason: ReasonConflict, Where: m[1] + "/" + m[3] + "/" + m[2], Retry: delivery.Backoff,
			Hint: "delete it, or take disableTakeOwnership away so that the release takes it over",
			Err:  errors.New("it is there already, and it is not of this release"),
		}
	}
	return &delivery.Fault{Reason: r.reason(), Retry: delivery.Backoff, Err: errors.New(render.WithoutValues(err))}
}

// cleared is an error of a template without the words before the place.
func cleared(err error) error {
	text := err.Error()
	at := inTemplate.FindStringIndex(text)
	return errors.New(strings.TrimLeft(text[at[0]:], "(: "))
}

// notReady is about objects, or a hook, that did not get where they were to be.
func (r *run) notReady(err error, late *lateError) *delivery.Fault {
	f := &delivery.Fault{Reason: r.reason(), Retry: delivery.Backoff, Err: errors.New(innermost(err))}
	if late != nil && late.timeout {
		f.Err = fmt.Errorf("timed out: %w", f.Err)
		f.Hint = "look at the object, or give it more time with spec.timeout"
	}
	if hook := r.failedHook(); hook != nil {
		f.Where = inChart(hook.Path)
		events := make([]string, len(hook.Events))
		for i, e := range hook.Events {
			events[i] = string(e)
		}
		f.Err = fmt.Errorf("hook %s (%s): %w", hook.Name, strings.Join(events, ", "), f.Err)
	}
	return f
}

// innermost is what the waiting said, without what Helm says around it.
func innermost(err error) string {
	var several *severalError
	var late *lateError
	var failed *failedError
	switch {
	case errors.As(err, &several):
		return several.Error()
	case errors.As(err, &failed):
		return failed.Error()
	case errors.As(err, &late):
		return late.Error()
	}
	return err.Error()
}

// failedHook is the hook that the action has failed at; nil: none.
func (r *run) failedHook() *releasev1.Hook {
	if r.last == nil {
		return nil
	}
	for _, h := range r.last.Hooks {
		if h.LastRun.Phase == releasev1.HookPhaseFailed {
			return h
		}
	}
	return nil
}

// inChart is a template's name without the chart's own.
func inChart(name string) string {
	if _, rest, ok := strings.Cut(name, "/"); ok {
		return rest
	}
	return name
}

// rejected is about a request that the API server refused.
func (r *run) rejected(err error, status *apierrors.StatusError) *delivery.Fault {
	f := &delivery.Fault{Reason: r.reason(), Retry: delivery.Backoff, Err: errors.New(status.ErrStatus.Message)}
	if f.Err.Error() == "" {
		f.Err = errors.New(render.WithoutValues(err))
	}
	details := status.ErrStatus.Details
	named := details != nil && details.Name != ""
	if named {
		f.Where = r.client.placeOf(details.Group, details.Kind, details.Name)
	}
	switch {
	case named && unserved(status):
		_ = r.engine.cluster.ForgetKinds() // the next attempt finds out before it writes
		f.Reason, f.Err = ReasonBuild, fmt.Errorf("%w %s in %s any more", errNoKind, details.Kind, details.Group)
		f.Hint = "install its CustomResourceDefinition, or take the object out of the chart"
	case named && apierrors.IsInvalid(status) && unchangeable.MatchString(f.Err.Error()):
		f.Hint = "the field cannot be changed: delete the object, or take the change back"
	case apierrors.IsForbidden(status):
		f.Hint = "grant it with a Role or ClusterRole bound to the service account that the release is made as"
	}
	if errors.Is(err, context.Canceled) {
		f.Hint = ""
	}
	return f
}

// placeOf names an object that the server told the name of, and the template that it came from.
func (c *client) placeOf(group, kind, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref, origin := range c.origins {
		if ref.Name == name && ref.Group == group && (strings.EqualFold(ref.Kind, kind) || strings.HasPrefix(strings.ToLower(kind), strings.ToLower(ref.Kind))) {
			return origin + ": " + ref.String()
		}
	}
	return strings.TrimPrefix(kind+"/"+name, "/")
}
