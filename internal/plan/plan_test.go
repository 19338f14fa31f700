package plan_test

import (
	"bytes"
	gocmp "cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the expected plans in testdata")

// scenario is one file of testdata: what Git wants, what is there, and below "---- plan" the plan that follows.
type scenario struct {
	App struct {
		Prune      *bool
		AllowEmpty bool
		MaxPrune   *int
		Confirmed  string
		Force      bool
	}
	Desired   []map[string]any
	Applied   []string // objects, as "Kind/namespace/name", that we sent as desired and that are unchanged since
	Edited    []string // … that we sent, and that somebody edited since
	Outdated  []string // … that we sent differently
	Live      []liveObject
	Inventory []string // "namespace_name_group_kind"
	Claims    map[string]string
	Scaled    map[string]string
	Unknown   []string // "Kind.group"
	NotBefore map[string]string
	Refused   map[string]string // objects that the server refused as they are desired here, and until when they are not sent again
	Changed   []string          // … that are desired otherwise than when they were refused
	Immutable []string          // … that the server took for changes to what cannot be changed
	Present   []string          // objects that are there and not ours
	Held      []string          // objects that are to be left alone
	Fleeting  []string          // objects that go by themselves once they have done their work
	Undone    []string          // … and went before that
}

// liveObject is an object in the cluster.
type liveObject struct {
	Object       map[string]any
	Owner        string // app name; "app" is the one planned for
	Deleting     bool
	Replicas     *int64
	OwnsReplicas bool
	Rival        string
	UID          string
	Shared       string
	NotApplied   bool // by us
}

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// asApplied is the hash of the fields of every live object that nobody has edited.
var asApplied = delivery.Hash{1}

func TestCompute(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := bytes.Cut(raw, []byte("---- plan\n"))
			got := format(plan.Compute(input(t, in)))
			if *update {
				if err := os.WriteFile(file, slices.Concat(in, []byte("---- plan\n"+got)), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func input(t *testing.T, raw []byte) plan.Input {
	t.Helper()
	var s scenario
	if err := yaml.UnmarshalStrict(raw, &s); err != nil {
		t.Fatalf("read scenario: %v", err)
	}
	app := delivery.App{ID: appID("app"), Prune: s.App.Prune == nil || *s.App.Prune}
	app.Force = s.App.Force
	app.Guard = delivery.Guard{MaxPrunePercent: 50, AllowEmpty: s.App.AllowEmpty, Confirmed: s.App.Confirmed}
	if s.App.MaxPrune != nil {
		app.Guard.MaxPrunePercent = *s.App.MaxPrune
	}
	in := plan.Input{
		App: app, Revision: delivery.Revision{Name: "main", Commit: "0123456789abcdef0123456789abcdef01234567"}, Now: now,
		Live: map[delivery.Ref]delivery.Live{}, Applied: map[delivery.Ref]delivery.Applied{}, Inventory: delivery.Inventory{},
		Claims: map[delivery.Ref]delivery.ID{}, Scaled: map[delivery.Ref]string{}, Unknown: map[schema.GroupKind]bool{},
		NotBefore: map[delivery.Ref]time.Time{}, Refused: map[delivery.Ref]plan.Refusal{}, Present: map[delivery.Ref]bool{},
		Undone: map[delivery.Ref]bool{},
	}
	refs := map[string]delivery.Ref{}
	for _, m := range s.Desired {
		obj := delivery.Object{Unstructured: &unstructured.Unstructured{Object: canonical(t, m)}}
		obj.Asks = delivery.MarksOf(obj.Unstructured)
		in.Desired = append(in.Desired, obj)
		refs[obj.Ref().String()] = obj.Ref()
	}
	for _, l := range s.Live {
		u := &unstructured.Unstructured{Object: canonical(t, l.Object)}
		rec := delivery.Live{
			Ref: delivery.RefOf(u), Owner: appID(l.Owner), Owned: asApplied, Replicas: -1, OwnsReplicas: l.OwnsReplicas,
			Deleting: l.Deleting, Rival: l.Rival, Fixed: plan.Fixed(u), Shared: l.Shared, Marks: delivery.MarksOf(u),
			UID: gocmp.Or(l.UID, delivery.RefOf(u).String()),
		}
		if l.NotApplied {
			rec.Owned = delivery.Hash{}
		}
		if l.Replicas != nil {
			rec.Replicas = *l.Replicas
		}
		in.Live[rec.Ref] = rec
	}
	for _, obj := range in.Desired {
		name := obj.Ref().String()
		sent := delivery.Applied{Desired: plan.Hash(nil, obj.Unstructured), Owned: asApplied, Replicas: -1, Fleeting: slices.Contains(s.Fleeting, name)}
		if n, ok, _ := unstructured.NestedInt64(obj.Object, "spec", "replicas"); ok {
			sent.Replicas = n
		}
		switch {
		case slices.Contains(s.Edited, name):
			sent.Owned = delivery.Hash{2}
		case slices.Contains(s.Outdated, name):
			sent.Desired = delivery.Hash{3}
		case !slices.Contains(s.Applied, name):
			continue
		}
		in.Applied[obj.Ref()] = sent
	}
	for _, id := range s.Inventory {
		ref, ok := delivery.ParseInventoryID(id)
		if !ok {
			t.Fatalf("bad inventory id %q", id)
		}
		in.Inventory[ref] = "v1"
	}
	for name, owner := range s.Claims {
		in.Claims[refs[name]] = appID(owner)
	}
	for name, scaler := range s.Scaled {
		in.Scaled[refs[name]] = scaler
	}
	for _, gk := range s.Unknown {
		in.Unknown[schema.ParseGroupKind(gk)] = true
	}
	for _, name := range s.Held {
		in.Holds = append(in.Holds, delivery.Hold{Ref: refs[name], Owner: "a person", Reason: "asked for"})
	}
	for _, name := range s.Present {
		in.Present[refs[name]] = true
	}
	for _, name := range s.Undone {
		in.Undone[refs[name]] = true
	}
	for name, at := range s.NotBefore {
		in.NotBefore[refs[name]] = parseTime(t, at)
	}
	for _, obj := range in.Desired {
		name := obj.Ref().String()
		if at, ok := s.Refused[name]; ok {
			r := plan.Refusal{Desired: plan.Hash(nil, obj.Unstructured), Until: parseTime(t, at)}
			r.Immutable = slices.Contains(s.Immutable, name)
			if slices.Contains(s.Changed, name) {
				r.Desired = delivery.Hash{4}
			}
			in.Refused[obj.Ref()] = r
		}
	}
	return in
}

func parseTime(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// canonical gives the types that the API machinery uses: int64 instead of float64.
func canonical(t *testing.T, m map[string]any) map[string]any {
	t.Helper()
	b, err := yaml.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	b, err = yaml.YAMLToJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return u.Object
}

func appID(name string) delivery.ID {
	if name == "" {
		return delivery.ID{}
	}
	return delivery.ID{Kind: "Kustomization", Namespace: "flux-system", Name: name}
}

func format(p delivery.Plan) string {
	var b strings.Builder
	for _, block := range p.Blocks {
		fmt.Fprintf(&b, "BLOCKED %s: %s\n", block.Fault.Reason, block.Fault.Error())
	}
	for _, s := range p.Stages {
		fmt.Fprintf(&b, "%s:\n", s.Name)
		for _, c := range s.Changes {
			fmt.Fprintf(&b, "  %s %s", c.Verb, c.Ref)
			if c.Reason != "" {
				fmt.Fprintf(&b, " (%s)", c.Reason)
			}
			if c.Object != nil {
				if n, ok, _ := unstructured.NestedInt64(c.Object.Object, "spec", "replicas"); ok {
					fmt.Fprintf(&b, " replicas=%d", n)
				}
			}
			b.WriteString("\n")
		}
	}
	for _, ref := range p.Awaits {
		fmt.Fprintf(&b, "awaits the kind of %s\n", ref)
	}
	for _, ref := range p.Inventory.Refs() {
		fmt.Fprintf(&b, "owns %s\n", ref)
	}
	return b.String()
}
