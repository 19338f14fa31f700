package show

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// Graph writes a graph as text: its stages, their jobs, and what each waits for.
func Graph(out io.Writer, g *pipeline.Graph, paint Paint) error {
	w := &writer{w: out}
	width := 0
	for _, j := range g.Jobs {
		width = max(width, min(48, len([]rune(j.Name))))
	}
	for _, stage := range g.Stages {
		w.printf("%s\n", paint.with(bold, Plain(stage)))
		for _, j := range g.Jobs {
			if j.Stage != stage {
				continue
			}
			name := Plain(j.Name)
			notes := strings.Join(append(traits(j), waits(j)...), ", ")
			if notes == "" {
				w.printf("  %s\n", name)
				continue
			}
			w.printf("  %s%s  %s\n", name, strings.Repeat(" ", max(0, width-len([]rune(name)))), paint.with(dim, Plain(notes)))
		}
	}
	return w.err
}

// traits are what is special about a job.
func traits(j pipeline.Job) []string {
	var out []string
	switch j.When {
	case pipeline.Manual:
		if j.AllowFailure.Allowed {
			out = append(out, "manual, optional")
		} else {
			out = append(out, "manual, the pipeline waits for it")
		}
	case pipeline.Delayed:
		out = append(out, "after "+time.Duration(j.StartIn).String())
	case pipeline.OnFailure:
		out = append(out, "on failure")
	case pipeline.Always:
		out = append(out, "always")
	}
	if j.AllowFailure.Allowed && j.When != pipeline.Manual {
		out = append(out, "may fail")
	}
	if j.Trigger != nil {
		if j.Trigger.Project != "" {
			out = append(out, "starts a pipeline of "+j.Trigger.Project)
		} else {
			out = append(out, "starts a child pipeline")
		}
	}
	if j.Environment != nil {
		out = append(out, "deploys to "+j.Environment.Name)
	}
	return out
}

// waits says what a job with needs waits for; without needs it waits for the stages before, as everybody expects.
func waits(j pipeline.Job) []string {
	if !j.DAG {
		return nil
	}
	var names []string
	for _, n := range j.Needs {
		switch {
		case n.Local():
			names = append(names, n.Job)
		case n.Project != "":
			names = append(names, n.Project+"/"+n.Job)
		default:
			names = append(names, "pipeline "+n.Pipeline)
		}
	}
	if len(names) == 0 {
		return []string{"needs nothing: starts at once"}
	}
	return []string{"needs " + strings.Join(names, ", ")}
}

// DOT writes a graph for Graphviz: a cluster for each stage, an edge for each need, and a dashed one where a job waits for the
// stages before.
func DOT(out io.Writer, g *pipeline.Graph) error {
	w := &writer{w: out}
	w.printf("digraph pipeline {\n  rankdir=LR\n  compound=true\n  node [shape=box, style=rounded, fontname=\"sans-serif\"]\n")
	first := make([]string, len(g.Stages)) // of each stage, a job
	for i, stage := range g.Stages {
		w.printf("  subgraph cluster_%d {\n    label=%s\n", i, strconv.Quote(stage))
		for _, j := range g.Jobs {
			if j.Stage != stage {
				continue
			}
			if first[i] == "" {
				first[i] = j.Name
			}
			style := ""
			switch j.When {
			case pipeline.Manual:
				style = ", style=\"rounded,dashed\""
			case pipeline.OnFailure:
				style = ", color=red"
			}
			w.printf("    %s [tooltip=%s%s]\n", quoteDOT(j.Name), quoteDOT(strings.Join(append(traits(j), waits(j)...), ", ")), style)
		}
		w.printf("  }\n")
	}
	for _, j := range g.Jobs {
		if j.DAG {
			for _, n := range j.Needs {
				if n.Local() {
					w.printf("  %s -> %s\n", quoteDOT(n.Job), quoteDOT(j.Name))
				}
			}
			continue
		}
		if i := slices.Index(g.Stages, j.Stage); i > 0 {
			w.printf("  %s -> %s [style=dashed, ltail=cluster_%d]\n", quoteDOT(first[i-1]), quoteDOT(j.Name), i-1)
		}
	}
	w.printf("}\n")
	return w.err
}

// quoteDOT is a text as DOT has it: a backslash in it would be an escape.
func quoteDOT(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(Plain(text)) + `"`
}

// Sizes of a drawing, in pixels.
const (
	boxHeight  = 34
	rowHeight  = 48
	letter     = 7.2 // of a monospaced letter at 12 pixels
	padding    = 30
	columnGap  = 70
	headHeight = 56
	maxLetters = 34
)

// box is where a job is drawn.
type box struct {
	job         pipeline.Job
	x, y, width float64
}

// drawing is a graph with its places: a column for each stage, with more of them inside where jobs of a stage need each other.
type drawing struct {
	boxes         []*box
	byName        map[string]*box
	stages        []stageColumn
	columns       []column
	width, height float64
}

// column is a row of boxes one below the other, without gaps.
type column struct {
	x, width float64
	rows     int
}

// blocks tells whether there is a box of it anywhere between two heights.
func (c column) blocks(y1, y2 float64) bool {
	first := math.Ceil((min(y1, y2) - headHeight - boxHeight) / rowHeight)
	last := math.Floor((max(y1, y2) - headHeight) / rowHeight)
	return max(0, first) <= min(float64(c.rows-1), last)
}

// pass is where a line that comes at y1 and goes on to y2 gets by: as it comes, or through the gap at the box in its way.
func (c column) pass(y1, y2 float64) float64 {
	if !c.blocks(y1, y1) {
		return y1
	}
	row := math.Floor((y1 - headHeight) / rowHeight)
	if y2 > y1 {
		row++
	}
	return headHeight + row*rowHeight - (rowHeight-boxHeight)/2
}

type stageColumn struct {
	name     string
	x, width float64
	waited   bool // jobs of it wait for the stages before
}

// layout places jobs: from left to right as they run, from top to bottom near to what they need.
func layout(g *pipeline.Graph) *drawing {
	d := &drawing{byName: map[string]*box{}}
	x := float64(padding)
	tallest := 0
	for _, name := range g.Stages {
		col := stageColumn{name: name, x: x}
		var jobs []pipeline.Job
		for _, j := range g.Jobs {
			if j.Stage == name {
				jobs = append(jobs, j)
				col.waited = col.waited || !j.DAG
			}
		}
		for _, sub := range subcolumns(jobs) {
			d.order(sub)
			width := 0.0
			for _, j := range sub {
				width = max(width, float64(min(maxLetters, len([]rune(j.Name))))*letter+36)
			}
			width = max(width, 110)
			for row, j := range sub {
				b := &box{job: j, x: x, y: headHeight + float64(row)*rowHeight, width: width}
				d.boxes = append(d.boxes, b)
				d.byName[j.Name] = b
			}
			d.columns = append(d.columns, column{x, width, len(sub)})
			tallest = max(tallest, len(sub))
			col.width = x + width - col.x
			x += width + columnGap
		}
		d.stages = append(d.stages, col)
	}
	d.width = max(x-columnGap+padding, 200)
	d.height = headHeight + float64(max(1, tallest))*rowHeight + padding/2
	return d
}

// subcolumns puts the jobs of a stage that need others of it behind those.
func subcolumns(jobs []pipeline.Job) [][]pipeline.Job {
	index := map[string]int{}
	for i, j := range jobs {
		index[j.Name] = i
	}
	depth := make([]int, len(jobs))
	state := make([]int, len(jobs)) // 1: being looked at, 2: done
	var visit func(i int) int
	visit = func(i int) int {
		if state[i] != 0 {
			return depth[i]
		}
		state[i] = 1
		for _, n := range jobs[i].Needs {
			if k, ok := index[n.Job]; ok && n.Local() && state[k] != 1 {
				depth[i] = max(depth[i], visit(k)+1)
			}
		}
		state[i] = 2
		return depth[i]
	}
	var columns [][]pipeline.Job
	for i, j := range jobs {
		at := visit(i)
		for len(columns) <= at {
			columns = append(columns, nil)
		}
		columns[at] = append(columns[at], j)
	}
	return columns
}

// order sorts the jobs of a column by where what they need is drawn, so that fewer lines cross.
func (d *drawing) order(jobs []pipeline.Job) {
	weight := map[string]float64{}
	for i, j := range jobs {
		sum, n := 0.0, 0.0
		for _, need := range j.Needs {
			if b := d.byName[need.Job]; b != nil && need.Local() {
				sum, n = sum+b.y, n+1
			}
		}
		weight[j.Name] = headHeight + float64(i)*rowHeight
		if n > 0 {
			weight[j.Name] = sum / n
		}
	}
	slices.SortStableFunc(jobs, func(a, b pipeline.Job) int {
		switch {
		case weight[a.Name] < weight[b.Name]:
			return -1
		case weight[a.Name] > weight[b.Name]:
			return 1
		}
		return 0
	})
}

const svgStyle = `<style>
  text { font: 12px ui-monospace, monospace; fill: #1f2328 }
  .stage { font-weight: bold; font-size: 13px }
  .lane { fill: #f6f8fa }
  .job { fill: #fff; stroke: #57606a; stroke-width: 1.2 }
  .manual { stroke-dasharray: 5 3 }
  .on_failure { stroke: #cf222e }
  .always { stroke: #0969da }
  .delayed { stroke-dasharray: 1 3; stroke-linecap: round; stroke-width: 2 }
  .trigger { stroke-width: 2.5 }
  .need { fill: none; stroke: #57606a; stroke-width: 1.2 }
  .gate { fill: none; stroke: #8c959f; stroke-width: 1; stroke-dasharray: 4 3 }
  .head { fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .lane { fill: #161b22 } .job { fill: #0d1117; stroke: #8b949e }
    .on_failure { stroke: #f85149 } .always { stroke: #4493f8 } .need { stroke: #8b949e } .gate { stroke: #6e7681 } .head { fill: #8b949e }
  }
</style>
`

// SVG draws a graph: stages from left to right, lines for needs, dashed ones where jobs wait for all of the stages before.
func SVG(out io.Writer, g *pipeline.Graph) error {
	d := layout(g)
	w := &writer{w: out}
	title := "Pipeline"
	if g.Name != "" {
		title = g.Name
	}
	w.printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%s\" height=\"%s\" viewBox=\"0 0 %s %s\" role=\"img\">\n",
		px(d.width), px(d.height), px(d.width), px(d.height))
	w.printf("<title>%s</title>\n%s", escape(title), svgStyle)
	w.printf("<defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0 0 8 4 0 8z\"/></marker></defs>\n")
	for _, s := range d.stages {
		w.printf("<rect class=\"lane\" x=\"%s\" y=\"10\" width=\"%s\" height=\"%s\" rx=\"8\"/>\n", px(s.x-14), px(s.width+28), px(d.height-20))
		w.printf("<text class=\"stage\" x=\"%s\" y=\"34\">%s</text>\n", px(s.x), escape(s.name))
	}
	w.gates(d)
	for _, b := range d.boxes {
		if !b.job.DAG {
			continue
		}
		for _, n := range b.job.Needs {
			if from := d.byName[n.Job]; from != nil && n.Local() {
				w.line(d, "need", from.x+from.width, from.y+boxHeight/2, b.x, b.y+boxHeight/2, true)
			}
		}
	}
	for _, b := range d.boxes {
		w.box(b)
	}
	w.printf("</svg>\n")
	return w.err
}

// gates draws what waits for whole stages: a bar before the stage's column, lines from each job before to it, and from it to those
// that wait. One bar stands for what would be a line from everyone to everyone.
func (w *writer) gates(d *drawing) {
	for i, s := range d.stages {
		if i == 0 || !s.waited {
			continue
		}
		before := d.stages[i-1]
		x := (before.x + before.width + s.x) / 2
		top, bottom := d.height, 0.0
		span := func(y float64) { top, bottom = min(top, y), max(bottom, y) }
		for _, b := range d.boxes {
			y := b.y + boxHeight/2
			switch {
			case b.job.Stage == before.name:
				span(y)
				w.line(d, "gate", b.x+b.width, y, x, y, false)
			case b.job.Stage == s.name && !b.job.DAG:
				span(y)
				w.line(d, "gate", x, y, b.x, y, true)
			}
		}
		if top < bottom {
			w.printf("<path class=\"gate\" d=\"M%s %sV%s\"/>\n", px(x), px(top), px(bottom))
		}
	}
}

// line draws a line to the right, around the boxes that are in its way.
func (w *writer) line(d *drawing, class string, x1, y1, x2, y2 float64, arrow bool) {
	marker := ""
	if arrow {
		marker = ` marker-end="url(#to)"`
	}
	from, _ := slices.BinarySearchFunc(d.columns, x1, func(c column, x float64) int { return cmp.Compare(c.x, x) })
	to, _ := slices.BinarySearchFunc(d.columns, x2, func(c column, x float64) int { return cmp.Compare(c.x, x) })
	between := d.columns[from:to]
	if !slices.ContainsFunc(between, func(c column) bool { return c.blocks(y1, y2) }) {
		between = nil
	}
	path := "M" + px(x1) + " " + px(y1)
	for _, c := range between {
		y := c.pass(y1, y2)
		path += curve(x1, y1, c.x, y) + "H" + px(c.x+c.width)
		x1, y1 = c.x+c.width, y
	}
	w.printf("<path class=\"%s\" d=\"%s\"%s/>\n", class, path+curve(x1, y1, x2, y2), marker)
}

// curve goes on with a path to the right.
func curve(x1, y1, x2, y2 float64) string {
	if y1 == y2 {
		return "H" + px(x2)
	}
	bend := max(20, (x2-x1)/2)
	return "C" + strings.Join([]string{px(x1 + bend), px(y1), px(x2 - bend), px(y2), px(x2), px(y2)}, " ")
}

func (w *writer) box(b *box) {
	class := "job"
	switch b.job.When {
	case pipeline.Manual, pipeline.OnFailure, pipeline.Always, pipeline.Delayed:
		class += " " + string(b.job.When)
	}
	if b.job.Trigger != nil {
		class += " trigger"
	}
	name := []rune(b.job.Name)
	if len(name) > maxLetters {
		name = append(name[:maxLetters-1:maxLetters-1], '…')
	}
	w.printf("<g><title>%s</title><rect class=\"%s\" x=\"%s\" y=\"%s\" width=\"%s\" height=\"%d\" rx=\"6\"/>",
		escape(strings.Join(append([]string{b.job.Name}, append(traits(b.job), waits(b.job)...)...), ", ")), class, px(b.x), px(b.y), px(b.width), boxHeight)
	if sign := signs[b.job.When]; sign != "" {
		w.printf("<text x=\"%s\" y=\"%s\">%s</text>", px(b.x+b.width-18), px(b.y+boxHeight/2+4), sign)
	}
	w.printf("<text x=\"%s\" y=\"%s\">%s</text></g>\n", px(b.x+10), px(b.y+boxHeight/2+4), escape(string(name)))
}

// signs stand at the right of a job that does not just run.
var signs = map[pipeline.When]string{pipeline.Manual: "▷", pipeline.Delayed: "◷", pipeline.OnFailure: "!", pipeline.Always: "∗"}

func px(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// escape is a text as XML has it.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(Plain(text))
}

// Headline says in a line what a graph is for.
func Headline(g *pipeline.Graph) string {
	name := ""
	if g.Name != "" {
		name = g.Name + ": "
	}
	return Plain(fmt.Sprintf("%s%s of %s at %s, %s in %s", name, g.Source, g.Ref, g.SHA[:min(8, len(g.SHA))], Count(len(g.Jobs), "job"), Count(len(g.Stages), "stage")))
}
