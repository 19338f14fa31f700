package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// schedulesOf gives the schedules of a Project.
func schedulesOf(spec keelsonv1.ProjectSpec) []ci.Schedule {
	var out []ci.Schedule
	for _, s := range spec.Schedules {
		c := ci.Schedule{Name: s.Name, Cron: s.Cron, Zone: s.TimeZone, Ref: s.Ref, Suspended: s.Suspend}
		for name, value := range s.Variables {
			c.Variables = append(c.Variables, pipeline.Variable{Name: name, Value: value, Origin: pipeline.OriginPipeline})
		}
		slices.SortFunc(c.Variables, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, c)
	}
	return out
}

// schedules serves the schedules of the projects.
func (s *pipelineServer) schedules(may web.Authorize) http.Handler {
	return web.NewSchedules(web.SchedulesOptions{
		Authorize: may, ProjectOf: s.cluster.where, Record: s.auditor.Record,
		List: func(project string) (out []web.ListedSchedule) {
			for _, u := range s.Schedules(project) {
				out = append(out, web.ListedSchedule(u))
			}
			return out
		},
		Play: func(ctx context.Context, p web.PlayedSchedule, user string) (store.Pipeline, error) {
			return s.PlaySchedule(ctx, p.Project, p.Name, user)
		},
	})
}

func ciSchedulesCommand(g *global) *cobra.Command {
	var project string
	cmd := &cobra.Command{
		Use: "schedules", Short: "List the schedules of the instance's projects, with when they are due next", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runCISchedules(cmd.Context(), g, project) },
	}
	cmd.Flags().StringVar(&project, "project", "", "only those of this project, by its `path`")
	cmd.AddCommand(&cobra.Command{
		Use: "play PROJECT NAME", Short: "Make the pipeline of a schedule now", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error { return runCISchedulePlay(cmd.Context(), g, a[0], a[1]) },
	})
	return cmd
}

func runCISchedules(ctx context.Context, g *global, project string) error {
	var list web.ScheduleList
	if _, err := g.callAPI(ctx, http.MethodGet, web.SchedulesPath+"?"+url.Values{"project": {project}}.Encode(), nil, &list); err != nil {
		return fmt.Errorf("list schedules: %w", err)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, false, "PROJECT", "NAME", "CRON", "ZONE", "REF", "NEXT", "LAST", "PROBLEM")
		for _, s := range list.Schedules {
			next, last := "-", "-"
			switch {
			case s.Suspended:
				next = "suspended"
			case !s.Next.IsZero():
				next = s.Next.UTC().Format("2006-01-02 15:04 MST")
			}
			if s.Pipeline > 0 {
				last = strconv.FormatInt(s.Pipeline, 10)
			}
			t.row(show.Plain(s.Project), show.Plain(s.Name), show.Plain(s.Cron), show.Plain(s.Zone), show.Plain(cmp.Or(s.Ref, "-")), next, last, show.Plain(s.Problem))
		}
		return t.flush()
	})
}

func runCISchedulePlay(ctx context.Context, g *global, project, name string) error {
	body, err := json.Marshal(web.PlayedSchedule{Project: project, Name: name})
	if err != nil {
		return err
	}
	var made store.Pipeline
	if _, err := g.callAPI(ctx, http.MethodPost, web.SchedulesPath+"/play", body, &made); err != nil {
		return hintf(fmt.Errorf("play schedule %s: %w", name, err), "keelson ci schedules lists them")
	}
	return g.print(made, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "pipeline %d: %s\n", made.ID, made.Status)
		return err
	})
}
