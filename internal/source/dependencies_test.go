package source_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/source"
)

// anyRepository uses the addresses that charts name, without credentials.
func anyRepository(named string) (string, delivery.Credentials, error) {
	return named, delivery.Credentials{}, nil
}

func chartFile(name, version, rest string) *fstest.MapFile {
	return file("apiVersion: v2\nname: " + name + "\nversion: " + version + "\n" + rest)
}

func TestDependencies(t *testing.T) {
	h, o, w := newHelmRepo(t), newRegistry(t), newWorld(t)
	h.add("db", "1.0.0", "1.1.0", "2.0.0")
	h.add("private", "1.0.0")
	o.chart("cache", "3.0.0")
	repo, oci := h.URL+"/charts", "oci://"+o.host()+"/charts"
	dep := func(name, version, repository string) string {
		return "- {name: " + name + ", version: \"" + version + "\", repository: \"" + repository + "\"}\n"
	}
	const deps = "dependencies:\n"
	files := fstest.MapFS{
		"none/Chart.yaml":                     chartFile("none", "1.0.0", ""),
		"no-chart/values.yaml":                file(""),
		"there/Chart.yaml":                    chartFile("there", "1.0.0", deps+dep("a", "1.0.0", repo)+dep("b", "1.0.0", repo)+dep("odd", "1.0.0", "")),
		"there/charts/a/Chart.yaml":           chartFile("a", "1.0.0", ""),
		"there/charts/b-1.0.0.tgz":            file("whatever"),
		"there/charts/downloaded.tgz":         {Data: chart("odd", "1.0.0")},
		"all/Chart.yaml":                      chartFile("all", "1.0.0", deps+dep("db", "1.x", repo)+dep("db", "1.x", repo)+dep("cache", "3.0.0", oci)+dep("near", "~1.0", "file://../near")),
		"near/Chart.yaml":                     chartFile("near", "1.0.5", ""),
		"near/templates/x.yaml":               file("x: 1\n"),
		"locked/Chart.yaml":                   chartFile("locked", "1.0.0", deps+dep("db", ">=1", repo)),
		"locked/Chart.lock":                   file(deps + dep("db", "1.0.0", repo+"/")),
		"outdated/Chart.yaml":                 chartFile("outdated", "1.0.0", deps+dep("db", ">=2", repo)),
		"outdated/Chart.lock":                 file(deps + dep("db", "1.0.0", repo)),
		"old/Chart.yaml":                      file("apiVersion: v1\nname: old\nversion: 1.0.0\n"),
		"old/requirements.yaml":               file(deps + dep("db", "*", "@stable")),
		"old/requirements.lock":               file(deps + dep("db", "1.1.0", "@stable")),
		"forbidden/Chart.yaml":                chartFile("forbidden", "1.0.0", deps+dep("db", "*", "https://forbidden.example")),
		"bad/climbs/Chart.yaml":               chartFile("x", "1.0.0", deps+dep("y", "*", "file://../../../etc")),
		"bad/absolute/Chart.yaml":             chartFile("x", "1.0.0", deps+dep("y", "*", "file:///etc")),
		"bad/nowhere/Chart.yaml":              chartFile("x", "1.0.0", deps+dep("y", "*", "file://../y")),
		"bad/version/Chart.yaml":              chartFile("x", "1.0.0", deps+dep("near", "2.x", "file://../../near")),
		"bad/called/Chart.yaml":               chartFile("x", "1.0.0", deps+dep("far", "*", "file://../../near")),
		"bad/name/Chart.yaml":                 chartFile("x", "1.0.0", deps+dep("../../x", "*", repo)),
		"bad/nothing/Chart.yaml":              chartFile("x", "1.0.0", deps+dep("y", "*", "")),
		"bad/missing/Chart.yaml":              chartFile("x", "1.0.0", deps+dep("y", "*", repo)),
		"bad/scheme/Chart.yaml":               chartFile("x", "1.0.0", deps+dep("y", "*", "s3://bucket/charts")),
		"bad/yaml/Chart.yaml":                 file("apiVersion: [\n"),
		"bad/many/Chart.yaml":                 chartFile("x", "1.0.0", deps+strings.Repeat("- {name: y}\n", 300)),
		"bad/huge/Chart.yaml":                 chartFile("x", "1.0.0", "description: "+strings.Repeat("x", 1<<20)),
		"itself/charts-of-itself/Chart.yaml":  chartFile("inner", "1.0.0", deps+dep("outer", "*", "file://..")),
		"itself/Chart.yaml":                   chartFile("outer", "1.0.0", ""),
		"itself/charts-of-itself/values.yaml": file("a: 1\n"),
	}
	w.commit("r", files)
	w.link("r", "linked", "all")
	f, _ := newFetcher(t)
	src := w.source("r")
	src.Whole = true
	snap := w.snapshot(src)
	repository := func(named string) (string, delivery.Credentials, error) {
		switch named {
		case "@stable":
			return repo, delivery.Credentials{}, nil
		case "https://forbidden.example":
			return "", delivery.Credentials{}, errors.New("the project does not permit it")
		}
		return anyRepository(named)
	}
	composed, err := source.Compose([]source.Mounted{{At: "0", Snapshot: snap}, {At: "1", Snapshot: snap}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{ // what is in the folder charts afterwards
		"none": nil, "no-chart": nil, "nowhere": nil, "there": {"a", "b-1.0.0.tgz", "downloaded.tgz"},
		"all": {"cache-3.0.0", "db-1.1.0", "near-1.0.5"}, "linked": {"cache-3.0.0", "db-1.1.0", "near-1.0.5"},
		"locked": {"db-1.0.0"}, "old": {"db-1.1.0"}, "itself/charts-of-itself": {"outer-1.0.0"},
	} {
		for root, in := range map[string]delivery.Snapshot{".": snap, "1": composed} {
			missing, err := source.Missing(in, root, path)
			if err != nil || (len(missing) > 0) != (len(want) > 0 && path != "there") {
				t.Errorf("%s in %s: missing: %v, %v", path, root, missing, err)
			}
			out, err := f.Dependencies(t.Context(), in, root, path, repository)
			if err != nil {
				t.Errorf("%s in %s: %v", path, root, err)
				continue
			}
			at := map[string]string{".": "", "1": "1/"}[root] + path
			var got []string
			entries, err := fs.ReadDir(out.FS, at+"/charts")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", at, err)
			}
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", at, got, want)
			}
			if changed := len(missing) > 0; changed != (out.Digest != in.Digest) || out.Revision != in.Revision || out.Rules != in.Rules {
				t.Errorf("%s: %+v, before: %+v", at, out, in)
			}
			if left, err := source.Missing(out, root, path); err != nil || len(left) > 0 {
				t.Errorf("%s: still missing %v, %v", at, left, err)
			}
			if _, err := fs.Stat(in.FS, at+"/charts/db-1.1.0"); err == nil {
				t.Error("the snapshot itself has changed")
			}
			if root == "1" && path == "all" {
				if _, err := fs.Stat(out.FS, "0/all/charts"); err == nil {
					t.Error("the other source has got them")
				}
				if err := fstest.TestFS(out.FS, "1/all/charts/db-1.1.0/templates/cm.yaml", "1/all/charts/near-1.0.5/templates/x.yaml", "0/all/Chart.yaml"); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for path, want := range map[string]string{
		"outdated": "outdated/Chart.yaml: dependency db >=2: the lock beside the file is out of sync", "forbidden": "the project does not permit it",
		"bad/climbs": "it leaves the repository", "bad/absolute": "it leaves the repository", "bad/nowhere": "there is no folder bad/y",
		"bad/version": "the chart in near has the version 1.0.5", "bad/called": "the chart in near is called near", "bad/name": "is no name of a chart",
		"bad/nothing": "it names no repository", "bad/missing": "the repository has no chart y", "bad/scheme": "s3 URLs are not supported",
		"bad/yaml": "bad/yaml/Chart.yaml: read it", "bad/many": "more than 200 dependencies", "bad/huge": "too large",
	} {
		out, err := f.Dependencies(t.Context(), snap, ".", path, repository)
		var fault *delivery.Fault
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), want) || fault.Retry != delivery.OnChange && path != "bad/scheme" {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		if out.Digest != snap.Digest {
			t.Errorf("%s: the snapshot is another one", path)
		}
	}
}

// A mistake in the program that a chart has found is a fault of that chart, wherever it shows.
func TestPanicsAreFaults(t *testing.T) {
	h, w := newHelmRepo(t), newWorld(t)
	h.add("db", "1.0.0")
	w.commit("r", fstest.MapFS{"x/Chart.yaml": chartFile("x", "1.0.0", "dependencies:\n- {name: db, version: 1.0.0, repository: "+h.URL+"}\n")})
	f, _ := newFetcher(t)
	_, err := f.Dependencies(t.Context(), w.snapshot(w.source("r")), ".", "x", func(string) (string, delivery.Credentials, error) { panic("of the caller") })
	if err == nil || !strings.Contains(err.Error(), "internal error: of the caller (hint: please report it)") {
		t.Error(err)
	}
	source.PanicOnce(t, f)
}

// What was brought once is not asked for again, and is there after a restart without its repository.
func TestDependenciesAreKept(t *testing.T) {
	h, w := newHelmRepo(t), newWorld(t)
	h.add("db", "1.0.0", "1.1.0")
	const deps = "dependencies:\n"
	w.commit("r", fstest.MapFS{
		"exact/Chart.yaml": chartFile("exact", "1.0.0", deps+"- {name: db, version: 1.0.0, repository: "+h.URL+"/charts}\n"),
		"range/Chart.yaml": chartFile("range", "1.0.0", deps+"- {name: db, version: 1.x, repository: "+h.URL+"/charts}\n"),
	})
	src := w.source("r")
	src.Whole = true
	build := func(f *source.Fetcher, path string) delivery.Snapshot {
		t.Helper()
		out, err := f.Dependencies(t.Context(), snapshot(t, f, src), ".", path, anyRepository)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, ranged := build(w.remote, "exact"), build(w.remote, "range")
	asked := h.count("/charts/index.yaml") + int(h.notModified.Load())
	if again := build(w.remote, "exact"); again.Digest != first.Digest {
		t.Error("it is another one")
	}
	if n := h.count("/charts/index.yaml") + int(h.notModified.Load()); n != asked {
		t.Errorf("the index was asked for %d times more", n-asked)
	}
	h.Close()
	if err := w.remote.Retain(t.Context(), []delivery.Source{src}); err != nil {
		t.Fatal(err)
	}
	restarted := w.fetcher(source.Options{Dir: w.dir})
	if again := build(restarted, "exact"); again.Digest != first.Digest {
		t.Error("it is another one after a restart")
	}
	if again := build(restarted, "range"); again.Digest != ranged.Digest {
		t.Error("it is another one after a restart")
	}
}
