package render

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"keelson.dev/keelson/internal/delivery"
)

// TestMain serves the builds that run in a child process: this program again.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == ChildCommand {
		if len(os.Environ()) != 1 {
			os.Exit(9) // a child has no environment
		}
		os.Exit(ServeChild(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

var withSchema = fstest.MapFS{
	"kustomization.yaml": {Data: []byte("resources: [a.yaml]\nopenapi: {version: v1.21.2}\n")},
	"a.yaml":             {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {n: '1'}\nlist: [1, 2.5, 1e30, true, null, 9007199254740993]\n")},
}

// TestChildEndsWithParent closes a child's input, as the end of its parent would.
func TestChildEndsWithParent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], ChildCommand)
	cmd.Env = []string{childMarker}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var q question
	if err := receive(out, childAnswer, &q); err != nil || q.Op != childReady {
		t.Fatalf("the child says %+v (%v)", q, err)
	}
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != childOrphaned {
		t.Errorf("the child ended with %v", err)
	}
}

// TestChildCancelled ends the context while the child waits for an answer.
func TestChildCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fsys := cancelling{newKustomizeFS(newTree(ctx, withSchema)).(kustomizeFS), cancel}
	_, err := runChild(ctx, fsys, mount)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	if len(children) != 0 {
		t.Errorf("%d children are left", len(children))
	}
}

type cancelling struct {
	kustomizeFS
	cancel func()
}

func (c cancelling) ReadFile(string) ([]byte, error) {
	c.cancel()
	<-c.ctx.Done()
	return nil, io.ErrUnexpectedEOF
}

// TestChildSpeaksAsOneProcess holds a build in a child to what the same build gives in this process.
func TestChildSpeaksAsOneProcess(t *testing.T) {
	for name, repo := range map[string]fstest.MapFS{
		"objects":        {"kustomization.yaml": {Data: []byte("resources: [a.yaml]\n")}, "a.yaml": withSchema["a.yaml"]},
		"missing file":   {"kustomization.yaml": {Data: []byte("resources: [b.yaml]\n")}},
		"no base":        {"kustomization.yaml": {Data: []byte("resources: [b]\n")}, "b/x": {}},
		"not YAML":       {"kustomization.yaml": {Data: []byte("resources: [a.yaml]\n")}, "a.yaml": {Data: []byte("a: [")}},
		"nothing at all": {},
		"too large":      {"kustomization.yaml": {Data: []byte("resources: [a.yaml]\n")}, "a.yaml": {Data: []byte(strings.Repeat("#", maxFileBytes+1))}},
		"escapes":        {"kustomization.yaml": {Data: []byte("resources: [../a.yaml]\n")}},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := func() kustomizeFS { return newKustomizeFS(newTree(t.Context(), repo)).(kustomizeFS) }
			result, err := kustomize(fsys(), mount)
			var want []product
			if err == nil {
				want = convert(result.Resources(), new(sizer))
			}
			got, childErr := runChild(t.Context(), fsys(), mount)
			if said(t, want, err) != said(t, got, childErr) {
				t.Errorf("in this process:\n%s\nin a child:\n%s", said(t, want, err), said(t, got, childErr))
			}
			var f, childF *delivery.Fault
			if errors.As(err, &f) && !errors.As(childErr, &childF) || errors.Is(err, delivery.ErrEscapes) && !errors.Is(childErr, delivery.ErrEscapes) {
				t.Errorf("%#v became %#v", err, childErr)
			}
		})
	}
}

func said(t *testing.T, result []product, err error) string {
	t.Helper()
	if err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	if err := send(&b, result); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// FuzzChildSays lets a child say anything: its parent gives a result or an error, and answers questions about the
// repository only.
func FuzzChildSays(f *testing.F) {
	says := func(all ...question) string {
		var b bytes.Buffer
		for _, q := range all {
			if err := send(&b, q); err != nil {
				f.Fatal(err)
			}
		}
		return b.String()
	}
	ready := question{Op: childReady}
	f.Add(says(ready, question{Op: childRead, Name: mount + "/a.yaml"}, question{Op: childDone, Made: []product{{Kind: "A", Object: map[string]any{"a": 1}}}}))
	f.Add(says(ready, question{Op: childRead, Name: "/etc/passwd"}, question{Op: childAbs, Name: "../.."}, question{Op: childIsDir, Name: ""}))
	f.Add(says(ready, question{Op: childDone, Failed: "x"}))
	f.Add("PASS\nok")
	f.Add("\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, text string) {
		var out bytes.Buffer
		p := parent{fsys: newKustomizeFS(newTree(t.Context(), withSchema)), in: strings.NewReader(text), out: &out}
		if result, err := p.serve(task{Dir: mount}); err != nil && result.Made != nil {
			t.Errorf("a result with the error %v", err)
		}
		if strings.Contains(out.String(), "cm9vdDp4O") { // "root:x:" as a file's content would be sent
			t.Error("a file outside the repository was sent")
		}
	})
}

// TestChildDies: a child that is killed, by the kernel or by an operator, is no fault of what it was to build.
func TestChildDies(t *testing.T) {
	for name, said := range map[string]string{"before it is ready": "", "in the middle": "\x00\x00"} {
		p := parent{in: strings.NewReader(said), out: io.Discard}
		_, err := p.serve(task{Dir: "."})
		if f := delivery.FaultOf(err, ""); f.Retry != delivery.Backoff || f.Reason == "" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestLoopsEnd: what never ends by itself is ended, and its child with it.
func TestLoopsEnd(t *testing.T) {
	old := childTime
	childTime = 2 * time.Second
	defer func() { childTime = old }()
	for name, repo := range map[string]fstest.MapFS{
		"template": {
			"Chart.yaml":       {Data: []byte("{apiVersion: v2, name: web, version: 1.2.3}")},
			"templates/a.yaml": {Data: []byte(`{{ range $i := 1000000000 }}{{ range $j := 1000000000 }}{{ end }}{{ end }}`)},
		},
		"jsonnet": {"a.jsonnet": {Data: []byte(`std.foldl(function(a, b) a + b, std.makeArray(1e6, function(i) std.foldl(function(a, b) a + b, std.range(1, 1e6), 0)), 0)`)}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Build(t.Context(), delivery.Snapshot{FS: repo}, delivery.Build{Parts: []delivery.Part{{Root: ".", Path: ".", Release: "x"}}}, nil)
			if f := delivery.FaultOf(err, ""); !strings.Contains(f.Error(), "takes longer than") || f.Retry != delivery.Backoff {
				t.Errorf("error = %v", err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if len(children) != 0 {
				t.Errorf("%d children are left", len(children))
			}
		})
	}
}
