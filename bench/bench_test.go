package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestSummarize(t *testing.T) {
	type figures struct{ Median, P95, Min, Max float64 }
	for name, c := range map[string]struct {
		samples []float64
		want    figures
	}{
		"one":                 {[]float64{7}, figures{7, 7, 7, 7}},
		"even, with negative": {[]float64{4, -2, 10, 6}, figures{5, 10, -2, 10}},
		"odd, unsorted":       {[]float64{9, 1, 5}, figures{5, 9, 1, 9}},
		"twenty":              {[]float64{20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, figures{10.5, 19, 1, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			given := append([]float64{}, c.samples...)
			r := summarize(Result{}, given)
			if diff := cmp.Diff(c.want, figures{r.Median, r.P95, r.Min, r.Max}); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.samples, r.Samples); diff != "" || r.N != len(c.samples) {
				t.Errorf("the samples are not as they were taken: n = %d, %s", r.N, diff)
			}
		})
	}
}

func TestTableNamesWhatIsMissed(t *testing.T) {
	var b bytes.Buffer
	err := printTable(&b, []Result{
		summarize(Result{Name: "push", Unit: "ms", Target: target(150), Floor: "floor", Load: 0.5}, []float64{151}),
		summarize(Result{Name: "floor", Unit: "ms", Load: 0.5}, []float64{10}),
		summarize(Result{Name: "requests", Unit: "requests", Target: target(0), Load: 0.5}, []float64{0}),
		summarize(Result{Name: "tail", Unit: "ms", Target: target(60), Tail: target(150), Load: 0.5}, []float64{50, 50, 151}),
		summarize(Result{Name: "rate", Unit: "builds/s", AtLeast: target(300), Load: 0.5}, []float64{300}),
		summarize(Result{Name: "slow", Unit: "builds/s", AtLeast: target(300), Load: 0.5}, []float64{299}),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `
          median   p95   min   max  n      unit          target   floor  load
    push     151   151   151   151  1        ms  ≤ 150 missed  × 15.1   0.5
   floor      10    10    10    10  1        ms                           0.5
requests       0     0     0     0  1  requests         ≤ 0 met           0.5
tail 50 151 50 151 3 ms ≤ 60, p95 ≤ 150 missed 0.5
rate 300 300 300 300 1 builds/s ≥ 300 met 0.5
slow 299 299 299 299 1 builds/s ≥ 300 missed 0.5
`
	if diff := cmp.Diff(squeeze(want), squeeze(b.String())); diff != "" {
		t.Error(diff)
	}
}

// squeeze makes runs of blanks one: the tests are about figures, not columns.
func squeeze(text string) []string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func TestCompare(t *testing.T) {
	before := `bench: noise that is no result
{"name":"a","unit":"ms","median":100,"samples":[99,100,101,102]}
{"name":"b","unit":"ms","median":100,"samples":[80,95,105,120]}
{"name":"gone","unit":"ms","median":1,"samples":[1]}
{"name":"rate","unit":"builds/s","median":100,"atLeast":300,"samples":[99,100,101,102]}
{"name":"a","unit":"ms","median":50,"samples":[49,50,51,52]}
`
	after := `{"name":"a","unit":"ms","median":80,"samples":[79,80,81,82]}
{"name":"b","unit":"ms","median":97,"samples":[90,96,98,99]}
{"name":"new","unit":"s","median":2,"samples":[2]}
{"name":"rate","unit":"builds/s","median":120,"atLeast":300,"samples":[119,120,121,122]}
`
	x, err := readResults(strings.NewReader(before))
	if err != nil {
		t.Fatal(err)
	}
	y, err := readResults(strings.NewReader(after))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := printComparison(&b, x, y); err != nil {
		t.Fatal(err)
	}
	want := `
before after unit change verdict load
a 50 80 ms +60 % worse 0.0, 0.0
b 100 97 ms -3 % same 0.0, 0.0
gone 1 - ms only before
rate 100 120 builds/s +20 % better 0.0, 0.0
new - 2 s only after
`
	if diff := cmp.Diff(squeeze(want), squeeze(b.String())); diff != "" {
		t.Error(diff)
	}
}

func TestReadResultsRefusesWhatIsNone(t *testing.T) {
	for name, text := range map[string]string{
		"malformed": `{"name":`, "without a name": `{"samples":[1]}`, "without samples": `{"name":"push"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := readResults(strings.NewReader("\n" + text + "\n")); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
				t.Errorf("results %v, error %v; want an error about line 2", got, err)
			}
		})
	}
}

func TestReadTraffic(t *testing.T) {
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	line := func(id, verb, agent, when, ref string) string {
		return `{"auditID":"` + id + `","verb":"` + verb + `","userAgent":"` + agent + `","requestURI":"/healthz","requestReceivedTimestamp":"2026-01-01T10:` +
			when + `.000000Z","objectRef":` + ref + "}\n"
	}
	const maps, lease = `{"resource":"configmaps","apiVersion":"v1"}`, `{"resource":"leases","apiGroup":"coordination.k8s.io"}`
	log := line("early", "patch", "keelson", "00:59", maps) +
		line("1", "patch", "keelson", "01:00", maps) +
		line("2", "patch", "keelson/v1.2", "01:10", `{"resource":"deployments","apiGroup":"apps","subresource":"status"}`) +
		line("3", "watch", "keelson", "01:11", maps) +
		line("3", "watch", "keelson", "01:11", maps) +
		line("4", "update", "keelson", "01:12", lease) +
		line("5", "patch", "bench", "01:13", maps) +
		line("6", "patch", "keelson-cluster/v1", "01:13", maps) +
		line("7", "get", "keelson", "01:14", "null") +
		strings.Replace(line("8", "patch", "keelson", "01:15", maps), "/healthz", "/api/v1/configmaps/x?dryRun=All&force=true", 1) +
		line("late", "patch", "keelson", "02:00", maps) +
		`{"auditID":"not whole`
	got, err := readTraffic(strings.NewReader(log), at("2026-01-01T10:01:00Z"), at("2026-01-01T10:02:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"patch configmaps": 1, "patch deployments.apps/status": 1, "get /healthz": 1, "dry-run configmaps": 1}, got.byApps); diff != "" {
		t.Error("caused by apps:", diff)
	}
	if diff := cmp.Diff(map[string]int{"watch configmaps": 1, "update leases.coordination.k8s.io": 1}, got.other); diff != "" {
		t.Error("not counted:", diff)
	}
	if got.total() != 4 || got.writes() != 3 {
		t.Errorf("total %d of which %d writes, want 4 and 3", got.total(), got.writes())
	}
	if diff := cmp.Diff(map[string]int{"patch": 2, "get": 1, "dry-run": 1, "watch": 1, "lease": 1}, got.byVerb()); diff != "" {
		t.Error("by verb:", diff)
	}
}

// TestTrafficOverLogsPutAside: a log that has grown too large is renamed, and what it has counts as before.
func TestTrafficOverLogsPutAside(t *testing.T) {
	dir := t.TempDir()
	line := func(id, verb string) string {
		return `{"auditID":"` + id + `","verb":"` + verb + `","userAgent":"keelson","requestReceivedTimestamp":"2026-01-01T10:00:00Z","objectRef":{"resource":"configmaps"}}` + "\n"
	}
	for name, text := range map[string]string{
		"audit-2026-01-01T10-00-01.000.log": line("1", "patch") + line("2", "list"),
		"audit.log":                         line("3", "patch"),
		"auditor.log":                       line("4", "patch"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	got, err := trafficIn(t.Context(), filepath.Join(dir, "audit.log"), at, at.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"patch configmaps": 2, "list configmaps": 1}, got.byApps); diff != "" {
		t.Error(diff)
	}
}

// TestAwaitEach: things that come twice count once, what came before the mark does not count, and the last one's time is told.
func TestAwaitEach(t *testing.T) {
	o := &observer{more: make(chan struct{})}
	start := time.Now()
	for i, name := range []string{"early", "a", "other", "a", "b", "b", "c", "d"} {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetName(name)
		o.note(&event{at: start.Add(time.Duration(i) * time.Second), object: u}, nil)
	}
	last, err := o.awaitEach(t.Context(), 1, "letters", 3, func(e event) (string, bool) {
		return e.object.GetName(), len(e.object.GetName()) == 1
	})
	if err != nil || last.Sub(start) != 6*time.Second {
		t.Errorf("the third came at %s (%v), want 6s", last.Sub(start), err)
	}
	o.note(nil, errors.New("over"))
	if _, err := o.awaitEach(t.Context(), 1, "letters", 5, func(e event) (string, bool) { return e.object.GetName(), len(e.object.GetName()) == 1 }); err == nil ||
		!strings.Contains(err.Error(), "4 of 5") {
		t.Errorf("error %v, want one that says how many came", err)
	}
}

func TestReadSizes(t *testing.T) {
	var b bench
	if err := b.readSizes("500,100"); err != nil || !cmp.Equal(b.sizes, []int{100, 500}) {
		t.Errorf("sizes %v, %v", b.sizes, err)
	}
	for _, list := range []string{"", "0", "100,", "5001", "many"} {
		if err := b.readSizes(list); err == nil {
			t.Errorf("%q gives %v, want an error", list, b.sizes)
		}
	}
}

func TestProcFiles(t *testing.T) {
	stat := "42 (a )program( 1) S 1 42 42 0 -1 4194560 10 0 0 0 123 45 0 0 20 0 1 0 7 8 9\n"
	if got, err := cpuTime([]byte(stat)); err != nil || got != 1680*time.Millisecond {
		t.Errorf("CPU time %s, %v; want 1.68s", got, err)
	}
	if got, err := cpuTime([]byte("42 (cut off")); err == nil {
		t.Errorf("CPU time %s of a malformed line, want an error", got)
	}
	for args, want := range map[string]string{"/x/keelson-cluster\x00component\x00etcd\x00--name=a\x00": "etcd", "/bin/sleep\x00": "sleep"} {
		if got := componentOf([]byte(args)); got != want {
			t.Errorf("%q is %s, want %s", args, got, want)
		}
	}
	status := []byte("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1536 kB\n")
	if got, err := statusField(status, "VmRSS"); err != nil || got != 1.5 {
		t.Errorf("VmRSS %v, %v; want 1.5", got, err)
	}
	if got, err := statusField(status, "RssAnon"); err == nil {
		t.Errorf("RssAnon %v, want an error: it is not there", got)
	}
}

func TestDriftsTellHarmFromWhole(t *testing.T) {
	for _, d := range drifts() {
		t.Run(d.name, func(t *testing.T) {
			e := event{verb: "ADDED", object: d.object("x")}
			if !d.whole(e) || d.harmed(e) {
				t.Errorf("the object as declared: whole %t, harmed %t", d.whole(e), d.harmed(e))
			}
		})
	}
}
