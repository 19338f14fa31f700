package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/redact"
)

// The reasons of a Project's Ready condition.
const (
	projectReady       = "Succeeded"
	projectPathTaken   = "PathTaken"
	projectRepository  = "RepositoryNotFound"
	projectVariables   = "VariablesNotFound"
	projectSchedules   = "SchedulesInvalid"
	projectTriggers    = "TriggersInvalid"
	projectSource      = "SourceInvalid"
	projectPoll        = "SourceUnreachable"
	projectMirroring   = "Mirroring"
	projectUnreachable = "ClusterUnreachable"
)

// projectRetry is when to look at a Project again that the cluster could not be asked about.
const projectRetry = 10 * time.Second

// projectKeeper lets the server of pipelines know the Projects of the cluster, and tells how they stand.
type projectKeeper struct {
	s *pipelineServer

	claims sync.Mutex // one mirror is claimed at a time

	mu    sync.Mutex
	paths map[types.NamespacedName]string
	holds map[string]types.NamespacedName // the Project that is a path's
	wake  func(types.NamespacedName)
	ended map[string][]controller.PipelineEnd // by path: of which nothing was told yet
}

func newProjectKeeper(s *pipelineServer) *projectKeeper {
	return &projectKeeper{s: s, paths: map[types.NamespacedName]string{}, holds: map[string]types.NamespacedName{}, ended: map[string][]controller.PipelineEnd{}}
}

// projects is who keeps the Projects; nil: no pipelines are played.
func (l *lazyPipelines) projects() controller.Projects {
	if s := l.get(); s != nil {
		return s.keeper
	}
	return nil
}

// history gives who keeps what is delivered; nil: nobody does.
func (l *lazyPipelines) history() controller.Recorder {
	if s := l.get(); s != nil {
		return s.kept
	}
	return nil
}

// Tell implements [controller.Projects].
func (k *projectKeeper) Tell(wake func(types.NamespacedName)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wake = wake
}

// news has the Projects of a path looked at again.
func (k *projectKeeper) news(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, p := range k.paths {
		if p == path && k.wake != nil {
			k.wake(name)
		}
	}
}

// maxEnded bounds the ends of pipelines that a Project keeps until it is looked at; more are told by nobody but the list of pipelines.
const maxEnded = 100

// over takes in the end of a pipeline, for the Project whose it is.
func (k *projectKeeper) over(e ci.Ended) {
	k.mu.Lock()
	if all := k.ended[e.Project]; len(all) < maxEnded {
		k.ended[e.Project] = append(all, pipelineEnd(e))
	}
	k.mu.Unlock()
	k.news(e.Project)
}

// untold gives the ends of which nothing was told yet, to be told now.
func (k *projectKeeper) untold(path string) []controller.PipelineEnd {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.ended[path]
	delete(k.ended, path)
	return all
}

// pipelineEnd tells how a pipeline ended, in words.
func pipelineEnd(e ci.Ended) controller.PipelineEnd {
	p := e.Pipeline
	out := controller.PipelineEnd{
		Failed: p.Status == string(pipeline.StatusFailed), Reason: "Pipeline" + strings.ToUpper(p.Status[:1]) + p.Status[1:],
		Message: fmt.Sprintf("pipeline %d of %s: %s", p.IID, p.Ref, p.Status), Revision: delivery.Revision{Name: p.Ref, Commit: p.SHA},
	}
	if p.Status == string(pipeline.StatusSuccess) {
		out.Reason = "PipelineSucceeded"
	}
	switch {
	case out.Failed && len(e.Failed) > 0:
		out.Message += ": " + strings.Join(e.Failed, ", ")
	case out.Failed && p.Why != "":
		out.Message += ": " + redact.Text(p.Why)
	}
	if p.Title != "" {
		out.Message += " (" + p.Title + ")"
	}
	return out
}

// Forget implements [controller.Projects].
func (k *projectKeeper) Forget(name types.NamespacedName) { k.moved(name, "") }

// moved notes the path of a Project; empty: it is gone.
func (k *projectKeeper) moved(name types.NamespacedName, path string) {
	k.mu.Lock()
	old := k.paths[name]
	delete(k.paths, name)
	if path != "" {
		k.paths[name] = path
	}
	held := old != "" && old != path && k.holds[old] == name
	if held {
		delete(k.holds, old)
	}
	k.mu.Unlock()
	if held {
		k.drop(old)
	}
}

// drop lets go of what was kept of a path, which another Project may take over.
func (k *projectKeeper) drop(path string) {
	ctx, cancel := context.WithTimeout(context.Background(), projectRetry)
	defer cancel()
	k.s.DropMirrors(path, "")
	if err := k.s.ForgetSchedules(ctx, path); err != nil {
		k.s.log.Warn("forget the schedules of a project", "project", path, "error", err)
	}
	k.news(path)
}

// hold notes that a path is a Project's, whoever had it before.
func (k *projectKeeper) hold(name types.NamespacedName, path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.holds[path] = name
}

// Take implements [controller.Projects].
func (k *projectKeeper) Take(ctx context.Context, p *keelsonv1.Project) controller.ProjectStanding {
	s := k.stands(ctx, p)
	if s.Reason != projectPathTaken { // else they are the other's
		s.Ended = k.untold(pathOf(*p))
	}
	return s
}

// stands tells how a Project stands.
func (k *projectKeeper) stands(ctx context.Context, p *keelsonv1.Project) controller.ProjectStanding {
	name := client.ObjectKeyFromObject(p)
	k.moved(name, pathOf(*p))
	all, err := k.s.cluster.all(ctx)
	if err != nil {
		return controller.ProjectStanding{Reason: projectUnreachable, Message: sentence(err), After: projectRetry}
	}
	at := slices.IndexFunc(all, func(o keelsonv1.Project) bool { return pathOf(o) == pathOf(*p) })
	if at >= 0 && client.ObjectKeyFromObject(&all[at]) != name {
		return controller.ProjectStanding{Reason: projectPathTaken, Message: fmt.Sprintf(
			"the Project %s/%s has the path %s already; set spec.path to another one", all[at].Namespace, all[at].Name, pathOf(*p))}
	}
	k.hold(name, pathOf(*p))
	mirrored, err := k.mirror(ctx, p, all)
	if err != nil {
		return controller.ProjectStanding{Reason: projectSource, Message: sentence(err), After: time.Minute} // the repository may be emptied, say
	}
	if out := k.repository(p); out != nil {
		return *out
	}
	project, err := k.s.cluster.resolve(ctx, *p)
	s := controller.ProjectStanding{Ready: true, Reason: projectReady, Message: "pushes to " + p.Spec.Repository + " make pipelines"}
	if p.Spec.Suspend {
		s.Message = "suspended: only people make pipelines"
	}
	unready := func(reason string, err error) {
		if err != nil && s.Ready {
			s.Ready, s.Reason, s.Message = false, reason, sentence(err)
		}
	}
	unready(projectVariables, err)
	upcoming, err := k.s.KeepSchedules(ctx, project)
	unready(projectSchedules, err)
	unready(projectTriggers, k.s.cluster.checkTriggers(ctx, p))
	s.Schedules = schedulesStatus(upcoming)
	if p.Spec.Source == nil {
		return s
	}
	switch {
	case mirrored.Problem != "":
		unready(projectPoll, errors.New(mirrored.Problem))
	case mirrored.Polled.IsZero():
		unready(projectMirroring, fmt.Errorf("the first copy of %s is being made", redact.URL(p.Spec.Source.URL)))
	}
	if !mirrored.Polled.IsZero() {
		s.LastPolled = &metav1.Time{Time: mirrored.Polled}
	}
	return s
}

// repository tells what is wrong with the repository of a Project; nil: nothing.
func (k *projectKeeper) repository(p *keelsonv1.Project) *controller.ProjectStanding {
	err := githost.CheckName(p.Spec.Repository)
	if err == nil && !k.s.cluster.host.Exists(p.Spec.Repository) {
		err = fmt.Errorf("there is no repository %s: keelson git create %s makes it", p.Spec.Repository, p.Spec.Repository)
	}
	if err == nil {
		return nil
	}
	return &controller.ProjectStanding{Reason: projectRepository, Message: sentence(err), After: time.Minute} // it may be made at any time
}

// schedulesStatus is what the status says of schedules.
func schedulesStatus(all []ci.Upcoming) (out []keelsonv1.ScheduleStatus) {
	for _, u := range all {
		s := keelsonv1.ScheduleStatus{Name: u.Name, LastPipeline: u.Pipeline}
		if !u.Next.IsZero() {
			s.Next = &metav1.Time{Time: u.Next}
		}
		out = append(out, s)
	}
	return out
}

// sentence is an error as a condition has it: in one line, and without secrets.
func sentence(err error) string {
	text := redact.Text(strings.ReplaceAll(err.Error(), "\n", "; "))
	const most = 1000
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
