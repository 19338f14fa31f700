package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/plan"
)

// Drift is found by watching. An object that nobody but Helm has written to since is as the manifest says; only one that somebody else
// has written to is compared, once for each such write: with what the server says that an apply of the manifest would make of it.

// drift tells which objects of a release differ from its manifest. wait: not everything is known yet; the app will be told of.
func (e *Engine) drift(ctx context.Context, app delivery.App, stored *delivery.StoredRelease) (texts []string, wait bool, err error) {
	o := e.objects
	about := stored.Digest + "/" + strconv.FormatInt(app.Generation, 10)
	o.mu.Lock()
	c := o.apps[app.ID]
	if c != nil && c.about != about {
		c = nil
	}
	o.mu.Unlock()
	var manifest []delivery.Object
	if c == nil {
		c = &checked{about: about, kinds: map[schema.GroupVersionKind]bool{}, verdicts: map[delivery.Ref]drifted{}}
		if manifest, err = e.manifest(ctx, app, stored); err != nil {
			return nil, false, err
		}
		for _, obj := range manifest {
			c.kinds[obj.GroupVersionKind()] = true
			c.verdicts[obj.Ref()] = drifted{}
		}
		o.mu.Lock()
		o.apps[app.ID] = c
		o.mu.Unlock()
	}
	known, err := o.need(app.ID, c.kinds)
	if err != nil || !known {
		return nil, true, err
	}
	var suspects []delivery.Ref
	o.mu.Lock()
	for ref, v := range c.verdicts {
		t, there := o.there[ref]
		switch {
		case there && (t.exempt || t.ours):
		case v.known && t.mark == v.mark: // the zero mark is that of what is not there
			if v.text != "" {
				texts = append(texts, v.text)
			}
		default:
			suspects = append(suspects, ref)
		}
	}
	o.mu.Unlock()
	if len(suspects) > 0 && manifest == nil {
		if manifest, err = e.manifest(ctx, app, stored); err != nil {
			return nil, false, err
		}
	}
	slices.SortFunc(suspects, delivery.Ref.Compare)
	for _, ref := range suspects {
		text, mark, err := e.compare(ctx, app, manifest, ref)
		if err != nil {
			return nil, false, err
		}
		o.mu.Lock()
		c.verdicts[ref] = drifted{known: true, mark: mark, text: text}
		o.mu.Unlock()
		if text != "" {
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	return texts, false, nil
}

// manifest reads the objects of a version as they were sent: with Helm's own label and annotations, and where they belong.
func (e *Engine) manifest(ctx context.Context, app delivery.App, stored *delivery.StoredRelease) ([]delivery.Object, error) {
	target := TargetOf(app)
	store, err := e.storage(ctx, app, target.StorageNamespace)
	if err != nil {
		return nil, err
	}
	secret, err := store.get(secretName(target.Name, stored.Version))
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", target, err)
	}
	rel, err := decodeSecret(secret)
	if err != nil {
		return nil, err
	}
	user, err := e.cluster.As(app.Account())
	if err != nil {
		return nil, err
	}
	objects, err := readManifest(strings.NewReader(rel.Manifest))
	if err != nil {
		return nil, err
	}
	c := newClient(ctx, user, target.Namespace)
	kept := objects[:0]
	for _, o := range objects {
		if o.GetName() == "" || exempt(o.Unstructured) {
			continue
		}
		if _, err := c.info(o); errors.Is(err, errNoKind) { // gone with it
			if o.GetNamespace() == "" {
				o.SetNamespace(target.Namespace)
			}
		} else if err != nil {
			return nil, err
		}
		o.SetLabels(merged(o.GetLabels(), map[string]string{"app.kubernetes.io/managed-by": "Helm"}))
		o.SetAnnotations(merged(o.GetAnnotations(), map[string]string{
			"meta.helm.sh/release-name": rel.Name, "meta.helm.sh/release-namespace": rel.Namespace,
		}))
		kept = append(kept, o)
	}
	return kept, nil
}

// ignored tells which fields of an object do not count, or that nothing of it does.
func ignored(app delivery.App, o delivery.Object) (fields []delivery.Pointer, all bool, err error) {
	var rules []delivery.IgnoreRule
	for _, r := range app.Release.DriftIgnore {
		if !slices.Contains(r.Paths, "") {
			rules = append(rules, r)
			continue
		}
		r.Paths = []string{"/kind"} // a field that every object has
		found, err := plan.Ignored([]delivery.IgnoreRule{r}, []delivery.Object{o})
		if err != nil {
			return nil, false, err
		}
		all = all || len(found) > 0
	}
	found, err := plan.Ignored(rules, []delivery.Object{o})
	return found[o.Ref()], all, err
}

// compare tells how an object differs from the manifest; empty: in nothing that counts. mark is that of the object as it was compared.
func (e *Engine) compare(ctx context.Context, app delivery.App, manifest []delivery.Object, ref delivery.Ref) (text string, mark [sha256.Size]byte, err error) {
	at := slices.IndexFunc(manifest, func(o delivery.Object) bool { return o.Ref() == ref })
	if at < 0 {
		return "", mark, nil
	}
	fields, all, err := ignored(app, manifest[at])
	if err != nil {
		return "", mark, err
	}
	live, would, err := e.would(ctx, app, manifest[at], fields, true)
	if err != nil {
		return "", mark, err
	}
	if live != nil && dialect.HelmOwner(live.GetLabels()) != (delivery.ID{}) {
		mark = thingOf(live).mark
	}
	switch {
	case all || live != nil && exempt(live):
		return "", mark, nil
	case live == nil:
		return ref.String() + ": it does not exist", mark, nil
	}
	differ := differences(plain(live, fields), plain(would, fields), "", nil)
	if len(differ) == 0 {
		return "", mark, nil
	}
	if len(differ) > maxNamed {
		differ = append(differ[:maxNamed], "…")
	}
	return ref.String() + ": " + strings.Join(differ, ", "), mark, nil
}

// would applies an object of the manifest, or asks what that would come to; fields that do not count stay as they are. live is the object as it
// was before; nil: there was none.
func (e *Engine) would(ctx context.Context, app delivery.App, o delivery.Object, fields []delivery.Pointer, dry bool) (live, would *unstructured.Unstructured, err error) {
	user, err := e.cluster.As(app.Account())
	if err != nil {
		return nil, nil, err
	}
	r, err := user.Resource(o.GroupVersionKind(), o.GetNamespace())
	switch {
	case meta.IsNoMatchError(err) && dry:
		return nil, nil, nil
	case meta.IsNoMatchError(err):
		return nil, nil, noKind(o.Where(), o.GroupVersionKind())
	case err != nil:
		return nil, nil, err
	}
	live, err = r.Get(ctx, o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		live, err = nil, nil
	}
	if err != nil || live == nil && dry {
		return live, nil, err
	}
	wanted := o.DeepCopy()
	for _, field := range fields {
		if live == nil {
			break
		}
		if value, ok := field.Lookup(live.Object); ok {
			if _, sent := field.Lookup(wanted.Object); sent {
				field.Set(wanted.Object, value)
			}
		}
	}
	opts := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if dry {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	would, err = r.Apply(ctx, o.GetName(), wanted, opts)
	if unserved(err) {
		return nil, nil, errors.Join(noKind(o.Where(), o.GroupVersionKind()), e.cluster.ForgetKinds())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("apply %s: %w", o.Where(), err)
	}
	return live, would, nil
}

// plain is an object without what the server keeps about it, and without fields that do not count.
func plain(u *unstructured.Unstructured, fields []delivery.Pointer) map[string]any {
	out := u.DeepCopy().Object
	unstructured.RemoveNestedField(out, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"} {
		unstructured.RemoveNestedField(out, "metadata", field)
	}
	for _, field := range fields {
		field.Remove(out)
	}
	return out
}

// repair writes the objects that differ as the manifest says. There is no new version of the release.
func (r *run) repair(res *Result) error {
	stored := r.d.Record.Latest()
	if stored == nil {
		return nil
	}
	manifest, err := r.engine.manifest(r.ctx, r.app, &delivery.StoredRelease{ReleaseSnapshot: *stored})
	if err != nil {
		return err
	}
	o := r.engine.objects
	var refs []delivery.Ref
	o.mu.Lock()
	if c := o.apps[r.app.ID]; c != nil {
		for ref := range c.verdicts {
			t, there := o.there[ref]
			if !there || (!t.ours && !t.exempt) {
				refs = append(refs, ref)
			}
		}
	}
	o.mu.Unlock()
	slices.SortFunc(refs, delivery.Ref.Compare)
	for _, ref := range refs {
		text, _, err := r.engine.compare(r.ctx, r.app, manifest, ref)
		if err != nil {
			return err
		}
		if text == "" {
			continue
		}
		at := slices.IndexFunc(manifest, func(m delivery.Object) bool { return m.Ref() == ref })
		fields, _, err := ignored(r.app, manifest[at])
		if err != nil {
			return err
		}
		was, is, err := r.engine.would(r.ctx, r.app, manifest[at], fields, false)
		if err != nil {
			return err
		}
		res.Repaired = append(res.Repaired, text)
		if r.engine.witness {
			res.Mended = append(res.Mended, Changed{Ref: ref, Before: was, After: is})
		}
		o.mu.Lock()
		t := thingOf(is)
		if c := o.apps[r.app.ID]; c != nil { // what we have just written is as it is to be
			o.there[ref] = t
			c.verdicts[ref] = drifted{known: true, mark: t.mark}
		}
		o.mu.Unlock()
	}
	return nil
}

func equalJSON(a, b any) bool { return reflect.DeepEqual(a, b) }

// keysOf are the keys of two maps.
func keysOf(a, b map[string]any) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k := range a {
			if !yield(k) {
				return
			}
		}
		for k := range b {
			if _, both := a[k]; !both && !yield(k) {
				return
			}
		}
	}
}
