package live

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
)

// scripted answers for scripts: an object is as healthy as its data.v says. A script named "slow" waits until it is let go; one
// named "loops" is stopped as long as stops is above zero.
type scripted struct {
	ns   string // of the test: others leave objects behind
	free chan struct{}

	mu    sync.Mutex
	asked []string // "script object: value"
	stops int
}

func (s *scripted) rules(script string) *health.Rules {
	return health.NewArgo([]delivery.HealthScript{{Kinds: "ConfigMap", Lua: script}}, s.eval)
}

func (s *scripted) eval(script delivery.HealthScript, u *unstructured.Unstructured) delivery.HealthVerdict {
	if u.GetNamespace() != s.ns {
		return delivery.HealthVerdict{}
	}
	v, _, _ := unstructured.NestedString(u.Object, "data", "v")
	if script.Lua == "slow" {
		<-s.free
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s: %s", script.Lua, u.GetName(), v))
	if script.Lua == "loops" && s.stops > 0 {
		s.stops--
		return delivery.HealthVerdict{Health: delivery.Health{Status: delivery.UnknownHealth, Message: "stopped"}, Again: 20 * time.Millisecond}
	}
	status := map[string]delivery.HealthStatus{"up": delivery.Healthy, "down": delivery.Degraded}[v]
	return delivery.HealthVerdict{Health: delivery.Health{Status: status, Message: "by " + script.Lua}}
}

func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// is waits until an object of a kind is doing as wanted, "Status message".
func (w *world) is(kind, name, want string) {
	w.Helper()
	w.eventually(name, func() error {
		rec, ok := w.live.Get(delivery.Ref{Kind: kind, Namespace: w.ns, Name: name})
		if got := string(rec.Health.Status) + " " + rec.Health.Message; !ok || got != want {
			return fmt.Errorf("health is %q, want %q", got, want)
		}
		return nil
	})
}

func (w *world) patch(name, patch string) *unstructured.Unstructured {
	w.Helper()
	out, err := w.resource(configMaps, w.ns).Patch(w.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must(err)
	return out
}

// TestScripts has objects judged by a script through their lives, by one call for all apps of a kind.
func TestScripts(t *testing.T) {
	w := newWorld(t, Options{})
	a, s := testApp("a"), &scripted{ns: w.ns}
	serviceAccounts := schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	w.live.JudgeKind("App", s.rules("one"))
	w.ensure(a, configMaps, serviceAccounts)
	one, _ := w.ours(a, `{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {v: down}}`)
	w.ours(a, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: two}}`)
	w.is("ConfigMap", "one", "Degraded by one")
	w.is("ServiceAccount", "two", " ") // it has no health
	told := w.notifications(a)
	w.patch("one", `{"data": {"v": "up"}}`)
	w.is("ConfigMap", "one", "Healthy ") // what is said of a healthy object is not kept
	w.eventually("a notification", func() error {
		if w.notifications(a) == told {
			return errors.New("not told")
		}
		return nil
	})

	// Rules that are the same change nothing; others ask about what is known already.
	before := s.count()
	w.live.JudgeKind("App", s.rules("one"))
	if synced, err := w.live.Ensure(a, map[schema.GroupVersionKind]bool{configMaps: true, serviceAccounts: true}); !synced || err != nil {
		t.Errorf("the same rules have objects read once more (%v, %v)", synced, err)
	}
	w.patch("one", `{"data": {"v": "down"}}`)
	w.is("ConfigMap", "one", "Degraded by one")
	if got := s.count() - before; got != 1 {
		t.Errorf("asked %d times about one event: %q", got, s.asked)
	}
	w.live.JudgeKind("App", s.rules("other"))
	w.ensure(a, configMaps, serviceAccounts)
	if rec, _ := w.live.Get(delivery.RefOf(one)); rec.Health.Message != "by other" {
		t.Errorf("everything is known, and health is %+v", rec.Health)
	}
	w.live.JudgeKind("App", nil)
	w.ensure(a, configMaps, serviceAccounts)
	w.is("ConfigMap", "one", "Healthy ")

	// An app's own rules come before those of its kind.
	w.live.JudgeKind("App", s.rules("one"))
	w.live.Judge(a, s.rules("own"))
	w.ensure(a, configMaps, serviceAccounts)
	w.is("ConfigMap", "one", "Degraded by own")
	w.live.Judge(a, nil)
	w.ensure(a, configMaps, serviceAccounts)
	w.is("ConfigMap", "one", "Degraded by one")
}

// TestScriptsAreSlow: a script that does not answer holds up no watch, and what it said last counts meanwhile.
func TestScriptsAreSlow(t *testing.T) {
	w := newWorld(t, Options{})
	a, s := testApp("a"), &scripted{ns: w.ns, free: make(chan struct{}, 100)}
	letGo := sync.OnceFunc(func() { close(s.free) })
	t.Cleanup(letGo)
	w.live.JudgeKind("App", s.rules("slow"))
	kinds := map[schema.GroupVersionKind]bool{configMaps: true}
	w.ensure(a, configMaps)
	sent, left := w.ours(a, `{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {v: up}}`)
	if synced, err := w.live.Ensure(a, kinds); synced || err != nil {
		t.Errorf("everything is known (%v, %v) before the script has answered", synced, err)
	}
	s.free <- struct{}{}
	w.ensure(a, configMaps)
	w.is("ConfigMap", "one", "Healthy ")

	// An event that changes nothing of ours: all is known as before.
	changed := w.patch("one", `{"metadata": {"annotations": {"x": "y"}}}`)
	w.seen(changed)
	w.is("ConfigMap", "one", "Healthy ")
	if synced, err := w.live.Ensure(a, kinds); !synced || err != nil {
		t.Errorf("nothing is known any more (%v, %v)", synced, err)
	}
	// One that changes a field of ours: how it is doing is not known, but that it drifted is.
	drifted := w.patch("one", `{"data": {"v": "down"}}`)
	w.seen(drifted)
	if rec, _ := w.live.Get(delivery.RefOf(sent)); rec.Owned == left.Owned || rec.Health.Status != delivery.Progressing {
		t.Errorf("of the drifted object %+v is known", rec)
	}
	letGo()
	w.is("ConfigMap", "one", "Degraded by slow")
	w.ensure(a, configMaps)

	// What goes while a script is asked stays away.
	w.must(w.of(sent).Delete(w.ctx, "one", metav1.DeleteOptions{}))
	w.gone(delivery.RefOf(sent))
	w.live.mu.RLock()
	defer w.live.mu.RUnlock()
	if sc := w.live.scripts; len(sc.unknown) > 0 || len(sc.asked) > 0 || len(sc.paused) > 0 {
		t.Errorf("%+v are left", sc)
	}
}

// TestScriptsAreAskedAgain: a script that was stopped is asked again without any event.
func TestScriptsAreAskedAgain(t *testing.T) {
	w := newWorld(t, Options{})
	a, s := testApp("a"), &scripted{ns: w.ns, stops: 6}
	w.live.JudgeKind("App", s.rules("loops"))
	w.ensure(a, configMaps)
	for i := range 5 {
		w.ours(a, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: n%d}, data: {v: up}}`, i))
	}
	for i := range 5 {
		w.is("ConfigMap", fmt.Sprint("n", i), "Healthy ")
	}
	w.ensure(a, configMaps)
	w.live.mu.RLock()
	paused := len(w.live.scripts.paused)
	w.live.mu.RUnlock()
	if paused > 0 || s.count() > 5+6 {
		t.Errorf("%d are paused, asked %d times: %q", paused, s.count(), s.asked)
	}
}

// TestScriptsAtTheStart lists more objects than wait in memory.
func TestScriptsAtTheStart(t *testing.T) {
	w := newWorld(t, Options{})
	a, s := testApp("a"), &scripted{ns: w.ns}
	held := 40
	for i := range held {
		w.create("v1", "ConfigMap", w.ns, fmt.Sprintf(`{"metadata": {"name": "n%02d", "labels": {"owner": "a"}}, "data": {"v": "down"}}`, i))
	}
	w.live.scripts.held = 5
	w.live.JudgeKind("App", s.rules("one"))
	w.ensure(a, configMaps)
	for i := range held {
		ref := delivery.Ref{Kind: "ConfigMap", Namespace: w.ns, Name: fmt.Sprintf("n%02d", i)}
		if rec, ok := w.live.Get(ref); !ok || rec.Health.Message != "by one" {
			t.Errorf("once everything is known %s is %+v", ref, rec.Health)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if asked := slices.Compact(slices.Sorted(slices.Values(s.asked))); len(asked) != held || len(s.asked) != held {
		t.Errorf("asked %d times about %d objects", len(s.asked), len(asked))
	}
}
