package operation_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/operation"
	"keelson.dev/keelson/internal/plan"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a cluster in memory with an operation in it. Objects are written "Kind/name", with what is said about them behind.
type world struct {
	desired, hooks []delivery.Object
	inventory      delivery.Inventory
	live           map[delivery.Ref]delivery.Live
	applied        map[delivery.Ref]delivery.Applied
	waves          map[delivery.Ref]int
	policy         delivery.SyncPolicy
	op             delivery.Operation
	ends           map[string]delivery.HealthStatus // how what is in progress ends; Healthy where it is not named, "" never
	refuses        map[string]bool
	log            []string
	now            time.Time
	uids           int
	deadline       time.Duration
}

var app = delivery.ID{Kind: "Application", Namespace: "argocd", Name: "shop"}

// object reads "Kind/name 3 PostSync,SyncFail HookSucceeded PruneLast": wave, moments, deletion policies and marks, in any order.
func object(text string) delivery.Object {
	fields := strings.Fields(text)
	kind, name, _ := strings.Cut(fields[0], "/")
	u := &unstructured.Unstructured{}
	u.SetKind(kind)
	u.SetAPIVersion(map[string]string{"Deployment": "apps/v1", "Job": "batch/v1", "CustomResourceDefinition": "apiextensions.k8s.io/v1"}[kind])
	if u.GetAPIVersion() == "" {
		u.SetAPIVersion("v1")
	}
	if prefix, generated := strings.CutSuffix(name, "*"); generated {
		u.SetGenerateName(prefix)
	} else {
		u.SetName(name)
	}
	if kind != "Namespace" && kind != "CustomResourceDefinition" {
		u.SetNamespace("shop")
	}
	obj := delivery.Object{Unstructured: u}
	hook := func() *delivery.Hook {
		if obj.Hook == nil {
			obj.Hook = &delivery.Hook{}
		}
		return obj.Hook
	}
	marks := map[string]delivery.Marks{"PruneLast": delivery.MarkPruneLast, "Keep": delivery.MarkKeep, "Confirm": delivery.MarkConfirm}
	for _, f := range fields[1:] {
		if n, err := strconv.Atoi(f); err == nil {
			obj.Wave = n
		} else if m, ok := marks[f]; ok {
			obj.Asks |= m
		} else if strings.Contains(f, "Hook") {
			hook().Delete = append(hook().Delete, delivery.HookDeletion(f))
		} else {
			for _, m := range strings.Split(f, ",") {
				hook().Moments = append(hook().Moments, delivery.Moment(m))
			}
		}
	}
	return obj
}

func newWorld(desired, hooks, gone []string) *world {
	w := &world{
		inventory: delivery.Inventory{}, live: map[delivery.Ref]delivery.Live{}, applied: map[delivery.Ref]delivery.Applied{},
		waves: map[delivery.Ref]int{}, ends: map[string]delivery.HealthStatus{}, refuses: map[string]bool{}, now: start,
		policy: delivery.SyncPolicy{Windows: delivery.Window{Automated: true, Manual: true}},
		op: delivery.Operation{
			Phase: delivery.OperationRunning, Started: start, Revisions: []string{"0123456789abcdef"},
			Request: delivery.OperationRequest{Prune: true},
		},
	}
	for _, text := range desired {
		w.desired = append(w.desired, object(text))
	}
	for _, text := range hooks {
		w.hooks = append(w.hooks, object(text))
	}
	for _, text := range gone {
		obj := object(text)
		w.inventory[obj.Ref()], w.waves[obj.Ref()] = "v1", obj.Wave
		w.put(obj, delivery.Healthy)
	}
	return w
}

func (w *world) put(obj delivery.Object, health delivery.HealthStatus) {
	ref := obj.Ref()
	live := w.live[ref]
	if live.UID == "" {
		w.uids++
		live = delivery.Live{Ref: ref, UID: fmt.Sprint(w.uids), Created: w.now}
	}
	live.Version, live.Owner, live.Owned, live.Marks, live.Health = "v1", app, delivery.Hash{1}, obj.Asks, delivery.Health{Status: health}
	live.Replicas, live.Operation = -1, obj.GetAnnotations()[delivery.OperationAnnotation]
	w.live[ref] = live
	w.inventory[ref] = "v1"
}

func short(ref delivery.Ref) string { return ref.Kind + "/" + ref.Name }

func (w *world) next() operation.Step {
	want := delivery.Inventory{}
	p := plan.Compute(plan.Input{
		App:     delivery.App{ID: app, Sync: &w.policy, Prune: true, Guard: delivery.Guard{MaxPrunePercent: 100, AllowEmpty: true}},
		Desired: w.desired, Live: w.live, Applied: w.applied, Inventory: w.inventory.Minus(want), Waves: w.waves, Now: w.now,
	})
	for _, h := range w.hooks { // what is a hook is no object of the plan
		for i := range p.Stages {
			p.Stages[i].Changes = slices.DeleteFunc(p.Stages[i].Changes, func(c delivery.Change) bool {
				return c.Ref == h.Ref() || h.GetGenerateName() != "" && strings.HasPrefix(c.Ref.Name, h.GetGenerateName())
			})
		}
	}
	return operation.Next(operation.View{
		App: app, Operation: w.op, Policy: w.policy, Plan: p, Hooks: w.hooks, Now: w.now,
		Live: func(ref delivery.Ref) (delivery.Live, bool) { l, ok := w.live[ref]; return l, ok },
		Health: func(ref delivery.Ref) delivery.Health {
			if l, ok := w.live[ref]; ok {
				return l.Health
			}
			return delivery.Health{Status: delivery.Missing}
		},
		Deadline: func(ref delivery.Ref) (time.Time, bool) {
			return w.live[ref].Created.Add(w.deadline), w.deadline > 0
		},
	})
}

// act carries out a stage as a server would.
func (w *world) act(stage delivery.Stage) {
	var done []operation.Done
	var told []string
	for _, c := range stage.Changes {
		d := operation.Done{Change: c}
		verb := string(c.Verb)
		if c.DryRun {
			verb = "try " + verb
		}
		told = append(told, verb+" "+short(c.Ref))
		switch {
		case c.DryRun:
		case w.refuses[short(c.Ref)]:
			d.Fault = &delivery.Fault{Reason: "Invalid", Err: errors.New("refused " + short(c.Ref))}
		case c.Verb.Deletes():
			live := w.live[c.Ref]
			live.Deleting = true
			w.live[c.Ref] = live
		default:
			health := delivery.Healthy
			if c.Ref.Kind == "Deployment" || c.Ref.Kind == "Job" {
				health = delivery.Progressing
			}
			w.put(*c.Object, health)
			if c.Moment == "" {
				w.applied[c.Ref] = delivery.Applied{Desired: c.Desired, Owned: delivery.Hash{1}, Replicas: -1}
			}
		}
		done = append(done, d)
	}
	w.log = append(w.log, strings.Join(told, ", "))
	w.op = operation.Record(w.op, done, w.now)
}

// happen lets one thing happen that an operation may wait for; false: nothing can.
func (w *world) happen(after time.Duration) bool {
	for _, ref := range slices.SortedFunc(maps.Keys(w.live), delivery.Ref.Compare) {
		live := w.live[ref]
		if live.Deleting {
			delete(w.live, ref)
			delete(w.inventory, ref)
			return true
		}
		end, named := w.ends[short(ref)]
		if !named {
			end = delivery.Healthy
		}
		if live.Health.Status == delivery.Progressing && end != "" {
			live.Health = delivery.Health{Status: end, Message: "ended " + string(end)}
			w.live[ref] = live
			return true
		}
	}
	w.now = w.now.Add(after)
	return after > 0
}

// run steps an operation to its end, or to where it waits for ever.
func (w *world) run() {
	for range 1000 {
		s := w.next()
		w.op = s.Operation
		switch {
		case s.Over:
			w.log = append(w.log, string(w.op.Phase)+": "+w.op.Message)
			return
		case s.Waiting != "":
			if line := "wait for " + s.Waiting; len(w.log) == 0 || w.log[len(w.log)-1] != line {
				w.log = append(w.log, line)
			}
			if !w.happen(s.After) {
				w.log = append(w.log, "for ever")
				return
			}
		default:
			if len(s.Stage.Changes) == 0 {
				w.log = append(w.log, "NOTHING")
				return
			}
			w.act(s.Stage)
		}
	}
	w.log = append(w.log, "NO END")
}

func TestRun(t *testing.T) {
	const done, nothing = "Succeeded: successfully synced (all tasks run)", "Succeeded: successfully synced (no more tasks)"
	tests := []struct {
		name                 string
		desired, hooks, gone []string
		change               func(w *world)
		want                 []string
	}{
		{
			name:    "plain objects are not waited for",
			desired: []string{"ConfigMap/a", "Deployment/web", "Namespace/shop"},
			want:    []string{"create Namespace/shop", "create ConfigMap/a, create Deployment/web", done},
		},
		{name: "nothing to do", want: []string{nothing}},
		{
			name:    "a wave begins once the one before is healthy",
			desired: []string{"Deployment/web 1", "Deployment/db -1", "ConfigMap/a"},
			want: []string{
				"create Deployment/db", "wait for healthy state of Deployment/shop/db", "create ConfigMap/a", "create Deployment/web", done,
			},
		},
		{
			name:    "a degraded object fails the operation",
			desired: []string{"Deployment/web 1", "Deployment/db"},
			change:  func(w *world) { w.ends["Deployment/db"] = delivery.Degraded },
			want: []string{
				"create Deployment/db", "wait for healthy state of Deployment/shop/db",
				"Failed: one or more synchronization tasks completed unsuccessfully",
			},
		},
		{
			name:    "hooks of all moments",
			desired: []string{"ConfigMap/a"},
			hooks:   []string{"Job/before PreSync", "Job/while Sync", "Job/after PostSync", "Job/broken SyncFail"},
			want: []string{
				"create Job/before", "wait for completion of hook Job/shop/before", "create ConfigMap/a", "create Job/while",
				"wait for completion of hook Job/shop/while", "create Job/after", "wait for completion of hook Job/shop/after", done,
			},
		},
		{
			name:    "hooks in waves, and one of two moments",
			desired: []string{"ConfigMap/a"},
			hooks:   []string{"Job/b PreSync 2", "Job/a PreSync 1", "ConfigMap/h PreSync,PostSync 3"},
			want: []string{
				"create Job/a", "wait for completion of hook Job/shop/a", "create Job/b", "wait for completion of hook Job/shop/b",
				"create ConfigMap/h", "create ConfigMap/a", "replace ConfigMap/h", "wait for deletion of hook ConfigMap/shop/h", "create ConfigMap/h", done,
			},
		},
		{
			name:    "a failed hook runs what is for that, once",
			desired: []string{"ConfigMap/a"},
			hooks:   []string{"Job/migrate PreSync HookFailed", "Job/tell SyncFail HookSucceeded", "Job/never PostSync"},
			change:  func(w *world) { w.ends["Job/migrate"] = delivery.Degraded },
			want: []string{
				"create Job/migrate", "wait for completion of hook Job/shop/migrate", "create Job/tell",
				"wait for completion of hook Job/shop/tell", "delete Job/migrate, delete Job/tell",
				"Failed: one or more synchronization tasks completed unsuccessfully",
			},
		},
		{
			name:    "a refused object fails the operation",
			desired: []string{"ConfigMap/a", "ConfigMap/b", "ConfigMap/c 1"},
			hooks:   []string{"Job/tell SyncFail"},
			change:  func(w *world) { w.refuses["ConfigMap/a"], w.ends["Job/tell"] = true, delivery.Degraded },
			want: []string{
				"create ConfigMap/a, create ConfigMap/b", "create Job/tell", "wait for completion of hook Job/shop/tell",
				"Failed: one or more objects failed to apply, reason: refused ConfigMap/a",
			},
		},
		{
			name:    "a hook of an earlier time is deleted first",
			desired: []string{"ConfigMap/a"},
			hooks:   []string{"Job/migrate PreSync"},
			change:  func(w *world) { w.put(object("Job/migrate"), delivery.Healthy) },
			want: []string{
				"replace Job/migrate", "wait for deletion of hook Job/shop/migrate", "create Job/migrate",
				"wait for completion of hook Job/shop/migrate", "create ConfigMap/a", done,
			},
		},
		{
			name:  "hooks that only say how their name begins",
			hooks: []string{"Job/migrate-* PreSync HookSucceeded"},
			want: []string{
				"create Job/migrate-0123456-presync-1795262400", "wait for completion of hook Job/shop/migrate-0123456-presync-1795262400",
				"delete Job/migrate-0123456-presync-1795262400", done,
			},
		},
		{
			name:    "pruned in the reverse order, after all",
			desired: []string{"ConfigMap/new"}, gone: []string{"ConfigMap/a 1", "Deployment/b 2", "ConfigMap/c 2", "ConfigMap/last 5 PruneLast"},
			want: []string{
				"create ConfigMap/new", "delete Deployment/b, delete ConfigMap/c", "wait for deletion of Deployment/shop/b",
				"wait for deletion of ConfigMap/shop/c", "delete ConfigMap/a", "wait for deletion of ConfigMap/shop/a",
				"delete ConfigMap/last", "wait for deletion of ConfigMap/shop/last", done,
			},
		},
		{
			name:    "what is pruned last waits for health",
			desired: []string{"Deployment/new"}, gone: []string{"Deployment/old"},
			change: func(w *world) { w.op.Request.Options.PruneLast = true },
			want: []string{
				"create Deployment/new", "wait for healthy state of Deployment/shop/new", "delete Deployment/old",
				"wait for deletion of Deployment/shop/old", done,
			},
		},
		{
			name:    "nothing is pruned unless the operation says so",
			desired: []string{"ConfigMap/a"}, gone: []string{"ConfigMap/b"},
			change: func(w *world) { w.op.Request.Prune = false },
			want:   []string{"create ConfigMap/a", done},
		},
		{
			name: "what is to be kept is not pruned",
			gone: []string{"ConfigMap/a Keep", "ConfigMap/c"},
			want: []string{"delete ConfigMap/c", "wait for deletion of ConfigMap/shop/c", done},
		},
		{
			name: "what is to be confirmed is waited for, before anything is done", desired: []string{"ConfigMap/a"},
			gone: []string{"ConfigMap/b Confirm", "ConfigMap/c"},
			want: []string{"wait for pruning confirmation of ConfigMap/shop/b", "for ever"},
		},
		{
			name: "… and deleted once it is confirmed", gone: []string{"ConfigMap/b Confirm"},
			change: func(w *world) { w.policy.Approved = true },
			want:   []string{"delete ConfigMap/b", "wait for deletion of ConfigMap/shop/b", done},
		},
		{
			name: "a hook that was made before a restart goes on", desired: []string{"ConfigMap/a"}, hooks: []string{"Job/migrate PreSync,PostSync"},
			change: func(w *world) {
				w.now = start.Add(time.Minute)
				w.put(object("Job/migrate"), delivery.Progressing)
			},
			want: []string{
				"wait for completion of hook Job/shop/migrate", "create ConfigMap/a", "replace Job/migrate", "wait for deletion of hook Job/shop/migrate",
				"create Job/migrate", "wait for completion of hook Job/shop/migrate", done,
			},
		},
		{
			name:    "some objects only: no hooks",
			desired: []string{"ConfigMap/a", "ConfigMap/b 1"}, hooks: []string{"Job/migrate PreSync"}, gone: []string{"ConfigMap/c"},
			change: func(w *world) { w.op.Request.Only = []delivery.Ref{object("ConfigMap/b").Ref()} },
			want:   []string{"create ConfigMap/b", done},
		},
		{
			name:    "an object of any namespace",
			desired: []string{"ConfigMap/a", "ConfigMap/b 1"},
			change:  func(w *world) { w.op.Request.Only = []delivery.Ref{{Kind: "ConfigMap", Name: "b"}} },
			want:    []string{"create ConfigMap/b", done},
		},
		{
			name:    "no hooks",
			desired: []string{"ConfigMap/a"}, hooks: []string{"Job/migrate PreSync"},
			change: func(w *world) { w.op.Request.NoHooks = true },
			want:   []string{"create ConfigMap/a", done},
		},
		{
			name:    "a dry run",
			desired: []string{"ConfigMap/a", "ConfigMap/b 1"}, hooks: []string{"Job/migrate PreSync"}, gone: []string{"ConfigMap/c"},
			change: func(w *world) { w.op.Request.DryRun = true },
			want: []string{
				"try create Job/migrate, try create ConfigMap/a, try create ConfigMap/b, try delete ConfigMap/c",
				"Succeeded: successfully synced (dry run)",
			},
		},
		{
			name:    "a dry run of some objects",
			desired: []string{"ConfigMap/a", "ConfigMap/b 1"}, hooks: []string{"Job/migrate PreSync"}, gone: []string{"ConfigMap/c", "ConfigMap/d"},
			change: func(w *world) {
				w.op.Request.DryRun = true
				w.op.Request.Only = []delivery.Ref{object("ConfigMap/b").Ref(), object("ConfigMap/c").Ref()}
			},
			want: []string{"try create ConfigMap/b, try delete ConfigMap/c", "Succeeded: successfully synced (dry run)"},
		},
		{
			name:    "a dry run of some objects that prunes nothing",
			desired: []string{"ConfigMap/a", "ConfigMap/b 1"}, gone: []string{"ConfigMap/c"},
			change: func(w *world) {
				w.op.Request.DryRun, w.op.Request.Prune = true, false
				w.op.Request.Only = []delivery.Ref{object("ConfigMap/b").Ref(), object("ConfigMap/c").Ref()}
			},
			want: []string{"try create ConfigMap/b", "Succeeded: successfully synced (dry run)"},
		},
		{
			name: "a hook that never ends hits its deadline", hooks: []string{"Job/migrate PreSync"}, desired: []string{"ConfigMap/a"},
			change: func(w *world) { w.ends["Job/migrate"], w.deadline = "", time.Minute },
			want: []string{
				"create Job/migrate", "wait for completion of hook Job/shop/migrate", "Failed: one or more synchronization tasks completed unsuccessfully",
			},
		},
		{
			name: "a hook that never ends is waited for", hooks: []string{"Job/migrate PreSync"}, desired: []string{"ConfigMap/a"},
			change: func(w *world) { w.ends["Job/migrate"] = "" },
			want:   []string{"create Job/migrate", "wait for completion of hook Job/shop/migrate", "for ever"},
		},
		{
			name:    "a namespace comes before what is in it, whatever its wave",
			desired: []string{"ConfigMap/a -1", "Namespace/shop 3"},
			want:    []string{"create Namespace/shop", "create ConfigMap/a", done},
		},
		{
			name:    "a closed window",
			desired: []string{"ConfigMap/a"},
			change:  func(w *world) { w.policy.Windows = delivery.Window{Automated: true, Why: "deny * * * * *"} },
			want:    []string{"wait for a sync window: deny * * * * *", "for ever"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(tt.desired, tt.hooks, tt.gone)
			if tt.change != nil {
				tt.change(w)
			}
			w.run()
			if diff := cmp.Diff(tt.want, w.log); diff != "" {
				t.Errorf("what happened (-want +got):\n%s", diff)
			}
		})
	}
}

// TestForeignHook: an object of another app is neither deleted nor changed by a hook of its name, whatever the hook says about its deletion.
func TestForeignHook(t *testing.T) {
	const refused = "ConfigMap/shop/precious: the object that is there is owned by Application/argocd/victim: give the hook another name, or delete the object"
	for _, hook := range []string{
		"PreSync", "Sync", "PostSync", "SyncFail", "PreSync BeforeHookCreation", "PreSync HookSucceeded", "PreSync HookFailed", "PreSync HookSucceeded HookFailed",
	} {
		t.Run(hook, func(t *testing.T) {
			w := newWorld([]string{"ConfigMap/a"}, []string{"ConfigMap/precious " + hook}, nil)
			w.put(w.hooks[0], delivery.Healthy)
			ref := w.hooks[0].Ref()
			live := w.live[ref]
			live.Owner, live.Created = delivery.ID{Kind: "Application", Namespace: "argocd", Name: "victim"}, start.Add(time.Second)
			w.live[ref] = live
			delete(w.inventory, ref)
			w.run()
			want := []string{"Failed: one or more synchronization tasks are not valid, reason: " + refused}
			if diff := cmp.Diff(want, w.log); diff != "" {
				t.Errorf("what happened (-want +got):\n%s", diff)
			}
			w.op = delivery.Operation{Phase: delivery.OperationTerminating, Started: start, Results: []delivery.OperationResult{
				{Ref: ref, Moment: delivery.PreSync, Hook: delivery.OperationRunning},
			}}
			w.log = nil
			w.run()
			if diff := cmp.Diff([]string{"Failed: Operation terminated"}, w.log); diff != "" {
				t.Errorf("what happened, terminated (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTerminate: a hook that is under way is deleted, and the operation is not tried again.
func TestTerminate(t *testing.T) {
	w := newWorld([]string{"ConfigMap/a"}, []string{"Job/migrate PreSync", "Job/tell SyncFail"}, nil)
	w.ends["Job/migrate"] = ""
	w.op.Request.Retry.Limit = 5
	w.run()
	w.op.Phase = delivery.OperationTerminating
	w.log = nil
	w.run()
	if diff := cmp.Diff([]string{"delete Job/migrate", "Failed: Operation terminated"}, w.log); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	if !w.op.Next.IsZero() || w.op.Results[0].Hook != delivery.OperationFailed {
		t.Errorf("the operation is left as %+v", w.op)
	}
}

// TestResults: what an operation leaves to say about its objects.
func TestResults(t *testing.T) {
	w := newWorld([]string{"ConfigMap/a", "ConfigMap/b"}, []string{"Job/migrate PreSync"}, []string{"ConfigMap/old", "ConfigMap/kept Keep"})
	b := w.desired[1]
	w.put(b, delivery.Healthy)
	w.applied[b.Ref()] = delivery.Applied{Desired: plan.Hash(nil, b.Unstructured), Owned: delivery.Hash{1}, Replicas: -1}
	w.run()
	var got []string
	for _, r := range w.op.Results {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s: %s %s", r.Moment, short(r.Ref), r.Status, r.Message, r.Hook)))
	}
	want := []string{
		"PreSync Job/migrate Synced: ended Healthy Succeeded", "Sync ConfigMap/b Synced: configmap/b unchanged",
		"Sync ConfigMap/a Synced: configmap/a created", "Sync ConfigMap/kept PruneSkipped: ignored (no prune)", "Sync ConfigMap/old Pruned: pruned",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// TestOrder makes operations of any shape: all end, nothing is made before what it comes after is healthy or done, and nothing twice.
func TestOrder(t *testing.T) {
	moments := []string{"PreSync", "Sync", "PostSync", "SyncFail", "PreSync,PostSync", "PreSync,Sync,PostSync"}
	deletions := []string{"", "BeforeHookCreation", "HookSucceeded", "HookFailed", "HookSucceeded HookFailed", "BeforeHookCreation HookSucceeded"}
	kinds := []string{"ConfigMap", "Deployment", "Job"}
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 6))
		pick := func(from []string) string { return from[r.IntN(len(from))] }
		var desired, hooks, gone []string
		for i := range r.IntN(6) {
			desired = append(desired, fmt.Sprintf("%s/o%d %d", pick(kinds), i, r.IntN(4)-1))
		}
		for i := range r.IntN(4) {
			hooks = append(hooks, fmt.Sprintf("%s/h%d%s %d %s %s", pick(kinds), i, pick([]string{"", "-*"}), r.IntN(3)-1, pick(moments), pick(deletions)))
		}
		for i := range r.IntN(3) {
			gone = append(gone, fmt.Sprintf("%s/g%d %d %s", pick(kinds), i, r.IntN(3), pick([]string{"", "Keep", "PruneLast"})))
		}
		w := newWorld(desired, hooks, gone)
		for _, obj := range slices.Concat(w.desired, w.hooks) {
			if name := short(obj.Ref()); r.IntN(12) == 0 {
				w.ends[name] = delivery.Degraded
			} else if r.IntN(20) == 0 {
				w.refuses[name] = true
			}
			if r.IntN(4) == 0 && obj.GetName() != "" {
				w.put(obj, delivery.Healthy)
				if obj.Hook == nil && r.IntN(2) == 0 {
					w.applied[obj.Ref()] = delivery.Applied{Desired: plan.Hash(nil, obj.Unstructured), Owned: delivery.Hash{1}, Replicas: -1}
				}
			}
		}
		w.op.Request.Prune = r.IntN(3) > 0
		shape := fmt.Sprintf("seed %d: %q %q %q, ends %v, refused %v", seed, desired, hooks, gone, w.ends, w.refuses)
		w.run()
		if !w.op.Phase.Over() {
			t.Fatalf("%s\ndid not end: %q", shape, w.log[:min(len(w.log), 40)])
		}
		if problem := w.disorder(); problem != "" {
			t.Fatalf("%s\n%s: %q", shape, problem, w.log)
		}
		if bad := len(w.ends)+len(w.refuses) > 0; !bad && w.op.Phase != delivery.OperationSucceeded {
			t.Fatalf("%s\nfailed for no reason: %q", shape, w.log)
		}
	}
}

// disorder finds what an operation's log has in a wrong order.
func (w *world) disorder() string {
	type place struct{ moment, wave int }
	orders := map[string][]place{} // of each object, where it belongs
	moment := map[delivery.Moment]int{delivery.PreSync: 0, delivery.DuringSync: 1, delivery.PostSync: 3, delivery.SyncFail: 4}
	for _, obj := range w.desired {
		orders[short(obj.Ref())] = []place{{1, obj.Wave}}
	}
	for _, obj := range w.hooks {
		for m, n := range moment {
			if slices.Contains(obj.Hook.Moments, m) {
				name := short(operation.Named(obj, m, w.op).Ref())
				orders[name] = append(orders[name], place{n, obj.Wave})
			}
		}
	}
	for _, p := range orders {
		slices.SortFunc(p, func(a, b place) int { return a.moment - b.moment })
	}
	made := map[string]int{}
	at := place{-1, -100}
	for _, line := range w.log {
		for _, event := range strings.Split(line, ", ") {
			verb, name, _ := strings.Cut(event, " ")
			if verb != "create" && verb != "update" && verb != "repair" {
				continue
			}
			places := orders[name]
			if made[name] >= len(places) {
				return name + " is made once too often"
			}
			p := places[made[name]]
			if made[name]++; p.moment < at.moment || p.moment == at.moment && p.wave < at.wave {
				return name + " comes too late"
			}
			at = p
		}
	}
	return ""
}

// TestDegradedStaysFailed: an operation that has begun to fail for a degraded object does not turn back once that comes to itself, not
// even if the controller is started anew meanwhile.
func TestDegradedStaysFailed(t *testing.T) {
	w := newWorld([]string{"Deployment/db", "ConfigMap/late 1"}, []string{"Job/undo SyncFail"}, nil)
	for _, health := range []delivery.HealthStatus{delivery.Degraded, delivery.Healthy} {
		s := w.next()
		w.op = s.Operation
		w.act(s.Stage)
		w.put(w.desired[0], health)
	}
	w.run()
	want := []string{
		"create Deployment/db", "create Job/undo", "wait for completion of hook Job/shop/undo",
		"Failed: one or more synchronization tasks completed unsuccessfully",
	}
	if diff := cmp.Diff(want, w.log); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// TestHookMadeOnce: a controller that ends before it has written down which hook it made knows the hook again when it is started anew,
// even one that was made in the second in which the operation began, at each of its moments, and one that is changed instead of made.
func TestHookMadeOnce(t *testing.T) {
	const done = "Succeeded: successfully synced (all tasks run)"
	for name, tt := range map[string]struct {
		hook  string
		there bool // it is there from an earlier operation
		want  []string
	}{
		"made anew": {"Job/migrate PreSync", false, []string{"create Job/migrate", "wait for completion of hook Job/shop/migrate", "create ConfigMap/a", done}},
		"at two moments": {"Job/migrate PreSync,PostSync", false, []string{
			"create Job/migrate", "wait for completion of hook Job/shop/migrate", "create ConfigMap/a", "replace Job/migrate",
			"wait for deletion of hook Job/shop/migrate", "create Job/migrate", "wait for completion of hook Job/shop/migrate", done,
		}},
		"changed": {"Job/migrate PreSync HookSucceeded", true, []string{
			"update Job/migrate", "wait for completion of hook Job/shop/migrate", "create ConfigMap/a", "delete Job/migrate", done,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld([]string{"ConfigMap/a"}, []string{tt.hook}, nil)
			if tt.there {
				w.put(object("Job/migrate"), delivery.Healthy)
			}
			for range 100 {
				s := w.next()
				before := w.op
				w.op = s.Operation
				switch {
				case s.Over:
					w.log = append(w.log, string(w.op.Phase)+": "+w.op.Message)
				case s.Waiting != "":
					if line := "wait for " + s.Waiting; w.log[len(w.log)-1] != line {
						w.log = append(w.log, line)
					}
					w.happen(s.After)
					continue
				default:
					w.act(s.Stage)
					if c := s.Stage.Changes[0]; c.Moment != "" && !c.Verb.Deletes() {
						w.op.Results = before.Results // that it made the hook was not written down
					}
					continue
				}
				break
			}
			if diff := cmp.Diff(tt.want, w.log); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNames(t *testing.T) {
	made := operation.Named(object("Job/app-* PreSync"), delivery.PreSync, delivery.Operation{Revisions: []string{"0123456789abcdef"}, Started: start})
	chart := operation.Named(object("Job/app-* PreSync"), delivery.PostSync, delivery.Operation{Revisions: []string{"1.0-rc"}, Started: start})
	bare := operation.Named(object("Job/app-* PreSync"), delivery.SyncFail, delivery.Operation{Started: start})
	tests := []struct {
		hook, name string
		want       bool
	}{
		{"Job/app-* PreSync", made.GetName(), true},
		{"Job/app-* PostSync", made.GetName(), true},
		{"Job/app-* PreSync", chart.GetName(), true},
		{"Job/app-* PreSync", bare.GetName(), true},
		{"Job/other-* PreSync", made.GetName(), false},
		{"Job/app-* PreSync", "app-config", false},
		{"Job/app-* PreSync", "app-", false},
		{"Job/app-* PreSync", "app-2024", false},
		{"Job/app-* PreSync", "app-presync-", false},
		{"Job/app-* PreSync", "app-a-long-name-of-presync-2024", false},
		{"Job/app PreSync", made.GetName(), false},
	}
	for _, tt := range tests {
		if got := operation.Names(object(tt.hook), tt.name); got != tt.want {
			t.Errorf("%s, %s: %t, want %t", tt.hook, tt.name, got, tt.want)
		}
	}
}
