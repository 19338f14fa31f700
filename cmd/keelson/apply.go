package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/live"
	"keelson.dev/keelson/internal/redact"
)

type applyOptions struct {
	path, name     string
	file           string // of a Kustomization; empty: path and name say all
	ref            string // a commit of the repository around the folder; empty: the folder as it is on disk
	serviceAccount string // in the app's namespace; empty: as the caller
	prune, wait    bool
	confirm        bool // destroying much is meant
	dryRun, diff   bool
	policy         policyFlags
	timeout        time.Duration
}

func applyCommand(g *global) *cobra.Command {
	var opts applyOptions
	cmd := &cobra.Command{
		Use:   "apply --path DIR --name NAME | apply -f FILE",
		Short: "Deliver a folder to the cluster, without a controller",
		Long: `Apply delivers a folder of manifests, or what a Kustomization in a file declares, from this machine: with the same engine as a
controller, but with nothing declared in the cluster. It renders the folder as it is on disk (or as it is in the commit of --ref),
sends what differs, in order, and remembers what it owns in the ConfigMap keelson-NAME, in the namespace of -n (default: default), which
is also that of objects that name none. With --prune it deletes what it applied before and what is in the folder no more. What would
delete more than half of the app is held back until --confirm says that it is meant. With -f, paths are those of the Git
repository around the file, and the file's sourceRef, dependsOn and interval have no effect.

It ends with code 3 if the objects were applied and --wait does not see them healthy within --timeout. With --dry-run it shows the
plan as keelson plan does, and changes nothing.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.check(); err != nil {
				return withCode(exitUsage, hintf(err, "usage: %s", cmd.UseLine()))
			}
			return runApply(cmd.Context(), g, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.path, "path", "", "the `folder` to deliver")
	f.StringVar(&opts.name, "name", "", "the `name` of the app: what is applied under it belongs together")
	f.StringVarP(&opts.file, "file", "f", "", "deliver what the Kustomization in this `file` declares")
	f.StringVar(&opts.ref, "ref", "", "deliver the folder as it is in this `commit`, branch or tag of its Git repository (default: as on disk)")
	f.StringVar(&opts.serviceAccount, "service-account", "", "act as this service `account` of the app's namespace")
	f.BoolVar(&opts.prune, "prune", false, "delete what was applied before and is in the folder no more")
	f.BoolVar(&opts.confirm, "confirm", false, "it is meant that much is deleted")
	f.BoolVar(&opts.wait, "wait", false, "wait until every object is healthy")
	f.BoolVar(&opts.dryRun, "dry-run", false, "show the plan and change nothing")
	opts.policy.bindStrict(f)
	f.BoolVar(&opts.diff, "diff", false, "with --dry-run: show which fields would change")
	f.DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long it may take, with the waiting")
	return cmd
}

func (o applyOptions) check() error {
	switch {
	case o.file == "" && o.path == "":
		return errors.New("name a folder with --path, or a file with -f")
	case o.file == "" && o.name == "":
		return errors.New("--name is missing")
	case o.file != "" && o.name != "":
		return errors.New("--name and -f exclude each other: the file names the app")
	case o.diff && !o.dryRun:
		return errors.New("--diff goes with --dry-run")
	case o.timeout <= 0:
		return errors.New("--timeout must be more than nothing")
	}
	return nil
}

func runApply(ctx context.Context, g *global, opts applyOptions) error {
	app, err := openLocalApp(ctx, g, opts)
	if err != nil {
		return err
	}
	defer app.close()
	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	config, err := g.restConfig()
	if err != nil {
		return err
	}
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	d, known, err := newLocalDelivery(ctx, g, c, cluster, app)
	if err != nil {
		return err
	}
	if opts.file != "" {
		if err := refuseDeclared(ctx, c, app.ID); err != nil {
			return err
		}
	}
	if opts.dryRun {
		return d.preview(ctx, g, c, known, opts.diff)
	}
	state, err := d.run(ctx)
	for _, what := range slices.Concat(app.Ignored, d.mem.Ignored) {
		fmt.Fprintf(g.err, "note: %s: not supported yet, without effect\n", what)
	}
	for _, on := range app.DependsOn {
		fmt.Fprintf(g.err, "note: spec.dependsOn %s/%s: not waited for\n", on.Namespace, on.Name)
	}
	if err == nil && app.Wait {
		err = d.awaitHealth(ctx, state.Health)
	}
	return d.finish(g, err)
}

// localDelivery delivers an app once, from this process.
type localDelivery struct {
	app    localApp
	engine *deliver.Engine
	req    deliver.Request
	mem    deliver.Memory
	store  *localInventory
	wake   chan struct{} // something that is watched has changed
	says   func(format string, a ...any)
	done   applied
}

// applied is what a delivery did, as JSON.
type applied struct {
	App       string          `json:"app"`
	Revision  string          `json:"revision,omitempty"`
	Dirty     bool            `json:"dirty"` // with what is in no commit
	Inventory string          `json:"inventory"`
	Objects   int             `json:"objects"`
	Changes   []appliedChange `json:"changes"`
	Error     string          `json:"error,omitempty"`
}

type appliedChange struct {
	Object string        `json:"object"`
	Verb   delivery.Verb `json:"verb"`
}

// newLocalDelivery takes in what the app owns, and what others do.
func newLocalDelivery(
	ctx context.Context, g *global, c client.Client, cluster *kube.Cluster, app localApp,
) (*localDelivery, dialect.LocalInventory, error) {
	d := &localDelivery{app: app, wake: make(chan struct{}, 1), says: func(string, ...any) {}}
	if g.output == "" {
		d.says = func(format string, a ...any) { fmt.Fprintf(g.out, format+"\n", a...) }
	}
	d.done = applied{
		App: app.ID.Namespace + "/" + app.ID.Name, Revision: app.snapshot.Revision.String(), Dirty: app.dirty,
		Inventory: "ConfigMap/" + app.ID.Namespace + "/" + dialect.LocalConfigMap(app.ID.Name), Changes: []appliedChange{},
	}
	d.engine = &deliver.Engine{Cluster: cluster, Claims: deliver.NewClaims(), Label: dialect.LocalLabel, OwnerOf: dialect.LocalOwner}
	d.engine.Live = live.New(ctx, cluster, live.Options{
		Selector: dialect.LocalNameLabel, OwnerOf: dialect.LocalOwner,
		Notify: func(delivery.ID, delivery.Ref) {
			select {
			case d.wake <- struct{}{}:
			default:
			}
		},
	})
	var known dialect.LocalInventory
	var err error
	if d.store, known, err = openLocalInventory(ctx, c, app.ID); err != nil {
		return nil, known, err
	}
	d.mem.Inventory = known.Inventory
	d.req = deliver.Request{
		App: app.App, Snapshot: app.snapshot,
		Vars: deliver.Variables{Load: func(ctx context.Context) (map[string]string, *redact.Redactor, error) {
			return deliver.ReadVariables(ctx, c, app.App)
		}},
	}
	if err := claimAll(ctx, c, d.engine.Claims); err != nil && !isMissingKind(err) { // a cluster may do without our kinds
		return nil, known, err
	}
	return d, known, claimLocal(ctx, c, app.ID, d.engine.Claims)
}

// preview shows the plan.
func (d *localDelivery) preview(ctx context.Context, g *global, c client.Client, known dialect.LocalInventory, withDiff bool) error {
	objects, secrets, err := renderSnapshot(ctx, c, d.app.snapshot, d.app.App)
	if err != nil {
		return masked(secrets, err)
	}
	req := deliver.PreviewRequest{App: d.app.App, Objects: objects, Revision: d.app.snapshot.Revision, Inventory: known.Inventory, Now: time.Now()}
	if !d.app.dirty {
		req.Applied = delivery.ParseRevision(known.Revision)
	}
	p, err := d.engine.Preview(ctx, req)
	if err != nil {
		return masked(secrets, explainAPI(err))
	}
	maskPreview(secrets, p)
	return printPlan(g, preview{Preview: p, app: d.done.App, revision: d.app.snapshot.Revision, applied: known.Revision}, withDiff)
}

// maxStages bounds the stages that one delivery carries out; a plan has five.
const maxStages = 10

// run steps through the plan to its end.
func (d *localDelivery) run(ctx context.Context) (deliver.State, error) {
	for range maxStages {
		state, action, err := d.next(ctx)
		if err != nil {
			return state, err
		}
		switch action.Kind {
		case deliver.None:
			return state, d.settle(ctx, state)
		case deliver.Stall:
			return state, action.Fault
		}
		if err := d.intend(ctx, state.Plan); err != nil {
			return state, err
		}
		res, err := d.engine.Act(ctx, d.req, state, action.Stage, &d.mem)
		if err != nil {
			return state, err
		}
		d.report(res)
		if res.Fault != nil {
			return state, res.Fault
		}
	}
	return deliver.State{}, fmt.Errorf("the plan did not come to an end after %d stages", maxStages)
}

// lookAgain is when to look again at what should come with an event, in case the event came too early to be of use.
const lookAgain = 2 * time.Second

// next gives the next step, once what it depends on is known.
func (d *localDelivery) next(ctx context.Context) (deliver.State, deliver.Action, error) {
	for {
		d.req.Now = time.Now()
		state, err := d.engine.Observe(ctx, d.req, &d.mem)
		if err != nil {
			return state, deliver.Action{}, err
		}
		action := deliver.Next(state)
		if action.Kind != deliver.Wait {
			return state, action, nil
		}
		select {
		case <-ctx.Done():
			return state, action, fmt.Errorf("it waits for %s: %w", action.Waiting, ctx.Err())
		case <-d.wake:
		case <-time.After(lookAgain):
		}
	}
}

// intend widens the inventory in the cluster before anything new is applied: whatever happens next, it is known what may be the app's.
func (d *localDelivery) intend(ctx context.Context, plan delivery.Plan) error {
	if d.mem.Inventory.Covers(plan.Inventory) {
		return nil
	}
	widened := deliver.Intent(&d.mem, plan)
	if err := d.store.save(ctx, d.inventory(dialect.LocalApplying, widened)); err != nil {
		return err
	}
	d.mem.Inventory = widened
	return nil
}

// inventory is what the ConfigMap is to say.
func (d *localDelivery) inventory(state string, inv delivery.Inventory) dialect.LocalInventory {
	return dialect.LocalInventory{State: state, Revision: d.app.snapshot.Revision.String(), Inventory: inv}
}

// settle closes a plan that is carried out: the inventory shrinks to what is wanted.
func (d *localDelivery) settle(ctx context.Context, state deliver.State) error {
	d.mem.Done(state)
	d.mem.Inventory = state.Plan.Inventory
	d.done.Objects = len(d.mem.Inventory)
	return d.store.save(ctx, d.inventory(dialect.LocalApplied, d.mem.Inventory))
}

// doneWords tell what became of an object, as kubectl says it.
var doneWords = map[delivery.Verb]string{
	delivery.Create: "created", delivery.Update: "configured", delivery.Repair: "repaired", delivery.Delete: "deleted",
	delivery.Replace: "deleted, to be made anew",
}

// report tells what a stage changed; what the server had like this already is no change.
func (d *localDelivery) report(res deliver.Result) {
	for _, r := range res.Changes {
		if r.Err != nil || r.NoOp {
			continue
		}
		verb := r.Change.Verb
		if verb == delivery.Create && len(r.Object.GetManagedFields()) > 1 { // others own fields of it: it was there, but not the app's
			verb = delivery.Update
		}
		d.done.Changes = append(d.done.Changes, appliedChange{Object: r.Change.Ref.String(), Verb: verb})
		d.says("%s %s", r.Change.Ref, doneWords[verb])
	}
}

// awaitHealth waits until every object is healthy.
func (d *localDelivery) awaitHealth(ctx context.Context, h delivery.Health) error {
	said := ""
	for h.Status != delivery.Healthy {
		text := d.mem.Secrets().Text(h.Message)
		if h.Status == delivery.Degraded {
			return withCode(exitUnhealthy, fmt.Errorf("not healthy: %s", text))
		}
		if text != said {
			d.says("waiting for %s", cmp.Or(text, string(h.Status)))
			said = text
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			return withCode(exitUnhealthy, hintf(fmt.Errorf("not healthy in time: %s", text), "--timeout waits longer"))
		case <-d.wake:
		case <-time.After(lookAgain):
		}
		d.req.Now = time.Now()
		state, err := d.engine.Observe(ctx, d.req, &d.mem)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && state.Waiting == "" {
			h = state.Health
		}
	}
	return nil
}

// finish says how it went.
func (d *localDelivery) finish(g *global, err error) error {
	if err != nil {
		err = masked(d.mem.Secrets(), explainAPI(err))
		if f := delivery.FaultOf(err, ""); f.Reason == "ConfirmationRequired" {
			err = hintf(f.Err, "if it is meant, say --confirm")
		}
		if g.output == "" {
			return err
		}
		d.done.Error = redact.Text(err.Error())
	}
	health := ""
	if d.app.Wait {
		health = ", all healthy"
	}
	text := fmt.Sprintf("%s is at %s: %d changed, %d objects%s", d.done.App, d.app.describe(), len(d.done.Changes), d.done.Objects, health)
	return cmp.Or(g.print(d.done, func(w io.Writer) error { return printf("%s", text)(w) }), err)
}

// refuseDeclared keeps an app that a controller delivers from being delivered twice.
func refuseDeclared(ctx context.Context, c client.Client, app delivery.ID) error {
	var k kustomizev1.Kustomization
	if c.Get(ctx, client.ObjectKey{Namespace: app.Namespace, Name: app.Name}, &k) != nil {
		return nil
	}
	return hintf(fmt.Errorf("the Kustomization/%s/%s is declared in the cluster: its controller delivers it", app.Namespace, app.Name),
		"keelson reconcile %s -n %s, or another name", app.Name, app.Namespace)
}
