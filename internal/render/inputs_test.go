package render_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/source"
)

// content is one commit's files; a value that begins with "-> " is a symbolic link.
type content map[string]string

func (c content) with(pairs ...string) content {
	c = maps.Clone(c)
	for i := 0; i < len(pairs); i += 2 {
		c[pairs[i]] = pairs[i+1]
	}
	return c
}

func (c content) without(names ...string) content {
	c = maps.Clone(c)
	for _, name := range names {
		delete(c, name)
	}
	return c
}

// commits writes commits to a new repository and gives a function that opens one of them.
func commits(t testing.TB, all []content) func(n int, ignore ...string) delivery.Snapshot {
	t.Helper()
	top := t.TempDir()
	repo, marks := filepath.Join(top, "repo.git"), filepath.Join(top, "marks")
	var in bytes.Buffer
	for i, c := range all {
		fmt.Fprintf(&in, "commit refs/heads/main\nmark :%d\ncommitter T <t@example.com> %d +0000\ndata 0\n", i+1, 1_700_000_000+i)
		in.WriteString("deleteall\n")
		for _, name := range slices.Sorted(maps.Keys(c)) {
			data, isLink := strings.CutPrefix(c[name], "-> ")
			mode := map[bool]string{true: "120000", false: "100644"}[isLink]
			fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(data), data)
		}
	}
	gitIn(t, nil, "init", "--quiet", "--bare", "--initial-branch=main", repo)
	gitIn(t, &in, "-C", repo, "fast-import", "--quiet", "--export-marks="+marks)
	text, err := os.ReadFile(marks)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for l := range strings.Lines(string(text)) {
		mark, id, _ := strings.Cut(strings.TrimSpace(l), " ")
		ids[mark] = id
	}
	fetcher, err := source.New(source.Options{Dir: filepath.Join(top, "mirrors"), Local: func(string) (string, bool) { return repo, true }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fetcher.Close() })
	return func(n int, ignore ...string) delivery.Snapshot {
		src := delivery.Source{URL: "https://git.example.com/r.git", HasIgnore: len(ignore) > 0, Ignore: strings.Join(ignore, "\n")}
		snap, err := fetcher.Fetch(t.Context(), src, delivery.Revision{Name: "main", Commit: ids[fmt.Sprintf(":%d", n+1)]})
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
}

func gitIn(t testing.TB, in *bytes.Buffer, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	if in != nil {
		cmd.Stdin = in
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func named(kind, name string) string {
	return "apiVersion: v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\n"
}

// fleet is a repository of one overlay, one plain folder and what they use.
var fleet = content{
	"README.md":                         "hello\n",
	"apps/web/kustomization.yaml":       "resources: [../../base, cm.yaml]\nconfigMapGenerator: [{name: env, files: [app.ini]}]\n",
	"apps/web/cm.yaml":                  named("ConfigMap", "web"),
	"apps/web/app.ini":                  "a=1\n",
	"apps/web/NOTES.md":                 "notes\n",
	"apps/plain/a.yaml":                 named("ConfigMap", "a"),
	"apps/plain/deep/b.yaml":            named("ConfigMap", "b"),
	"apps/plain/NOTES.md":               "notes\n",
	"apps/other/kustomization.yaml":     "resources: [cm.yaml]\n",
	"apps/other/cm.yaml":                named("ConfigMap", "other"),
	"base/kustomization.yaml":           "resources: [sa.yaml]\n",
	"base/sa.yaml":                      named("ServiceAccount", "sa"),
	"linked/kustomization.yaml":         "resources: [cm.yaml]\n",
	"linked/cm.yaml":                    "-> ../shared/cm.yaml",
	"shared/cm.yaml":                    named("ConfigMap", "shared"),
	"shared/other.yaml":                 named("ConfigMap", "another"),
	"broken/kustomization.yaml":         "resources: [absent.yaml]\n",
	"ignored/kustomization.yaml":        "resources: [a.yaml]\n",
	"ignored/a.yaml":                    named("ConfigMap", "a"),
	"listed/.sourceignore":              "*.draft.yaml\n",
	"listed/a.yaml":                     named("ConfigMap", "listed"),
	"listed/b.draft.yaml":               named("ConfigMap", "draft"),
	"rules/.sourceignore":               "-> ../shared/rules",
	"rules/a.yaml":                      named("ConfigMap", "a"),
	"shared/rules":                      "b.yaml\n",
	"components/one/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: one-\n",
}

// TestInputs tells, edit by edit, whether an app has to be rendered again.
func TestInputs(t *testing.T) {
	at := func(dir string) delivery.Build { return delivery.Build{Path: dir} }
	cases := map[string]struct {
		build  delivery.Build
		after  content
		before []string // spec.ignore of the first snapshot
		then   []string // of the second, if it differs
		want   bool
	}{
		"another app":                   {build: at("apps/web"), after: fleet.with("apps/other/cm.yaml", named("ConfigMap", "new")), want: true},
		"a new app":                     {build: at("apps/web"), after: fleet.with("apps/new/cm.yaml", named("ConfigMap", "new")), want: true},
		"a file beside, not read":       {build: at("apps/web"), after: fleet.with("apps/web/NOTES.md", "more\n"), want: true},
		"a file beside, new":            {build: at("apps/web"), after: fleet.with("apps/web/new.yaml", "more\n"), want: true},
		"its kustomization":             {build: at("apps/web"), after: fleet.with("apps/web/kustomization.yaml", "resources: [cm.yaml]\n")},
		"its manifest":                  {build: at("apps/web"), after: fleet.with("apps/web/cm.yaml", named("ConfigMap", "new"))},
		"its generator's file":          {build: at("apps/web"), after: fleet.with("apps/web/app.ini", "a=2\n")},
		"its base":                      {build: at("apps/web"), after: fleet.with("base/sa.yaml", named("ServiceAccount", "new"))},
		"its base's base not used":      {build: at("apps/web"), after: fleet.with("base/new.yaml", named("ServiceAccount", "new")), want: true},
		"a second kustomization":        {build: at("apps/web"), after: fleet.with("base/Kustomization", "resources: [sa.yaml]\n")},
		"its folder is gone":            {build: at("apps/web"), after: fleet.without("apps/web/kustomization.yaml", "apps/web/cm.yaml", "apps/web/app.ini", "apps/web/NOTES.md")},
		"a folder becomes a file":       {build: at("apps/web"), after: fleet.without("base/kustomization.yaml", "base/sa.yaml").with("base", "x")},
		"a folder becomes a link":       {build: at("apps/web"), after: fleet.without("base/kustomization.yaml", "base/sa.yaml").with("base", "-> shared")},
		"a file becomes a link":         {build: at("apps/web"), after: fleet.with("apps/web/cm.yaml", "-> ../../shared/cm.yaml")},
		"a plain folder's note":         {build: at("apps/plain"), after: fleet.with("apps/plain/NOTES.md", "more\n"), want: true},
		"a plain folder's new note":     {build: at("apps/plain"), after: fleet.with("apps/plain/deep/x.txt", "more\n")}, // its listing is another
		"a plain folder's new file":     {build: at("apps/plain"), after: fleet.with("apps/plain/deep/c.yaml", named("ConfigMap", "c"))},
		"a plain folder's file gone":    {build: at("apps/plain"), after: fleet.without("apps/plain/deep/b.yaml")},
		"a plain folder, elsewhere":     {build: at("apps/plain"), after: fleet.with("apps/web/cm.yaml", "x"), want: true},
		"a kustomization in a plain":    {build: at("apps/plain"), after: fleet.with("apps/plain/deep/kustomization.yaml", "resources: [b.yaml]\n")},
		"a link's target":               {build: at("linked"), after: fleet.with("shared/cm.yaml", named("ConfigMap", "new"))},
		"beside a link's target":        {build: at("linked"), after: fleet.with("shared/other.yaml", named("ConfigMap", "new")), want: true},
		"a link":                        {build: at("linked"), after: fleet.with("linked/cm.yaml", "-> ../shared/other.yaml")},
		"a link becomes its text":       {build: at("linked"), after: fleet.with("linked/cm.yaml", "../shared/cm.yaml")},
		"an error elsewhere":            {build: at("broken"), after: fleet.with("README.md", "x"), want: true},
		"an error mended":               {build: at("broken"), after: fleet.with("broken/absent.yaml", named("ConfigMap", "a"))},
		"an error, a file beside":       {build: at("broken"), after: fleet.with("broken/other.yaml", named("ConfigMap", "a")), want: true},
		"a missing path elsewhere":      {build: at("absent/app"), after: fleet.with("apps/web/cm.yaml", "x"), want: true},
		"a missing path, new neighbour": {build: at("absent/app"), after: fleet.with("absence/a", "x")}, // the error names it
		"a missing path appears":        {build: at("absent/app"), after: fleet.with("absent/app/a.yaml", named("ConfigMap", "a"))},
		"the root":                      {build: at("."), after: fleet.with("README.md", "x"), want: true},
		"the root, a file in it":        {build: at("."), after: fleet.with("shared/new.yaml", named("ConfigMap", "n"))},
		"a missing component":           {build: delivery.Build{Path: "apps/other", Components: []string{"../../components/two"}, IgnoreMissingComponents: true}, after: fleet.with("components/two/kustomization.yaml", "kind: Component\n")},
		"another missing component":     {build: delivery.Build{Path: "apps/other", Components: []string{"../../components/two"}, IgnoreMissingComponents: true}, after: fleet.with("components/one/x", ""), want: true},
		"what is ignored, listed":       {build: at("listed"), after: fleet.with("listed/b.draft.yaml", "x"), want: true},
		"what is ignored, new":          {build: at("listed"), after: fleet.with("listed/c.draft.yaml", "x"), want: true},
		"an ignore file":                {build: at("listed"), after: fleet.with("listed/.sourceignore", "b.*\n")},
		"an ignore file elsewhere":      {build: at("listed"), after: fleet.with("base/.sourceignore", "x\n")},
		"a comment is no rule":          {build: at("listed"), after: fleet.with("base/.sourceignore", "# x\n"), want: true},
		"an ignore file behind a link":  {build: at("rules"), after: fleet.with("shared/rules", "a.yaml\n")},
		"spec.ignore":                   {build: at("ignored"), after: fleet, before: []string{"a.yaml"}, then: []string{"b.yaml"}},
		"the same spec.ignore":          {build: at("ignored"), after: fleet.with("ignored/a.yaml", "x"), before: []string{"a.yaml"}, want: true},
		"ignored and asked for, gone":   {build: at("ignored"), after: fleet.without("ignored/a.yaml"), before: []string{"a.yaml"}, want: true},
		"included again, deep":          {build: at("apps/plain"), after: fleet.with("apps/plain/deep/c.yaml", named("ConfigMap", "c")), before: []string{"/apps/plain/deep/", "!/apps/plain/deep/c.yaml"}},
		"not included again, deep":      {build: at("apps/plain"), after: fleet.with("apps/plain/deep/d.yaml", named("ConfigMap", "c")), before: []string{"/apps/plain/deep/", "!/apps/plain/deep/c.yaml"}, want: true},
		"nothing":                       {build: at("apps/web"), after: fleet, want: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.then == nil {
				c.then = c.before
			}
			open := commits(t, []content{fleet, c.after})
			before, after := open(0, c.before...), open(1, c.then...)
			was, in := tracked(t, before, c.build)
			if same, err := in.Same(before); !same || err != nil {
				t.Errorf("Same as what was rendered = %t, %v", same, err)
			}
			same, err := in.Same(after)
			if err != nil || same != c.want {
				t.Errorf("Same = %t, %v; want %t", same, err, c.want)
			}
			if is, _ := tracked(t, after, c.build); same && was != is {
				t.Errorf("a fresh render differs (-before +after):\n%s", cmp.Diff(was, is))
			}
		})
	}
}

// tracked renders, and gives the result as text and its inputs, which have gone through their encoding.
func tracked(t testing.TB, snap delivery.Snapshot, b delivery.Build) (string, render.Inputs) {
	t.Helper()
	objects, in, err := render.Track(t.Context(), snap, b, nil)
	if f := (*delivery.Fault)(nil); err != nil && !errors.As(err, &f) {
		t.Fatal(err)
	}
	text, err2 := in.MarshalText()
	if err2 != nil {
		t.Fatal(err2)
	}
	var again render.Inputs
	if err := again.UnmarshalText(text); err != nil || again != in {
		t.Fatalf("inputs do not survive encoding: %v", err)
	}
	if err != nil {
		return err.Error(), again
	}
	var b2 strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b2, "--- # %s\n%s", o.Origin, text)
	}
	return b2.String(), again
}

// chance makes repositories, edits and builds.
type chance struct{ *rand.Rand }

func (r chance) of(all ...string) string { return all[r.IntN(len(all))] }

func (r chance) dir() string {
	return path.Join(r.of(".", "a", "b", "a/a", "a/b", "a/b/c", "a/c", "c"))
}

func (r chance) name() string {
	return path.Join(r.dir(), r.of("kustomization.yaml", "kustomization.yaml", "x.yaml", "y.yaml", "x.yaml", "y.yaml", "n.md", "p.png", "Kustomization",
		".sourceignore", "l", "l.yaml", "v.ini", "d"))
}

func (r chance) rules() string {
	return r.of("*.md\n", "y.yaml\n", "/a\n", "c/\n", "a/*\n!a/b\n", "# nothing\n", "*\n!*.yaml\n", "/*\n!/a/b/x.yaml\n!kustomization.yaml\n", "b\n", "l*\n")
}

// file is a content that fits the name, mostly.
func (r chance) file(name string) string {
	ref := func() string {
		return r.of("x.yaml", "x.yaml", "y.yaml", "../b", "./b", "b", "../x.yaml", "a", "l", "l.yaml", "../l/x.yaml", "absent.yaml", "d/x.yaml")
	}
	switch base := path.Base(name); {
	case r.IntN(12) == 0 || strings.HasPrefix(base, "l"):
		return "-> " + r.of("x.yaml", "b", "..", "../b", "../a/b", "../../c", "y.yaml", "l", "/etc")
	case base == ".sourceignore":
		return r.rules()
	case strings.HasPrefix(strings.ToLower(base), "kustomization"):
		text := "resources: [" + ref()
		for range r.IntN(2) {
			text += ", " + ref()
		}
		text += "]\n"
		if r.IntN(3) == 0 {
			text += "configMapGenerator: [{name: g, files: [" + r.of("v.ini", "n.md", "../v.ini") + "]}]\n"
		}
		if r.IntN(4) == 0 {
			text += "patches: [{target: {kind: ConfigMap}, path: " + r.of("p.yaml", "d", "x.yaml") + "}]\n"
		}
		return text
	case strings.HasSuffix(base, ".yaml"):
		return named("ConfigMap", strings.ReplaceAll(strings.TrimSuffix(name, ".yaml"), "/", "-")) + r.of("", "", "data: {a: b}\n", "data: {a: c}\n")
	}
	return r.of("a=b\n", "a=c\n", "")
}

// put writes a file where no file or folder is in its way.
func (r chance) put(c content, name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		delete(c, dir)
	}
	maps.DeleteFunc(c, func(other, _ string) bool { return strings.HasPrefix(other, name+"/") })
	c[name] = r.file(name)
}

func (r chance) edit(c content) content {
	c = maps.Clone(c)
	for range 1 + r.IntN(2) {
		names := slices.Sorted(maps.Keys(c))
		switch name := r.of(names...); r.IntN(8) {
		case 0, 1:
			delete(c, name)
		case 2, 3, 4:
			r.put(c, name)
		case 5: // a whole folder
			dir := path.Dir(name)
			if maps.DeleteFunc(c, func(other, _ string) bool { return dir != "." && strings.HasPrefix(other, dir+"/") }); r.IntN(2) == 0 && dir != "." {
				r.put(c, dir)
			}
		default:
			r.put(c, r.name())
		}
		if len(c) == 0 {
			r.put(c, "x.yaml")
		}
	}
	return c
}

// TestInputsNeverMiss edits random repositories at random: whenever the inputs are the same, so is a fresh render.
func TestInputsNeverMiss(t *testing.T) {
	const repositories, edits = 60, 25
	var same, different, needless, unknown int
	for seed := range uint64(repositories) {
		r := chance{rand.New(rand.NewPCG(seed, 7))} //nolint:gosec // repeatable chance is what is wanted
		c := content{}
		for range 12 + r.IntN(25) {
			r.put(c, r.name())
		}
		all := []content{c}
		for range edits {
			all = append(all, r.edit(all[len(all)-1]))
		}
		open := commits(t, all)
		var ignore []string
		if r.IntN(2) == 0 {
			ignore = []string{r.rules()}
		}
		builds := []delivery.Build{{Path: "."}, {Path: "a"}, {Path: "a/b"}, {Path: "b"}, {Path: "l"}, {Path: "a/c", Components: []string{"../b"}, IgnoreMissingComponents: true}, {Path: r.dir(), TargetNamespace: "n"}}
		was, in := make([]string, len(builds)), make([]render.Inputs, len(builds))
		for n := range all {
			now := ignore
			if r.IntN(10) == 0 {
				now = []string{r.rules()} // for one commit
			}
			snap := open(n, now...)
			for i, b := range builds {
				is, fresh := tracked(t, snap, b)
				if !fresh.Known() {
					if !hasLinkedRules(all[n]) {
						t.Fatalf("seed %d, commit %d, %+v: nothing is known after %s", seed, n, b, is)
					}
					unknown++
				}
				if n > 0 {
					ok, err := in[i].Same(snap)
					switch {
					case err != nil:
						t.Fatal(err)
					case ok && was[i] != is:
						t.Fatalf("seed %d, commit %d, %+v: the inputs are the same, a fresh render is not (-before +after):\n%s", seed, n, b, cmp.Diff(was[i], is))
					case ok:
						same++
					case was[i] == is && in[i].Known():
						needless++
					default:
						different++
					}
				}
				was[i], in[i] = is, fresh
			}
		}
	}
	t.Logf("%d same, %d different, %d rendered for nothing, %d unknown", same, different, needless, unknown)
	if same < 1000 || different < 500 || needless > same {
		t.Errorf("%d same, %d different, %d rendered for nothing: the edits prove little", same, different, needless)
	}
}

// hasLinkedRules tells whether an ignore file is a link, which may lead nowhere.
func hasLinkedRules(c content) bool {
	for name, data := range c {
		if path.Base(name) == ".sourceignore" && strings.HasPrefix(data, "-> ") {
			return true
		}
	}
	return false
}

// TestInputsWithoutIDs falls back on the snapshot's digest.
func TestInputsWithoutIDs(t *testing.T) {
	snap := delivery.Snapshot{Digest: "one", FS: files("a.yaml", configMap)}
	_, in := tracked(t, snap, delivery.Build{Path: "."})
	if same, err := in.Same(snap); !same || err != nil {
		t.Errorf("Same = %t, %v", same, err)
	}
	snap.Digest = "two"
	if same, err := in.Same(snap); same || err != nil {
		t.Errorf("Same with another digest = %t, %v", same, err)
	}
	_, in, err := render.Track(t.Context(), delivery.Snapshot{FS: files("a.yaml", configMap)}, delivery.Build{Path: "."}, nil)
	if err != nil || in.Known() {
		t.Errorf("inputs without a digest: known %t, %v", in.Known(), err)
	}
}

// FuzzInputs reads arbitrary text as inputs: it is refused, or can be compared without harm.
func FuzzInputs(f *testing.F) {
	open := commits(f, []content{fleet, fleet.with("apps/web/cm.yaml", "x")})
	one, two := open(0), open(1)
	for _, b := range []string{"apps/web", "apps/plain", "absent", "."} {
		_, in := tracked(f, one, delivery.Build{Path: b})
		text, _ := in.MarshalText()
		f.Add(string(text))
	}
	f.Add("")
	f.Add("AWFiYw")
	f.Fuzz(func(t *testing.T, text string) {
		var in render.Inputs
		if in.UnmarshalText([]byte(text)) != nil {
			if in.Known() {
				t.Error("inputs that cannot be read are known")
			}
			return
		}
		if _, err := in.Same(two); err != nil {
			t.Errorf("compare: %v", err)
		}
		again, err := in.MarshalText()
		if err != nil || string(again) != text {
			t.Errorf("%q is written as %q (%v)", text, again, err)
		}
	})
}

// monorepo has n apps that share a base.
func monorepo(n int) content {
	c := content{"base/kustomization.yaml": "resources: [sa.yaml]\n", "base/sa.yaml": named("ServiceAccount", "sa")}
	for i := range n {
		dir := fmt.Sprintf("apps/app-%04d/", i)
		c[dir+"kustomization.yaml"] = "resources: [deployment.yaml, service.yaml, a.yaml, b.yaml, sa.yaml]\n"
		for _, name := range []string{"deployment", "service", "a", "b", "sa"} {
			c[dir+name+".yaml"] = named("ConfigMap", fmt.Sprintf("%s-%d", name, i))
		}
	}
	return c
}

// BenchmarkSame is what a commit to one app costs each of the 999 others, and what their inputs take in memory.
func BenchmarkSame(b *testing.B) {
	all := monorepo(1000)
	open := commits(b, []content{all, all.with("apps/app-0500/a.yaml", named("ConfigMap", "new"))})
	one, two := open(0), open(1)
	inputs := make([]render.Inputs, 0, 1000)
	size := 0
	for i := range 1000 {
		_, in := tracked(b, one, delivery.Build{Path: fmt.Sprintf("apps/app-%04d", i)})
		inputs = append(inputs, in)
		text, _ := in.MarshalText()
		size += len(text) * 3 / 4
	}
	changed := 0
	for _, in := range inputs {
		if same, err := in.Same(two); err != nil {
			b.Fatal(err)
		} else if !same {
			changed++
		}
	}
	if changed != 1 {
		b.Fatalf("%d apps would be rendered, want 1", changed)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := inputs[i%len(inputs)].Same(two); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(size)/1000, "bytes/app")
}
