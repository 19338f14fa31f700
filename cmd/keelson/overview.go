package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/release"
	"keelson.dev/keelson/internal/web"
)

type statusOptions struct {
	watch, wait bool
	timeout     time.Duration
}

func statusCommand(g *global) *cobra.Command {
	var opts statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell on one screen how everything is doing, what fails and what to do about it",
		Long: `Status tells about the cluster, the controllers, the sources and the apps: how many are in which state, what fails, why and what
to do about it, and what waits for a person. It ends with code 0 where all is well, and with 1 where something fails, is still on
its way, or is not looked at by any controller. What is suspended is meant to be.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.watch && opts.wait {
				return usagef("--watch and --wait exclude each other")
			}
			return runStatus(cmd.Context(), g, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "go on, and print it again when it has changed")
	cmd.Flags().BoolVar(&opts.wait, "wait", false, "wait until all is well")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long --wait waits")
	return cmd
}

// overview is everything that keelson status tells.
type overview struct {
	Healthy     bool              `json:"healthy"`
	Cluster     clusterState      `json:"cluster"`
	Controllers controllerState   `json:"controllers"`
	Sources     map[web.State]int `json:"sources"` // how many are in which state
	Apps        map[web.State]int `json:"apps"`
	Failing     []trouble         `json:"failing"`   // the causes first, then what waits for them
	Confirm     []trouble         `json:"confirm"`   // waiting for a person's word
	Working     []trouble         `json:"working"`   // on their way
	Suspended   []trouble         `json:"suspended"` // held as they are by a person
}

type clusterState struct {
	Server  string `json:"server"`
	Version string `json:"version"`
	Nodes   int    `json:"nodes"`
	Ready   int    `json:"ready"` // of the nodes; -1: they may not be listed
}

type controllerState struct {
	Running bool      `json:"running"`
	Holder  string    `json:"holder,omitempty"` // who has the lease, or had it last
	Renewed time.Time `json:"renewed,omitzero"`
	Argo    string    `json:"argo,omitempty"` // what runs Argo CD's controllers, to which Applications are left
}

// trouble is one app or source that is not ready, and what to do about it.
type trouble struct {
	web.Status
	What string `json:"what"` // "App" or "Source"
	Hint string `json:"hint,omitempty"`
}

func runStatus(ctx context.Context, g *global, opts statusOptions) error {
	c, cluster, err := g.connect()
	if err != nil {
		return err
	}
	look := func(ctx context.Context) (overview, error) { return readOverview(ctx, g, c, cluster) }
	if opts.watch {
		return watchStatus(ctx, g, look)
	}
	var o overview
	if opts.wait {
		wait, cancel := context.WithTimeout(ctx, opts.timeout)
		defer cancel()
		err = poll(wait, statusPause, func(ctx context.Context) (bool, error) {
			now, err := look(ctx)
			if err == nil {
				o = now
			}
			return o.Healthy, err
		})
		if errors.Is(err, context.DeadlineExceeded) && o.Cluster.Server != "" { // what was seen last is told
			err = nil
		}
	} else {
		o, err = look(ctx)
	}
	if err != nil {
		return err
	}
	if err := g.print(o, func(w io.Writer) error { return o.write(w, time.Now()) }); err != nil {
		return err
	}
	if !o.Healthy {
		return withCode(exitFailure, errSilent)
	}
	return nil
}

// statusPause is the pause between two looks of --watch and --wait.
const statusPause = time.Second

// watchStatus prints the screen again whenever it says something else.
func watchStatus(ctx context.Context, g *global, look func(context.Context) (overview, error)) error {
	last := ""
	err := poll(ctx, statusPause, func(ctx context.Context) (bool, error) {
		o, err := look(ctx)
		if err != nil {
			return false, err
		}
		var b strings.Builder
		if err := o.write(&b, time.Time{}); err != nil || b.String() == last {
			return false, err
		}
		if last != "" && g.output == "" {
			fmt.Fprintln(g.out)
		}
		last = b.String()
		return false, g.print(o, func(w io.Writer) error { return o.write(w, time.Now()) })
	})
	if ctx.Err() != nil {
		return nil // that is how watching ends
	}
	return err
}

// readOverview looks at the cluster.
func readOverview(ctx context.Context, g *global, c client.Client, cluster *kube.Cluster) (overview, error) {
	version, err := cluster.Ping(ctx)
	if err != nil {
		return overview{}, explainAPI(err)
	}
	o := overview{Cluster: clusterState{Server: cluster.Config().Host, Version: version, Ready: -1}}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err == nil { // whoever may not list nodes is told the rest
		o.Cluster.Nodes, o.Cluster.Ready = len(nodes.Items), readyNodes(nodes.Items)
	}
	var lease coordinationv1.Lease
	err = c.Get(ctx, client.ObjectKey{Namespace: leaseNamespace, Name: leaseName}, &lease)
	if err != nil && !apierrors.IsNotFound(err) {
		return o, explainAPI(fmt.Errorf("look for controllers: %w", err))
	}
	o.Controllers = controllersOf(&lease, time.Now())
	l := clusterLister{client: c, namespace: g.namespace}
	sources, err := l.Sources(ctx)
	if err != nil {
		return o, explainAPI(fmt.Errorf("list sources: %w", err))
	}
	apps, err := l.Apps(ctx)
	if err != nil {
		return o, explainAPI(fmt.Errorf("list apps: %w", err))
	}
	if o.Controllers.Argo, err = argoBeside(ctx, cluster, apps); err != nil {
		return o, explainAPI(err)
	}
	o.take(sources, apps)
	return o, nil
}

// argoBeside names what runs Argo CD's controllers in a cluster that has Applications. Who may not look is told nothing.
func argoBeside(ctx context.Context, cluster *kube.Cluster, apps []web.App) (string, error) {
	if !slices.ContainsFunc(apps, func(a web.App) bool { return a.Kind == argocdv1.ApplicationKind }) {
		return "", nil
	}
	others, err := otherTools(ctx, cluster)
	if err != nil && !apierrors.IsForbidden(err) {
		return "", err
	}
	var names []string
	for _, c := range argoOwners(others.argo) {
		names = append(names, argoWorkload(c).String())
	}
	return strings.Join(names, ", "), nil
}

func readyNodes(nodes []corev1.Node) int {
	ready := 0
	for i := range nodes {
		for _, c := range nodes[i].Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready
}

// controllersOf reads from the lease whether controllers run: they renew it for as long as they do.
func controllersOf(lease *coordinationv1.Lease, now time.Time) controllerState {
	var s controllerState
	spec := lease.Spec
	if spec.HolderIdentity != nil {
		s.Holder = *spec.HolderIdentity
	}
	if spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return s
	}
	s.Renewed = spec.RenewTime.UTC()
	s.Running = s.Holder != "" && now.Before(s.Renewed.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second))
	return s
}

// take sorts sources and apps by what is to be said about them.
func (o *overview) take(sources []web.Source, apps []web.App) {
	o.Sources, o.Apps = map[web.State]int{}, map[web.State]int{}
	o.Failing, o.Confirm, o.Working, o.Suspended = []trouble{}, []trouble{}, []trouble{}, []trouble{}
	for _, s := range sources {
		o.Sources[s.State]++
		o.sort(trouble{Status: s.Status, What: "Source"})
	}
	for _, a := range apps {
		o.Apps[a.State]++
		o.sort(trouble{Status: a.Status, What: "App"})
	}
	slices.SortStableFunc(o.Failing, func(a, b trouble) int { return cmp.Compare(a.rank(), b.rank()) })
	nodes := o.Cluster.Ready < 0 || o.Cluster.Ready == o.Cluster.Nodes
	o.Healthy = nodes && o.Controllers.Running && len(o.Failing)+len(o.Confirm)+len(o.Working) == 0
}

func (o *overview) sort(t trouble) {
	t.Message, t.Hint = splitHint(t.Message)
	t.Hint = cmp.Or(t.Hint, t.advice())
	switch {
	case t.State == web.Suspended:
		t.Hint = ""
		if t.What == "App" {
			t.Hint = fmt.Sprintf("keelson resume %s -n %s", t.Name, t.Namespace)
		}
		o.Suspended = append(o.Suspended, t)
	case t.State == web.OutOfSync:
		t.Hint = fmt.Sprintf("keelson sync %s -n %s", t.Name, t.Namespace)
		o.Confirm = append(o.Confirm, t)
	case t.State == web.Failing && t.Reason == "ConfirmationRequired":
		o.Confirm = append(o.Confirm, t)
	case t.State == web.Failing:
		o.Failing = append(o.Failing, t)
	case t.State != web.Ready:
		o.Working = append(o.Working, t)
	}
}

// rank puts causes before what only waits for them.
func (t trouble) rank() int {
	switch t.Reason {
	case fluxmeta.DependencyNotReadyReason:
		return 2
	case fluxmeta.ArtifactFailedReason:
		return 1
	}
	return 0
}

// splitHint takes the hint out of a message as a Fault writes it: "where: what failed (hint: what to do)".
func splitHint(message string) (rest, hint string) {
	before, after, found := strings.Cut(message, " (hint: ")
	if !found || !strings.HasSuffix(after, ")") {
		return message, ""
	}
	return before, strings.TrimSuffix(after, ")")
}

// advice is what to do about a state whose message does not say so.
func (t trouble) advice() string {
	name := t.Name + " -n " + t.Namespace
	switch {
	case t.State != web.Failing:
		return ""
	case t.What == "Source":
		return "check its URL, its ref and its credentials: keelson get sources -o wide"
	case t.Reason == fluxmeta.HealthCheckFailedReason || t.Reason == string(delivery.Degraded) || t.Reason == string(delivery.Missing):
		return "keelson tree " + name + " shows what is not healthy"
	case t.Reason == fluxmeta.DependencyNotReadyReason || t.Reason == fluxmeta.ArtifactFailedReason:
		return "" // it goes on by itself
	case t.Reason == release.ReasonHeld:
		return "keelson resume " + name + " makes it what Git wants again"
	case t.Reason == fluxmeta.BuildFailedReason:
		return "correct it in Git and push"
	default:
		return "keelson events " + name + " tells what happened"
	}
}

// maxListed bounds how many apps or sources a part of the screen tells about.
const maxListed = 10

// write prints the screen. The zero now leaves out how long things have been so, which changes all the time.
func (o overview) write(w io.Writer, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Cluster       %s, Kubernetes %s", o.Cluster.Server, o.Cluster.Version)
	if o.Cluster.Ready >= 0 {
		fmt.Fprintf(&b, ", %d of %d nodes ready", o.Cluster.Ready, o.Cluster.Nodes)
	}
	fmt.Fprintf(&b, "\nControllers   %s\n", o.Controllers.describe(now))
	if o.Controllers.Argo != "" {
		fmt.Fprintf(&b, "              Applications are left to Argo CD: %s\n", o.Controllers.Argo)
	}
	fmt.Fprintf(&b, "Sources       %s\nApps          %s\n", counts(o.Sources), counts(o.Apps))
	section(&b, "Failing", o.Failing, now)
	section(&b, "Waiting for your word", o.Confirm, now)
	section(&b, "On their way", o.Working, now)
	section(&b, "Suspended", o.Suspended, now)
	if o.Healthy {
		b.WriteString("\nAll is well.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s controllerState) describe(now time.Time) string {
	switch {
	case s.Running:
		return "running, " + s.Holder
	case s.Holder == "":
		return "none has ever run here: keelson up, or keelson server"
	case now.IsZero():
		return "not running: keelson up, or keelson server"
	default:
		return fmt.Sprintf("not running, last seen %s ago (%s): keelson up, or keelson server", ageAt(s.Renewed, now), s.Holder)
	}
}

// counts is "5 ready, 1 failing", good news first.
func counts(states map[web.State]int) string {
	var parts []string
	for _, s := range []web.State{web.Ready, web.Working, web.OutOfSync, web.Failing, web.Suspended, web.Unknown} {
		if n := states[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(string(s))))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func section(b *strings.Builder, title string, list []trouble, now time.Time) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for i, t := range list {
		if i == maxListed {
			fmt.Fprintf(b, "  and %d more: keelson get apps, keelson get sources\n", len(list)-maxListed)
			break
		}
		t.write(b, now)
	}
}

func (t trouble) write(b *strings.Builder, now time.Time) {
	fmt.Fprintf(b, "  %s %s/%s", t.What, t.Namespace, t.Name)
	if r := shortRevision(t.Revision); r != "-" {
		fmt.Fprintf(b, " at %s", r)
	}
	if !t.Since.IsZero() && !now.IsZero() {
		fmt.Fprintf(b, ", for %s", ageAt(t.Since, now))
	}
	if t.State == web.Unknown {
		b.WriteString(": no controller has looked at it yet")
	}
	b.WriteString("\n")
	if t.State == web.Failing || t.State == web.Working || t.State == web.OutOfSync || t.Kind == argocdv1.ApplicationKind && t.State == web.Suspended {
		fmt.Fprintf(b, "    %s\n", strings.Trim(t.Reason+": "+strings.Join(strings.Fields(t.Message), " "), ": "))
	}
	if t.Hint != "" {
		fmt.Fprintf(b, "    -> %s\n", t.Hint)
	}
}
