package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/plan"
	"keelson.dev/keelson/internal/redact"
)

func takeoverCommand(g *global) *cobra.Command {
	var show bool
	var selector string
	var flags policyFlags
	cmd := &cobra.Command{
		Use:   "takeover --plan",
		Short: "Show what Keelson would do in a cluster that another tool delivers",
		Long: `Takeover shows, object by object, what the first start of Keelson would do in a cluster that Flux, Argo CD, Helm or kubectl
delivers: what it would adopt as it is, what would change or be deleted, which fields that have left Git would go, what it leaves
alone, and who else is at work. It changes nothing. It ends with code 4 if an object would change or be deleted.
keelson server --take-over then does it; keelson handback goes back.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !show {
				return usagef("takeover only shows: keelson takeover --plan; keelson server --take-over does it")
			}
			shard, err := dialect.Shard(selector)
			if err != nil {
				return withCode(exitUsage, err)
			}
			policy, err := flags.policy()
			if err != nil {
				return err
			}
			return runTakeoverPlan(cmd.Context(), g, shard, policy)
		},
	}
	flags.bind(cmd.Flags())
	cmd.Flags().BoolVar(&show, "plan", false, "show what would happen")
	cmd.Flags().StringVar(&selector, "watch-label-selector", "", "look only at sources and apps with these `labels`")
	return cmd
}

// takeoverPlan is what a first start would find and do.
type takeoverPlan struct {
	Controllers []takeoverController `json:"controllers"`
	NeedFlux    []string             `json:"needFlux"` // objects of kinds that Keelson does not serve
	Apps        []takeoverApp        `json:"apps"`
}

// takeoverController is a controller of Flux or Argo CD.
type takeoverController struct {
	Deployment string `json:"deployment"`
	Kind       string `json:"kind,omitempty"` // of what runs it, where that is of Argo CD
	Program    string `json:"program"`
	Active     bool   `json:"active"` // it runs and works on the same objects
}

type takeoverApp struct {
	Name    string           `json:"name"` // "namespace/name"
	Error   string           `json:"error,omitempty"`
	Note    string           `json:"note,omitempty"`
	Objects []takeoverObject `json:"objects"`
}

// takeoverObject is an object and what would become of it: adopt, skip, or a verb of the plan.
type takeoverObject struct {
	Object string   `json:"object"`
	Verb   string   `json:"verb"`
	From   []string `json:"from,omitempty"`   // field managers whose fields become Keelson's
	Fields []string `json:"fields,omitempty"` // fields that left Git earlier and go
	Reason string   `json:"reason,omitempty"`
}

func runTakeoverPlan(ctx context.Context, g *global, shard labels.Selector, policy delivery.Policy) error {
	engine, err := newEngine(ctx, g)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	others, err := otherTools(ctx, engine.Cluster)
	if err != nil {
		return explainAPI(err)
	}
	all := others.flux
	out := takeoverPlan{Controllers: []takeoverController{}, Apps: []takeoverApp{}}
	active := map[string]bool{}
	for _, o := range activeOwners(all, shard) {
		active[o.String()] = true
	}
	if o, ok := receiverOwner(all, shard); ok {
		active[o.String()] = true
	}
	for _, o := range all {
		out.Controllers = append(out.Controllers, takeoverController{Deployment: o.String(), Program: o.Program, Active: active[o.String()]})
	}
	for _, o := range others.argo {
		out.Controllers = append(out.Controllers, takeoverController{Deployment: o.String(), Kind: o.Kind, Program: o.Program,
			Active: o.Replicas > 0 && o.Program != dialect.ArgoOperator})
	}
	if out.NeedFlux, err = onlyFlux(ctx, engine.Cluster); err != nil {
		return err
	}
	var list kustomizev1.KustomizationList
	if err := c.List(ctx, &list, client.InNamespace(g.namespace), client.MatchingLabelsSelector{Selector: shard}); err != nil {
		return explainAPI(fmt.Errorf("list apps: %w", err))
	}
	snapshots := snapshots{client: c, of: map[delivery.ID]fetched{}}
	defer snapshots.close()
	for i := range list.Items {
		out.Apps = append(out.Apps, takeoverOf(ctx, engine, &snapshots, &list.Items[i], policy))
	}
	if err := g.print(out, out.text); err != nil {
		return err
	}
	for _, app := range out.Apps {
		for _, o := range app.Objects {
			if delivery.Verb(o.Verb).Touches() || len(o.Fields) > 0 {
				return errDiffers
			}
		}
	}
	return nil
}

// takeoverOf plans one app. What prevents that is part of the answer: the others are still of interest.
func takeoverOf(ctx context.Context, engine *deliver.Engine, snapshots *snapshots, k *kustomizev1.Kustomization, policy delivery.Policy) takeoverApp {
	out := takeoverApp{Name: k.Namespace + "/" + k.Name, Objects: []takeoverObject{}}
	app, err := dialect.Kustomization(k)
	app = policy.Govern(app)
	switch {
	case err != nil:
		out.Error = err.Error()
		return out
	case app.KubeConfig != (delivery.KubeConfig{}):
		out.Note = "delivered to another cluster: keelson plan shows it"
		return out
	case len(app.Refused) > 0:
		out.Error = strings.Join(app.Refused, ", ") + ": not supported yet; nothing of it would be applied or deleted"
		return out
	}
	if app.Suspend {
		out.Note = "suspended: nothing happens before it is resumed"
	}
	snap, err := snapshots.get(ctx, k, app.Source)
	if err != nil {
		out.Error = redact.Text(err.Error())
		return out
	}
	objects, secrets, err := renderSnapshot(ctx, snapshots.client, snap, app)
	if err != nil {
		out.Error = masked(secrets, err).Error()
		return out
	}
	p, err := engine.Preview(ctx, deliver.PreviewRequest{
		App: app, Objects: objects, Revision: snap.Revision, Applied: delivery.ParseRevision(k.Status.LastAppliedRevision),
		Inventory: dialect.KustomizationOwned(k), Now: time.Now(),
	})
	if err != nil {
		out.Error = masked(secrets, explainAPI(err)).Error()
	}
	maskPreview(secrets, p)
	for _, block := range p.Plan.Blocks {
		out.Error = block.Fault.Error()
	}
	taken := map[delivery.Ref]plan.Takeover{}
	for _, d := range p.Differences {
		taken[d.Ref] = d.Takeover
	}
	for _, stage := range p.Plan.Stages {
		for _, change := range stage.Changes {
			out.Objects = append(out.Objects, takeoverObjectOf(change, taken[change.Ref]))
		}
	}
	return out
}

// takeoverObjectOf words a change.
func takeoverObjectOf(c delivery.Change, t plan.Takeover) takeoverObject {
	o := takeoverObject{Object: c.Ref.String(), Verb: string(c.Verb), From: t.From, Fields: t.Goes, Reason: c.Reason}
	switch {
	case c.Verb == delivery.Delegated:
		o.Verb = "skip"
	case c.Verb == delivery.Unchanged && len(o.From) > 0:
		o.Verb = "adopt"
	}
	return o
}

// text is the plan for people.
func (p takeoverPlan) text(w io.Writer) error {
	counts := map[string]int{}
	for _, c := range p.Controllers {
		state := "does not run, or works on other objects"
		switch {
		case c.Active && c.Program == dialect.NotificationController:
			state = "active: it stays, and Receivers are left to it"
		case c.Active && c.Kind != "":
			state = "active: Applications are left to it, --take-over scales it down"
		case c.Active:
			state = "active: keelson server refuses to start beside it, --take-over scales it down"
		}
		fmt.Fprintf(w, "controller %s (%s) %s\n", c.Deployment, c.Program, state)
	}
	for _, name := range p.NeedFlux {
		fmt.Fprintf(w, "needs Flux: %s\n", name)
	}
	for _, app := range p.Apps {
		fmt.Fprintf(w, "app %s\n", app.Name)
		if app.Error != "" {
			counts["not planned"]++
			fmt.Fprintln(w, "  cannot be delivered: "+app.Error)
		}
		if app.Note != "" {
			fmt.Fprintln(w, "  "+app.Note)
		}
		for _, o := range app.Objects {
			counts[o.Verb]++
			line := fmt.Sprintf("  %-9s %s", o.Verb, o.Object)
			if len(o.From) > 0 {
				line += " from " + strings.Join(o.From, ", ")
			}
			if len(o.Fields) > 0 {
				line += "; " + strings.Join(o.Fields, ", ") + " left Git and goes"
			}
			if o.Reason != "" {
				line += " (" + o.Reason + ")"
			}
			fmt.Fprintln(w, line)
		}
	}
	_, err := fmt.Fprintf(w, "%d apps: %d objects adopted as they are, %d unchanged, %d changed, %d created, %d deleted, %d left alone; %d apps cannot be delivered\n",
		len(p.Apps), counts["adopt"], counts["unchanged"], counts["update"]+counts["repair"]+counts["replace"], counts["create"], counts["delete"],
		counts["skip"]+counts["release"], counts["not planned"])
	return err
}

// snapshots fetches every source once.
type snapshots struct {
	client client.Client
	of     map[delivery.ID]fetched
}

type fetched struct {
	snap delivery.Snapshot
	done func()
	err  error
}

func (s *snapshots) get(ctx context.Context, k *kustomizev1.Kustomization, source delivery.ID) (delivery.Snapshot, error) {
	f, ok := s.of[source]
	if !ok {
		f.snap, f.done, f.err = fetchSource(ctx, s.client, k, "")
		s.of[source] = f
	}
	return f.snap, f.err
}

func (s *snapshots) close() {
	for _, f := range s.of {
		if f.err == nil {
			f.done()
		}
	}
}
