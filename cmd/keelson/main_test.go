package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

// The test binary is keelson, kubectl, helm and kustomize as well, each by its name, as the built program is.
func TestMain(m *testing.M) {
	testscript.Main(withCluster{m}, map[string]func(){"keelson": main, "kubectl": main, "helm": main, "kustomize": main})
}

func TestScripts(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEELSON_DATA", env.Getenv("WORK")+"/data")
			env.Setenv("HOME", env.Getenv("WORK")+"/home")
			env.Setenv("TESTDATA", testdata)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode":    expectExitCode,
			"sameobjects": sameObjects,
			"sample":      commitSample,
			"instance":    startHost,
			"registry":    startRegistry,
			"people":      startPeople,
			"serve":       serveFolder,
		},
	})
}

// expectExitCode runs a program and compares its exit code: exitcode N program args...
func expectExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// sameObjects compares what helm prints with what keelson does: sameobjects manifests.yaml list.json
func sameObjects(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sameobjects manifests.yaml list.json")
	}
	want := []any{}
	for document := range strings.SplitSeq(ts.ReadFile(args[0]), "\n---\n") {
		var object map[string]any
		ts.Check(yaml.Unmarshal([]byte(document), &object))
		want = append(want, object)
	}
	var got struct{ Items []any }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &got))
	if diff := cmp.Diff(want, got.Items); diff != "" {
		ts.Fatalf("the objects differ (-%s +%s):\n%s", args[0], args[1], diff)
	}
}

// commitSample makes the sample pipeline's repository, with one commit, the working directory: sample
func commitSample(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: sample")
	}
	dir := ts.MkAbs("sample")
	ts.Check(os.CopyFS(dir, os.DirFS(filepath.Join(ts.Getenv("TESTDATA"), "ci", "sample"))))
	for name, value := range map[string]string{
		"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com",
	} {
		ts.Setenv(name, value)
	}
	ts.Check(ts.Chdir(dir))
	for _, line := range []string{"init -q -b main", "add --all", "commit -q -m First"} {
		ts.Check(ts.Exec("git", strings.Fields(line)...))
	}
}

// startHost serves a real Git host and writes the instance file that leads to it: instance
func startHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: instance")
	}
	dir := ts.Getenv("KEELSON_DATA")
	inst, err := openInstance(dir)
	ts.Check(err)
	host, err := githost.New(githost.Options{Root: filepath.Join(dir, gitDir), Token: inst.Token})
	ts.Check(err)
	server := httptest.NewServer(newMux(noDashboard(), host, nil))
	ts.Defer(server.Close)
	u, err := url.Parse(server.URL)
	ts.Check(err)
	inst.Port, err = strconv.Atoi(u.Port())
	ts.Check(err)
	ts.Check(writeInstance(dir, inst))
	ts.Setenv("GIT", inst.git(true))
	ts.Setenv("PORT", u.Port())
}

// startPeople serves who is who, with the token of an administrator: people; $SERVER is where, $ADMIN the token
func startPeople(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: people")
	}
	db, err := store.Open(ts.MkAbs("store.db"), store.Options{Key: make([]byte, store.KeySize)})
	ts.Check(err)
	ts.Defer(func() { db.Close() })
	p := newPeople(peopleOptions{token: newToken(), store: func() (*store.DB, error) { return db, nil }, log: slog.New(slog.DiscardHandler)})
	p.review.review = func(_ context.Context, who web.Person, _ string, _ web.Target) (bool, string, error) { // as adminsBinding has it
		return slices.Contains(who.Groups, identity.Admins), "", nil
	}
	mux := http.NewServeMux()
	p.routes(mux, func(next http.Handler) http.Handler { return next })
	server := httptest.NewServer(mux)
	ts.Defer(server.Close)
	ts.Setenv("SERVER", server.URL)
	ts.Setenv("ADMIN", p.Token)
	ts.Check(os.WriteFile(ts.MkAbs("admin.token"), []byte(p.Token+"\n"), 0o600))
}

// startRegistry serves an empty OCI registry at $REGISTRY: registry
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: registry")
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(server.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(server.URL, "http://"))
}

// serveFolder serves a folder's files at $REPO to those who know the password: serve dir user password
func serveFolder(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: serve dir user password")
	}
	files := http.FileServer(http.Dir(ts.MkAbs(args[0])))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != args[1] || password != args[2] {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(server.Close)
	ts.Setenv("REPO", server.URL)
}

// Every command pays for what its packages do when the program starts. kubectl's translations were 4.4 MB and 35 ms of
// it (see kubectl.go); what the packages allocate tells whether they are loaded, and does not depend on the machine.
func TestStartIsCheap(t *testing.T) {
	program := testProgram(t)
	cmd := exec.CommandContext(t.Context(), program, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace strings.Builder
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	const most = 1 << 20
	allowed := map[string]int{
		"github.com/santhosh-tekuri/jsonschema/v6": 2 << 20, // reads the drafts of JSON schema; Helm's values come with it
	}
	packages := 0
	for line := range strings.Lines(trace.String()) {
		var name, at, clock string
		var bytes int
		// init k8s.io/client-go/scale @31 ms, 0.31 ms clock, 100160 bytes, 603 allocs
		if n, _ := fmt.Sscanf(line, "init %s @%s ms, %s ms clock, %d bytes", &name, &at, &clock, &bytes); n != 4 {
			continue
		}
		packages++
		if limit := max(most, allowed[name]); bytes > limit {
			t.Errorf("package %s allocates %d bytes while it is initialised, more than %d", name, bytes, limit)
		}
	}
	if packages < 100 {
		t.Fatalf("the trace names %d packages only:\n%s", packages, trace.String())
	}
}

// testProgram makes the test binary available as keelson, for what a script cannot do.
func testProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("keelson") // testscript.Main puts it into PATH
	if err != nil {
		t.Fatal(err)
	}
	return path
}
