package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/web"
)

type syncOptions struct {
	app       string
	revisions []string // one for each source; none: what these say
	resources []string // "GROUP:KIND:[NAMESPACE/]NAME"
	prune     bool
	dryRun    bool
	force     bool
	terminate bool
	noWait    bool
	timeout   time.Duration
}

func syncCommand(g *global) *cobra.Command {
	var opts syncOptions
	cmd := &cobra.Command{
		Use:   "sync APP",
		Short: "Make the cluster as Git wants it, for an Application of Argo CD, and tell what was done",
		Long: `Sync sets the operation of an Application, waits until it was carried out, and tells what it did to every object. Hooks and waves
run as they do by themselves. What is no longer in Git is deleted with --prune only. The exit code is 3 if the sync fails.
One sync at a time: while one is under way another is refused, and --terminate ends it.

With --server a keelson server is asked, as whoever has logged in there: for a reconciliation now of an app of any kind, and of its source. It is
not waited for.`,
		Example: `  keelson sync guestbook
  keelson sync guestbook --prune --resource apps:Deployment:guestbook-ui --resource :Service:web/guestbook-ui
  keelson sync guestbook --revision v1.4.0`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			opts.app = a[0]
			if g.byServer() {
				if err := onlyFlags(cmd, "revision", "resource", "dry-run", "force", "terminate", "timeout"); err != nil {
					return err
				}
				return askServer(cmd.Context(), g, opts.app, "sync", web.AskApp{Prune: opts.prune})
			}
			if opts.terminate {
				for _, name := range []string{"revision", "resource", "prune", "dry-run", "force"} {
					if cmd.Flags().Changed(name) {
						return usagef("--terminate begins nothing: it takes no --%s", name)
					}
				}
				return runTerminate(cmd.Context(), g, opts)
			}
			return runSync(cmd.Context(), g, opts)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&opts.revisions, "revision", nil, "the branch, tag or `commit` to sync to (default: what the source says); once for each source where there are several")
	f.StringArrayVar(&opts.resources, "resource", nil, "only this object, as `GROUP:KIND:[NAMESPACE/]NAME`; may be repeated")
	f.BoolVar(&opts.prune, "prune", false, "delete what is no longer in Git")
	f.BoolVar(&opts.dryRun, "dry-run", false, "only tell what would be done")
	f.BoolVar(&opts.force, "force", false, "delete and make anew what the server does not let change")
	f.BoolVar(&opts.terminate, "terminate", false, "end the sync that is under way")
	f.BoolVar(&opts.noWait, "no-wait", false, "do not wait for it")
	f.DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long to wait; the sync itself goes on")
	return cmd
}

// synced is the result of a sync as JSON.
type synced struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Phase     string       `json:"phase"` // Running, Succeeded, Failed, Error; Requested: nobody was waited for
	Message   string       `json:"message,omitempty"`
	Revision  string       `json:"revision,omitempty"` // several: comma-separated
	DryRun    bool         `json:"dryRun,omitempty"`
	Held      bool         `json:"held,omitempty"` // automation is kept from acting until the app is resumed
	Sync      string       `json:"sync,omitempty"`
	Health    string       `json:"health,omitempty"`
	Objects   []syncedItem `json:"objects"`
	pauses    bool         // it has failed and is tried again
}

// syncedItem is what a sync did to one object, or with one hook.
type syncedItem struct {
	Object  string `json:"object"`
	Result  string `json:"result"`         // Synced, SyncFailed, Pruned, PruneSkipped; of a hook its phase
	Hook    string `json:"hook,omitempty"` // when it ran
	Message string `json:"message,omitempty"`
}

func runSync(ctx context.Context, g *global, opts syncOptions) error {
	only, err := parseResources(opts.resources)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	a, err := findApplication(ctx, c, g.namespace, opts.app, "keelson reconcile "+opts.app+" reconciles a Kustomization")
	if err != nil {
		return err
	}
	sync := &argocdv1.SyncOperation{Prune: opts.prune, DryRun: opts.dryRun, Resources: only}
	if opts.force {
		sync.SyncStrategy = &argocdv1.SyncStrategy{Hook: &argocdv1.SyncStrategyApply{Force: true}}
	}
	if err := setRevisions(a, sync, opts); err != nil {
		return err
	}
	return begin(ctx, g, c, a, operationOf(a, sync, callerOf(ctx, c)), beginning{noWait: opts.noWait, timeout: opts.timeout})
}

// setRevisions takes in the revisions that were asked for.
func setRevisions(a *argocdv1.Application, sync *argocdv1.SyncOperation, opts syncOptions) error {
	if len(opts.revisions) == 0 {
		return nil
	}
	sources := sourcesOf(&a.Spec)
	if len(opts.revisions) != len(sources) {
		return usagef("app %s/%s has %d sources: name as many revisions, in their order", a.Namespace, a.Name, len(sources))
	}
	same := true
	for i, s := range sources {
		same = same && (opts.revisions[i] == s.TargetRevision || opts.revisions[i] == "HEAD" && s.TargetRevision == "")
	}
	if !same && !opts.dryRun && automatedOf(a) != nil && a.Annotations[argocdv1.HoldAnnotation] == "" {
		return hintf(fmt.Errorf("app %s/%s is synced to %q by itself: another revision would not last", a.Namespace, a.Name, targetOf(sources)),
			"keelson rollback %s %s deploys it and holds it there", opts.app, opts.revisions[0])
	}
	if len(a.Spec.Sources) > 0 {
		sync.Revisions = opts.revisions
	} else {
		sync.Revision = opts.revisions[0]
	}
	return nil
}

func targetOf(sources []argocdv1.ApplicationSource) string {
	targets := make([]string, len(sources))
	for i, s := range sources {
		targets[i] = cmp.Or(s.TargetRevision, "HEAD")
	}
	return strings.Join(targets, ", ")
}

// operationOf words an operation as Argo CD's own tools do: with the options and the retries of the Application's policy.
func operationOf(a *argocdv1.Application, sync *argocdv1.SyncOperation, by string) *argocdv1.Operation {
	op := &argocdv1.Operation{Sync: sync, InitiatedBy: argocdv1.OperationInitiator{Username: by}}
	if p := a.Spec.SyncPolicy; p != nil {
		sync.SyncOptions = p.SyncOptions
		if p.Retry != nil {
			op.Retry = *p.Retry
		}
	}
	return op
}

// parseResources reads objects as "GROUP:KIND:[NAMESPACE/]NAME".
func parseResources(texts []string) ([]argocdv1.SyncOperationResource, error) {
	var out []argocdv1.SyncOperationResource
	for _, text := range texts {
		parts := strings.SplitN(text, ":", 3)
		if strings.HasPrefix(text, "!") {
			return nil, usagef("--resource %s: objects cannot be left out; name those that are meant", text)
		}
		if len(parts) != 3 {
			return nil, withCode(exitUsage, hintf(fmt.Errorf("--resource %s names no object", text),
				"write GROUP:KIND:[NAMESPACE/]NAME, as apps:Deployment:web; the group of Services, ConfigMaps and the like is empty: ':Service:web'"))
		}
		r := argocdv1.SyncOperationResource{Group: parts[0], Kind: parts[1], Name: parts[2]}
		if namespace, name, ok := strings.Cut(r.Name, "/"); ok {
			r.Namespace, r.Name = namespace, name
		}
		if r.Kind == "" || r.Name == "" || strings.Contains(r.Name, "/") {
			return nil, usagef("--resource %s names no object: it is GROUP:KIND:[NAMESPACE/]NAME", text)
		}
		out = append(out, r)
	}
	return out, nil
}

// callerOf is who the cluster takes us for, else who we are on this machine.
func callerOf(ctx context.Context, c client.Client) string {
	review := &authenticationv1.SelfSubjectReview{}
	if err := c.Create(ctx, review); err == nil && review.Status.UserInfo.Username != "" {
		return review.Status.UserInfo.Username
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return cmp.Or(os.Getenv("USER"), "unknown")
}

// beginning says how an operation is begun.
type beginning struct {
	hold    string // not empty: the annotation that is set with it
	noWait  bool
	timeout time.Duration
}

// begin writes an operation, waits until it is over, and prints what it did.
func begin(ctx context.Context, g *global, c client.WithWatch, a *argocdv1.Application, op *argocdv1.Operation, b beginning) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	w, err := c.Watch(ctx, &argocdv1.ApplicationList{}, client.InNamespace(a.Namespace), client.MatchingFields{"metadata.name": a.Name})
	if err != nil {
		return explainAPI(fmt.Errorf("watch app %s/%s: %w", a.Namespace, a.Name, err))
	}
	defer w.Stop()
	if err := writeOperation(ctx, c, a, op, b.hold); err != nil {
		return err
	}
	out := synced{Namespace: a.Namespace, Name: a.Name, Phase: "Requested", DryRun: op.Sync.DryRun, Held: b.hold != "", Objects: []syncedItem{}}
	if b.noWait {
		return g.print(out, printf("%s/%s: the sync was asked for", a.Namespace, a.Name))
	}
	return followSync(ctx, g, w, a, out)
}

// followSync tells what an operation does while it goes on, and how it ends.
func followSync(ctx context.Context, g *global, w watch.Interface, a *argocdv1.Application, out synced) error {
	told := map[string]string{}
	tell := func(now *argocdv1.Application) {
		out.take(now)
		if g.output == "" || g.output == "wide" {
			out.tell(g.out, told)
		}
	}
	for {
		now, err := nextApplication(ctx, w)
		if errors.Is(err, context.DeadlineExceeded) {
			return withCode(exitUnhealthy, hintf(fmt.Errorf("the sync of %s/%s was not over in time; it is %s: %s",
				out.Namespace, out.Name, out.Phase, cmp.Or(out.Message, "no controller has taken it up")),
				"it goes on: keelson get apps -w watches, keelson sync %s --terminate ends it; is a controller running (keelson status)?", out.Name))
		}
		if err != nil {
			return fmt.Errorf("sync app %s/%s: %w", out.Namespace, out.Name, err)
		}
		op := now.Status.OperationState
		if older(now, a) || op == nil || now.Operation != nil && (!operationRuns(op) || operationPauses(op)) {
			continue // nobody has taken it up yet
		}
		tell(now)
		if now.Operation == nil && !operationRuns(op) {
			return out.end(g)
		}
	}
}

// older tells whether an object is an earlier version than the one that was written.
func older(obj, written client.Object) bool {
	have, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	want, err2 := strconv.ParseUint(written.GetResourceVersion(), 10, 64)
	return err == nil && err2 == nil && have < want
}

// reread reads an Application anew; nothing of what it was stays.
func reread(ctx context.Context, c client.Client, a *argocdv1.Application) error {
	var now argocdv1.Application
	if err := c.Get(ctx, client.ObjectKeyFromObject(a), &now); err != nil {
		return explainAPI(fmt.Errorf("read app %s/%s: %w", a.Namespace, a.Name, err))
	}
	*a = now
	return nil
}

// nextApplication waits for the next thing that a watch tells.
func nextApplication(ctx context.Context, w watch.Interface) (*argocdv1.Application, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, cmp.Or(ctx.Err(), errors.New("the API server ended the watch; keelson events tells how it goes on"))
			}
			if e.Type == watch.Deleted {
				return nil, errors.New("the app was deleted meanwhile")
			}
			if a, ok := e.Object.(*argocdv1.Application); ok {
				return a, nil
			}
		}
	}
}

// operationAttempts bounds how often an Application is read anew because somebody wrote to it in between.
const operationAttempts = 10

// writeOperation sets the operation of an Application, and perhaps a hold, unless one is under way.
func writeOperation(ctx context.Context, c client.Client, a *argocdv1.Application, op *argocdv1.Operation, hold string) error {
	for attempt := 0; ; attempt++ {
		if err := idle(a); err != nil {
			return err
		}
		patch := map[string]any{"operation": op, "metadata": map[string]any{"resourceVersion": a.ResourceVersion}}
		if hold != "" {
			patch["metadata"] = map[string]any{
				"resourceVersion": a.ResourceVersion, "annotations": map[string]any{argocdv1.HoldAnnotation: hold},
			}
		}
		err := patchApplication(ctx, c, a, patch)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) || attempt == operationAttempts {
			return explainAPI(fmt.Errorf("sync app %s/%s: %w", a.Namespace, a.Name, err))
		}
		if err := reread(ctx, c, a); err != nil {
			return err
		}
	}
}

func patchApplication(ctx context.Context, c client.Client, a *argocdv1.Application, patch map[string]any) error {
	b, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return c.Patch(ctx, a, client.RawPatch("application/merge-patch+json", b))
}

// idle refuses while an operation is under way.
func idle(a *argocdv1.Application) error {
	op := a.Status.OperationState
	running := op != nil && operationRuns(op) && !operationPauses(op)
	switch {
	case a.Operation == nil && !running:
		return nil
	case !running:
		return hintf(fmt.Errorf("a sync of %s/%s was asked for already and has not begun", a.Namespace, a.Name),
			"is a controller running (keelson status)? keelson sync %s --terminate withdraws it", a.Name)
	}
	by := cmp.Or(op.Operation.InitiatedBy.Username, "nobody: it began by itself")
	return hintf(fmt.Errorf("a sync of %s/%s is under way since %s (asked for by %s): %s",
		a.Namespace, a.Name, op.StartedAt.Local().Format(time.TimeOnly), by, cmp.Or(redact.Text(op.Message), op.Phase)),
		"wait for it, or end it: keelson sync %s --terminate", a.Name)
}

// take reads what an operation has done so far.
func (s *synced) take(a *argocdv1.Application) {
	op := a.Status.OperationState
	s.Phase, s.Message, s.pauses = op.Phase, redact.Text(op.Message), operationPauses(op)
	s.Sync, s.Health = a.Status.Sync.Status, a.Status.Health.Status
	s.Held = a.Annotations[argocdv1.HoldAnnotation] != ""
	if op.SyncResult == nil {
		return
	}
	s.Revision = joinRevisions(op.SyncResult.Revision, op.SyncResult.Revisions)
	s.Objects = s.Objects[:0]
	for _, r := range op.SyncResult.Resources {
		item := syncedItem{
			Object: delivery.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}.String(),
			Result: r.Status, Message: redact.Text(r.Message),
		}
		if r.HookType != "" {
			item.Hook, item.Result = cmp.Or(r.SyncPhase, r.HookType), cmp.Or(r.HookPhase, r.Status)
		}
		s.Objects = append(s.Objects, item)
	}
}

// tell prints the objects that have something new to say, and that the sync is tried again.
func (s *synced) tell(w io.Writer, told map[string]string) {
	for _, o := range s.Objects {
		line := o.Result + " " + o.Message
		key := o.Hook + " " + o.Object
		if told[key] == line {
			continue
		}
		told[key] = line
		what := o.Object
		if o.Hook != "" {
			what += " (" + o.Hook + " hook)"
		}
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-12s %s  %s", o.Result, what, strings.Join(strings.Fields(o.Message), " ")), " "))
	}
	if s.pauses && told[""] != s.Message {
		told[""] = s.Message
		fmt.Fprintf(w, "%-12s %s\n", argocdv1.OperationFailed, strings.Join(strings.Fields(s.Message), " "))
	}
}

// end prints how a sync ended.
func (s *synced) end(g *global) error {
	verb := "synced to"
	if s.DryRun {
		verb = "dry run of a sync to"
	}
	text := fmt.Sprintf("%s/%s: %s %s: %s", s.Namespace, s.Name, verb, shortRevision(s.Revision), s.Phase)
	if s.Phase == argocdv1.OperationSucceeded && !s.DryRun {
		text = fmt.Sprintf("%s/%s synced to %s; it is %s, %s", s.Namespace, s.Name, shortRevision(s.Revision), cmp.Or(s.Sync, "Unknown"), cmp.Or(s.Health, "Unknown"))
	}
	if s.Held {
		text += fmt.Sprintf("\nit is held there: nothing is synced by itself before keelson resume %s -n %s", s.Name, s.Namespace)
	}
	if err := g.print(s, printf("%s", text)); err != nil {
		return err
	}
	if s.Phase == argocdv1.OperationSucceeded {
		return nil
	}
	return withCode(exitUnhealthy, hintf(fmt.Errorf("the sync of %s/%s ended with %s: %s", s.Namespace, s.Name, s.Phase, cmp.Or(s.Message, "no reason is given")),
		"keelson events %s -n %s tells what happened", s.Name, s.Namespace))
}

// runTerminate ends the operation that is under way.
func runTerminate(ctx context.Context, g *global, opts syncOptions) error {
	c, err := g.client()
	if err != nil {
		return err
	}
	a, err := findApplication(ctx, c, g.namespace, opts.app, "a Kustomization has no syncs to end: keelson suspend "+opts.app+" leaves it as it is")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	w, err := c.Watch(ctx, &argocdv1.ApplicationList{}, client.InNamespace(a.Namespace), client.MatchingFields{"metadata.name": a.Name})
	if err != nil {
		return explainAPI(fmt.Errorf("watch app %s/%s: %w", a.Namespace, a.Name, err))
	}
	defer w.Stop()
	withdrawn, err := writeTermination(ctx, c, a)
	if err != nil {
		return err
	}
	out := synced{Namespace: a.Namespace, Name: a.Name, Phase: argocdv1.OperationTerminating, Objects: []syncedItem{}}
	switch {
	case withdrawn:
		out.Phase = "Withdrawn"
		return g.print(out, printf("%s/%s: the sync was withdrawn before it began", a.Namespace, a.Name))
	case opts.noWait:
		return g.print(out, printf("%s/%s: the sync is being ended", a.Namespace, a.Name))
	}
	for {
		now, err := nextApplication(ctx, w)
		if errors.Is(err, context.DeadlineExceeded) {
			return withCode(exitUnhealthy, hintf(fmt.Errorf("the sync of %s/%s was not ended in time", a.Namespace, a.Name), "is a controller running (keelson status)?"))
		}
		if err != nil {
			return fmt.Errorf("end the sync of %s/%s: %w", a.Namespace, a.Name, err)
		}
		if op := now.Status.OperationState; op != nil && !operationRuns(op) && now.Operation == nil {
			out.take(now)
			return g.print(out, printf("%s/%s: the sync was ended: %s", a.Namespace, a.Name, strings.Trim(out.Phase+": "+out.Message, ": ")))
		}
	}
}

// writeTermination asks for the end of the operation under way, or withdraws one that has not begun.
func writeTermination(ctx context.Context, c client.Client, a *argocdv1.Application) (withdrawn bool, err error) {
	for attempt := 0; ; attempt++ {
		op := a.Status.OperationState
		version := map[string]any{"resourceVersion": a.ResourceVersion}
		switch {
		case op != nil && operationRuns(op):
			err = patchApplication(ctx, c, a, map[string]any{
				"metadata": version, "status": map[string]any{"operationState": map[string]any{"phase": argocdv1.OperationTerminating}},
			})
		case a.Operation != nil:
			withdrawn = true
			err = patchApplication(ctx, c, a, map[string]any{"metadata": version, "operation": nil})
		default:
			return false, fmt.Errorf("no sync of %s/%s is under way", a.Namespace, a.Name)
		}
		if err == nil {
			return withdrawn, nil
		}
		withdrawn = false
		if !apierrors.IsConflict(err) || attempt == operationAttempts {
			return false, explainAPI(fmt.Errorf("end the sync of %s/%s: %w", a.Namespace, a.Name, err))
		}
		if err := reread(ctx, c, a); err != nil {
			return false, err
		}
	}
}
