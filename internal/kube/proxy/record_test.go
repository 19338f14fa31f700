package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of each object the last write counts, under whatever version and with what an earlier answer said of it.
func TestRecord(t *testing.T) {
	for name, test := range map[string]struct {
		writes []Written
		want   string
	}{
		"nothing": {nil, ""},
		"in the order of the last writes": {
			[]Written{{Verb: "create", Resource: "services", Name: "a"}, {Verb: "create", Resource: "services", Name: "b"}, {Verb: "patch", Resource: "services", Name: "a"}},
			"create services /b created=false ,patch services /a created=false ",
		},
		"a subresource does not say what it is of": {
			[]Written{
				{Verb: "patch", Group: "apps", Version: "v1", Resource: "deployments", Namespace: "shop", Name: "web", Created: true, Kind: "Deployment", UID: "1"},
				{Verb: "update", Group: "apps", Version: "v1", Resource: "deployments", Subresource: "scale", Namespace: "shop", Name: "web"},
			},
			"update deployments/scale shop/web created=true Deployment 1",
		},
		"removed and made anew": {
			[]Written{
				{Verb: "create", Resource: "pods", Name: "a", Created: true, Kind: "Pod", UID: "1"}, {Verb: "delete", Resource: "pods", Name: "a"},
				{Verb: "patch", Resource: "pods", Subresource: "status", Name: "a"},
			},
			"patch pods/status /a created=false ",
		},
		"one object in two versions": {
			[]Written{
				{Verb: "create", Group: "autoscaling", Version: "v1", Resource: "horizontalpodautoscalers", Name: "a"},
				{Verb: "delete", Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers", Name: "a"},
			},
			"delete horizontalpodautoscalers /a created=false ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var r Record
			for _, w := range test.writes {
				r.Add(w)
			}
			var got []string
			for _, w := range r.Written() {
				resource := strings.TrimSuffix(w.Resource+"/"+w.Subresource, "/")
				got = append(got, strings.TrimSuffix(fmt.Sprintf("%s %s %s/%s created=%t %s %s", w.Verb, resource, w.Namespace, w.Name, w.Created, w.Kind, w.UID), " "))
			}
			if strings.Join(got, ",") != test.want {
				t.Errorf("got  %q\nwant %q", strings.Join(got, ","), test.want)
			}
		})
	}
}

// A job that writes without end fills no memory; what it wrote last is known.
func TestRecordIsBounded(t *testing.T) {
	var r Record
	for i := range 3 * maxRecorded {
		r.Add(Written{Verb: "create", Resource: "configmaps", Name: fmt.Sprint(i)})
		r.Add(Written{Verb: "patch", Resource: "deployments", Name: "web"})
	}
	all := r.Written()
	if len(all) != maxRecorded || len(r.by) != maxRecorded || all[len(all)-1].Name != "web" || all[0].Name == "0" {
		t.Errorf("%d objects, %d known, the first %q, the last %q", len(all), len(r.by), all[0].Name, all[len(all)-1].Name)
	}
}

// What a process has recorded the next one knows, also where it was killed in the middle of a line; the end of the job leaves nothing.
func TestRecordGoesOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "7")
	open := func() *Record {
		t.Helper()
		r, err := OpenRecord(file)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	names := func(r *Record) string {
		var out []string
		for _, w := range r.Written() {
			out = append(out, w.Verb+" "+w.Name+" "+w.Kind)
		}
		return strings.Join(out, ", ")
	}
	first := open()
	if _, err := os.Stat(file); err == nil {
		t.Error("a job that writes nothing has a file")
	}
	first.Add(Written{Verb: "create", Resource: "deployments", Name: "web", Kind: "Deployment", Created: true, UID: "1"})
	first.Add(Written{Verb: "create", Resource: "services", Name: "web", Kind: "Service"})
	first.Add(Written{Verb: "patch", Resource: "deployments", Subresource: "scale", Name: "web"})
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"Verb":"delete","Resource":"serv`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	second := open()
	if got, want := names(second), "create web Service, patch web Deployment"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	second.Add(Written{Verb: "create", Resource: "configmaps", Name: "more"})
	third := open()
	if got, want := names(third), "create web Service, patch web Deployment, create more "; got != want || !third.Written()[1].Created {
		t.Errorf("got %q, want %q", got, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	third.Close()
	third.Add(Written{Verb: "create", Resource: "configmaps", Name: "late"})
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The file of a job that writes one object over and over does not grow without end.
func TestRecordFileIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "7")
	r, err := OpenRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 60_000 {
		r.Add(Written{Verb: "patch", Resource: "deployments", Name: strings.Repeat("w", 250), Kind: "Deployment"})
	}
	if info, err := os.Stat(file); err != nil || info.Size() > maxRecordFile+1000 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if again, err := OpenRecord(file); err != nil || len(again.Written()) != 1 {
		t.Errorf("%v, %v", again, err)
	}
}
