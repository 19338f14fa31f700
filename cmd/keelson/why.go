package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/web"
)

type whyOptions struct {
	kind, name, field string
	at                string
}

func whyCommand(g *global) *cobra.Command {
	var opts whyOptions
	cmd := &cobra.Command{
		Use:   "why KIND/NAME [FIELD]",
		Short: "Tell who has changed an object, by which commit, who approved of it, and whether it got healthy",
		Long: `Why tells by which commit an object, or one of its fields, became what it is: the author, the merge request, who approved of it, the pipelines, when
it was applied and whether it got healthy, and what was there before. Repairs of what others have changed in the cluster since are named too.
A field is named as in the object: spec.replicas, spec.template.spec.containers.web.image; its end is enough where that is clear: image.
Kinds may be written as for kubectl: deploy, deployments, ing. It asks the instance's history, which has what its controllers deliver.`,
		Example: "  keelson why ingress/frontend -n production\n  keelson why deploy/frontend spec.replicas -n production --at 2h",
		Args:    args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			kind, namespace, name, ok := history.ParseObject(a[0])
			if !ok {
				return withCode(exitUsage, hintf(fmt.Errorf("%q names no object", a[0]), "name it as KIND/NAME, as deployment/web"))
			}
			if namespace != "" && g.namespace != "" && namespace != g.namespace {
				return usagef("%s names another namespace than -n %s", a[0], g.namespace)
			}
			if opts.kind, opts.name = kind, name; len(a) > 1 {
				opts.field = a[1]
			}
			return runWhy(cmd.Context(), g, cmp.Or(namespace, g.namespace), opts)
		},
	}
	cmd.Flags().StringVar(&opts.at, "at", "", "as it was at this `time`: 2026-03-01T12:00:00Z, \"2026-03-01 12:00\", 15:04 (today), or 2h (ago)")
	return cmd
}

func runWhy(ctx context.Context, g *global, namespace string, opts whyOptions) error {
	q := url.Values{"kind": {opts.kind}, "name": {opts.name}}
	for name, value := range map[string]string{"namespace": namespace, "field": opts.field} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if opts.at != "" {
		at, err := timeSaid(opts.at, time.Now())
		if err != nil {
			return withCode(exitUsage, err)
		}
		q.Set("at", at.UTC().Format(time.RFC3339Nano))
	}
	var a history.Answer
	if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"why?"+q.Encode(), nil, &a); err != nil {
		return fmt.Errorf("why %s/%s: %w", opts.kind, opts.name, err)
	}
	return g.print(a, func(w io.Writer) error { return writeAnswer(w, a, time.Now()) })
}

// timeSaid reads a time as people write it, in the local zone where none is said; a duration is that long ago.
func timeSaid(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return at, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if at, err := time.Parse(layout, s); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, at.Hour(), at.Minute(), at.Second(), 0, now.Location()), nil
		}
	}
	var days int
	if n, err := fmt.Sscanf(s, "%dd", &days); err == nil && n == 1 && s == fmt.Sprintf("%dd", days) && days >= 0 {
		return now.AddDate(0, 0, -days), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, hintf(fmt.Errorf("%q is no time", s), `write it as 2026-03-01T12:00:00Z, "2026-03-01 12:00", 15:04, 2h or 3d`)
}

// answer writes the lines of an answer.
type answerWriter struct {
	w   *tabwriter.Writer
	now time.Time
}

func (w answerWriter) line(what, format string, args ...any) {
	fmt.Fprintf(w.w, "  %s\t%s\n", what, show.Plain(fmt.Sprintf(format, args...)))
}

func (w answerWriter) time(t time.Time) string {
	return t.In(w.now.Location()).Format(time.DateTime) + ", " + ageAt(t, w.now) + " ago"
}

func writeAnswer(to io.Writer, a history.Answer, now time.Time) error {
	w := answerWriter{tabwriter.NewWriter(to, 0, 0, 2, ' ', 0), now}
	fmt.Fprintln(w.w, show.Plain(strings.TrimSpace(a.Object.String()+"  "+a.Field)))
	if a.Delivery != nil {
		w.delivery(a)
	}
	if a.Note != "" {
		w.line("note", "%s", a.Note)
	}
	if !a.Found && len(a.Jobs) == 0 {
		w.line("", "keelson trace tells where an object in the cluster comes from")
	}
	for _, j := range a.Jobs {
		w.line("written", "by job %d of pipeline %d (%s, %s) for %s: %s; %s", j.Job, j.Pipeline, cmp.Or(j.User, "somebody"), j.Verb, j.Environment, j.Status, w.time(j.At))
	}
	for _, r := range a.Repairs {
		w.line("repaired", "%s", repairText(r)+"; "+w.time(r.Repaired))
	}
	for _, s := range a.Earlier {
		text := fmt.Sprintf("%s  %s, %s: %s", short(s.Delivery.SHA), s.Delivery.Author, w.time(s.Delivery.Began), s.Delivery.Title)
		if len(s.Change.Fields) == 1 {
			text += fmt.Sprintf(" (%s → %s)", side(s.Change.Fields[0].Before), side(s.Change.Fields[0].After))
		}
		w.line("before", "%s", text)
	}
	return w.w.Flush()
}

// delivery writes how the object came to be as it is.
func (w answerWriter) delivery(a history.Answer) {
	d := a.Delivery
	w.line(a.What, "%s", w.time(d.Began))
	for i, f := range a.Fields {
		if i == 10 {
			w.line("", "… and %d more fields", len(a.Fields)-i)
			break
		}
		w.line("", "%s: %s → %s", f.Path, side(f.Before), side(f.After))
	}
	w.line("commit", "%s  %s", cmp.Or(short(d.SHA), d.Revision), d.Title)
	if a.Unsure != "" {
		w.line("", "%s", a.Unsure)
	}
	for i, c := range a.Among {
		if i == history.MaxEarlier {
			w.line("", "… and %d more commits", len(a.Among)-i)
			break
		}
		w.line("or", "%s  %s, %s: %s", short(c.SHA), c.Author, w.time(c.Authored), c.Title)
	}
	if d.Author != "" {
		author := d.Author
		if d.Email != "" {
			author += " <" + d.Email + ">"
		}
		w.line("author", "%s, %s", author, w.time(d.Authored))
	}
	if d.MergeRequest != "" {
		w.line("merged", "%s", d.MergeRequest)
	}
	for _, who := range a.Approvals {
		text := who.By
		if who.Pipeline != 0 {
			text += fmt.Sprintf(", %s in pipeline %d", who.How, who.Pipeline)
		}
		w.line("approved", "%s", text)
	}
	if j := a.Pusher; j != nil {
		w.line("pushed", "by job %d of pipeline %d, started by %s", j.Job, j.Pipeline, cmp.Or(j.User, "somebody"))
	}
	for _, p := range a.Pipelines {
		w.line("pipeline", "%d of %s: %s", p.ID, p.Project, p.Status)
	}
	by := ""
	if d.Actor != "" {
		by = " by " + d.Actor
	}
	at := ""
	if a.Head != nil {
		at = ", with others, at " + short(a.Head.SHA)
	}
	w.line("delivered", "by %s (%s%s), delivery %d%s: %s", d.App, d.Trigger, by, d.ID, at, d.Status)
	if s := a.Declaration; s != nil {
		w.line("", "the app was changed by %s  %s: %s", short(s.Delivery.SHA), s.Delivery.Author, s.Delivery.Title)
	}
	if !d.Applied.IsZero() {
		w.line("applied", "%s", d.Applied.In(w.now.Location()).Format(time.DateTime))
	}
	switch {
	case !d.Healthy.IsZero():
		w.line("health", "%s, %s after it began", d.Health, d.Healthy.Sub(d.Began).Round(100*time.Millisecond))
	case d.Health != "":
		w.line("health", "%s", d.Health)
	}
	if d.Message != "" {
		w.line("message", "%s", firstLine(d.Message))
	}
}

// side is a value of a field, as it is shown beside another.
func side(value string) string { return cmp.Or(strings.ReplaceAll(value, "\n", "⏎"), "(none)") }

// repairText is a repair in one line.
func repairText(r history.Repair) string {
	var fields []string
	for i, f := range r.Fields {
		if i == 3 {
			fields = append(fields, fmt.Sprintf("and %d more", len(r.Fields)-i))
			break
		}
		fields = append(fields, fmt.Sprintf("%s %s → %s", f.Path, side(f.Before), side(f.After)))
	}
	text := strings.Join(fields, ", ")
	if text == "" {
		text = r.Reason
	}
	if r.Manager != "" {
		text += ", which " + r.Manager + " had written"
	}
	if r.Times > 1 {
		text += fmt.Sprintf(", %d times", r.Times)
	}
	return text
}
