package plan_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/plan"
)

// TestSync: what is decided otherwise for an app with operations.
func TestSync(t *testing.T) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n"), &u.Object); err != nil {
		t.Fatal(err)
	}
	app := delivery.ID{Kind: "Application", Namespace: "argocd", Name: "shop"}
	ref := delivery.RefOf(u)
	project := &delivery.Limits{Project: "team", Namespaces: []string{"shop"}, AllowAll: true, NamespacedDeny: []delivery.KindRule{{Kind: "ConfigMap"}}}
	in := func(change func(*plan.Input)) plan.Input {
		in := plan.Input{
			App: delivery.App{
				ID: app, Prune: true, Guard: delivery.Guard{MaxPrunePercent: 100, AllowEmpty: true}, Sync: &delivery.SyncPolicy{},
			},
			Desired: []delivery.Object{{Unstructured: u, Wave: 3}},
			Live:    map[delivery.Ref]delivery.Live{ref: {Ref: ref, UID: "1", Owner: app, Owned: delivery.Hash{1}, Replicas: -1}},
		}
		change(&in)
		return in
	}
	gone := func(in *plan.Input) {
		in.Desired, in.Inventory = nil, delivery.Inventory{ref: "v1"}
	}
	marked := func(in *plan.Input, marks delivery.Marks) {
		live := in.Live[ref]
		live.Marks = marks
		in.Live[ref] = live
	}
	tests := []struct {
		name   string
		change func(*plan.Input)
		want   string
	}{
		{"sent", func(*plan.Input) {}, "update wave 3, owns 1"},
		{"not permitted", func(in *plan.Input) { in.App.Limits = project }, "blocked NotPermitted, owns 1"},
		{"a hook that is not permitted", func(in *plan.Input) {
			in.Hooks, in.Desired, in.App.Limits = in.Desired, nil, project
		}, "blocked NotPermitted, owns 0"},
		{"a hook that another app owns", func(in *plan.Input) {
			in.Hooks, in.Desired, in.Claims = in.Desired, nil, map[delivery.Ref]delivery.ID{ref: {Kind: "Application", Namespace: "argocd", Name: "victim"}}
		}, "blocked OwnershipConflict, owns 0"},
		{"replaced as a whole", func(in *plan.Input) { in.App.Sync.Options.Replace = true }, "update wave 3 whole, owns 1"},
		{"… as it asks itself", func(in *plan.Input) { in.Desired[0].Asks = delivery.MarkReplace }, "update wave 3 whole, owns 1"},
		{"… and by force", func(in *plan.Input) { in.Desired[0].Asks = delivery.MarkReplace | delivery.MarkForce }, "replace wave 3, owns 1"},
		{"a new one is made as ever", func(in *plan.Input) { in.Desired[0].Asks, in.Live = delivery.MarkReplace, nil }, "create wave 3, owns 1"},
		{"a kind that is not known", func(in *plan.Input) {
			in.Unknown, in.Live = map[schema.GroupKind]bool{ref.GroupKind(): true}, nil
		}, "blocked KindNotFound, owns 1"},
		{"… but may come", func(in *plan.Input) {
			in.Unknown, in.Live, in.Desired[0].Asks = map[schema.GroupKind]bool{ref.GroupKind(): true}, nil, delivery.MarkKindMayCome
		}, "create wave 3, owns 1"},
		{"left Git", func(in *plan.Input) {
			gone(in)
			in.Waves = map[delivery.Ref]int{ref: 2}
		}, "delete wave 2 foreground, owns 0"},
		{"left Git, and says how what it owns goes", func(in *plan.Input) {
			gone(in)
			in.App.Sync.Options.Propagation = "orphan"
		}, "delete orphan, owns 0"},
		{"left Git, and is to survive that: it is told of", func(in *plan.Input) {
			gone(in)
			marked(in, delivery.MarkKeep)
		}, "delegated foreground, owns 1"},
		{"left Git, where the project does not permit it", func(in *plan.Input) {
			gone(in)
			in.App.Limits = project
		}, "delegated foreground, owns 1"},
		{"the app is deleted", func(in *plan.Input) {
			gone(in)
			marked(in, delivery.MarkKeep)
			in.Removing = true
		}, "delete foreground, owns 0"},
		{"the app is deleted, and this survives that", func(in *plan.Input) {
			gone(in)
			marked(in, delivery.MarkKeepOnDelete)
			in.Removing = true
		}, "delegated foreground, owns 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := plan.Compute(in(tt.change))
			got := ""
			for _, b := range p.Blocks {
				got += "blocked " + b.Fault.Reason
			}
			for _, s := range p.Stages {
				for _, c := range s.Changes {
					got += string(c.Verb)
					if c.Wave != 0 {
						got += fmt.Sprintf(" wave %d", c.Wave)
					}
					if c.Whole {
						got += " whole"
					}
					if c.Propagation != "" {
						got += " " + c.Propagation
					}
				}
			}
			if got += fmt.Sprintf(", owns %d", len(p.Inventory)); got != tt.want {
				t.Errorf("it gives %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNotPermitted: who is told that an object must not be delivered is told what forbids it, and what to change there.
func TestNotPermitted(t *testing.T) {
	everything := []delivery.KindRule{{Group: "*", Kind: "*"}}
	limits := func(cluster *delivery.ClusterLimits, namespaces ...string) *delivery.Limits {
		return &delivery.Limits{Project: "team", Namespaces: namespaces, AllowAll: true, ClusterAllow: everything, Cluster: cluster}
	}
	const inShop, wide = "kind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "kind: Namespace\nmetadata: {name: shop}\n"
	for name, tt := range map[string]struct {
		object    string
		limits    *delivery.Limits
		err, hint string
	}{
		"the project": {
			inShop, limits(nil, "dev"),
			"ConfigMap of v1 is not permitted in project team: project 'team' does not allow namespace 'shop': no entry of spec.destinations matches it in this cluster",
			"take it out of Git, or allow it in the project team",
		},
		"the cluster's namespaces": {
			inShop, limits(&delivery.ClusterLimits{Secret: "far", Namespaces: []string{"dev"}}, "*"),
			"ConfigMap of v1 is not permitted in its cluster: namespaces of the cluster's Secret far does not have 'shop'",
			"take it out of Git, or add 'shop' to namespaces of the cluster's Secret far",
		},
		"what the cluster has in no namespace": {
			wide, limits(&delivery.ClusterLimits{Secret: "far", Namespaces: []string{"shop"}}, "*"),
			"Namespace of v1 is not permitted in its cluster: the cluster's Secret far limits it to namespaces, and does not have clusterResources: \"true\"",
			"take it out of Git, or set clusterResources: \"true\" in the cluster's Secret far",
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("apiVersion: v1\n"+tt.object), &u.Object); err != nil {
				t.Fatal(err)
			}
			p := plan.Compute(plan.Input{
				App:     delivery.App{ID: delivery.ID{Kind: "Application", Name: "shop"}, Limits: tt.limits, Sync: &delivery.SyncPolicy{}},
				Desired: []delivery.Object{{Unstructured: u}},
			})
			if len(p.Blocks) != 1 {
				t.Fatalf("blocked by %v", p.Blocks)
			}
			if f := p.Blocks[0].Fault; f.Err.Error() != tt.err || f.Hint != tt.hint {
				t.Errorf("%s\n(%s)\nwant\n%s\n(%s)", f.Err, f.Hint, tt.err, tt.hint)
			}
		})
	}
}

// TestFieldsOf: managedFields are read as pointers into the object.
func TestFieldsOf(t *testing.T) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(`apiVersion: apps/v1
kind: Deployment
metadata: {name: a, labels: {x/y: z, own: "1"}, finalizers: [f, g]}
spec: {replicas: 2, template: {spec: {containers: [{name: a, image: i}, {name: b, image: j}]}}}
`), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetManagedFields([]metav1.ManagedFieldsEntry{
		{Manager: "hpa", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:spec": {"f:replicas": {}, "f:gone": {}}}`)},
		{Manager: "injector", Operation: "Apply", FieldsV1: metav1.NewFieldsV1(`{"f:metadata": {"f:labels": {"f:x/y": {}}, "f:finalizers": {"v:\"g\"": {}}},
			"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}}`)},
		{Manager: "other", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:metadata": {"f:labels": {"f:own": {}}}}`)},
	})
	got, err := plan.FieldsOf(u, []string{"hpa", "injector"})
	if err != nil {
		t.Fatal(err)
	}
	want := []delivery.Pointer{
		{"spec", "replicas"}, {"metadata", "finalizers", "1"}, {"metadata", "labels", "x/y"},
		{"spec", "template", "spec", "containers", "1", "image"}, {"spec", "template", "spec", "containers", "1", "name"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}
