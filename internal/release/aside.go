package release

import (
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
)

// Templates are programs, which may loop or take all memory. They are executed in a child process, in bounds; Helm's own engine, which knows no
// bounds, is given stand-ins that say what the child has made of each. The first of them, which the engine executes before all others since its path is
// the longest, is told what the templates are given. Before anything is stored the chart has its own templates again.
type aside struct {
	own  map[*common.File]*common.File // the templates by their stand-ins; of the first nil
	made map[string]string
	err  error
}

const (
	asideBegin = "keelsonRender"
	asideMade  = "keelsonRendered"
)

// setAside puts stand-ins in the place of the chart's templates.
func (r *run) setAside() {
	r.aside = &aside{own: map[*common.File]*common.File{}}
	first := &common.File{Name: "templates/" + strings.Repeat("-/", maxChartDepth+maxChartDepth) + "first", Data: []byte("{{ " + asideBegin + " . }}")}
	r.aside.own[first] = nil
	var each func(c *chartv2.Chart)
	each = func(c *chartv2.Chart) {
		templates := make([]*common.File, 0, len(c.Templates)+1)
		for _, t := range c.Templates {
			s := &common.File{Name: t.Name, ModTime: t.ModTime}
			if !strings.HasPrefix(t.Name[strings.LastIndex(t.Name, "/")+1:], "_") {
				s.Data = []byte("{{ " + asideMade + " .Template.Name }}")
			}
			r.aside.own[s] = t
			templates = append(templates, s)
		}
		c.Templates = templates
		for _, d := range c.Dependencies() {
			each(d)
		}
	}
	each(r.chart)
	r.chart.Templates = append(r.chart.Templates, first)
	r.cfg.CustomTemplateFuncs = map[string]any{
		asideBegin: r.executeAside,
		asideMade:  func(name string) string { return r.aside.made[name] },
	}
}

// restored gives the chart its own templates again.
func (a *aside) restored(c *chartv2.Chart) {
	templates := make([]*common.File, 0, len(c.Templates))
	for _, t := range c.Templates {
		own, stands := a.own[t]
		switch {
		case !stands:
			templates = append(templates, t)
		case own != nil:
			templates = append(templates, own)
		}
	}
	c.Templates = templates
	for _, d := range c.Dependencies() {
		a.restored(d)
	}
}

// executeAside executes the templates of the chart, whose dependencies Helm has processed by now; top is what it gives them.
func (r *run) executeAside(top map[string]any) (string, error) {
	chart := copyChart(r.chart)
	r.aside.restored(chart)
	r.aside.made, r.aside.err = render.Templates(r.rendered, chart, top, lookup(r.ctx, r.user))
	return "", r.aside.err
}

// asideFault is why the templates could not be executed; nil: they could.
func (r *run) asideFault() error {
	if r.aside == nil || r.aside.err == nil || r.ctx.Err() != nil {
		return nil
	}
	f := *delivery.FaultOf(r.aside.err, r.reason())
	f.Reason, f.Retry = r.reason(), delivery.OnChange
	if f.Where == "" {
		f.Where = r.req.ChartName
	}
	return &f
}
