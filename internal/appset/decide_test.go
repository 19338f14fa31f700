package appset_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/appset"
)

// deletePath stands for jq: it knows del(.a.b) alone.
func deletePath(program string, document any) (any, error) {
	path, ok := strings.CutPrefix(program, "del(.")
	if !ok {
		return nil, fmt.Errorf("%s: not known here", program)
	}
	tree := document.(map[string]any)
	keys := strings.Split(strings.TrimSuffix(path, ")"), ".")
	at := tree
	for _, key := range keys[:len(keys)-1] {
		at, _ = at[key].(map[string]any)
	}
	delete(at, keys[len(keys)-1])
	return tree, nil
}

func cases(t *testing.T, dir string, run func(t *testing.T, a *txtar.Archive) string) {
	t.Helper()
	files, err := filepath.Glob("testdata/" + dir + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := run(t, a)
			if *update {
				write(t, name, a, "OUT", got)
				return
			}
			for _, f := range a.Files {
				if f.Name == "OUT" && string(f.Data) != got {
					t.Errorf("got:\n%s\nwant:\n%s", got, f.Data)
				}
			}
		})
	}
}

// TestDecide holds testdata/decide/*.txtar: besides what [archive] says, live.yaml is the Applications that are there.
func TestDecide(t *testing.T) {
	cases(t, "decide", func(t *testing.T, a *txtar.Archive) string {
		c := read(t, a)
		var live []argocdv1.Application
		parse(t, c.file["live.yaml"], &live)
		got, err := appset.Generate(c.set, c.world)
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		plan, err := appset.Decide(c.set, got, live, deletePath)
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		var b strings.Builder
		for _, change := range plan.Changes {
			fmt.Fprintf(&b, "%s %s %s\n", change.Verb, change.Name, change.UID)
			if change.Patch != nil {
				text, err := yaml.Marshal(change.Patch)
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(string(text)) {
					b.WriteString("  " + line)
				}
			}
		}
		if plan.Blocked != nil {
			fmt.Fprintf(&b, "blocked: %v\n", plan.Blocked)
		}
		for _, r := range plan.Refused {
			fmt.Fprintf(&b, "refused: %v\n", r.Err)
		}
		if b.Len() == 0 {
			return "nothing\n"
		}
		return b.String()
	})
}

// TestRoll holds testdata/roll/*.txtar: live.1, live.2, … are the Applications one after the other; each step has the statuses that
// the one before left, and is two minutes later.
func TestRoll(t *testing.T) {
	cases(t, "roll", func(t *testing.T, a *txtar.Archive) string {
		c := read(t, a)
		var b strings.Builder
		for i := 1; c.file[fmt.Sprintf("live.%d", i)] != ""; i++ {
			if text := c.file[fmt.Sprintf("set.%d", i)]; text != "" {
				status := c.set.Status
				c.set = &argocdv1.ApplicationSet{}
				parse(t, text, c.set)
				c.set.Namespace, c.set.Status = "argocd", status
			}
			var live []argocdv1.Application
			parse(t, c.file[fmt.Sprintf("live.%d", i)], &live)
			got, err := appset.Generate(c.set, c.world)
			if err != nil {
				t.Fatal(err)
			}
			at := now.Add(time.Duration(i) * 2 * time.Minute)
			r, err := appset.Roll(c.set, got, live, deletePath, at)
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			fmt.Fprintf(&b, "%d:\n", i)
			for _, s := range r.Statuses {
				moved := ""
				if s.LastTransitionTime.Time.Equal(at) {
					moved = " (now)"
				}
				fmt.Fprintf(&b, "  %s %s step %s %v%s: %s\n", s.Application, s.Status, s.Step, s.TargetRevisions, moved, s.Message)
			}
			for _, app := range r.WithoutAutomation(got).Applications {
				if a := app.App.Spec.SyncPolicy; a != nil && a.Automated != nil && (a.Automated.Enabled == nil || *a.Automated.Enabled) {
					t.Errorf("%s syncs by itself", app.App.Name)
				}
				if op := app.App.Operation; op != nil {
					fmt.Fprintf(&b, "  sync %s: %s%v prune=%v options=%v retry=%d by %s\n", app.App.Name, op.Sync.Revision, op.Sync.Revisions, op.Sync.Prune, op.Sync.SyncOptions, op.Retry.Limit, op.InitiatedBy.Username)
				}
			}
			for _, cond := range r.Conditions {
				fmt.Fprintf(&b, "  %s=%s %s: %s\n", cond.Type, cond.Status, cond.Reason, cond.Message)
			}
			c.set.Status.ApplicationStatus = r.Statuses
			again, err := appset.Roll(c.set, got, live, deletePath, at.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(again.Statuses) != fmt.Sprint(r.Statuses) {
				t.Errorf("%d: asked again nothing having happened:\n%v\nbefore:\n%v", i, again.Statuses, r.Statuses)
			}
		}
		return b.String()
	})
}

func TestNextDeletions(t *testing.T) {
	set := &argocdv1.ApplicationSet{}
	parse(t, `
metadata: {name: s, namespace: argocd}
spec:
  strategy:
    type: RollingSync
    deletionOrder: reverse
    rollingSync:
      steps:
      - matchExpressions: [{key: env, operator: In, values: [dev]}]
      - matchExpressions: [{key: env, operator: In, values: [prod]}]
`, set)
	var live []argocdv1.Application
	parse(t, strings.ReplaceAll(`
- metadata: {name: b, namespace: argocd, labels: {env: prod}, OWNED}
- metadata: {name: a, namespace: argocd, labels: {env: prod}, OWNED}
- metadata: {name: c, namespace: argocd, labels: {env: dev}, OWNED}
- metadata: {name: d, namespace: argocd, labels: {env: none}, OWNED}
- metadata: {name: e, namespace: argocd, labels: {env: prod}}
`, "OWNED", "ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: s, uid: u, controller: true}]"), &live)
	if !appset.Reversed(set) {
		t.Error("its order is not reversed")
	}
	for _, want := range []struct {
		names []string
		left  int
	}{{[]string{"a", "b"}, 3}, {[]string{"c"}, 1}, {nil, 0}} {
		names, left := appset.NextDeletions(set, live)
		if !slices.Equal(names, want.names) || left != want.left {
			t.Errorf("got %v, %d left, want %v", names, left, want)
		}
		live = slices.DeleteFunc(live, func(a argocdv1.Application) bool { return slices.Contains(names, a.Name) })
	}
}
