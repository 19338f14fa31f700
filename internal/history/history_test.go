package history

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keelson.dev/keelson/internal/redact"
)

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestReadCommit(t *testing.T) {
	for name, test := range map[string]struct {
		message string
		want    Commit
	}{
		"plain":   {"Fix the door\n\nIt squeaked.\n", Commit{Title: "Fix the door"}},
		"empty":   {"", Commit{}},
		"CRLF":    {"Fix\r\n\r\nReviewed-by: Ann <a@x>\r\n", Commit{Title: "Fix", Approvers: []string{"Ann"}}},
		"GitLab":  {"Merge branch 'x' into 'main'\n\nAdd a door\n\nCloses #3\n\nSee merge request group/sub/app!12\n", Commit{Title: "Add a door", MergeRequest: "group/sub/app!12"}},
		"short":   {"Merge branch 'x' into 'main'\n\nSee merge request !12", Commit{Title: "Merge branch 'x' into 'main'"}},
		"GitHub":  {"Merge pull request #7 from ann/door\n\nAdd a door", Commit{Title: "Add a door", MergeRequest: "#7"}},
		"squash":  {"Add a door (#7)\n\n* wip", Commit{Title: "Add a door (#7)", MergeRequest: "#7"}},
		"mention": {"Add a door\n\nMerge pull request #7 from nowhere", Commit{Title: "Add a door"}},
		"trailers": {
			"Add a door\n\nWe need it.\nApproved-by: nobody, as this is prose\nand so it goes on\n\nSigned-off-by: Bob <b@x>\nReviewed-by: Ann Bee <a@x>\nApproved-by: Carol <c@x>\nReviewed-by: Ann Bee <a@x>\n",
			Commit{Title: "Add a door", Approvers: []string{"Ann Bee", "Carol"}},
		},
		"trailers after GitLab's line": {
			"Merge branch 'x' into 'main'\n\nAdd a door\n\nSee merge request g/app!1\n\nApproved-by: Carol <c@x>", Commit{Title: "Add a door", MergeRequest: "g/app!1", Approvers: []string{"Carol"}},
		},
		"address alone": {"x\n\nApproved-by: <c@x>", Commit{Title: "x", Approvers: []string{"c@x"}}},
		"hostile":       {"<script>\x1b[31malert(1)\u202e\n\nApproved-by: a\x00b\x07 <x>", Commit{Title: "<script>[31malert(1)", Approvers: []string{"ab"}}},
		"long":          {strings.Repeat("ä", 1<<20) + "\n\nApproved-by: Carol <c@x>", Commit{Title: strings.Repeat("ä", 148) + "…", Approvers: []string{"Carol"}}},
	} {
		t.Run(name, func(t *testing.T) { diff(t, "commit", ReadCommit(test.message), test.want) })
	}
}

func TestDiff(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string
		want          []string
	}{
		"nothing":    {`{"spec":{"a":1}}`, `{"spec":{"a":1}}`, nil},
		"a field":    {`{"spec":{"replicas":1}}`, `{"spec":{"replicas":2}}`, []string{"spec.replicas: 1 → 2"}},
		"added":      {`{"spec":{}}`, `{"spec":{"a":{"b":"x","c":true}}}`, []string{"spec.a.b:  → x", "spec.a.c:  → true"}},
		"removed":    {`{"spec":{"a":""}}`, `{"spec":{}}`, []string{`spec.a: "" → `}},
		"by name":    {`{"c":[{"name":"a","i":1},{"name":"b","i":1}]}`, `{"c":[{"name":"b","i":2},{"name":"a","i":1}]}`, []string{"c[name=b].i: 1 → 2"}},
		"item gone":  {`{"c":[{"name":"a","i":1},{"name":"b","i":1}]}`, `{"c":[{"name":"a","i":1}]}`, []string{"c[name=b].i: 1 → ", "c[name=b].name: b → "}},
		"by place":   {`{"args":["a","b"]}`, `{"args":["a","c"]}`, []string{"args[1]: b → c"}},
		"as a whole": {`{"args":["a"]}`, `{"args":["a","c"]}`, []string{`args: ["a"] → ["a","c"]`}},
		"by host":    {`{"spec":{"rules":[{"host":"a","p":1}]}}`, `{"spec":{"rules":[{"host":"a","p":2}]}}`, []string{"spec.rules[host=a].p: 1 → 2"}},
		"another host": {
			`{"spec":{"rules":[{"host":"a","p":1}]}}`, `{"spec":{"rules":[{"host":"b","p":1}]}}`, []string{"spec.rules[0].host: a → b"},
		},
		"type":        {`{"a":{"b":1}}`, `{"a":"x"}`, []string{`a: {"b":1} → x`}},
		"annotations": {`{"metadata":{"annotations":{"a.b/c":"1"}}}`, `{"metadata":{"annotations":{"a.b/c":"2"}}}`, []string{"metadata.annotations[a.b/c]: 1 → 2"}},
		"the server's": {
			`{"metadata":{"generation":1,"resourceVersion":"1","managedFields":[]},"status":{"x":1}}`, `{"metadata":{"generation":2,"resourceVersion":"2"},"status":{"x":2}}`, nil,
		},
		"masked":            {`{"a":"has s3cret!"}`, `{"a":["s3cret"]}`, []string{`a: ` + hidden + ` → ["***"]`}},
		"rotated":           {`{"a":"pw=old","b":["old"]}`, `{"a":"pw=s3cret","b":["x","s3cret"]}`, []string{"a: " + hidden + " → pw=***", `b: ` + hidden + ` → ["x","***"]`}},
		"put right":         {`{"a":"pw=s3cret"}`, `{"a":"pw=old"}`, []string{"a: pw=*** → " + hidden}},
		"a secret is added": {`{"a":""}`, `{"a":"s3cret","b":"s3cret"}`, []string{"a: " + hidden + " → ***", "b:  → ***"}},
		"long":              {`{"a":"x"}`, `{"a":"` + strings.Repeat("s3cret", 200) + `"}`, []string{"a: " + hidden + " → " + strings.Repeat("*", 297) + "…"}},
	} {
		t.Run(name, func(t *testing.T) {
			fields, more := Diff(object(t, test.before), object(t, test.after), false, func(s string) string { return strings.ReplaceAll(s, "s3cret", "***") })
			var got []string
			for _, f := range fields {
				got = append(got, fmt.Sprintf("%s: %s → %s", f.Path, f.Before, f.After))
			}
			diff(t, "fields", got, test.want)
			diff(t, "more", more, 0)
		})
	}
	diff(t, "the mask", hidden, redact.Mask)
	fields, _ := Diff(map[string]any{"a": int64(1111)}, map[string]any{"a": int64(2222)}, false, redact.New("2222").Text)
	diff(t, "a number", fields, []Field{{Path: "a", Before: redact.Mask, After: redact.Mask}})
	many := map[string]any{}
	for i := range 3 * MaxFields {
		many[fmt.Sprint("k", i)] = "v"
	}
	fields, more := Diff(nil, map[string]any{"data": many}, true, nil)
	if len(fields) != MaxFields || more != 2*MaxFields || !fields[0].Secret {
		t.Errorf("%d fields and %d more, secret %v", len(fields), more, fields[0].Secret)
	}
	deep := any("x")
	for range 10_000 {
		deep = map[string]any{"a": deep}
	}
	if fields, _ := Diff(map[string]any{"a": deep}, map[string]any{"a": map[string]any{}}, false, nil); len(fields) != 1 {
		t.Errorf("of a deep object %d fields", len(fields))
	}
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMatch(t *testing.T) {
	const image = "spec.template.spec.containers[name=web].image"
	for _, test := range []struct {
		asked, path string
		want        bool
	}{
		{image, image, true},
		{"spec.template.spec.containers.web.image", image, true},
		{"spec.template.spec.containers[web].image", image, true},
		{"spec.template.spec.containers.image", image, true},
		{".spec.template", image, true},
		{"image", image, true},
		{"containers.image", image, true},
		{"Image", image, true},
		{"imagePullPolicy", image, false},
		{"mag", image, false},
		{"spec.template.spec.containers.api.image", image, false},
		{"spec.tls[0].hosts", "spec.tls", true},
		{"spec.rules[0].host", "spec.rules[0].host", true},
		{"spec.rules.host", "spec.rules[0].host", true},
		{"metadata.annotations.a.b/c", "metadata.annotations[a.b/c]", true},
		{"metadata.annotations[a.b/c]", "metadata.annotations[a.b/c]", true},
		{`metadata.annotations["a.b/c"]`, "metadata.annotations[a.b/c]", true},
		{"spec.replicas", "spec.replicasX", false},
		{"[", "spec", false}, {"]", "spec", false}, {".", "spec", false}, {"..", "spec", false}, {"[]", "spec", false}, {"a[", "a", true},
	} {
		if got := Match(test.asked, test.path); got != test.want {
			t.Errorf("%q and %q: %v", test.asked, test.path, got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a.b[c=d].e", "a.b")
	f.Add("[[]].=", "..[")
	f.Fuzz(func(t *testing.T, asked, path string) { Match(asked, path) })
}

func FuzzReadCommit(f *testing.F) {
	f.Add("Merge branch 'x'\n\nSee merge request a!1\n\nApproved-by: x <y>")
	f.Fuzz(func(t *testing.T, message string) {
		c := ReadCommit(message)
		if len(c.Title) > maxTitle || len(c.Approvers) > maxApprovers || strings.ContainsAny(c.Title, "\n\x00\x1b") {
			t.Errorf("%+v", c)
		}
	})
}

func TestKinds(t *testing.T) {
	for said, want := range map[string]string{
		"ing": "ingress", "Ingress": "ingres ingress", "ingresses": "ingress ingresse ingresses", "deploy": "deployment", "deployments.apps": "deployment deployments",
		"networkpolicies": "networkpolici networkpolicie networkpolicies networkpolicy", "ks": "kustomization", "": "", "endpoints": "endpoints", "widget.example.com": "widget",
	} {
		if got := strings.Join(Kinds(said), " "); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func step(id int64, verb string, fields ...Field) Step {
	return Step{
		Delivery: Delivery{ID: id, Status: Succeeded, Trigger: ByCommit, Began: noon.Add(time.Duration(id) * time.Hour), Commit: Commit{SHA: fmt.Sprint("sha", id), Approvers: []string{"Carol"}}},
		Change:   Change{Object: Object{Kind: "Deployment", Namespace: "dev", Name: "web"}, Verb: verb, Fields: fields},
	}
}

func TestDecide(t *testing.T) {
	replicas := func(was, is string) Field { return Field{Path: "spec.replicas", Before: was, After: is} }
	image := Field{Path: "spec.template.spec.containers[name=web].image", Before: "web:1", After: "web:2"}
	repair := Repair{ID: 1, Object: Object{Kind: "Deployment", Namespace: "dev", Name: "web"}, Manager: "kubectl-edit", Fields: []Field{replicas("9", "3")}, Found: noon.Add(5 * time.Hour), Repaired: noon.Add(5 * time.Hour)}
	old := repair
	old.ID, old.Found, old.Repaired = 2, noon, noon
	q := Question{Kind: "deploy", Name: "web", Namespace: "dev"}
	field := q
	field.Field = "replicas"
	for name, test := range map[string]struct {
		q    Question
		e    Evidence
		want string
	}{
		"changed": {
			field, Evidence{Steps: []Step{step(4, "update", replicas("2", "3"), image), step(2, "update", replicas("1", "2")), step(1, "create")}, Repairs: []Repair{repair, old}, Approvals: []Approval{{By: "Dave", How: "played deploy"}}},
			"changed 4: 2 → 3; approved by Carol, Dave; repairs 1; earlier 2 1",
		},
		"the object":  {q, Evidence{Steps: []Step{step(4, "update", replicas("2", "3"), image)}}, "changed 4: 2 fields; approved by Carol"},
		"created":     {field, Evidence{Steps: []Step{step(1, "create")}}, "created 1: ; approved by Carol; the field has not changed since the object was made"},
		"deleted":     {q, Evidence{Steps: []Step{step(3, "delete"), step(1, "create")}}, "deleted 3: ; approved by Carol; earlier 1"},
		"another one": {q, Evidence{Steps: []Step{step(3, "create"), step(2, "delete"), step(1, "create")}}, "created 3: ; approved by Carol"},
		"unclear":     {field, Evidence{Steps: []Step{step(2, "update")}}, "changed 2: ; approved by Carol; which fields were changed then is not known; this one may be among them"},
		"unknown":     {q, Evidence{Begins: noon}, "nothing; no delivery has changed it since the history begins, at 2026-03-01T12:00:00Z"},
		"no history":  {q, Evidence{}, "nothing; nothing was delivered yet since there is a history"},
		"too early":   {Question{At: noon.Add(-time.Hour)}, Evidence{Begins: noon}, "nothing; the history begins later, at 2026-03-01T12:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			a := Decide(test.q, test.e)
			got := "nothing"
			if a.Found {
				got = fmt.Sprintf("%s %d: ", a.What, a.Delivery.ID)
				if a.Value != "" {
					got += a.Previous + " → " + a.Value
				} else if len(a.Fields) > 0 {
					got += fmt.Sprint(len(a.Fields), " fields")
				}
				var by []string
				for _, who := range a.Approvals {
					by = append(by, who.By)
				}
				got += "; approved by " + strings.Join(by, ", ")
			}
			for _, r := range a.Repairs {
				got += fmt.Sprint("; repairs ", r.ID)
			}
			for i, s := range a.Earlier {
				got += []string{"; earlier ", " "}[min(i, 1)] + fmt.Sprint(s.Delivery.ID)
			}
			if a.Note != "" {
				got += "; " + a.Note
			}
			diff(t, "answer", got, test.want)
		})
	}
}
