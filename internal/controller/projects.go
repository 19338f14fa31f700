package controller

import (
	"context"
	"log/slog"
	"slices"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/live"
)

// ProjectKind is the kind of Keelson's own projects.
const ProjectKind = "Project"

// Projects is who plays the pipelines of Projects. It is safe for concurrent use.
type Projects interface {
	// Take takes in a Project as it is declared now, and tells how it stands. It waits for no other server.
	Take(ctx context.Context, p *keelsonv1.Project) ProjectStanding
	// Forget drops a Project that is gone.
	Forget(name types.NamespacedName)
	// Tell has wake called with the Projects of which there is something new to say.
	Tell(wake func(name types.NamespacedName))
}

// ProjectStanding is how a Project stands.
type ProjectStanding struct {
	Ready           bool
	Reason, Message string
	Schedules       []keelsonv1.ScheduleStatus
	LastPolled      *metav1.Time
	After           time.Duration // ask again after this long; zero: once something happens
	Ended           []PipelineEnd // pipelines that are over, and of which nothing was told yet
}

// PipelineEnd is how a pipeline ended.
type PipelineEnd struct {
	Failed   bool
	Reason   string // of the event: PipelineSucceeded, PipelineFailed, …
	Message  string
	Revision delivery.Revision
}

// projects write how Projects stand; everything else is done by who plays their pipelines.
type projects struct {
	port Projects
	live *live.Live // watches the Secrets and ConfigMaps that they name
	now  func() time.Time
	log  *slog.Logger
}

func projectID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: ProjectKind, Namespace: name.Namespace, Name: name.Name}
}

func (k *projects) empty() *keelsonv1.Project { return &keelsonv1.Project{} }

func (k *projects) about(ctx context.Context, _ *keelsonv1.Project) context.Context { return ctx }

func (k *projects) forget(name types.NamespacedName) {
	k.live.Forget(projectID(name))
	k.port.Forget(name)
}

func (k *projects) remove(context.Context, *keelsonv1.Project) (removal, error) {
	return removal{done: true}, nil
}

func (k *projects) step(ctx context.Context, obj *keelsonv1.Project, _ pen) next {
	if !k.follow(obj) {
		return next{} // the watch will say
	}
	s := k.port.Take(ctx, obj)
	var n next
	n.after = s.After
	condition := metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, Reason: s.Reason, Message: s.Message, ObservedGeneration: obj.Generation,
	}
	if s.Ready {
		condition.Status = metav1.ConditionTrue
	}
	old := apimeta.FindStatusCondition(obj.Status.Conditions, "Ready")
	if old == nil || old.Status != condition.Status || old.Reason != condition.Reason {
		condition.LastTransitionTime = metav1.NewTime(k.now())
		n.events = []event{{warning: !s.Ready, reason: s.Reason, message: s.Message}}
	}
	for _, e := range s.Ended {
		n.events = append(n.events, event{warning: e.Failed, reason: e.Reason, message: e.Message, revision: e.Revision})
	}
	apimeta.SetStatusCondition(&obj.Status.Conditions, condition)
	obj.Status.ObservedGeneration, obj.Status.Schedules = obj.Generation, s.Schedules
	if s.LastPolled != nil || obj.Spec.Source == nil {
		obj.Status.LastPolled = s.LastPolled
	}
	return n
}

// follow watches what a Project names: a change of it is a step. false: it is not known yet whether it is there.
func (k *projects) follow(obj *keelsonv1.Project) bool {
	id := projectID(client.ObjectKeyFromObject(obj))
	refs := referred(&obj.Spec)
	all := true
	for _, ref := range refs {
		_, known, err := k.live.Version(id, ref.Kind, obj.Namespace, ref.Name)
		all = all && (known || err != nil) // reading it may be allowed all the same
	}
	k.live.References(id, refs)
	return all
}

// referred are the Secrets and ConfigMaps that a Project names.
func referred(spec *keelsonv1.ProjectSpec) (refs []delivery.VarsRef) {
	add := func(kind, name string) {
		if ref := (delivery.VarsRef{Kind: kind, Name: name}); name != "" && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for i := range spec.Variables {
		from := spec.Variables[i].ValueFrom
		switch {
		case from == nil:
		case from.SecretKeyRef != nil:
			add("Secret", from.SecretKeyRef.Name)
		case from.ConfigMapKeyRef != nil:
			add("ConfigMap", from.ConfigMapKeyRef.Name)
		}
	}
	for i := range spec.Triggers {
		add("Secret", spec.Triggers[i].TokenFrom.Name)
	}
	if s := spec.Source; s != nil && s.SecretRef != nil {
		add("Secret", s.SecretRef.Name)
	}
	return refs
}

// projectWorkers are steps of Projects at once: each reads what a Project names.
const projectWorkers = 2

// serveProjects makes what serves Projects, where somebody plays their pipelines and the cluster has the kind.
func (c *Controller) serveProjects(opts Options, rec *recorder) error {
	if opts.Projects == nil {
		return nil
	}
	if ok, err := has(opts.Cluster, c.mgr.GetScheme(), &keelsonv1.Project{}); err != nil {
		return err
	} else if !ok {
		opts.Log.Warn("Projects are not served: the cluster lacks the kind (hint: kubectl apply -f config/crd, then start again)")
		return nil
	}
	s := &shell[*keelsonv1.Project]{
		client: c.mgr.GetClient(), recorder: rec, finalizer: "", log: opts.Log, written: map[types.NamespacedName]*keelsonv1.Project{},
		kind: &projects{port: opts.Projects, live: c.targets.home.engine.Live, now: opts.Now, log: opts.Log},
	}
	c.wakes[ProjectKind] = s.enqueue
	opts.Projects.Tell(func(name types.NamespacedName) { s.enqueue(projectID(name)) })
	return setup(c.mgr, "project", s, projectWorkers, nil)
}
