package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"

	"keelson.dev/keelson/internal/delivery"
)

func planCommand(g *global) *cobra.Command {
	var withDiff bool
	var flags policyFlags
	cmd := &cobra.Command{
		Use:   "plan APP",
		Short: "Show what delivering an app would do now, object by object, and why",
		Long: `Plan renders an app at the newest commit of its source and shows what a controller would do about every object, in which order
and why, and what would keep it from doing so. It asks the API server itself what each apply would change, and changes nothing.
It needs no running controller. With --diff it shows the fields too; values of Secrets are masked. It ends with code 4 where there
is something to do.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runPlan(cmd.Context(), g, a[0], withDiff, delivery.Policy{LenientSubstitution: !flags.strict, InsecureKubeConfigTLS: flags.insecureKubeConfigTLS})
		},
	}
	cmd.Flags().BoolVar(&withDiff, "diff", false, "show which fields would change")
	flags.bindStrict(cmd.Flags())
	flags.bindInsecure(cmd.Flags())
	return cmd
}

// planned is a plan as JSON.
type planned struct {
	App      string          `json:"app"`
	Revision string          `json:"revision"` // the commit that would be delivered
	Applied  string          `json:"applied,omitempty"`
	Blocked  []string        `json:"blocked"` // not empty: nothing of it would be done, and why
	Notes    []string        `json:"notes,omitempty"`
	Changes  []plannedChange `json:"changes"`
}

type plannedChange struct {
	Stage  string        `json:"stage"`
	Object string        `json:"object"`
	Verb   delivery.Verb `json:"verb"`
	Reason string        `json:"reason,omitempty"`
	Diff   string        `json:"diff,omitempty"`
}

func runPlan(ctx context.Context, g *global, arg string, withDiff bool, policy delivery.Policy) error {
	p, err := previewApp(ctx, g, arg, policy)
	if err != nil {
		return err
	}
	return printPlan(g, p, withDiff)
}

func printPlan(g *global, p preview, withDiff bool) error {
	out := plannedOf(p, withDiff)
	if err := g.print(out, out.write); err != nil {
		return err
	}
	if out.pending() > 0 {
		return errDiffers
	}
	return nil
}

func plannedOf(p preview, withDiff bool) planned {
	out := planned{
		App: p.app, Revision: p.revision.String(), Applied: p.applied, Notes: p.notes, Blocked: []string{}, Changes: []plannedChange{},
	}
	diffs := map[delivery.Ref]string{}
	for _, d := range p.Differences {
		if withDiff && d.Verb != delivery.Unchanged {
			diffs[d.Ref] = unified(d)
		}
	}
	for _, stage := range p.Plan.Stages {
		for _, c := range stage.Changes {
			out.Changes = append(out.Changes, plannedChange{
				Stage: stage.Name, Object: c.Ref.String(), Verb: c.Verb, Reason: c.Reason, Diff: diffs[c.Ref],
			})
		}
	}
	for _, b := range p.Plan.Blocks {
		out.Blocked = append(out.Blocked, b.Fault.Reason+": "+b.Fault.Error())
	}
	return out
}

// notesOf tells what else keeps an app from being delivered.
func notesOf(k *kustomizev1.Kustomization) []string {
	var notes []string
	if k.Spec.Suspend {
		notes = append(notes, "the app is suspended: nothing is done before keelson resume "+k.Name+" -n "+k.Namespace)
	}
	if c := meta.FindStatusCondition(k.Status.Conditions, fluxmeta.ReadyCondition); c != nil && c.Reason == fluxmeta.DependencyNotReadyReason {
		notes = append(notes, c.Message)
	}
	return notes
}

// pending counts the changes that would touch the cluster.
func (p planned) pending() int {
	n := 0
	for _, c := range p.Changes {
		if c.Verb.Touches() {
			n++
		}
	}
	return n
}

// write prints what is to be done in the order in which it would be, without what stays as it is.
func (p planned) write(w io.Writer) error {
	was := ""
	if p.Applied != "" && p.Applied != p.Revision {
		was = " (applied: " + shortRevision(p.Applied) + ")"
	}
	fmt.Fprintf(w, "%s at %s%s\n", p.App, cmp.Or(delivery.ParseRevision(p.Revision).Short(), "the folder as it is"), was)
	t := newTable(w, false, "STAGE", "VERB", "OBJECT", "REASON")
	shown := 0
	for _, c := range p.Changes {
		if c.Verb == delivery.Unchanged {
			continue
		}
		shown++
		t.row(c.Stage, string(c.Verb), c.Object, c.Reason)
	}
	if shown > 0 {
		if err := t.flush(); err != nil {
			return err
		}
	}
	for _, c := range p.Changes {
		if _, err := io.WriteString(w, c.Diff); err != nil {
			return err
		}
	}
	for _, text := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", text)
	}
	for _, text := range p.Blocked {
		fmt.Fprintf(w, "blocked: %s\n", strings.Join(strings.Fields(text), " "))
	}
	verdict := ""
	if len(p.Blocked) > 0 {
		verdict = "; blocked: nothing would be done"
	}
	_, err := fmt.Fprintf(w, "%d to change, %d objects in all%s\n", p.pending(), len(p.Changes), verdict)
	return err
}
