package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is one figure: what was measured, how often, and what came out. It is one JSON line.
type Result struct {
	Name    string         `json:"name"`
	What    string         `json:"what"`
	Unit    string         `json:"unit"` // ms, s, KiB, MiB, requests, ×, builds/s, cores, events/s, records/s, nodes
	N       int            `json:"n"`
	Median  float64        `json:"median"`
	P95     float64        `json:"p95"` // nearest rank
	Min     float64        `json:"min"`
	Max     float64        `json:"max"`
	Target  *float64       `json:"target,omitempty"`  // what the median may be at most
	Tail    *float64       `json:"tail,omitempty"`    // what p95 may be at most
	AtLeast *float64       `json:"atLeast,omitempty"` // what the median has to be at least: more is better here
	Floor   string         `json:"floor,omitempty"`   // the result of the bare work that cannot be avoided
	Load    float64        `json:"load"`              // one-minute load average when the last sample was taken
	Time    time.Time      `json:"time"`
	Samples []float64      `json:"samples"`
	Detail  map[string]any `json:"detail,omitempty"`
}

// Met tells whether all targets are met; a result without one always does.
func (r Result) Met() bool {
	return (r.Target == nil || r.Median <= *r.Target) && (r.Tail == nil || r.P95 <= *r.Tail) && (r.AtLeast == nil || r.Median >= *r.AtLeast)
}

// target shows what was to be met, and whether it was.
func (r Result) target() string {
	var parts []string
	if r.Target != nil {
		parts = append(parts, "≤ "+number(*r.Target))
	}
	if r.Tail != nil {
		parts = append(parts, "p95 ≤ "+number(*r.Tail))
	}
	if r.AtLeast != nil {
		parts = append(parts, "≥ "+number(*r.AtLeast))
	}
	switch {
	case parts == nil:
		return ""
	case r.Met():
		return strings.Join(parts, ", ") + " met"
	default:
		return strings.Join(parts, ", ") + " missed"
	}
}

// summarize computes the figures of samples in the order in which they were taken. There must be one at least.
func summarize(r Result, samples []float64) Result {
	sorted := slices.Sorted(slices.Values(samples))
	r.N, r.Samples = len(samples), samples
	r.Min, r.Max = sorted[0], sorted[len(sorted)-1]
	r.Median, r.P95 = median(sorted), rank(sorted, 0.95)
	return r
}

// median is the middle value, or the mean of the two in the middle.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// rank is the smallest value that at least the share q of all values does not exceed (nearest rank).
func rank(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// printTable writes results as a table, with the ratio to the floor where there is one.
func printTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmedian\tp95\tmin\tmax\tn\tunit\ttarget\tfloor\tload\t")
	for _, r := range results {
		ratio := ""
		if f, ok := find(results, r.Floor); ok && f.Median > 0 && r.Median > 0 {
			ratio = fmt.Sprintf("× %.1f", r.Median/f.Median)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%.1f\t\n",
			r.Name, number(r.Median), number(r.P95), number(r.Min), number(r.Max), r.N, r.Unit, r.target(), ratio, r.Load)
	}
	return t.Flush()
}

func find(results []Result, name string) (Result, bool) {
	i := slices.IndexFunc(results, func(r Result) bool { return r.Name == name })
	if name == "" || i < 0 {
		return Result{}, false
	}
	return results[i], true
}

// number shows three digits that count, and never less than the whole number.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// readResults reads JSON lines. Other lines are passed over, so the saved output of a run will do; of several results
// of one name the last counts, in the place of the first.
func readResults(r io.Reader) ([]Result, error) {
	var results []Result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		if !strings.HasPrefix(lines.Text(), "{") {
			continue
		}
		var res Result
		if err := json.Unmarshal(lines.Bytes(), &res); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if res.Name == "" || len(res.Samples) == 0 {
			return nil, fmt.Errorf("line %d: it is no result: name or samples are missing", n)
		}
		if i := slices.IndexFunc(results, func(old Result) bool { return old.Name == res.Name }); i >= 0 {
			results[i] = res
			continue
		}
		results = append(results, res)
	}
	return results, lines.Err()
}

// printComparison sets the results of two runs side by side. A difference counts when neither median lies within the
// middle half of the other run's samples; else it may be chance.
func printComparison(w io.Writer, before, after []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tbefore\tafter\tunit\tchange\tverdict\tload\t")
	for _, b := range before {
		a, ok := find(after, b.Name)
		if !ok {
			fmt.Fprintf(t, "%s\t%s\t-\t%s\t\tonly before\t\t\n", b.Name, number(b.Median), b.Unit)
			continue
		}
		change := "-"
		if b.Median != 0 {
			change = fmt.Sprintf("%+.0f %%", 100*(a.Median-b.Median)/math.Abs(b.Median))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%.1f, %.1f\t\n",
			b.Name, number(b.Median), number(a.Median), b.Unit, change, verdict(b, a), b.Load, a.Load)
	}
	for _, a := range after {
		if _, ok := find(before, a.Name); !ok {
			fmt.Fprintf(t, "%s\t-\t%s\t%s\t\tonly after\t\t\n", a.Name, number(a.Median), a.Unit)
		}
	}
	return t.Flush()
}

// verdict tells whether the second result is lower, which is better unless its target is a least one, or higher.
func verdict(before, after Result) string {
	switch {
	case before.Median == after.Median || within(before.Median, after.Samples) || within(after.Median, before.Samples):
		return "same"
	case (after.Median < before.Median) == (after.AtLeast == nil):
		return "better"
	default:
		return "worse"
	}
}

// within tells whether v lies in the middle half of samples.
func within(v float64, samples []float64) bool {
	sorted := slices.Sorted(slices.Values(samples))
	return rank(sorted, 0.25) <= v && v <= rank(sorted, 0.75)
}
