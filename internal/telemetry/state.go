package telemetry

import (
	"cmp"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// State is how things stand when somebody asks.
type State struct {
	Resources []Resource
	Watches   []Watch // one for each kind that is watched
}

// Resource is an object that declares an app or a source.
type Resource struct {
	Kind, Namespace, Name string
	Ready                 string // the Ready condition's status: "True", "False", "Unknown"; empty: it has none yet
	Suspended             bool
}

// Watch is how one kind is watched in the cluster.
type Watch struct {
	Group, Kind string
	Open        int // watches
	Objects     int // that they know of
}

// maxInfo bounds the series of keelson_resource_info for one kind.
const maxInfo = 5000

// The metrics that are made from a State.
var (
	infoDesc = describe("resource_info",
		"An app or a source: 1, with its kind, namespace, name, ready (True, False, Unknown) and suspended. Of each kind, 5000 at most; those that are not ready first.",
		"kind", "namespace", "name", "ready", "suspended")
	omittedDesc   = describe("resource_info_omitted", "Apps or sources of a kind for which there is no keelson_resource_info, because there are too many.", "kind")
	resourcesDesc = describe("resources", "Number of apps and sources, by kind, ready (True, False, Unknown) and suspended.", "kind", "ready", "suspended")
	watchesDesc   = describe("watches", "Watches on the cluster that are open for what apps own and refer to, by group and kind.", "group", "kind")
	watchedDesc   = describe("watched_objects", "Objects that the watches know of, by group and kind.", "group", "kind")
	buildDesc     = describe("build_info", "The program: 1, with its version and that of Go.", "version", "goversion")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

// stateCollector turns the present State into metrics each time it is asked for them.
type stateCollector struct {
	version string
	state   func() State
}

// Describe implements [prometheus.Collector].
func (c stateCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{infoDesc, omittedDesc, resourcesDesc, watchesDesc, watchedDesc, buildDesc} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c stateCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(buildDesc, 1, c.version, runtime.Version())
	state := c.state()
	for _, w := range state.Watches {
		gauge(watchesDesc, w.Open, w.Group, w.Kind)
		gauge(watchedDesc, w.Objects, w.Group, w.Kind)
	}
	byKind := map[string][]Resource{}
	for _, r := range state.Resources {
		r.Ready = cmp.Or(r.Ready, "Unknown")
		byKind[r.Kind] = append(byKind[r.Kind], r)
	}
	for kind, list := range byKind {
		counts := map[[2]string]int{}
		for _, r := range list {
			counts[[2]string{r.Ready, strconv.FormatBool(r.Suspended)}]++
		}
		for key, n := range counts {
			gauge(resourcesDesc, n, kind, key[0], key[1])
		}
		if len(list) > maxInfo {
			slices.SortFunc(list, worstFirst)
			gauge(omittedDesc, len(list)-maxInfo, kind)
			list = list[:maxInfo]
		}
		for _, r := range list {
			gauge(infoDesc, 1, kind, r.Namespace, r.Name, r.Ready, strconv.FormatBool(r.Suspended))
		}
	}
}

// worstFirst puts what is not ready first.
func worstFirst(a, b Resource) int {
	rank := map[string]int{"False": 0, "Unknown": 1, "True": 2}
	return cmp.Or(cmp.Compare(rank[a.Ready], rank[b.Ready]), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Handler serves Registry, the present state and more (the registries of libraries) in the formats of Prometheus.
// state is called for each scrape and must not wait.
func Handler(log *slog.Logger, version string, state func() State, more ...prometheus.Gatherer) http.Handler {
	now := prometheus.NewRegistry()
	now.MustRegister(stateCollector{version: version, state: state})
	return promhttp.HandlerFor(append(prometheus.Gatherers{Registry, now}, more...), promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // what can be gathered is worth more than nothing
		MaxRequestsInFlight: 4,
		EnableOpenMetrics:   true,
	})
}
