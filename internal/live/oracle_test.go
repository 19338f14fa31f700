package live

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/plan"
)

var (
	oracleSeed      = flag.Uint64("oracle.seed", 1, "seed of the random mutations")
	oracleMutations = flag.Int("oracle.mutations", 2000, "how many random mutations are made, over all objects")
)

// subject is one object that is mutated: what we send of it, and what others may do to it.
type subject struct {
	desired    string
	autoscaled bool
	typed      any              // for strategic merge patches; nil: the kind has none
	fields     map[string][]any // values by path; nil removes. "a/[name=web]/b" goes through an item of a list
	lists      map[string][]any // items that may be added to a list
	status     map[string]any   // what a status write sets; nil: the kind has no status
}

// TestOracle holds the verdict of the hashes equal to the server's own: after each random mutation by a random manager, an
// object counts as drifted exactly if a dry-run of the apply that we made last would change it, or the set of fields that
// we own of it.
func TestOracle(t *testing.T) {
	w := newWorld(t, Options{Key: delivery.Key("oracle")})
	w.define(widgetDefinition)
	kinds := make([]schema.GroupVersionKind, 0, len(subjects))
	for _, s := range subjects {
		kinds = append(kinds, parse(t, s.desired).GroupVersionKind())
	}
	w.ensure(testApp("oracle"), kinds...)
	w.create("autoscaling/v2", "HorizontalPodAutoscaler", w.ns, `{"metadata": {"name": "scaled"}, "spec": {
		"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"}, "maxReplicas": 5}}`)

	t.Logf("seed %d", *oracleSeed)
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := tally{}
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		wg.Go(func() {
			o := &oracle{world: w, name: name, subject: subjects[name], tally: tally{}}
			o.run(*oracleMutations / len(subjects))
			mu.Lock()
			defer mu.Unlock()
			for k, n := range o.tally {
				total[k] += n
			}
		})
	}
	wg.Wait()
	t.Logf("%v in %s", total, time.Since(start).Round(time.Second))
	if total["accepted"] < *oracleMutations-len(subjects) || total["drifted"] < total["accepted"]/10 || total["in sync"] < total["accepted"]/10 {
		t.Errorf("the mutations say too little: %v", total)
	}
}

// tally counts what happened.
type tally map[string]int

// oracle mutates one object.
type oracle struct {
	*world
	name string
	subject
	tally   tally
	sent    *unstructured.Unstructured
	applied delivery.Applied
	now     *unstructured.Unstructured // as the server returned it last; nil: to be read
	log     []string                   // what was done since the last apply
}

func (o *oracle) run(n int) {
	o.sent = parse(o.T, o.desired)
	o.sent.SetNamespace(o.ns)
	o.repair("first apply")
	for i, tries := 0, 0; i < n && tries < 10*n && o.tally["wrong"] == 0; tries++ {
		r := rand.New(rand.NewPCG(*oracleSeed, uint64(tries)<<8+uint64(len(o.name)))) //nolint:gosec // to be repeated, not to be secret
		if !o.mutate(r) {
			o.tally["refused"]++
			continue
		}
		i++
		o.tally["accepted"]++
		drifted := o.compare()
		if drifted {
			o.tally["drifted"]++
		} else {
			o.tally["in sync"]++
		}
		if r.IntN(2) == 0 && (drifted || r.IntN(5) == 0) {
			o.repair("repair")
			if o.compare() {
				o.Errorf("%s is drifted right after its repair", o.name)
			}
		}
	}
}

// repair sends what we want. Where others have made an object that cannot take it any more, it is made anew.
func (o *oracle) repair(why string) {
	left, err := o.world.repair(o.sent, o.autoscaled)
	if apierrors.IsInvalid(err) {
		o.tally["made anew"]++
		r, name := o.of(o.sent), o.sent.GetName()
		bare := []byte(`{"metadata": {"finalizers": null}}`)
		_, err = r.Patch(o.ctx, name, types.MergePatchType, bare, metav1.PatchOptions{})
		if err == nil {
			err = r.Delete(o.ctx, name, metav1.DeleteOptions{})
		}
		if err == nil || apierrors.IsNotFound(err) {
			left, err = o.world.repair(o.sent, o.autoscaled)
		}
	}
	if err != nil {
		o.Errorf("%s: %s: %v", o.name, why, err)
		return
	}
	o.applied, o.log, o.now = left, nil, nil
}

// current is the object as it is now; nil: it is not there.
func (o *oracle) current() (*unstructured.Unstructured, error) {
	if o.now != nil {
		return o.now, nil
	}
	var err error
	o.now, err = o.of(o.sent).Get(o.ctx, o.sent.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o.now, err
}

// compare checks the verdict of the hashes against the server's and gives it. Controllers write to the object as well: the two
// must have seen the same resource version.
func (o *oracle) compare() bool {
	for range 100 {
		before, err := o.current()
		if err != nil {
			o.Errorf("%s: %v", o.name, err)
			return false
		}
		o.now = nil // read it anew where this one turns out to be old
		if before != nil && before.GetLabels()[ownerLabel] != "" {
			o.seen(before)
		} else {
			o.gone(delivery.RefOf(o.sent))
		}
		rec, known := o.live.Get(delivery.RefOf(o.sent))
		verdict := !known || plan.Drifted(o.applied, rec, o.autoscaled)
		if before == nil {
			return verdict
		}
		if known && rec.ResourceVersion != before.GetResourceVersion() {
			continue
		}
		after, err := o.apply(o.sent, true)
		if err == nil && after.GetUID() != before.GetUID() {
			continue
		}
		if differs := err != nil || !reflect.DeepEqual(content(before), content(after)); verdict == differs {
			o.now = before
			return verdict
		}
		again, err2 := o.current()
		if err2 != nil || again == nil || again.GetResourceVersion() != before.GetResourceVersion() {
			continue
		}
		diff := fmt.Sprint(err)
		if err == nil {
			diff = cmp.Diff(content(before), content(after))
		}
		o.tally["wrong"]++
		o.Errorf("seed %d: %s: the hashes say drifted = %v, the server %v\ndry-run: %s\ndone since the last apply:\n%s\nobject: %s",
			*oracleSeed, o.name, verdict, !verdict, diff, strings.Join(o.log, "\n"), text(before.Object))
		return verdict
	}
	o.Errorf("%s never came to rest", o.name)
	return false
}

// content is an object without what says when it was written; of the field sets only ours.
func content(u *unstructured.Unstructured) map[string]any {
	u = u.DeepCopy()
	var ours any
	for _, f := range u.GetManagedFields() {
		if f.Manager == kube.FieldManager && f.Operation == metav1.ManagedFieldsOperationApply && f.Subresource == "" {
			ours = f.FieldsV1.GetRawString()
		}
	}
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	u.SetGeneration(0)
	u.Object["ours"] = ours
	return u.Object
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// managers of the mutations; one is named like us but does not apply.
var managers = []string{"kubectl-edit", "operator", "ci", kube.FieldManager}

// mutate does one random thing to the object and tells whether the server took it.
func (o *oracle) mutate(r *rand.Rand) bool {
	now, err := o.current()
	if err != nil {
		o.Errorf("%s: %v", o.name, err)
		return false
	}
	if now == nil {
		o.repair("after its deletion")
		return false
	}
	manager := managers[r.IntN(len(managers))]
	what, next, err := o.mutation(r, now, manager)
	o.now = next
	if next != nil && next.GetDeletionTimestamp() != nil { // with its last finalizer it goes
		o.now = nil
	}
	if err != nil {
		if !expected(err) {
			o.Errorf("%s: %s: %v", o.name, what, err)
		}
		return false
	}
	o.log = append(o.log, manager+": "+what)
	return true
}

// mutation makes the random change and gives the object as the server returned it; nil: it did not return it.
func (o *oracle) mutation(r *rand.Rand, now *unstructured.Unstructured, manager string) (string, *unstructured.Unstructured, error) {
	resource, name := o.of(o.sent), o.sent.GetName()
	opts := metav1.PatchOptions{FieldManager: manager}
	switch k := r.IntN(100); {
	case k < 18:
		return o.put(r, now, manager)
	case k < 36:
		return o.patch(r, now, manager, types.MergePatchType)
	case k < 46:
		return o.patch(r, now, manager, types.JSONPatchType)
	case k < 60:
		return o.patch(r, now, manager, types.StrategicMergePatchType)
	case k < 86:
		return o.applyOther(r, []string{"operator", "ci"}[r.IntN(2)])
	case k < 88:
		next, err := resource.Patch(o.ctx, name, types.MergePatchType, []byte(`{"metadata": {"managedFields": [{}]}}`), opts)
		return "forget managedFields", next, err
	case k < 93 && o.status != nil:
		set := now.DeepCopy()
		set.Object["status"] = o.status
		next, err := resource.UpdateStatus(o.ctx, set, metav1.UpdateOptions{FieldManager: manager})
		return "write status", next, err
	case k < 98 && now.GetKind() == "Deployment":
		body := fmt.Sprintf(`{"spec": {"replicas": %d}}`, r.IntN(3))
		_, err := resource.Patch(o.ctx, name, types.MergePatchType, []byte(body), opts, "scale")
		return "scale " + body, nil, err
	case k == 99:
		return "delete", nil, resource.Delete(o.ctx, name, metav1.DeleteOptions{})
	default:
		return o.patch(r, now, manager, types.MergePatchType)
	}
}

var errNothing = errors.New("nothing to change")

// expected tells errors of a mutation that makes no sense from those of the test.
func expected(err error) bool {
	return errors.Is(err, errNothing) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) || apierrors.IsBadRequest(err) ||
		strings.Contains(err.Error(), "duplicate entries for key") || strings.Contains(err.Error(), "duplicate nodePort")
}

// put updates the whole object.
func (o *oracle) put(r *rand.Rand, now *unstructured.Unstructured, manager string) (string, *unstructured.Unstructured, error) {
	next := now.DeepCopy()
	what := o.edit(r, next.Object)
	next, err := o.of(now).Update(o.ctx, next, metav1.UpdateOptions{FieldManager: manager})
	return "update " + what, next, err
}

// patch sends the difference that a few edits make.
func (o *oracle) patch(r *rand.Rand, now *unstructured.Unstructured, manager string, kind types.PatchType) (string, *unstructured.Unstructured, error) {
	next := now.DeepCopy()
	what := o.edit(r, next.Object)
	var body []byte
	var err error
	switch {
	case kind == types.JSONPatchType:
		ops := []map[string]any{}
		for _, top := range []string{"spec", "data", "secrets", "imagePullSecrets"} {
			if v, ok := next.Object[top]; ok {
				ops = append(ops, map[string]any{"op": "replace", "path": "/" + top, "value": v})
			}
		}
		ops = append(ops, map[string]any{"op": "add", "path": "/metadata/labels", "value": next.GetLabels()})
		body, err = json.Marshal(ops)
	case kind == types.StrategicMergePatchType && o.typed != nil:
		body, err = strategicpatch.CreateTwoWayMergePatch([]byte(text(now.Object)), []byte(text(next.Object)), o.typed)
	default:
		kind = types.MergePatchType
		body, err = jsonpatch.CreateMergePatch([]byte(text(now.Object)), []byte(text(next.Object)))
	}
	if err != nil {
		return what, nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	next, err = o.of(now).Patch(o.ctx, now.GetName(), kind, body, metav1.PatchOptions{FieldManager: manager})
	return string(kind) + " " + what, next, err
}

// applyOther has another manager apply a part of what we want, edited: the same values as ours, other ones, more items.
func (o *oracle) applyOther(r *rand.Rand, manager string) (string, *unstructured.Unstructured, error) {
	config := o.sent.DeepCopy()
	thin(r, config.Object, "")
	what := ""
	if r.IntN(3) > 0 {
		what = o.edit(r, config.Object)
	}
	config.SetAPIVersion(o.sent.GetAPIVersion())
	config.SetKind(o.sent.GetKind())
	config.SetName(o.sent.GetName())
	config.SetNamespace(o.ns)
	force := r.IntN(2) == 0
	next, err := o.send(config, manager, force, false)
	return fmt.Sprintf("apply as %s, force %v, edited %s: %s", manager, force, what, text(config.Object)), next, err
}

// listKeys name the items of the lists in these tests; they are not thinned out.
var listKeys = []string{"name", "containerPort", "port", "protocol", "mountPath"}

// thin leaves a random part of a tree.
func thin(r *rand.Rand, tree map[string]any, at string) {
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if slices.Contains(listKeys, key) || key == "selector" || key == "metadata" && at != "" {
			continue
		}
		if r.IntN(4) == 0 {
			delete(tree, key)
			continue
		}
		switch v := tree[key].(type) {
		case map[string]any:
			thin(r, v, at+"/"+key)
		case []any:
			kept := slices.DeleteFunc(slices.Clone(v), func(any) bool { return r.IntN(4) == 0 })
			tree[key] = kept
			for _, item := range kept {
				if m, ok := item.(map[string]any); ok {
					thin(r, m, at+"/"+key)
				}
			}
		}
	}
}

// edit makes one to three random edits and says which.
func (o *oracle) edit(r *rand.Rand, tree map[string]any) string {
	var done []string
	for range 1 + r.IntN(3) {
		if len(o.lists) > 0 && r.IntN(3) == 0 {
			paths := slices.Sorted(maps.Keys(o.lists))
			path := paths[r.IntN(len(paths))]
			list, _ := lookup(tree, path).([]any)
			list, how := editList(r, list, o.lists[path])
			if list != nil && set(tree, path, list) {
				done = append(done, how+" "+path)
			}
			continue
		}
		paths := slices.Sorted(maps.Keys(o.fields))
		path := paths[r.IntN(len(paths))]
		value := o.fields[path][r.IntN(len(o.fields[path]))]
		if set(tree, path, value) {
			done = append(done, fmt.Sprintf("%s=%v", path, value))
		}
	}
	return strings.Join(done, ", ")
}

func editList(r *rand.Rand, list, more []any) ([]any, string) {
	list = slices.Clone(list)
	k := r.IntN(6)
	switch {
	case len(list) == 0 || k < 3:
		at := r.IntN(len(list) + 1)
		return slices.Insert(list, at, deepCopy(more[r.IntN(len(more))])), "add"
	case k == 3:
		at := r.IntN(len(list))
		return slices.Delete(list, at, at+1), "remove"
	case k == 4:
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list, "shuffle"
	default:
		return append(list, deepCopy(list[r.IntN(len(list))])), "double"
	}
}

func deepCopy(v any) any {
	return (&unstructured.Unstructured{Object: map[string]any{"v": v}}).DeepCopy().Object["v"]
}

// lookup finds what is at a path; nil: nothing.
func lookup(tree any, path string) any {
	for step := range strings.SplitSeq(path, "/") {
		tree = down(tree, step)
	}
	return tree
}

func down(tree any, step string) any {
	key, value, item := strings.Cut(strings.Trim(step, "[]"), "=")
	if !item {
		m, _ := tree.(map[string]any)
		return m[step]
	}
	list, _ := tree.([]any)
	for _, v := range list {
		if m, ok := v.(map[string]any); ok && fmt.Sprint(m[key]) == value {
			return m
		}
	}
	return nil
}

// set puts a value at a path, or removes what is there, and tells whether there is such a place.
func set(tree map[string]any, path string, value any) bool {
	steps := strings.Split(path, "/")
	var at any = tree
	for i, step := range steps[:len(steps)-1] {
		next := down(at, step)
		if next == nil {
			m, ok := at.(map[string]any)
			if !ok || strings.HasPrefix(step, "[") || strings.HasPrefix(steps[i+1], "[") {
				return false
			}
			next = map[string]any{}
			m[step] = next
		}
		at = next
	}
	m, ok := at.(map[string]any)
	if !ok {
		return false
	}
	if last := steps[len(steps)-1]; value == nil {
		delete(m, last)
	} else {
		m[last] = deepCopy(value)
	}
	return true
}

var owners3 = []any{"oracle", "oracle", "somebody", nil}

const podSpec = "spec/template/spec/"

var deploymentFields = map[string][]any{
	"metadata/labels/owner":                                            owners3,
	"metadata/labels/app":                                              {"web", "x", nil},
	"metadata/labels/team":                                             {"a", "b", nil},
	"metadata/annotations/note":                                        {"ours", "theirs", nil},
	"metadata/annotations/other":                                       {"x", "y", nil},
	"spec/replicas":                                                    {int64(0), int64(1), nil},
	"spec/paused":                                                      {true},
	"spec/strategy/type":                                               {"RollingUpdate", nil},
	"spec/strategy/rollingUpdate/maxSurge":                             {int64(1), "50%", nil},
	"spec/strategy":                                                    {map[string]any{"type": "Recreate"}, nil},
	"spec/minReadySeconds":                                             {int64(3), nil},
	"spec/revisionHistoryLimit":                                        {int64(3), int64(10), nil},
	"spec/template/metadata/annotations/restartedAt":                   {"now", "then", nil},
	"spec/template/metadata/labels/extra":                              {"x", nil},
	podSpec + "nodeSelector/disk":                                      {"ssd", "hdd"},
	podSpec + "nodeSelector/zone":                                      {"a", nil},
	podSpec + "hostNetwork":                                            {true, false, nil},
	podSpec + "securityContext/runAsUser":                              {int64(1), nil},
	podSpec + "securityContext":                                        {map[string]any{}, nil},
	podSpec + "serviceAccountName":                                     {"web", nil},
	podSpec + "terminationGracePeriodSeconds":                          {int64(30), int64(5), nil},
	podSpec + "containers/[name=web]/image":                            {"web:1", "web:2"},
	podSpec + "containers/[name=web]/imagePullPolicy":                  {"Always", "Never", nil},
	podSpec + "containers/[name=web]/args":                             {[]any{"a", "b"}, []any{"b", "a"}, []any{}, nil},
	podSpec + "containers/[name=web]/env/[name=A]/value":               {"1", "one", nil},
	podSpec + "containers/[name=web]/env/[name=C]/value":               {"", "c", nil},
	podSpec + "containers/[name=web]/resources/requests/cpu":           {"100m", "0.1", "200m", nil},
	podSpec + "containers/[name=web]/resources/limits/memory":          {"512Mi", "1Gi", nil},
	podSpec + "containers/[name=web]/resources/limits/cpu":             {"1", nil},
	podSpec + "containers/[name=web]/ports/[containerPort=443]/name":   {"https", "tls", nil},
	podSpec + "containers/[name=web]/ports/[containerPort=80]/hostIP":  {"10.0.0.1", nil},
	podSpec + "containers/[name=web]/readinessProbe":                   {map[string]any{"tcpSocket": map[string]any{"port": int64(80)}}, nil},
	podSpec + "containers/[name=web]/livenessProbe/periodSeconds":      {int64(10), int64(20), nil},
	podSpec + "containers/[name=web]/livenessProbe/httpGet/port":       {int64(80), "https"},
	podSpec + "containers/[name=log]/command":                          {[]any{"log"}, nil},
	podSpec + "volumes/[name=tmp]/emptyDir/sizeLimit":                  {"1Gi", "2Gi", nil},
	podSpec + "volumes/[name=conf]/configMap/defaultMode":              {int64(256), nil},
	podSpec + "affinity":                                               {map[string]any{"podAntiAffinity": map[string]any{}}, nil},
	podSpec + "topologySpreadConstraints":                              {[]any{}, nil},
	podSpec + "containers/[name=web]/volumeMounts/[name=tmp]/readOnly": {true, false, nil},
}

var deploymentLists = map[string][]any{
	podSpec + "containers":                         {map[string]any{"name": "sidecar", "image": "sidecar:1"}, map[string]any{"name": "log", "image": "log:1"}},
	podSpec + "initContainers":                     {map[string]any{"name": "init", "image": "init:1"}},
	podSpec + "imagePullSecrets":                   {map[string]any{"name": "registry"}, map[string]any{"name": "other"}},
	podSpec + "tolerations":                        {map[string]any{"key": "b", "operator": "Exists"}},
	podSpec + "volumes":                            {map[string]any{"name": "more", "emptyDir": map[string]any{}}},
	podSpec + "containers/[name=web]/env":          {map[string]any{"name": "D", "value": "4"}, map[string]any{"name": "A", "value": "1"}},
	podSpec + "containers/[name=web]/args":         {"c"},
	podSpec + "containers/[name=web]/ports":        {map[string]any{"containerPort": int64(80), "protocol": "UDP"}, map[string]any{"containerPort": int64(81)}},
	podSpec + "containers/[name=web]/volumeMounts": {map[string]any{"name": "conf", "mountPath": "/more"}},
	"metadata/finalizers":                          {"example.com/a"},
}

const deploymentText = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %s
  labels: {owner: oracle, app: web}
  annotations: {note: ours}
spec:%s
  paused: true
  strategy: {}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {}}
    spec:
      securityContext: {}
      imagePullSecrets: []
      hostNetwork: false
      nodeSelector: {disk: ssd}
      tolerations: [{key: a, operator: Exists}]
      containers:
      - name: web
        image: web:1
        args: [a, b]
        env: [{name: A, value: "1"}, {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: C, value: ""}]
        ports: [{containerPort: 80}, {containerPort: 443, name: https}]
        resources: {requests: {cpu: 0.1, memory: 64Mi}, limits: {memory: 0.5Gi}}
        livenessProbe: {httpGet: {path: /, port: 80}}
        volumeMounts: [{name: tmp, mountPath: /tmp}, {name: conf, mountPath: /conf}]
      - {name: log, image: "log:1", resources: {}}
      volumes: [{name: tmp, emptyDir: {}}, {name: conf, configMap: {name: conf}}]
`

var subjects = map[string]subject{
	"deployment": {
		desired: fmt.Sprintf(deploymentText, "web", "\n  replicas: 0"), typed: appsv1.Deployment{},
		fields: deploymentFields, lists: deploymentLists,
		status: map[string]any{"observedGeneration": int64(1), "unavailableReplicas": int64(2)},
	},
	"deployment, autoscaled": {
		desired: fmt.Sprintf(deploymentText, "scaled", ""), typed: appsv1.Deployment{}, autoscaled: true,
		fields: deploymentFields, lists: deploymentLists,
	},
	"service": {
		desired: `
apiVersion: v1
kind: Service
metadata: {name: web, labels: {owner: oracle}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: https}]
  sessionAffinityConfig: {}
`, typed: corev1.Service{},
		fields: map[string][]any{
			"metadata/labels/owner":                    owners3,
			"metadata/annotations/lb":                  {"x", nil},
			"spec/type":                                {"ClusterIP", "NodePort", nil},
			"spec/selector/app":                        {"web", "x", nil},
			"spec/selector/zone":                       {"a", nil},
			"spec/ports/[name=http]/targetPort":        {int64(8080), "web", nil},
			"spec/ports/[name=http]/appProtocol":       {"http", nil},
			"spec/ports/[name=https]/nodePort":         {int64(30443), nil},
			"spec/ports/[name=https]/port":             {int64(443), int64(444)},
			"spec/sessionAffinity":                     {"ClientIP", "None", nil},
			"spec/publishNotReadyAddresses":            {true, false, nil},
			"spec/externalIPs":                         {[]any{"10.1.2.3"}, nil},
			"spec/internalTrafficPolicy":               {"Local", "Cluster", nil},
			"spec/sessionAffinityConfig/clientIP":      {map[string]any{"timeoutSeconds": int64(5)}, nil},
			"metadata/annotations":                     {map[string]any{}, nil},
			"spec/ports/[name=http]/protocol":          {"TCP", "UDP"},
			"spec/ports/[name=http]/name":              {"http", "web"},
			"spec/loadBalancerClass":                   {nil},
			"spec/allocateLoadBalancerNodePorts":       {nil},
			"spec/healthCheckNodePort":                 {nil},
			"metadata/labels/<&>not.a.label":           {nil},
			"spec/selector":                            {map[string]any{"app": "web"}, map[string]any{"app": "y"}},
			"metadata/annotations/with space <&> \"'":  {nil},
			"metadata/annotations/example.com~1quoted": {"<a href=\"x\">&</a>", nil},
		},
		lists: map[string][]any{
			"spec/ports":          {map[string]any{"name": "admin", "port": int64(9000)}, map[string]any{"name": "dns", "port": int64(80), "protocol": "UDP"}},
			"metadata/finalizers": {"example.com/a", "example.com/b"},
		},
		status: map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "10.9.9.9"}}}},
	},
	"configmap": {
		desired: `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, labels: {owner: oracle}, finalizers: []}
data: {a: "1", b: "", "c.txt": "line\nline\n"}
binaryData: {}
`, typed: corev1.ConfigMap{},
		fields: map[string][]any{
			"metadata/labels/owner": owners3, "metadata/labels/x": {"y", nil}, "data/a": {"1", "2", nil}, "data/b": {"", "b", nil},
			"data/c.txt": {"line\nline\n", "line", nil}, "data/d": {"theirs", nil}, "data": {map[string]any{"a": "1"}, nil},
			"binaryData/e": {"AAAA", nil}, "immutable": {false, nil}, "metadata/annotations/n": {"1", "2", nil},
		},
		lists: map[string][]any{"metadata/finalizers": {"example.com/a", "example.com/b"}},
	},
	"secret": {
		desired: `
apiVersion: v1
kind: Secret
metadata: {name: keys, labels: {owner: oracle}, finalizers: [example.com/ours, example.com/too]}
data: {a: YQ==, b: ""}
`, typed: corev1.Secret{},
		fields: map[string][]any{
			"metadata/labels/owner": owners3, "data/a": {"YQ==", "Yg==", nil}, "data/b": {"", "Yg==", nil}, "data/c": {"Yw==", nil},
			"stringData/a": {"a", "b"}, "metadata/annotations/n": {"1", "2", nil}, "type": {"Opaque", nil},
		},
		lists: map[string][]any{"metadata/finalizers": {"example.com/a", "example.com/ours"}},
	},
	"serviceaccount": {
		desired: `
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, labels: {owner: oracle}}
automountServiceAccountToken: false
imagePullSecrets: [{name: a}, {name: b}]
`, typed: corev1.ServiceAccount{},
		fields: map[string][]any{
			"metadata/labels/owner": owners3, "automountServiceAccountToken": {true, false, nil}, "metadata/annotations/iam": {"role", nil},
			"imagePullSecrets": {[]any{map[string]any{"name": "a"}}, nil},
		},
		lists: map[string][]any{
			"imagePullSecrets": {map[string]any{"name": "c"}, map[string]any{"name": "d"}},
			"secrets":          {map[string]any{"name": "token"}, map[string]any{"name": "token2"}},
		},
	},
	"ingress": {
		desired: `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, labels: {owner: oracle}, annotations: {tls: "true"}}
spec:
  defaultBackend: {service: {name: web, port: {number: 80}}}
  rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`, typed: networkingv1.Ingress{},
		fields: map[string][]any{
			"metadata/labels/owner": owners3, "metadata/annotations/tls": {"true", "false", nil}, "metadata/annotations/issuer": {"x", nil},
			"spec/ingressClassName": {"nginx", nil}, "spec/rules/[host=a.example.com]/host": {"a.example.com", "b.example.com"},
			"spec/defaultBackend/service/name": {"web", "other"}, "spec/defaultBackend/service/port/number": {int64(80), int64(81)},
			"spec/tls": {[]any{map[string]any{"secretName": "x"}}, nil},
		},
		lists: map[string][]any{
			"spec/rules": {map[string]any{"host": "c.example.com"}}, "spec/tls": {map[string]any{"hosts": []any{"a.example.com"}}},
		},
		status: map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "10.9.9.9"}}}},
	},
	"widget": {
		desired: `
apiVersion: oracle.example.com/v1
kind: Widget
metadata: {name: w, labels: {owner: oracle}}
spec:
  replicas: "3"
  names: [a, "b<&>", c]
  numbers: [1, 2, 30000000000]
  flags: [true]
  parts:
  - {name: p, port: 1, value: x, tags: [t], opts: {a: "1"}}
  - {name: "q\"uote", port: 1, empty: {}}
  words: [x, "y"]
  fixed: {a: "1", b: "2"}
  loose: {a: "1"}
  free: {deep: {er: [1, {x: "y"}], num: 1.5}, s: t}
  none: {}
  nothing: []
  partsless: []
  defaulted: {}
  either: 5
  big: 1.0
`,
		fields: map[string][]any{
			"metadata/labels/owner": owners3, "spec/replicas": {"3", "4", nil}, "spec/words": {[]any{"x", "y"}, []any{"y", "x"}, nil},
			"spec/fixed/a": {"1", "2", nil}, "spec/fixed/c": {"3", nil}, "spec/loose/a": {"1", "2", nil}, "spec/loose/b": {"2", nil},
			"spec/free/deep/num": {1.5, 2.5, nil}, "spec/free/deep/er": {[]any{int64(1), map[string]any{"x": "y"}}, []any{int64(2)}},
			"spec/free/more": {map[string]any{"a": int64(1)}, nil}, "spec/free/s": {"t", int64(1), nil}, "spec/none/x": {"1", nil},
			"spec/none": {map[string]any{}, nil}, "spec/nothing": {[]any{}, []any{"n"}}, "spec/defaulted/mode": {"on", "off", nil},
			"spec/defaulted/level": {int64(1), int64(2), nil}, "spec/either": {int64(5), "5", "50%"}, "spec/big": {int64(1), 1.5, nil},
			"spec/parts/[name=p]/value": {"x", "y", nil}, "spec/parts/[name=p]/tags": {[]any{"t"}, []any{"u", "t"}, nil},
			"spec/parts/[name=p]/opts/a": {"1", "2", nil}, "spec/parts/[name=p]/opts/b": {"2", nil},
			"spec/parts/[name=p]/empty/x": {"1", nil}, "spec/free": {map[string]any{"s": "t"}},
			"spec/names": {[]any{"a"}, nil}, "spec/theirs": {"x", "y", nil},
		},
		lists: map[string][]any{
			"spec/names": {"d", "a", "<e>"}, "spec/numbers": {int64(5), int64(7), int64(30000000001)}, "spec/flags": {false}, "spec/words": {"z"},
			"spec/parts": {
				map[string]any{"name": "p", "port": int64(2)}, map[string]any{"name": "r", "port": int64(1), "value": "v"},
			},
			"spec/parts/[name=p]/tags": {"t", "v"}, "spec/nothing": {"n", "m"},
			"spec/partsless": {map[string]any{"name": "n", "value": "v"}, map[string]any{"name": "m"}}, "metadata/finalizers": {"example.com/a"},
		},
		status: map[string]any{"phase": "Ready"},
	},
}

const widgetDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.oracle.example.com}
spec:
  group: oracle.example.com
  names: {kind: Widget, plural: widgets}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          status: {type: object, properties: {phase: {type: string}}}
          spec:
            type: object
            properties:
              replicas: {type: string}
              theirs: {type: string}
              names: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              numbers: {type: array, x-kubernetes-list-type: set, items: {type: integer}}
              flags: {type: array, x-kubernetes-list-type: set, items: {type: boolean}}
              words: {type: array, items: {type: string}}
              nothing: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name, port]
                items: &part
                  type: object
                  required: [name]
                  properties:
                    name: {type: string}
                    port: {type: integer, default: 7}
                    value: {type: string}
                    tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
                    opts: {type: object, additionalProperties: {type: string}}
                    empty: {type: object, additionalProperties: {type: string}}
              partsless:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, value: {type: string}}
              fixed: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: string}}
              loose: {type: object, additionalProperties: {type: string}}
              none: {type: object, additionalProperties: {type: string}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              defaulted:
                type: object
                properties: {mode: {type: string, default: "on"}, level: {type: integer, default: 1}}
              either: {x-kubernetes-int-or-string: true}
              big: {type: number}
`
