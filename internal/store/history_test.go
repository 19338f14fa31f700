package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/history"
)

var shop = history.App{Kind: "Kustomization", Namespace: "flux-system", Name: "shop"}

func delivered(key, sha string, change func(*history.Delivery)) history.Delivery {
	d := history.Delivery{
		Key: key, App: shop, Revision: "main@sha1:" + sha, Trigger: history.ByCommit, Status: history.Running, Began: day,
		Commit: history.Commit{SHA: sha, Title: "Change " + sha, Author: "Ann", Email: "ann@example.com", Authored: day.Add(-time.Hour), MergeRequest: "group/shop!7", Approvers: []string{"Bob"}},
	}
	if change != nil {
		change(&d)
	}
	return d
}

func changed(kind, name string, fields ...history.Field) history.Change {
	return history.Change{Object: history.Object{Group: "apps", Kind: kind, Namespace: "dev", Name: name}, Verb: "update", Fields: fields}
}

func TestDeliveries(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	image := history.Field{Path: "spec.template.spec.containers[name=web].image", Before: "web:1", After: "web:2"}
	seq := db.Seq()
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k1", "aaa", nil)}))
	done := delivered("k1", "aaa", func(d *history.Delivery) {
		d.Status, d.Applied, d.Finished, d.Health, d.Healthy = history.Succeeded, day.Add(time.Second), day.Add(2*time.Second), "Healthy", day.Add(2*time.Second)
		d.Changes = []history.Change{changed("Deployment", "web", image)}
	})
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{done}))
	want := done
	want.ID, want.Key, want.Objects = 1, "", 1
	diff(t, "the delivery", must(db.Delivery(ctx, 1))(t), want)

	var told []string
	for _, c := range must(db.Changes(ctx, seq))(t) {
		told = append(told, fmt.Sprintf("%s %d %s", c.Kind, c.ID, c.Status))
	}
	diff(t, "feed", told, []string{"delivery 1 running", "delivery 1 succeeded"})

	_, err := db.Delivery(ctx, 2)
	refused(t, err, ErrNotFound, "delivery 2")
	refused(t, db.KeepDeliveries(ctx, []history.Delivery{{Key: "x", App: shop}}), nil, "status")
}

// What commits say is known from what was delivered of them.
func TestCommits(t *testing.T) {
	db := newDB(t)
	untitled := delivered("k0", "aaa", func(d *history.Delivery) { d.Title, d.Author = "", "" })
	ok(t, db.KeepDeliveries(t.Context(), []history.Delivery{delivered("k1", "aaa", nil), untitled, delivered("k2", "bbb", nil), delivered("k3", "ccc", nil)}))
	diff(t, "commits", must(db.Commits(t.Context(), []string{"aaa", "ccc", "ddd"}))(t), map[string]history.Commit{
		"aaa": {SHA: "aaa", Title: "Change aaa", Author: "Ann"}, "ccc": {SHA: "ccc", Title: "Change ccc", Author: "Ann"},
	})
	diff(t, "none", must(db.Commits(t.Context(), nil))(t), map[string]history.Commit{})
}

// What is done to an object more than once is all kept: as it was before the first time, and after the last one.
func TestChangesOfOneObjectAreMerged(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	field := func(path, before, after string) history.Field {
		return history.Field{Path: path, Before: before, After: after}
	}
	made := changed("ConfigMap", "new")
	made.Verb = "create"
	for _, changes := range [][]history.Change{
		{changed("Deployment", "web", field("image", "1", "2"), field("env", "a", "b")), made},
		{changed("Deployment", "web", field("image", "2", "3"), field("replicas", "1", "2")), changed("ConfigMap", "new", field("x", "1", "2"))},
		{changed("Deployment", "web")},
	} {
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k", "aaa", func(d *history.Delivery) { d.Changes = changes })}))
	}
	made.Fields = []history.Field{field("x", "1", "2")}
	diff(t, "changes", must(db.Delivery(ctx, 1))(t).Changes,
		[]history.Change{changed("Deployment", "web", field("image", "1", "3"), field("env", "a", "b"), field("replicas", "1", "2")), made})

	large := strings.Repeat("x", changesBytes-1000) // of all that may be kept
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k", "aaa", func(d *history.Delivery) {
		d.Changes = []history.Change{changed("ConfigMap", "large", field("a", "", large)), changed("Deployment", "web", field("more", "", large))}
	})}))
	var many []history.Field
	for i := range 2 * history.MaxFields {
		many = append(many, field(fmt.Sprint("f", i), "", ""))
	}
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k2", "bbb", func(d *history.Delivery) {
		d.Changes = []history.Change{changed("ConfigMap", "many", many[:30]...), changed("ConfigMap", "many", many...)}
	})}))
	got := must(db.Delivery(ctx, 1))(t).Changes
	if len(got) != 3 || len(got[0].Fields) != 3 || got[0].More != 1 || len(got[2].Fields) != 1 {
		t.Errorf("%d changes, the first one has %d fields and %d more", len(got), len(got[0].Fields), got[0].More)
	}
	if c := must(db.Delivery(ctx, 2))(t).Changes[0]; len(c.Fields) != history.MaxFields || c.More != history.MaxFields {
		t.Errorf("%d fields and %d more", len(c.Fields), c.More)
	}
}

// What is running when its app goes elsewhere has ended; what is begun again after a restart goes on.
func TestDeliveriesAreSuperseded(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	one := delivered("k1", "aaa", func(d *history.Delivery) { d.Changes = []history.Change{changed("Deployment", "web")} })
	again := delivered("k2", "aaa", func(d *history.Delivery) { d.Changes = []history.Change{changed("Deployment", "api")} })
	other := delivered("k3", "bbb", nil)
	for _, d := range []history.Delivery{one, again, other} {
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{d}))
	}
	var got []string
	for _, d := range must(db.Deliveries(ctx, DeliveryFilter{}))(t) {
		got = append(got, fmt.Sprintf("%d %s %s %d", d.ID, d.SHA, d.Status, len(d.Changes)))
	}
	diff(t, "deliveries", got, []string{"2 bbb running 0", "1 aaa superseded 2"})
}

// Who a delivery is by may be told after that it was made; it stays the first one who is told.
func TestWhoDeliveredIsToldLater(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for i, actor := range []string{"", "ann", "", "bob"} {
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k1", "aaa", func(d *history.Delivery) { d.Actor, d.Status = actor, history.Succeeded })}))
		if got, want := must(db.Delivery(ctx, 1))(t).Actor, []string{"", "ann", "ann", "ann"}[i]; got != want {
			t.Errorf("%d: told %q, it is by %q, want %q", i, actor, got, want)
		}
	}
}

// What is found to be over stays as it was told when it was.
func TestFoundDeliveriesStay(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for i, message := range []string{"found", "found again", "told"} {
		d := delivered("k1", "aaa", func(d *history.Delivery) {
			d.Status, d.Message, d.Found, d.Finished = history.Succeeded, message, message != "told", day.Add(time.Duration(i)*time.Hour)
			if d.Applied = d.Finished; i == 0 {
				d.Health, d.Healthy = "Healthy", d.Finished
			}
		})
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{d}))
		got := must(db.Delivery(ctx, 1))(t)
		want := []string{"found day+0 Healthy", "found day+0 Healthy", "told day+2 "}[i]
		if got := fmt.Sprintf("%s day+%d %s", got.Message, int(got.Finished.Sub(day).Hours()), got.Health); got != want {
			t.Errorf("%d: it is %q, want %q", i, got, want)
		}
	}
}

// What has failed is not another delivery after each restart; what somebody else begins is, and what begins anew after it.
func TestFailedDeliveriesGoOnAfterARestart(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string // statuses
		change        func(*history.Delivery)
		want          []string
	}{
		"still fails":    {history.Failed, history.Failed, nil, []string{"1 failed"}},
		"is tried again": {history.Failed, history.Running, nil, []string{"1 running"}},
		"has failed":     {history.Running, history.Failed, nil, []string{"1 failed"}},
		"is mended":      {history.Running, history.Succeeded, nil, []string{"1 succeeded"}},
		"was delivered":  {history.Succeeded, history.Failed, nil, []string{"2 failed", "1 succeeded"}},
		"no restart":     {history.Failed, history.Running, func(d *history.Delivery) { d.Resumes = false }, []string{"2 running", "1 failed"}},
		"deleted":        {history.Running, history.Succeeded, func(d *history.Delivery) { d.Resumes = false }, []string{"2 succeeded", "1 superseded"}},
		"a person":       {history.Failed, history.Running, func(d *history.Delivery) { d.Actor = "jane" }, []string{"2 running", "1 failed"}},
		"a sync":         {history.Failed, history.Running, func(d *history.Delivery) { d.Trigger = history.BySync }, []string{"2 running", "1 failed"}},
		"elsewhere":      {history.Failed, history.Failed, func(d *history.Delivery) { d.Revision = "main@sha1:bbb" }, []string{"2 failed", "1 failed"}},
		"another app":    {history.Failed, history.Failed, func(d *history.Delivery) { d.App.Name = "blog" }, []string{"2 failed", "1 failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			ctx := t.Context()
			ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k1", "aaa", func(d *history.Delivery) { d.Status = test.before })}))
			again := delivered("k2", "aaa", func(d *history.Delivery) { d.Status, d.Resumes = test.after, true })
			if test.change != nil {
				test.change(&again)
			}
			for range 2 {
				ok(t, db.KeepDeliveries(ctx, []history.Delivery{again}))
			}
			var got []string
			for _, d := range must(db.Deliveries(ctx, DeliveryFilter{}))(t) {
				got = append(got, fmt.Sprint(d.ID, " ", d.Status))
			}
			diff(t, "deliveries", got, test.want)
		})
	}
}

func TestDeliveriesAreFiltered(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "group/shop", func(p *Pipeline) { p.SHA = "s3" })
	j := newJob(t, db, p, "deploy", "success")
	s := must(db.Saved(ctx, p.ID))(t)
	j.Player, j.Started = "carol", day
	must(db.Advance(ctx, p.ID, s.End, Step{Jobs: []Job{j}}))(t)
	for i := range 6 {
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered(fmt.Sprint("k", i), fmt.Sprint("s", i), func(d *history.Delivery) {
			d.Status, d.Began, d.Author = history.Succeeded, day.Add(time.Duration(i)*time.Hour), []string{"Ann", "Bob 100%"}[i%2]
			d.App.Name = []string{"shop", "db", "blog"}[i%3]
			d.Environment = []string{"", "prod"}[i/3]
			d.Changes = []history.Change{changed("Deployment", d.App.Name)}
		})}))
	}
	for name, test := range map[string]struct {
		filter DeliveryFilter
		want   string
	}{
		"all":           {DeliveryFilter{}, "6 5 4 3 2 1"},
		"a page":        {DeliveryFilter{Limit: 2}, "6 5"},
		"the next page": {DeliveryFilter{Limit: 2, Before: 5}, "4 3"},
		"app":           {DeliveryFilter{App: "Kustomization/flux-system/db"}, "5 2"},
		"author":        {DeliveryFilter{Author: "Ann"}, "5 3 1"},
		"environment":   {DeliveryFilter{Environment: "prod"}, "6 5 4"},
		"object":        {DeliveryFilter{Kinds: []string{"deployment"}, Namespace: "dev", Name: "blog"}, "6 3"},
		"no object":     {DeliveryFilter{Kinds: []string{"ingress"}, Name: "blog"}, ""},
		"time":          {DeliveryFilter{From: day.Add(time.Hour), To: day.Add(2 * time.Hour)}, "3 2"},
		"words":         {DeliveryFilter{Query: "BOB change"}, "6 4 2"},
		"no wildcards":  {DeliveryFilter{Query: "100%"}, "6 4 2"},
		"no SQL":        {DeliveryFilter{Query: "' OR 1=1"}, ""},
		"sha":           {DeliveryFilter{SHA: "s2"}, "3"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range must(db.Deliveries(ctx, test.filter))(t) {
				got = append(got, fmt.Sprint(d.ID))
			}
			diff(t, "ids", strings.Join(got, " "), test.want)
		})
	}
	diff(t, "pipeline", must(db.Delivery(ctx, 4))(t).Pipeline, p.ID)
	diff(t, "plays", must(db.Plays(ctx, "s3"))(t), []history.Approval{{By: "carol", How: "played deploy", At: day, Pipeline: p.ID, Job: j.ID}})

	var seen []int64
	ok(t, db.ChangesOf(ctx, ObjectFilter{Kinds: []string{"deployment"}, Name: "blog", At: day.Add(3 * time.Hour)}, func(c ObjectChange) bool {
		seen = append(seen, c.Delivery)
		return false
	}))
	diff(t, "changes of blog by then", seen, []int64{3})

	gone := must(db.RetainHistory(ctx, HistoryRetention{Keep: 3}))(t)
	var left []int64
	for _, d := range must(db.Deliveries(ctx, DeliveryFilter{}))(t) {
		left = append(left, d.ID)
	}
	diff(t, "kept", left, []int64{6, 5, 4})
	diff(t, "gone", gone, int64(3))
}

// The last delivery of an app stays, however old it is; so does what is under way.
func TestHistoryKeepsTheLast(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for i, name := range []string{"old", "old", "busy", "busy"} {
		ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered(fmt.Sprint(i), fmt.Sprint(i), func(d *history.Delivery) {
			d.App.Name, d.Began, d.Status = name, day.Add(-1000*time.Hour), history.Succeeded
		})}))
	}
	must(db.RetainHistory(ctx, HistoryRetention{Since: day}))(t)
	var left []int64
	for _, d := range must(db.Deliveries(ctx, DeliveryFilter{}))(t) {
		left = append(left, d.ID)
	}
	diff(t, "kept", left, []int64{4, 2})
}

func TestRepairs(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	repair := func(name, manager, value string, at time.Duration) history.Repair {
		return history.Repair{
			App: shop, SHA: "aaa", Object: history.Object{Group: "apps", Kind: "Deployment", Namespace: "dev", Name: name}, Manager: manager, Reason: "edited",
			Fields: []history.Field{{Path: "spec.replicas", Before: value, After: "2"}}, Found: day.Add(at), Repaired: day.Add(at + time.Second), Times: 1,
		}
	}
	for _, r := range []history.Repair{
		repair("web", "kubectl-edit", "5", 0), repair("web", "kubectl-edit", "6", time.Minute), repair("web", "helm", "5", 2*time.Minute),
		repair("api", "kubectl-edit", "5", 3*time.Minute), repair("web", "kubectl-edit", "7", 3*time.Hour),
	} {
		ok(t, db.KeepRepairs(ctx, []history.Repair{r}))
	}
	list := func(f RepairFilter) (out []string) {
		for _, r := range must(db.Repairs(ctx, f))(t) {
			out = append(out, fmt.Sprintf("%d %s %s was %s ×%d", r.ID, r.Name, r.Manager, r.Fields[0].Before, r.Times))
		}
		return out
	}
	diff(t, "repairs", list(RepairFilter{}), []string{"4 web kubectl-edit was 7 ×1", "3 api kubectl-edit was 5 ×1", "2 web helm was 5 ×1", "1 web kubectl-edit was 6 ×2"})
	diff(t, "of an object", list(RepairFilter{Kinds: []string{"deployment"}, Name: "web", Before: 4}), []string{"2 web helm was 5 ×1", "1 web kubectl-edit was 6 ×2"})
	diff(t, "of a manager", list(RepairFilter{Manager: "helm", App: shop.String()}), []string{"2 web helm was 5 ×1"})
}

// What jobs have written past every app, and which commits they have pushed.
func TestWrittenByJobs(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	p := newPipeline(t, db, "group/shop", nil)
	j := newJob(t, db, p, "deploy", "running")
	_, d, err := db.BeginDeployment(ctx, Environment{Project: p.Project, Name: "production", Slug: "production"}, Deployment{Pipeline: p.ID, Job: j.ID, Ref: "main", SHA: "c0ffee", User: "dave", Started: day})
	ok(t, err)
	must(db.ReportDeployment(ctx, d.ID, Report{Wrote: []byte(
		`{"objects":[{"verb":"patch","kind":"Deployment","resource":"deployments","version":"v1","namespace":"dev","name":"web"}],"commits":[{"repository":"shop","ref":"refs/heads/main","sha":"beef"}]}`)}))(t)
	want := history.JobWrite{Job: j.ID, Pipeline: p.ID, Environment: "production", SHA: "c0ffee", User: "dave", Status: "running", At: day}
	diff(t, "who pushed", must(db.PushedBy(ctx, "beef"))(t), &want)
	diff(t, "who pushed another", must(db.PushedBy(ctx, "bee"))(t), (*history.JobWrite)(nil))
	want.Verb = "patch"
	diff(t, "who wrote", must(db.WrittenBy(ctx, ObjectFilter{Kinds: []string{"deployment"}, Name: "web"}))(t), []history.JobWrite{want})
	for _, f := range []ObjectFilter{
		{Kinds: []string{"service"}, Name: "web"}, {Kinds: []string{"deployment"}, Name: "we"}, {Kinds: []string{"deployment"}, Name: "web", Namespace: "prod"}, {Kinds: []string{"deployment"}, Name: "%"},
	} {
		diff(t, fmt.Sprintf("who wrote %v", f), must(db.WrittenBy(ctx, f))(t), []history.JobWrite(nil))
	}
}

// What is too large is cut or left out, and the rest is kept.
func TestLargeDeliveries(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	var changes []history.Change
	for i := range changesKept + 10 {
		changes = append(changes, changed("ConfigMap", fmt.Sprint("c", i), history.Field{Path: "data.x", Before: strings.Repeat("\x00ä", 200), After: "<script>"}))
	}
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k", "aaa", func(d *history.Delivery) {
		d.Changes, d.Title = changes, strings.Repeat("x", 1<<20)
	})}))
	d := must(db.Delivery(ctx, 1))(t)
	size := 0
	for _, c := range d.Changes {
		for _, f := range c.Fields {
			size += len(f.Before)
		}
	}
	if len(d.Title) > textMax || len(d.Changes) != changesKept || d.Objects != len(changes) || size > changesBytes || size == 0 {
		t.Errorf("title of %d bytes, %d of %d objects, fields of %d bytes", len(d.Title), len(d.Changes), d.Objects, size)
	}
	if last := d.Changes[changesKept-1]; last.Fields != nil || last.More != 1 {
		t.Errorf("the last object is %+v", last)
	}
	diff(t, "of a list", len(must(db.Deliveries(ctx, DeliveryFilter{}))(t)[0].Changes), changesShown)
}

// The commits that came with a delivery are kept with what they have changed, and an erasure reaches their people.
func TestParts(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	ok(t, db.KeepDeliveries(ctx, []history.Delivery{delivered("k1", "aaa", nil)}))
	parts := []history.Part{
		{Commit: history.Commit{SHA: "bbb", Title: "One", Author: "Zoe", Email: "zoe@example.com", Authored: day, MergeRequest: "!1", Approvers: []string{"Yan"}},
			Changed: []history.PartChange{{Object: history.Object{Kind: "ConfigMap", Name: "a"}, Fields: []string{"data.v"}}}},
		{Commit: history.Commit{SHA: "aaa", Title: "Two", Author: "Ann"}, Changed: []history.PartChange{{Object: history.Object{Kind: "ConfigMap", Name: "b"}, Whole: true}}},
	}
	for range 2 { // the second time it is written anew
		ok(t, db.KeepParts(ctx, "k1", parts))
	}
	diff(t, "parts", must(db.Parts(ctx, 1))(t), parts)
	ok(t, db.KeepParts(ctx, "nobody", parts))
	many := make([]history.PartChange, 5000)
	ok(t, db.KeepParts(ctx, "k1", []history.Part{{Commit: history.Commit{SHA: "x"}, Changed: many}}))
	if got := must(db.Parts(ctx, 1))(t); len(got) != 1 || len(got[0].Changed) != 0 {
		t.Errorf("too much is kept: %d parts", len(got))
	}
	ok(t, db.KeepParts(ctx, "k1", parts))
	for _, who := range []string{"zoe@example.com", "Yan"} {
		must(db.ErasePerson(ctx, who))(t)
	}
	if text := fmt.Sprint(must(db.Parts(ctx, 1))(t)); strings.Contains(text, "Zoe") || strings.Contains(text, "zoe@") || strings.Contains(text, "Yan") {
		t.Errorf("they are still there: %s", text)
	}
}
