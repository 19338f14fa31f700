package lua

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

// TestMain serves the questions that are answered in a child process: this program again.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == ChildCommand {
		if len(os.Environ()) != 1 {
			os.Exit(9) // a child has no environment
		}
		os.Exit(ServeChild(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func newPool(t testing.TB) *Pool {
	p := NewPool()
	t.Cleanup(p.Close)
	return p
}

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return u
}

const widget = `
apiVersion: example.com/v1
kind: Widget
metadata:
  name: a
  generation: 3
  labels: {app: web}
  managedFields: [{manager: kubectl}]
spec: {replicas: 2, ratio: 0.5, yes_: true, no_: false, nothing: null, list: [a, b], empty: []}
status:
  conditions:
  - {type: Ready, status: "False", message: no licence}
`

func said(v delivery.HealthVerdict) string {
	text := strings.TrimSpace(string(v.Health.Status) + " " + v.Health.Message)
	if v.Deletion != "" {
		text += " / " + v.Deletion
	}
	if v.Again > 0 {
		text += fmt.Sprintf(" / again in %v", v.Again)
	}
	return text
}

func TestScripts(t *testing.T) {
	p := newPool(t)
	for _, c := range []struct{ name, script, want string }{
		{"as in the manual", `
hs = {}
if obj.status ~= nil then
  if obj.status.conditions ~= nil then
    for i, condition in ipairs(obj.status.conditions) do
      if condition.type == "Ready" and condition.status == "False" then
        hs.status = "Degraded"
        hs.message = condition.message
        return hs
      end
    end
  end
end
hs.status = "Progressing"
return hs`, "Degraded no licence"},
		{"every type", `
local s = obj.spec
return {status = "Healthy", message = tostring(s.replicas) .. " " .. tostring(s.ratio) .. " " .. tostring(s.yes_) .. " " .. tostring(s.no_) .. " " ..
  tostring(s.nothing) .. " " .. table.concat(s.list, ",") .. " " .. #s.empty .. " " .. obj.metadata.generation .. " " .. tostring(obj.metadata.managedFields)}`,
			"Healthy 2 0.5 true false nil a,b 0 3 nil"},
		{"deletion", `return {status = "Progressing", message = "x", deletionMessage = "releasing the licence"}`, "Progressing x / releasing the licence"},
		{"a number as message", `return {status = "Suspended", message = 7}`, "Suspended 7"},
		{"nothing", `local x = 1`, ""},
		{"nil", `return nil`, ""},
		{"an empty table", `return {}`, ""},
		{"a text", `return "Healthy"`, "Unknown the health script for example.com/Widget failed: expect table output from Lua script, not string"},
		{"no such status", `return {status = "Splendid"}`, "Unknown the health script for example.com/Widget returned an invalid health status"},
		{"no status", `return {message = "x"}`, "Unknown the health script for example.com/Widget returned an invalid health status"},
		{"a table as status", `return {status = {}, message = function() end}`, ""},
		{"a field of nothing", "local x = 1\nreturn {status = obj.nosuch.field}",
			"Unknown the health script for example.com/Widget failed: health.lua:2: attempt to index a non-table object(nil) with key 'field'"},
		{"an error", `error("no idea")`, "Unknown the health script for example.com/Widget failed: health.lua:1: no idea"},
		{"an error that is a table", `error({})`, "Unknown the health script for example.com/Widget failed: table"},
		{"bad syntax", "local x = 1\nlocal = 2", "Unknown the health script for example.com/Widget failed: health.lua line:2(column:7) near '=': syntax error"},
		{"control characters", `return {status = "Healthy", message = "a\27[31mb\0c\nd"}`, "Healthy a[31mbc\nd"},
		{"not UTF-8", `return {status = "Healthy", message = "a\255b"}`, "Healthy ab"},
		{"time", `return {status = "Healthy", message = type(os.time()) .. os.date("!%Y", 0) .. require("os").time({year = 1970, month = 1, day = 2, hour = 0}) / 3600 / 24}`, "Healthy number19701"},
		{"strings are closed", `return {status = "Healthy", message = string.upper("a")}`,
			"Unknown the health script for example.com/Widget failed: health.lua:1: attempt to index a non-table object(nil) with key 'upper'"},
		{"globals do not stay", `n = (n or 0) + 1; return {status = "Healthy", message = n}`, "Healthy 1"},
		{"globals do not stay, again", `n = (n or 0) + 1; return {status = "Healthy", message = n}`, "Healthy 1"},
		{"print says nothing", `print("x"); return {status = "Healthy"}`, "Healthy"},
		{"an endless recursion", `local function f() return 1 + f() end; return f()`, "Unknown the health script for example.com/Widget failed: lua callstack overflow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := said(p.Judge(delivery.HealthScript{Kinds: "example.com/Widget", Lua: c.script}, object(t, widget)))
			if got != c.want && (!strings.HasSuffix(c.want, "table") || !strings.HasPrefix(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestOpenLibs(t *testing.T) {
	p := newPool(t)
	const script = `
local co = coroutine.wrap(function() coroutine.yield(math.floor(2.5)) end)
return {status = "Healthy", message = string.format("%s %d", ("x"):upper(), co()) .. require("string").rep("-", 3)}`
	if got := said(p.Judge(delivery.HealthScript{Lua: script, OpenLibs: true}, object(t, widget))); got != "Healthy X 2---" {
		t.Errorf("got %s", got)
	}
}

// TestNothingOutside asks for everything that reaches outside.
func TestNothingOutside(t *testing.T) {
	p := newPool(t)
	for _, open := range []bool{false, true} {
		for _, what := range []string{
			"io", "package", "debug", "channel", "os.execute", "os.exit", "os.getenv", "os.remove", "os.rename", "os.setenv", "os.tmpname",
			"dofile", "loadfile", "module", "newproxy", "collectgarbage", "_printregs", "_G.dofile",
		} {
			script := fmt.Sprintf(`return {status = "Healthy", message = tostring(%s)}`, what)
			if got := said(p.Judge(delivery.HealthScript{Lua: script, OpenLibs: open}, object(t, widget))); got != "Healthy nil" {
				t.Errorf("%s (open: %v): %s", what, open, got)
			}
		}
		got := said(p.Judge(delivery.HealthScript{Lua: `return require("io")`, OpenLibs: open}, object(t, widget)))
		if !strings.Contains(got, `there is no module "io"`) {
			t.Errorf("require: %s", got)
		}
	}
}

// TestStopped has scripts do what they may not. The next one is not kept from anything.
func TestStopped(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"loops", `while true do end`, "it takes longer than 1 s of processor time"},
		{"catches the end", `while true do pcall(function() while true do end end) end`, "it takes longer than 1 s of processor time"},
		{"loops where it cannot be interrupted", `return string.find(string.rep("a", 40), string.rep("a?", 40) .. string.rep("a", 40) .. "b")`, "it takes longer than 1 s of processor time"},
		{"explodes", `local t = {}; for i = 1, 1e9 do t[i] = string.rep("x", 1e6) end`, "it takes more than 256 MiB of memory"},
		{"fills up", `local t = {}; while true do table.insert(t, {{}, {}, {}}) end`, "it takes "}, // whichever limit it meets first
		{"explodes at once", `return string.rep("x", 3e9)`, "it takes too much memory, or crashes its process"},
		{"doubles", `local s = "x"; while true do s = s .. s end`, ""}, // whichever limit it meets first
		{"answers too much", `return {status = "Healthy", message = string.rep("x", 1e6)}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPool(t)
			began := time.Now()
			v := p.Judge(delivery.HealthScript{Lua: c.script, OpenLibs: true}, object(t, widget))
			if c.name == "answers too much" {
				if n := len(v.Health.Message); v.Health.Status != delivery.Healthy || n > maxMessage+10 {
					t.Errorf("%s, %d bytes", v.Health.Status, n)
				}
				return
			}
			if want := "the health script for example.com/Widget was stopped: " + c.want; v.Health.Status != delivery.UnknownHealth ||
				!strings.HasPrefix(v.Health.Message, want) || v.Again != firstPause {
				t.Errorf("got  %s\nwant %s", said(v), want)
			}
			t.Logf("after %v: %s", time.Since(began).Round(time.Millisecond), said(v))
			if got := said(p.Judge(delivery.HealthScript{Lua: `return {status = "Healthy"}`}, object(t, widget))); got != "Healthy" {
				t.Errorf("another script: %s", got)
			}
		})
	}
}

// TestPauses counts how often a script that loops is run.
func TestPauses(t *testing.T) {
	p := newPool(t)
	now := time.Now()
	p.now = func() time.Time { return now }
	loops := delivery.HealthScript{Lua: `if obj.spec.loops then while true do end end; return {status = "Healthy"}`}
	judge := func(name string, bad bool) string {
		u := object(t, widget)
		u.SetName(name)
		if err := unstructured.SetNestedField(u.Object, bad, "spec", "loops"); err != nil {
			t.Fatal(err)
		}
		return said(p.Judge(loops, u))
	}
	const stopped = "Unknown the health script for example.com/Widget was stopped: it takes longer than 1 s of processor time / again in "
	is := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	quick := func(got, want string) {
		t.Helper()
		began := time.Now()
		is(got, want)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	}
	is(judge("a", true), stopped+"10s")
	now = now.Add(4 * time.Second)
	quick(judge("a", true), stopped+"6s") // not run
	is(judge("b", false), "Healthy")      // for another object it is
	now = now.Add(6 * time.Second)
	is(judge("a", true), stopped+"20s") // once more
	is(judge("c", true), stopped+"10s")
	is(judge("d", true), stopped+"10s") // the third in a row
	quick(judge("e", true), stopped+"10s")
	quick(judge("b", false), stopped+"10s")
	now = now.Add(10 * time.Second)
	is(judge("e", true), stopped+"20s") // one try
	quick(judge("f", true), stopped+"20s")
	now = now.Add(20 * time.Second)
	is(judge("b", false), "Healthy")
	is(judge("a", false), "Healthy") // as good as new
	is(judge("a", true), stopped+"10s")
}

// TestSecretsAreNotTold: what a script says of a Secret may be what is in it.
func TestSecretsAreNotTold(t *testing.T) {
	p := newPool(t)
	u := object(t, `{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {password: aHVudGVyMg==}}`)
	for script, want := range map[string]string{
		`return {status = "Degraded", message = obj.data.password, deletionMessage = obj.data.password}`: "Degraded / it is being deleted",
		`error(obj.data.password)`: "Unknown the health script for Secret failed: its error is not told",
	} {
		if got := said(p.Judge(delivery.HealthScript{Lua: script}, u)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestTooLargeAnObject(t *testing.T) {
	u := object(t, widget)
	u.Object["data"] = strings.Repeat("x", maxObject)
	if got := said(newPool(t).Judge(delivery.HealthScript{Lua: "return {}"}, u)); got != "Unknown the health script for example.com/Widget failed: the object has more than 8 MiB" {
		t.Errorf("got %s", got)
	}
}

// processes are the children that wait.
func (p *Pool) processes() []*os.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*os.Process
	for _, c := range p.idle {
		out = append(out, c.cmd.Process)
	}
	return out
}

// TestChildrenAreKept asks much and has few processes, also where one of them is killed.
func TestChildrenAreKept(t *testing.T) {
	p := newPool(t)
	fine := delivery.HealthScript{Lua: `return {status = "Healthy"}`}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if got := said(p.Judge(fine, object(t, widget))); got != "Healthy" {
					t.Errorf("got %s", got)
				}
			}
		})
	}
	wg.Wait()
	children := p.processes()
	if n := len(children); n < 1 || n > maxChildren {
		t.Fatalf("there are %d children", n)
	}
	for _, c := range children {
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	if got := said(p.Judge(fine, object(t, widget))); got != "Healthy" {
		t.Errorf("after they were killed: %s", got)
	}
	p.Close()
	if v := p.Judge(fine, object(t, widget)); v.Health.Status != delivery.UnknownHealth || v.Again == 0 {
		t.Errorf("a closed pool says %s", said(v))
	}
}

// TestChildEndsWithParent closes a child's input, as the end of its parent would, while it is busy.
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
	var a answer
	if err := decode(out, maxAnswer, &a); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := encode(&b, question{Script: "while true do end"}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != childOrphaned {
		t.Errorf("the child ended with %v", err)
	}
}

// FuzzAnswer reads what any child might say.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x12{\"Status\":\"\\u0000\"}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	u := object(f, widget)
	f.Fuzz(func(t *testing.T, text []byte) {
		var a answer
		if decode(bytes.NewReader(text), maxAnswer, &a) != nil {
			return
		}
		if v := verdict(u.GroupVersionKind().GroupKind(), a); v.Health.Status != "" && !statuses[v.Health.Status] {
			t.Errorf("status %q", v.Health.Status)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	p := newPool(b)
	u := object(b, widget)
	script := delivery.HealthScript{Lua: `
local hs = {status = "Progressing", message = ""}
for _, c in ipairs(obj.status.conditions) do
  if c.type == "Ready" then hs.status = "Healthy"; hs.message = c.message end
end
return hs`}
	p.Judge(script, u)
	for b.Loop() {
		p.Judge(script, u)
	}
}
