package show

import (
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// Local names what of a graph is not done where its jobs run in a shell on one machine, each kind of it once.
func Local(g *pipeline.Graph) []string {
	var out []string
	say := func(what string, of func(j pipeline.Job) string) {
		var jobs []string
		for _, j := range g.Jobs {
			detail := of(j)
			if detail == "" {
				continue
			}
			text := j.Base
			if detail != "-" {
				text += " (" + detail + ")"
			}
			if !slices.Contains(jobs, text) {
				jobs = append(jobs, text)
			}
		}
		if len(jobs) == 0 {
			return
		}
		const most = 5
		if len(jobs) > most {
			jobs = append(jobs[:most:most], "…")
		}
		out = append(out, Plain(what+": "+strings.Join(jobs, ", ")))
	}
	say("images are not used, jobs run in this machine's shell", func(j pipeline.Job) string {
		if j.Image == nil || j.Trigger != nil {
			return ""
		}
		return j.Variables.Expand(j.Image.Name)
	})
	say("services need containers, and their jobs fail here (--without-services runs them all the same)", func(j pipeline.Job) string {
		var names []string
		for _, s := range j.Services {
			names = append(names, j.Variables.Expand(s.Name))
		}
		return strings.Join(names, ", ")
	})
	say("pipelines of other projects are not started", func(j pipeline.Job) string {
		if j.Trigger == nil {
			return ""
		}
		return j.Trigger.Project
	})
	say("secrets are not fetched (a variables file can have them)", func(j pipeline.Job) string {
		names := make([]string, 0, len(j.Secrets))
		for name := range j.Secrets {
			names = append(names, name)
		}
		slices.Sort(names)
		return strings.Join(names, ", ")
	})
	say("ID tokens are not issued", func(j pipeline.Job) string { return mark(len(j.IDTokens) > 0) })
	say("releases are not made", func(j pipeline.Job) string { return mark(j.Release != nil) })
	say("pages are not published", func(j pipeline.Job) string { return mark(j.Pages != nil) })
	say("artifacts of other projects and pipelines are not fetched", func(j pipeline.Job) string {
		return mark(slices.ContainsFunc(j.Needs, func(n pipeline.Need) bool { return !n.Local() }))
	})
	return out
}

func mark(there bool) string {
	if there {
		return "-"
	}
	return ""
}
