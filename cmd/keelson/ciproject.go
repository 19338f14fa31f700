package main

import (
	"net/http"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/web"
)

// settings are those of a project that need nothing but its spec.
func settings(p *ci.Project, spec keelsonv1.ProjectSpec) {
	p.KeepRedundant = spec.AutoCancel != nil && !*spec.AutoCancel
	p.Limits, p.Schedules = limitsOf(spec.Limits), schedulesOf(spec)
}

// limitsOf gives what the jobs of a project may take. What is below 0 bounds nothing.
func limitsOf(l *keelsonv1.ProjectLimits) (out ci.Limits) {
	if l == nil {
		return out
	}
	if l.Concurrency != nil {
		out.Jobs = int(max(*l.Concurrency, 0))
	}
	if l.Timeout != nil {
		out.Timeout = max(l.Timeout.Duration, 0)
	}
	if l.CPU != nil {
		out.CPU = max(l.CPU.MilliValue(), 0)
	}
	if l.Memory != nil {
		out.Memory = max(l.Memory.Value(), 0)
	}
	return out
}

// apis puts what is served of projects beside the API of pipelines. Whatever is not named here is that.
func (s *pipelineServer) apis(pipelines, triggers http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(web.SchedulesPath, s.plans)
	mux.Handle(web.SchedulesPath+"/", s.plans)
	mux.Handle(web.TriggersPath, triggers)
	mux.Handle("/", pipelines)
	return mux
}
