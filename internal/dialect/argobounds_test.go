package dialect_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// crowd is news of so many objects that an operation has made, with something to say of each.
func crowd(n int, health delivery.HealthStatus) dialect.ArgoNews {
	op := delivery.Operation{Phase: delivery.OperationSucceeded, Revisions: []string{firstCommit}, Started: noon, Finished: noon.Add(time.Minute)}
	news := dialect.ArgoNews{Known: true, Revisions: []string{firstCommit}, Operation: &op, Health: delivery.Health{Status: health}}
	for i := range n {
		ref := delivery.Ref{Group: "apps", Kind: "Deployment", Namespace: "a-team-with-a-long-name", Name: fmt.Sprintf("a-service-with-a-long-name-%05d", i)}
		said := fmt.Sprintf("Deployment %q exceeded its progress deadline: \"%d of %d\" replicas are available", ref.Name, i%3, 3)
		news.Compared = append(news.Compared, delivery.Comparison{
			Ref: ref, Version: "v1", Differs: health == delivery.Missing, Health: delivery.Health{Status: health, Message: said},
		})
		op.Results = append(op.Results, delivery.OperationResult{
			Ref: ref, Version: "v1", Status: argocdv1.ResultSynced, Moment: delivery.DuringSync, Message: "deployment.apps/" + ref.Name + " created",
		})
		news.Conditions = append(news.Conditions, argocdv1.ApplicationCondition{
			Type: argocdv1.ConditionSyncError, Message: ref.String() + ": the project does not allow this: Deployment in the namespace " + ref.Namespace,
		})
		news.Images = append(news.Images, "registry.example.com/"+ref.Name+":1.2.3")
	}
	failed := delivery.Ref{Kind: "ConfigMap", Namespace: "a-team-with-a-long-name", Name: "broken"}
	op.Results = append(op.Results, delivery.OperationResult{
		Ref: failed, Version: "v1", Status: argocdv1.ResultSyncFailed, Moment: delivery.DuringSync, Message: "the server refused it",
	})
	return news
}

// A status can always be stored: etcd takes 1.5 MiB for an object, of which the spec and its copies and the intent need their part.
// What the app owns and what has failed are never left out; the rest is counted.
func TestStatusIsBounded(t *testing.T) {
	for _, c := range []struct {
		objects   int
		health    delivery.HealthStatus
		resources int
		results   string // how many are left out
	}{
		{100, delivery.Progressing, 100, ""},
		{3000, delivery.Progressing, 3000, "1629"},
		{5000, delivery.Progressing, 5000, "4658"},
		{20000, delivery.Missing, 0, "19658"},
	} {
		t.Run(fmt.Sprint(c.objects, c.health), func(t *testing.T) {
			a, news := readApplication(t, guestbook), crowd(c.objects, c.health)
			a.Status = dialect.ArgoStatus(a.Status, a, news, noon)
			b, err := json.Marshal(a.Status)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 1200<<10 {
				t.Errorf("the status has %d bytes", len(b))
			}
			if got := dialect.ArgoInventory(a); len(got) != c.resources {
				t.Errorf("%d objects are owned, not %d", len(got), c.resources)
			}
			left := ""
			for _, i := range a.Status.OperationState.Operation.Info {
				left += i.Value
			}
			results := a.Status.OperationState.SyncResult.Resources
			if left != c.results || results[len(results)-1].Message != "the server refused it" {
				t.Errorf("%q results are left out, not %q; the last: %+v", left, c.results, results[len(results)-1])
			}
			last := a.Status.Conditions[len(a.Status.Conditions)-1]
			if want := fmt.Sprintf("and %d more", c.objects-20); last.Message != want || len(a.Status.Conditions) > 22 {
				t.Errorf("%d conditions, the last: %q, not %q", len(a.Status.Conditions), last.Message, want)
			}
			for _, again := range []*delivery.Operation{news.Operation, nil} {
				news.Operation = again
				if next := dialect.ArgoStatus(a.Status, a, news, noon.Add(time.Hour)); !equality.Semantic.DeepEqual(a.Status, next) {
					t.Error("it is written without a reason")
				}
			}
			news.Conditions = a.Status.Conditions // as those that are remembered come back
			if next := dialect.ArgoStatus(a.Status, a, news, noon.Add(time.Hour)); len(next.Conditions) > len(a.Status.Conditions) ||
				next.Conditions[len(next.Conditions)-1].Message != last.Message {
				t.Errorf("conditions that come back: %q", next.Conditions[len(next.Conditions)-1].Message)
			}
		})
	}
}

// What a status could not list is not begun.
func TestArgoFits(t *testing.T) {
	for n, fits := range map[int]bool{10: true, 3000: true, 20000: false} {
		inv := delivery.Inventory{}
		for i := range n {
			inv[delivery.Ref{Kind: "ConfigMap", Namespace: "dev", Name: fmt.Sprint(strings.Repeat("x", 20), i)}] = "v1"
		}
		if got := dialect.ArgoFits(inv); got != fits {
			t.Errorf("%d objects: %v", n, got)
		}
	}
}
