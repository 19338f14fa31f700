package source_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/source"
)

// fluxSource is a source in Flux's words.
func fluxSource(kind, url string) delivery.Source {
	return delivery.Source{ID: delivery.ID{Kind: kind, Namespace: "team", Name: "s"}, URL: url}
}

// TestIndexIsFollowed: a repository's index is a source of its own, and its charts are found in it without another question.
func TestIndexIsFollowed(t *testing.T) {
	h := newHelmRepo(t)
	h.add("web", "1.0.0")
	f, _ := newFetcher(t)
	index := fluxSource("HelmRepository", h.URL+"/charts")
	index.Index = true
	first := snapshot(t, f, index)
	if want := "sha256:" + hexDigest([]byte(h.index)); first.Revision.String() != want || first.Digest != want {
		t.Errorf("revision %s, digest %s, want %s", first.Revision, first.Digest, want)
	}
	if _, err := first.FS.Open("index.yaml"); err == nil {
		t.Error("an index has files")
	}
	chart := fluxSource("HelmRepositoryChart", index.URL)
	chart.Chart, chart.Ref.SemVer, chart.IndexAt, chart.Fresh = "web", "*", first.Revision.Commit, true
	if got := snapshot(t, f, chart).Revision.Name; got != "1.0.0" {
		t.Errorf("version %s", got)
	}
	if n := h.count("/charts/index.yaml"); n != 1 {
		t.Errorf("the index was asked for %d times", n)
	}

	// Whoever knows of news gets the answer of now.
	h.add("web2", "1.0.0")
	index.Fresh = true
	second := snapshot(t, f, index)
	if second.Revision == first.Revision {
		t.Error("a new index has the old revision")
	}
	chart.Chart, chart.IndexAt = "web2", second.Revision.Commit
	if got := snapshot(t, f, chart).Revision.Name; got != "1.0.0" || h.count("/charts/index.yaml") != 2 {
		t.Errorf("version %s, index asked for %d times", got, h.count("/charts/index.yaml"))
	}
	// Nothing newer is wanted: what is here counts, and the repository is not asked.
	chart.IndexFixed = true
	if got := snapshot(t, f, chart).Revision.Name; got != "1.0.0" {
		t.Errorf("version %s", got)
	}
	chart.IndexAt = strings.Repeat("0", 64)
	if _, err := f.Resolve(t.Context(), chart); !errors.Is(err, git.ErrUnreachable) || h.count("/charts/index.yaml") != 2 {
		t.Errorf("an index that is not here: %v; asked for %d times", err, h.count("/charts/index.yaml"))
	}
	chart.IndexFixed, chart.IndexAt = false, second.Revision.Commit
	chart.Ref.SemVer = "7.x"
	_, err := f.Resolve(t.Context(), chart)
	if err == nil || !strings.Contains(err.Error(), "correct chart or version, or publish") || strings.Contains(err.Error(), "targetRevision") {
		t.Errorf("%v", err)
	}

	index.URL = "oci://example.com/charts"
	if _, err := f.Resolve(t.Context(), index); faultReason(err) != source.ReasonURL {
		t.Errorf("an index in a registry: %v", err)
	}
	index.URL = h.URL + "/none"
	if _, err := f.Resolve(t.Context(), index); err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "spec.url") || faultReason(err) != "Failed" {
		t.Errorf("no index: %v", err)
	}
}

func faultReason(err error) string {
	var f *delivery.Fault
	if !errors.As(err, &f) {
		return ""
	}
	return f.Reason
}

// TestFluxArtifacts: in Flux's words the first layer is meant, or the first one of a type; and of tags only versions count.
func TestFluxArtifacts(t *testing.T) {
	o := newRegistry(t)
	one, two := pack(map[string]string{"a.yaml": "a: 1\n", "b.md": "b", ".sourceignore": "*.md\n"}), pack(map[string]string{"a.yaml": "a: 2\n"})
	for _, tag := range []string{"1.0.0", "v1.2.0", "1.3.0-rc.1", "1.4", "latest", "2.0.0-dev", "1.1.0_meta"} {
		o.push("team/app", tag, "x/y", map[string]string{"tag": tag}, ociLayer, one, "other/type", two)
	}
	f, _ := newFetcher(t)
	src := fluxSource("OCIRepository", "oci://"+o.host()+"/team/app")
	src.OCI, src.Layer = true, delivery.Layer{First: true}
	for want, ref := range map[string]delivery.GitRef{
		"latest": {}, "1.0.0": {Tag: "1.0.0"}, "v1.2.0": {SemVer: "1.x"}, "1.3.0-rc.1": {SemVer: ">=1.0.0-0 <2.0.0-0"}, "2.0.0-dev": {SemVer: ">=1.0.0-0", Filter: "dev$"},
	} {
		src.Ref = ref
		if got := snapshot(t, f, src).Revision.Name; got != want {
			t.Errorf("%+v: %s, want %s", ref, got, want)
		}
	}
	src.Ref, src.Layer = delivery.GitRef{SemVer: "~1.1"}, delivery.Layer{Type: "other/type"}
	if _, err := f.Resolve(t.Context(), src); faultReason(err) != "ReadOperationFailed" {
		t.Errorf("a tag that is a version of a chart only: %v", err)
	}
	src.Ref = delivery.GitRef{Tag: "latest"}
	for name, tt := range map[string]struct {
		layer delivery.Layer
		whole bool
		files string
	}{
		"the first":   {delivery.Layer{First: true}, false, "a.yaml"},
		"as it is":    {delivery.Layer{First: true}, true, "a.yaml b.md"},
		"of one type": {delivery.Layer{Type: "other/type"}, false, "a.yaml"},
	} {
		src.Layer, src.Whole = tt.layer, tt.whole
		snap := snapshot(t, f, src)
		var there []string
		for _, file := range []string{"a.yaml", "b.md"} {
			if _, err := snap.FS.Open(file); err == nil {
				there = append(there, file)
			}
		}
		if got := strings.Join(there, " "); got != tt.files {
			t.Errorf("%s: %s", name, got)
		}
		if want := map[bool]string{true: "a: 2\n", false: "a: 1\n"}[tt.layer.Type != ""]; content(t, snap, "a.yaml") != want {
			t.Errorf("%s: another layer", name)
		}
	}

	// A chart's layer keeps its folder, and its tags stand for versions with "+".
	o.chart("web", "1.0.0+b")
	src = fluxSource("OCIRepository", "oci://"+o.host()+"/charts/web")
	src.OCI, src.Layer, src.Ref.SemVer, src.Whole = true, delivery.Layer{Type: helmLayer}, "*", true
	snap := snapshot(t, f, src)
	if snap.Revision.Name != "1.0.0_b" {
		t.Errorf("revision %s", snap.Revision)
	}
	c, err := f.Chart(snap, source.AnyFolder)
	if err != nil || c.Path != "web" || c.Name != "web" || c.Version != "1.0.0+b" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestChart: a chart is a folder of a snapshot, or an archive in it.
func TestChart(t *testing.T) {
	o := newRegistry(t)
	o.push("team/app", "latest", "x/y", nil, ociLayer, pack(map[string]string{
		"charts/web/Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.2.3\n", "charts/web/values.yaml": "a: {b: 1, c: [1, 2]}\n",
		"prod.yaml": "a: {b: 2}\nd: x\n", "more.yaml": "a: {c: [3]}\n", "broken.yaml": "a: [\n", "list.yaml": "- a\n",
		"charts/db-2.0.0.tgz": string(chart("db", "2.0.0")), "charts/bad.tgz": "no archive",
		"charts/nameless/Chart.yaml": "version: 1.0.0\n", "charts/odd/Chart.yaml": "name: [\n",
	}))
	f, _ := newFetcher(t)
	src := fluxSource("OCIRepository", "oci://"+o.host()+"/team/app")
	src.OCI, src.Layer = true, delivery.Layer{First: true}
	snap := snapshot(t, f, src)
	for dir, want := range map[string]string{
		"charts/web": "web 1.2.3 charts/web", "./charts/web/": "web 1.2.3 charts/web", "/../charts/web": "web 1.2.3 charts/web", "charts/db-2.0.0.tgz": "db 2.0.0 .",
		"charts/none": "charts/none: read the chart: there is no such folder", ".": "there is no Chart.yaml", "": "there is no Chart.yaml", "prod.yaml": "neither a folder nor an archive",
		"charts/bad.tgz": "the archive cannot be used", "charts/nameless": "charts/nameless/Chart.yaml: read the chart: it has no name or no version", "charts/odd": "charts/odd/Chart.yaml: read the chart: read it:",
	} {
		c, err := f.Chart(snap, dir)
		if got := fmt.Sprint(c.Name, " ", c.Version, " ", c.Path); err == nil && got != want {
			t.Errorf("%q: %s, want %s", dir, got, want)
		}
		if err != nil && (!strings.Contains(err.Error(), want) || faultReason(err) != source.ReasonChartReference) {
			t.Errorf("%q: %v, want %s", dir, err, want)
		}
	}
	values, used, err := source.Values(snap, "charts/web", []string{"values.yaml"}, false)
	if err != nil || len(used) != 1 || values["a"].(map[string]any)["b"] != float64(1) {
		t.Errorf("%v %v %v", values, used, err)
	}
	values, used, err = source.Values(snap, ".", []string{"charts/web/values.yaml", "/../prod.yaml", "none.yaml", "more.yaml"}, true)
	want := map[string]any{"a": map[string]any{"b": float64(2), "c": []any{float64(3)}}, "d": "x"}
	if diff := cmp.Diff(want, values); err != nil || diff != "" || len(used) != 3 {
		t.Errorf("%v, %v (-want +got):\n%s", used, err, diff)
	}
	if values, used, err := source.Values(snap, ".", nil, false); values != nil || used != nil || err != nil {
		t.Errorf("no files: %v %v %v", values, used, err)
	}
	for file, text := range map[string]string{"none.yaml": "it does not exist", "broken.yaml": "broken.yaml: read values", "list.yaml": "list.yaml: read values"} {
		if _, _, err := source.Values(snap, ".", []string{file}, false); faultReason(err) != source.ReasonValuesFiles || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", file, err)
		}
	}
	for in, want := range map[[2]string]string{{"1.2.3", ""}: "1.2.3", {"1.2.3", "abc.1"}: "1.2.3+abc.1", {"1.2.3-rc.1+old", "new"}: "1.2.3-rc.1+new", {"v1.2.3", "x"}: "1.2.3+x", {"one", "x"}: ""} {
		got, err := source.WithMetadata(in[0], in[1])
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%v: %s, %v", in, got, err)
		}
	}
}
