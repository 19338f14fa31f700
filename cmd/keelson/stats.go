package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"keelson.dev/keelson/internal/telemetry"
)

func statsCommand(g *global) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show what an instance has done and what it costs, in numbers",
		Long: `Stats reads the metrics of the running instance (or, with --metrics, of a keelson server) and shows the ones that tell most:
how many apps and sources there are and how they are doing, how long deliveries take, what was rendered, applied and repaired,
and what it all costs. Counts are those since the process started. Prometheus reads the same numbers at /metrics.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runStats(cmd.Context(), g, address) },
	}
	cmd.Flags().StringVar(&address, "metrics", "", "the `address` given to keelson server --metrics (default: that of the instance)")
	return cmd
}

func runStats(ctx context.Context, g *global, address string) error {
	url, token, err := g.metricsURL(address)
	if err != nil {
		return err
	}
	families, err := scrape(ctx, url, token)
	if err != nil {
		return hintf(fmt.Errorf("read metrics: %w", err), "keelson up starts the instance; --data names another instance's directory, --metrics a server's address")
	}
	s := statsOf(families, time.Now())
	return g.print(s, s.write)
}

// metricsURL finds the metrics: at an address, else those of the instance, with its token.
func (g *global) metricsURL(address string) (url, token string, err error) {
	if address != "" {
		address, err := localUnlessStated("--metrics", strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/metrics"))
		return "http://" + address + "/metrics", "", err
	}
	inst, err := readInstance(g.data)
	if err != nil {
		return "", "", hintf(fmt.Errorf("there is no instance in %s", g.data), "keelson up --data %s starts one; --metrics names the address of a server", g.data)
	}
	return inst.base() + "/metrics", inst.Token, nil
}

// maxMetrics bounds the metrics that are read, in bytes.
const maxMetrics = 64 << 20

func scrape(ctx context.Context, url, token string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(res.Body, maxMetrics))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if families["keelson_build_info"] == nil {
		return nil, errors.New(url + " does not serve the metrics of keelson")
	}
	return families, nil
}

// stats are the numbers that tell a person most. Times are in seconds; those at quantiles are upper bounds, since
// histograms are kept in steps.
type stats struct {
	Version       string             `json:"version"`
	UptimeSeconds float64            `json:"uptimeSeconds"`
	Kinds         []kindStats        `json:"kinds"`
	Deliveries    timing             `json:"deliveries"` // from a known commit to an app that is ready at it
	Steps         timing             `json:"steps"`      // of reconciling
	Renders       map[string]float64 `json:"renders"`    // by outcome
	RenderTime    timing             `json:"renderTime"`
	Changes       map[string]float64 `json:"changes"` // sent to the cluster, by verb
	ChangeResults map[string]float64 `json:"changeResults"`
	Repaired      map[string]float64 `json:"driftRepaired"` // by kind
	PutOff        float64            `json:"repairsPutOff"`
	Sources       map[string]timing  `json:"sourceRequests"` // by operation
	SourceFailed  float64            `json:"sourceRequestsFailed"`
	Requests      map[string]float64 `json:"apiRequests"` // by code
	Methods       map[string]float64 `json:"apiMethods"`
	StatusWrites  float64            `json:"statusWrites"`
	Watches       float64            `json:"watches"`
	Watched       float64            `json:"watchedObjects"`
	Queued        float64            `json:"queueDepth"`
	QueueTime     timing             `json:"queueTime"`
	Working       float64            `json:"activeWorkers"`
	ResidentBytes float64            `json:"residentBytes"`
	HeapBytes     float64            `json:"heapBytes"`
	CPUSeconds    float64            `json:"cpuSeconds"`
}

// kindStats counts the objects of one kind; each is in one of the states.
type kindStats struct {
	Kind      string  `json:"kind"`
	Total     float64 `json:"total"`
	Ready     float64 `json:"ready"`
	Working   float64 `json:"working"`
	Failing   float64 `json:"failing"`
	Suspended float64 `json:"suspended"`
}

// timing is a histogram in short. Quantiles are absent where nothing was timed.
type timing struct {
	Count float64  `json:"count"`
	Mean  float64  `json:"mean"`
	P50   *float64 `json:"p50,omitempty"`
	P95   *float64 `json:"p95,omitempty"`
}

// statsOf reduces metrics to stats.
func statsOf(families map[string]*dto.MetricFamily, now time.Time) stats {
	m := metricSet(families)
	s := stats{
		Version: m.label("keelson_build_info", "version"), Kinds: m.kinds(),
		Deliveries: m.timing("keelson_delivery_duration_seconds", nil), Steps: m.timing("keelson_reconcile_duration_seconds", nil),
		Renders: m.by("keelson_renders_total", "outcome"), RenderTime: m.timing("keelson_render_duration_seconds", nil),
		Changes: m.by("keelson_apply_requests_total", "verb"), ChangeResults: m.by("keelson_apply_requests_total", "result"),
		Repaired: m.by("keelson_drift_repaired_total", "kind"), PutOff: m.sum("keelson_drift_backoffs_total"),
		Sources: map[string]timing{}, Requests: m.by("rest_client_requests_total", "code"), Methods: m.by("rest_client_requests_total", "method"),
		StatusWrites: m.sum("keelson_status_writes_total"), Watches: m.sum("keelson_watches"), Watched: m.sum("keelson_watched_objects"),
		Queued: m.sum("workqueue_depth"), QueueTime: m.timing("workqueue_queue_duration_seconds", nil),
		Working: m.sum("controller_runtime_active_workers"), ResidentBytes: m.sum("process_resident_memory_bytes"),
		HeapBytes: m.sum("go_memstats_heap_inuse_bytes"), CPUSeconds: m.sum("process_cpu_seconds_total"),
	}
	for op := range m.by("keelson_source_request_duration_seconds", "operation") {
		s.Sources[op] = m.timing("keelson_source_request_duration_seconds", map[string]string{"operation": op})
	}
	s.SourceFailed = m.timing("keelson_source_request_duration_seconds", map[string]string{"result": telemetry.Failed}).Count
	if start := m.sum("process_start_time_seconds"); start > 0 {
		s.UptimeSeconds = math.Round(float64(now.UnixMilli())/1000 - start)
	}
	return s
}

// metricSet is what a scrape gave.
type metricSet map[string]*dto.MetricFamily

// value is the one number of a metric; of a histogram, its count.
func value(m *dto.Metric) float64 {
	if h := m.GetHistogram(); h != nil {
		return float64(h.GetSampleCount())
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (s metricSet) label(family, name string) string {
	for _, m := range s[family].GetMetric() {
		return labelOf(m, name)
	}
	return ""
}

// sum adds up all series of a family; by does so for each value of a label.
func (s metricSet) sum(family string) (sum float64) {
	for _, m := range s[family].GetMetric() {
		sum += value(m)
	}
	return sum
}

func (s metricSet) by(family, label string) map[string]float64 {
	sums := map[string]float64{}
	for _, m := range s[family].GetMetric() {
		sums[labelOf(m, label)] += value(m)
	}
	return sums
}

// timing adds up the histograms of a family that have the labels.
func (s metricSet) timing(family string, labels map[string]string) timing {
	var t timing
	var sum float64
	buckets := map[float64]float64{} // upper bound -> so many and fewer
series:
	for _, m := range s[family].GetMetric() {
		for name, want := range labels {
			if labelOf(m, name) != want {
				continue series
			}
		}
		h := m.GetHistogram()
		t.Count += float64(h.GetSampleCount())
		sum += h.GetSampleSum()
		for _, b := range h.GetBucket() {
			buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	if t.Count == 0 {
		return t
	}
	t.Mean = sum / t.Count
	within := func(share float64) *float64 {
		for _, bound := range slices.Sorted(maps.Keys(buckets)) {
			if buckets[bound] >= share*t.Count && !math.IsInf(bound, 1) {
				return &bound
			}
		}
		return nil // longer than the last bound
	}
	t.P50, t.P95 = within(.5), within(.95)
	return t
}

func (s metricSet) kinds() []kindStats {
	kinds := map[string]*kindStats{}
	for _, m := range s["keelson_resources"].GetMetric() {
		name := labelOf(m, "kind")
		k, ok := kinds[name]
		if !ok {
			k = &kindStats{Kind: name}
			kinds[name] = k
		}
		n := value(m)
		k.Total += n
		switch ready := labelOf(m, "ready"); {
		case labelOf(m, "suspended") == "true":
			k.Suspended += n
		case ready == "True":
			k.Ready += n
		case ready == "False":
			k.Failing += n
		default:
			k.Working += n
		}
	}
	list := []kindStats{}
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, *kinds[name])
	}
	return list
}

// write shows the numbers to a person: a table of kinds, then a line for each thing that is counted.
func (s stats) write(w io.Writer) error {
	if len(s.Kinds) == 0 {
		fmt.Fprintln(w, "no apps and no sources")
	} else {
		t := newTable(w, false, "KIND", "TOTAL", "READY", "WORKING", "FAILING", "SUSPENDED")
		for _, k := range s.Kinds {
			t.row(k.Kind, number(k.Total), number(k.Ready), number(k.Working), number(k.Failing), number(k.Suspended))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	source := func(op string) string { return s.Sources[op].String() }
	t := newTable(w, false, "WHAT", "HOW MUCH")
	t.row("deliveries", s.Deliveries.String())
	t.row("steps", s.Steps.String())
	t.row("renders", listed(s.Renders)+within(s.RenderTime))
	t.row("changes", listed(s.Changes))
	t.row("  answered", listed(s.ChangeResults))
	t.row("drift repaired", listed(s.Repaired)+", "+number(s.PutOff)+" put off")
	t.row("refs resolved", source("resolve"))
	t.row("fetches", source("fetch"))
	t.row("  failed", number(s.SourceFailed))
	t.row("API requests", listed(s.Methods))
	t.row("  answered", listed(s.Requests))
	t.row("status writes", number(s.StatusWrites))
	t.row("watches", number(s.Watches)+" for "+number(s.Watched)+" objects")
	t.row("queue", number(s.Queued)+" waiting, "+number(s.Working)+" being worked on"+within(s.QueueTime))
	t.row("memory", bytesOf(s.ResidentBytes)+" resident, "+bytesOf(s.HeapBytes)+" heap")
	t.row("CPU", fmt.Sprintf("%.1f s", s.CPUSeconds))
	t.row("up", duration.HumanDuration(time.Duration(s.UptimeSeconds)*time.Second)+", version "+s.Version)
	return t.flush()
}

// String says how many there were and how long half of them and nearly all took at most.
func (t timing) String() string { return number(t.Count) + within(t) }

func within(t timing) string {
	if t.Count == 0 {
		return ""
	}
	said := func(p *float64) string {
		if p == nil {
			return "more than is told apart"
		}
		unit := math.Pow(10, math.Floor(math.Log10(*p))-2)
		rounded := math.Round(*p/unit) * unit // to three digits: some libraries' bounds are like 0.099999
		return time.Duration(math.Round(rounded * float64(time.Second))).String()
	}
	return "; half within " + said(t.P50) + ", 95 % within " + said(t.P95)
}

// listed shows counts, the largest first: "880 remembered, 120 rendered".
func listed(counts map[string]float64) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, number(counts[name])+" "+name)
	}
	return cmp.Or(strings.Join(parts, ", "), "0")
}

func number(v float64) string { return fmt.Sprintf("%.0f", v) }

func bytesOf(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }
