package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	helmkube "helm.sh/helm/v4/pkg/kube"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	k8sjson "k8s.io/apimachinery/pkg/util/json"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

// fieldManager is the name under which objects of releases are written. It is that of the helm program, so that "helm rollback" and
// "helm upgrade" of a person own what we wrote, and we what they wrote: with another name each would stop at the other's fields.
const fieldManager = dialect.HelmManager

func init() { helmkube.ManagedFieldsManager = fieldManager } //nolint:gochecknoinits // Helm knows no other way to set it

// client is Helm's way to the cluster for one action, as one user. Creating, updating and deleting are Helm's own; which resource an
// object belongs to is known from the shared mapper, objects are checked by the server, waiting is done with watches. Every
// request ends with the action's context.
type client struct {
	*helmkube.Client
	ctx       context.Context //nolint:containedctx // Helm's interface has none
	user      *kube.User
	namespace string
	rules     *health.Rules
	legacy    bool                                      // health as Helm 3 tells it
	gone      func(manifest []byte, validate bool) bool // objects of a manifest whose kind the cluster does not know are passed over: they are gone with it; nil: never
	parting   bool                                      // it uninstalls: what cannot be read is not passed over
	built     func() error                              // called before objects are built: the chart has been rendered then; an error: nobody waits for it any more

	mu      sync.Mutex
	clients map[schema.GroupVersion]*rest.RESTClient
	origins map[delivery.Ref]string // the templates that objects came from

	failures []error // of deletions, which Helm does not tell
}

var _ interface {
	helmkube.Interface
	helmkube.InterfaceWaitOptions
} = (*client)(nil)

func newClient(ctx context.Context, user *kube.User, namespace string) *client {
	c := &client{
		Client: &helmkube.Client{Namespace: namespace}, ctx: ctx, user: user, namespace: namespace,
		clients: map[schema.GroupVersion]*rest.RESTClient{}, origins: map[delivery.Ref]string{},
	}
	c.SetLogger(slog.DiscardHandler)
	return c
}

// IsReachable asks nothing: the first request will tell.
func (c *client) IsReachable() error { return c.ctx.Err() }

// GetPodList is asked for the Pods of hooks whose logs are to be shown. Nobody looks at them here.
func (c *client) GetPodList(string, metav1.ListOptions) (*corev1.PodList, error) {
	return &corev1.PodList{}, nil
}

// OutputContainerLogsForPodList does nothing, see [client.GetPodList].
func (c *client) OutputContainerLogsForPodList(*corev1.PodList, string, func(namespace, pod, container string) io.Writer) error {
	return nil
}

// BuildTable is Build: nothing is printed.
func (c *client) BuildTable(r io.Reader, validate bool) (helmkube.ResourceList, error) {
	return c.Build(r, validate)
}

// Build reads manifests. It makes no request, unless there is a kind that is not known yet. What the schemas say of an object the
// server finds out when it is written: it is strict then.
func (c *client) Build(r io.Reader, validate bool) (helmkube.ResourceList, error) {
	if c.built != nil {
		if err := c.built(); err != nil {
			return nil, err
		}
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	objects, err := readManifest(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	list := make(helmkube.ResourceList, 0, len(objects))
	for _, o := range objects {
		info, err := c.info(o)
		if errors.Is(err, errNoKind) && c.gone != nil && c.gone(text, validate) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	if c.parting {
		return list, c.readable(objects)
	}
	return list, nil
}

// readable tells which objects of a release that is uninstalled cannot be read. Helm would pass over these, and forget the release: then
// nobody knew any more that they are left. Hooks are not asked about: Helm does not either.
func (c *client) readable(objects []delivery.Object) error {
	var failed []error
	for _, o := range objects {
		if _, hook := o.GetAnnotations()[helmrelease.HookAnnotation]; hook || o.GetName() == "" {
			continue
		}
		r, err := c.user.Resource(o.GroupVersionKind(), o.GetNamespace())
		if meta.IsNoMatchError(err) {
			continue
		}
		if err == nil {
			_, err = r.Get(c.ctx, o.GetName(), metav1.GetOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failed = append(failed, err)
		}
	}
	c.failures = append(c.failures, failed...)
	return errors.Join(failed...)
}

// adoptions bounds how often managedFields are written anew because somebody else wrote to the object in between.
const adoptions = 5

// Update implements [helmkube.Interface]. What Flux's helm-controller owns of the objects becomes ours: else a field that leaves the chart would
// stay, and a person's "helm rollback" would stop at it.
func (c *client) Update(originals, targets helmkube.ResourceList, options ...helmkube.ClientUpdateOption) (*helmkube.Result, error) {
	wanted := make([]*unstructured.Unstructured, len(targets))
	for i, info := range targets {
		if u, ok := info.Object.(*unstructured.Unstructured); ok {
			wanted[i] = u.DeepCopy()
		}
	}
	res, err := c.Client.Update(originals, targets, options...)
	if err != nil {
		return res, err
	}
	for i, info := range targets {
		if u, ok := info.Object.(*unstructured.Unstructured); ok {
			if err := c.adopt(u, wanted[i]); err != nil {
				return res, fmt.Errorf("take over the fields of %s of %s: %w", helmControllerWriter, c.where(refOf(info)), err)
			}
		}
	}
	return res, nil
}

// adopt makes the fields of an object ours that helm-controller owns, and removes those that are not wanted any more; u is the object as
// the server returned it.
func (c *client) adopt(u, wanted *unstructured.Unstructured) error {
	if !slices.ContainsFunc(u.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == helmControllerWriter }) {
		return nil
	}
	r, err := c.user.Resource(u.GroupVersionKind(), u.GetNamespace())
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		t, ok, err := plan.TakeOver(u, fieldManager)
		if err == nil {
			t, ok, err = takeNotes(u, t, ok)
		}
		if err != nil || !ok {
			return err
		}
		body, err := json.Marshal([]map[string]any{
			{"op": "replace", "path": "/metadata/managedFields", "value": t.Fields},
			{"op": "replace", "path": "/metadata/resourceVersion", "value": u.GetResourceVersion()},
		})
		if err != nil {
			return err
		}
		_, err = r.Patch(c.ctx, u.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
		if err == nil && t.Again {
			_, err = r.Apply(c.ctx, u.GetName(), wanted, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
			return err
		}
		if !apierrors.IsConflict(err) || attempt == adoptions {
			return err
		}
		if u, err = r.Get(c.ctx, u.GetName(), metav1.GetOptions{}); err != nil {
			return err
		}
	}
}

// takeNotes adds to a takeover, where there is one, the annotations and labels that are Helm's own: [plan.TakeOver] leaves these to the tool
// that has set them, but here it is Helm that goes on. A person's "helm upgrade" would stop at "helm.sh/chart" if Flux had it too.
func takeNotes(u *unstructured.Unstructured, t plan.Takeover, ok bool) (plan.Takeover, bool, error) {
	taken := u
	if ok {
		taken = u.DeepCopy()
		taken.SetManagedFields(t.Fields)
	}
	fields, more, err := plan.HandBack(taken, helmControllerWriter, fieldManager)
	if err != nil || !more {
		return t, ok, err
	}
	t.Again = t.Again || !sameFields(applied(taken.GetManagedFields()), applied(fields))
	t.Fields = fields
	return t, true, nil
}

// applied are the fields that we own by server-side apply, as JSON.
func applied(fields []metav1.ManagedFieldsEntry) []byte {
	for _, f := range fields {
		if f.Manager == fieldManager && f.Operation == metav1.ManagedFieldsOperationApply && f.Subresource == "" && f.FieldsV1 != nil {
			return f.FieldsV1.GetRawBytes()
		}
	}
	return nil
}

func sameFields(a, b []byte) bool {
	var x, y map[string]any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// Delete implements [helmkube.Interface].
func (c *client) Delete(resources helmkube.ResourceList, policy metav1.DeletionPropagation) (*helmkube.Result, []error) {
	if len(resources) == 0 {
		return &helmkube.Result{}, nil
	}
	res, errs := c.Client.Delete(resources, policy)
	c.failures = append(c.failures, errs...)
	return res, errs
}

var errNoKind = errors.New("the cluster has no kind")

func noKind(where string, gvk schema.GroupVersionKind) error {
	return &delivery.Fault{
		Reason: ReasonBuild, Where: where, Retry: delivery.Backoff,
		Hint: "install its CustomResourceDefinition first, or use an apiVersion that the cluster serves",
		Err:  fmt.Errorf("%w %s in %s", errNoKind, gvk.Kind, gvk.GroupVersion()),
	}
}

// unserved tells whether the server has said that it does not know the kind, not that there is no such object.
func unserved(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// info finds out where an object belongs.
func (c *client) info(o delivery.Object) (*resource.Info, error) {
	gvk := o.GroupVersionKind()
	mapping, err := c.user.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		return nil, noKind(o.Where(), gvk)
	}
	if err != nil {
		return nil, fmt.Errorf("find the resource of %s: %w", o.Where(), err)
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		o.SetNamespace("")
	} else if o.GetNamespace() == "" {
		o.SetNamespace(c.namespace)
	}
	rc, err := c.client(gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.Origin != "" {
		c.origins[o.Ref()] = o.Origin
	}
	return &resource.Info{
		Client: rc, Mapping: mapping, Namespace: o.GetNamespace(), Name: o.GetName(), Object: o.Unstructured,
		Source: o.Origin, ResourceVersion: o.GetResourceVersion(),
	}, nil
}

// where names an object and the template that it came from.
func (c *client) where(ref delivery.Ref) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if origin := c.origins[ref]; origin != "" {
		return origin + ": " + ref.String()
	}
	return ref.String()
}

// client gives the REST client of a group and version.
func (c *client) client(gv schema.GroupVersion) (*rest.RESTClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rc, ok := c.clients[gv]; ok {
		return rc, nil
	}
	config, shared := c.user.REST()
	config.ContentConfig = resource.UnstructuredPlusDefaultContentConfig()
	config.GroupVersion = &gv
	if config.APIPath = "/apis"; gv.Group == "" {
		config.APIPath = "/api"
	}
	bound := *shared
	bound.Transport = &ending{next: shared.Transport, ctx: c.ctx}
	rc, err := rest.RESTClientForConfigAndClient(config, &bound)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", gv, err)
	}
	c.clients[gv] = rc
	return rc, nil
}

// ending is a transport whose requests, which Helm makes without a context, end with the action's.
type ending struct {
	next http.RoundTripper
	ctx  context.Context //nolint:containedctx // the action's
}

// RoundTrip implements [http.RoundTripper].
func (e *ending) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := e.ctx.Err(); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, context.Cause(e.ctx)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	resp, err := e.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		stop()
		cancel(nil)
		return nil, err
	}
	resp.Body = &endingBody{ReadCloser: resp.Body, done: func() { stop(); cancel(nil) }}
	return resp, nil
}

// WrappedRoundTripper lets client-go find the transport below.
func (e *ending) WrappedRoundTripper() http.RoundTripper { return e.next }

// endingBody gives up its context when it is closed.
type endingBody struct {
	io.ReadCloser
	done func()
}

// Close implements [io.Closer].
func (b *endingBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// maxObjects bounds what one manifest holds.
const maxObjects = 20000

// readManifest reads the objects of a release's manifest. The comment "# Source:" with which Helm begins a document is its origin.
func readManifest(r io.Reader) ([]delivery.Object, error) {
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var out []delivery.Object
	documents := k8syaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(all)))
	defer documents.Close()
	buffer := make([]byte, len(all)+1)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the manifest: %w", err)
		}
		if out, err = readDocument(out, buffer[:n]); err != nil {
			return nil, err
		}
		if len(out) > maxObjects {
			return nil, &delivery.Fault{Reason: ReasonBuild, Retry: delivery.OnChange, Hint: "split the chart", Err: fmt.Errorf("the release has more than %d objects", maxObjects)}
		}
	}
}

func readDocument(out []delivery.Object, document []byte) ([]delivery.Object, error) {
	origin := sourceOf(document)
	converted, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, &delivery.Fault{Reason: ReasonBuild, Where: origin, Retry: delivery.OnChange, Hint: "render it with keelson render --chart, and mend the template or the values", Err: fmt.Errorf("what the template gives is not YAML: %w", err)}
	}
	if string(converted) == "null" {
		return out, nil
	}
	var object map[string]any
	if err := k8sjson.Unmarshal(converted, &object); err != nil {
		return nil, &delivery.Fault{Reason: ReasonBuild, Where: origin, Retry: delivery.OnChange, Hint: "render it with keelson render --chart, and mend the template or the values", Err: errors.New("the template gives something that is no object")}
	}
	u := &unstructured.Unstructured{Object: object}
	if u.IsList() {
		err := u.EachListItem(func(item runtime.Object) error {
			one, ok := item.(*unstructured.Unstructured)
			if !ok {
				return fmt.Errorf("a list holds a %T", item)
			}
			checked, err := checkObject(one, origin)
			out = append(out, checked)
			return err
		})
		return out, err
	}
	checked, err := checkObject(u, origin)
	return append(out, checked), err
}

func checkObject(u *unstructured.Unstructured, origin string) (delivery.Object, error) {
	o := delivery.Object{Unstructured: u, Origin: origin}
	if u.GetKind() == "" || u.GetAPIVersion() == "" {
		return o, &delivery.Fault{Reason: ReasonBuild, Where: origin, Retry: delivery.OnChange, Hint: "render it with keelson render --chart, and mend the template or the values", Err: errors.New("the template gives an object without apiVersion or kind")}
	}
	if u.GetName() == "" && u.GetGenerateName() == "" {
		return o, &delivery.Fault{Reason: ReasonBuild, Where: origin, Retry: delivery.OnChange, Hint: "render it with keelson render --chart, and mend the template or the values", Err: fmt.Errorf("the template gives a %s without a name", u.GetKind())}
	}
	return o, nil
}

// sourceOf is the template that a document came from, without the chart's name; empty: it does not say.
func sourceOf(document []byte) string {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if rest, ok := bytes.CutPrefix(line, []byte("# Source: ")); ok {
			_, file, _ := strings.Cut(string(rest), "/")
			return file
		}
		if len(line) > 0 && line[0] != '#' && !bytes.HasPrefix(line, []byte("---")) {
			return ""
		}
	}
	return ""
}
