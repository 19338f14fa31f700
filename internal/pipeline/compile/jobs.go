package compile

import (
	"fmt"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// The bounds of a pipeline.
const (
	maxParallel = 200       // jobs that one job becomes; GitLab's bound
	maxJobs     = 10_000    // of a pipeline
	maxNeeds    = 500_000   // of a pipeline
	maxValues   = 3_000_000 // variables of all jobs of a pipeline
	maxRules    = 100_000   // asked for all jobs of a pipeline
	needsLimit  = 50        // of one job; GitLab's default, which an instance may raise
)

// instance is a job after parallel has been expanded: one job of the graph, if the event wants it.
type instance struct {
	spec   *pipeline.JobSpec
	of     int // the spec's place in the configuration
	name   string
	node   pipeline.Node
	matrix []pipeline.KV
	links  []link // its own needs

	// What is worked out once: what is made of its name; and its environment, for a name.
	names       jobNames
	environment *pipeline.Environment
}

// link is a need of an instance.
type link struct {
	pipeline.Need
	spec *pipeline.NeedSpec
	to   int // the instance in the same configuration; -1: there is none, or the need is not local
}

// jobs are the instances of a configuration, and where to find them.
type jobs struct {
	cfg      *pipeline.Config
	list     []instance       // as in the files
	byName   map[string]int   // in list
	parallel map[string][]int // the instances of a job with parallel
	ofSpec   [][]int          // the instances of each of cfg.Jobs
	stages   map[string]int
	edges    int
	problems pipeline.Problems
	replaced pipeline.Problems // jobs that took the place of others of their name
}

// expand makes the instances and links their needs.
func expand(cfg *pipeline.Config) *jobs {
	js := &jobs{
		cfg: cfg, list: make([]instance, 0, len(cfg.Jobs)), byName: make(map[string]int, len(cfg.Jobs)),
		parallel: map[string][]int{}, ofSpec: make([][]int, len(cfg.Jobs)), stages: make(map[string]int, len(cfg.Stages)),
	}
	for i, s := range cfg.Stages {
		if _, twice := js.stages[s]; !twice {
			js.stages[s] = i
		}
	}
	for i := range cfg.Jobs {
		if !js.add(i) {
			break
		}
	}
	for at, in := range js.list {
		js.ofSpec[in.of] = append(js.ofSpec[in.of], at)
		if in.spec.Parallel != nil {
			js.parallel[in.spec.Name] = append(js.parallel[in.spec.Name], at)
		}
	}
	for i := range cfg.Jobs {
		js.link(i)
	}
	return js
}

// add makes the instances of a job. It is false once there are too many.
func (js *jobs) add(i int) bool {
	spec := &js.cfg.Jobs[i]
	made := js.instances(spec)
	if len(js.list)+len(made) > maxJobs {
		js.problems = append(js.problems, problemAt(spec, "parallel", "pipeline-too-large",
			fmt.Sprintf("the jobs of the pipeline are too many with `%s` (maximum is %d)", spec.Name, maxJobs), ""))
		return false
	}
	for _, in := range made {
		in.of = i
		if at, twice := js.byName[in.name]; twice { // GitLab keeps jobs by their names: the later one counts
			js.replaced = append(js.replaced, warned(problemAt(spec, "parallel", "duplicate-name",
				fmt.Sprintf("%s job: it takes the place of another job with the name `%s`", spec.Name, in.name), "")))
			js.list[at] = in
			continue
		}
		js.byName[in.name] = len(js.list)
		js.list = append(js.list, in)
	}
	return true
}

// instances gives the jobs that a job becomes.
func (js *jobs) instances(spec *pipeline.JobSpec) []instance {
	switch p := spec.Parallel; {
	case p == nil:
		return []instance{{spec: spec, name: spec.Name}}
	case len(p.Matrix) > 0:
		rows, ok := combinations(p.Matrix)
		if !ok {
			js.problems = append(js.problems, problemAt(spec, "parallel", "too-many-parallel",
				fmt.Sprintf("`%s` parallel:matrix config generates too many jobs (maximum is %d)", spec.Name, maxParallel), ""))
			return []instance{{spec: spec, name: spec.Name}}
		}
		made := make([]instance, len(rows))
		for i, row := range rows {
			made[i] = instance{spec: spec, name: matrixName(spec.Name, row), matrix: row, node: pipeline.Node{Index: i + 1, Total: len(rows)}}
		}
		return made
	case p.Count < 1 || p.Count > maxParallel:
		js.problems = append(js.problems, problemAt(spec, "parallel", "too-many-parallel",
			fmt.Sprintf("`%s` parallel should be between 1 and %d", spec.Name, maxParallel), ""))
		return []instance{{spec: spec, name: spec.Name}}
	default:
		made := make([]instance, p.Count)
		for i := range made {
			made[i] = instance{spec: spec, name: fmt.Sprintf("%s %d/%d", spec.Name, i+1, p.Count), node: pipeline.Node{Index: i + 1, Total: p.Count}}
		}
		return made
	}
}

// combinations gives the rows of a matrix: set by set, the values of the first variable changing slowest. It is false for more
// than are allowed.
func combinations(sets []pipeline.MatrixSet) ([][]pipeline.KV, bool) {
	var rows [][]pipeline.KV
	for _, set := range sets {
		product := [][]pipeline.KV{nil}
		for _, v := range set {
			if len(product)*len(v.Values) > maxParallel {
				return nil, false
			}
			next := make([][]pipeline.KV, 0, len(product)*len(v.Values))
			for _, row := range product {
				for _, value := range v.Values {
					next = append(next, append(row[:len(row):len(row)], pipeline.KV{Key: v.Name, Value: value}))
				}
			}
			product = next
		}
		if rows = append(rows, product...); len(rows) > maxParallel {
			return nil, false
		}
	}
	return rows, true
}

// matrixName is GitLab's name of an instance: "test: [linux, arm64]".
func matrixName(base string, row []pipeline.KV) string {
	values := make([]string, len(row))
	for i, kv := range row {
		values[i] = kv.Value
	}
	return base + ": [" + strings.Join(values, ", ") + "]"
}

// link finds what the needs of a job's instances name. Instances share their links unless a need names a value of their matrix.
func (js *jobs) link(i int) {
	spec := &js.cfg.Jobs[i]
	if spec.NeedSpecs == nil || len(js.ofSpec[i]) == 0 {
		return
	}
	shared := !perInstance(spec.NeedSpecs)
	var links []link
	for n, at := range js.ofSpec[i] {
		if n == 0 || !shared {
			links = js.links(&js.list[at], spec.NeedSpecs)
		}
		if js.edges += len(links); js.edges > maxNeeds {
			js.problems = append(js.problems, problemAt(spec, "needs", "pipeline-too-large",
				fmt.Sprintf("the needs of the pipeline are too many with those of `%s` (maximum is %d)", spec.Name, maxNeeds), ""))
			return
		}
		js.list[at].links = links
	}
}

// links gives what needs name for an instance.
func (js *jobs) links(in *instance, needs []pipeline.NeedSpec) []link {
	links := make([]link, 0, len(needs))
	for i := range needs {
		spec := &needs[i]
		if len(links) > maxJobs { // most of them are named twice, which is reported
			break
		}
		if !spec.Local() {
			links = append(links, link{Need: spec.Need, spec: spec, to: -1})
			continue
		}
		for _, name := range js.targets(in, spec) {
			links = append(links, js.linkTo(spec, name))
		}
	}
	return links
}

// ruleLinks gives what needs of a rule name: single jobs of the graph. GitLab expands parallel only in a job's own needs.
func (js *jobs) ruleLinks(needs []pipeline.NeedSpec) []link {
	links := make([]link, len(needs))
	for i := range needs {
		links[i] = js.linkTo(&needs[i], needs[i].Job)
	}
	return links
}

func (js *jobs) linkTo(spec *pipeline.NeedSpec, name string) link {
	l := link{Need: spec.Need, spec: spec, to: -1}
	l.Job = name
	if to, ok := js.byName[name]; ok && spec.Local() {
		l.to = to
	}
	return l
}

// targets gives the names in the graph that a local need stands for; none where they cannot be told, which is reported.
func (js *jobs) targets(in *instance, n *pipeline.NeedSpec) []string {
	before := len(js.problems)
	base := js.interpolate(in, n, n.Job)
	sets := js.interpolateMatrix(in, n)
	if len(js.problems) > before {
		return nil
	}
	all := js.parallel[base]
	if len(all) == 0 {
		return []string{base}
	}
	var names []string
	if sets == nil {
		for _, at := range all {
			names = append(names, js.list[at].name)
		}
		return names
	}
	rows, ok := combinations(sets)
	if !ok {
		js.problems = append(js.problems, needProblem(in.spec, n, "too-many-parallel",
			fmt.Sprintf("`%s` needs:parallel:matrix names too many jobs (maximum is %d)", in.spec.Name, maxParallel), ""))
		return nil
	}
	for _, row := range rows {
		names = append(names, matrixName(base, row))
	}
	return names
}

// perInstance tells whether needs name values of the matrix of the job that they belong to.
func perInstance(needs []pipeline.NeedSpec) bool {
	for _, n := range needs {
		if strings.Contains(n.Job, "$[[") {
			return true
		}
		for _, set := range n.Matrix {
			for _, v := range set {
				for _, value := range v.Values {
					if strings.Contains(value, "$[[") {
						return true
					}
				}
			}
		}
	}
	return false
}

// interpolateMatrix puts the instance's values into the matrix of a need.
func (js *jobs) interpolateMatrix(in *instance, n *pipeline.NeedSpec) []pipeline.MatrixSet {
	if !perInstance([]pipeline.NeedSpec{*n}) {
		return n.Matrix
	}
	sets := make([]pipeline.MatrixSet, len(n.Matrix))
	for i, set := range n.Matrix {
		for _, v := range set {
			values := make([]string, len(v.Values))
			for j, value := range v.Values {
				values[j] = js.interpolate(in, n, value)
			}
			sets[i] = append(sets[i], pipeline.MatrixVariable{Name: v.Name, Values: values, At: v.At})
		}
	}
	return sets
}

// interpolate puts the values of an instance's matrix in the place of $[[ matrix.NAME ]].
func (js *jobs) interpolate(in *instance, n *pipeline.NeedSpec, text string) string {
	var b strings.Builder
	for rest := text; ; {
		before, block, found := strings.Cut(rest, "$[[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		inner, after, closed := strings.Cut(block, "]]")
		name, isMatrix := strings.CutPrefix(strings.TrimSpace(inner), "matrix.")
		value, known := matrixValue(in.matrix, name)
		switch {
		case !closed || !isMatrix:
			b.WriteString("$[[")
			rest = block
			continue
		case !known:
			js.problems = append(js.problems, needProblem(in.spec, n, "unknown-matrix-variable",
				fmt.Sprintf("%s job: '%s' does not exist in matrix configuration", in.spec.Name, name),
				pipeline.DidYouMean(name, matrixNames(in.matrix))))
		}
		b.WriteString(value)
		rest = after
	}
}

func matrixValue(row []pipeline.KV, name string) (string, bool) {
	for _, kv := range row {
		if kv.Key == name {
			return kv.Value, true
		}
	}
	return "", false
}

func matrixNames(row []pipeline.KV) []string {
	names := make([]string, len(row))
	for i, kv := range row {
		names[i] = kv.Key
	}
	return names
}
