package proxy

import (
	"fmt"
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
