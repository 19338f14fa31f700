package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/web"
)

// acceptTrigger accepts whoever has a token of the project: of one of its triggers, or of a job whose project may read it.
func (s *pipelineServer) acceptTrigger(ctx context.Context, t web.TriggerRequest) (web.Accepted, error) {
	path, err := s.pathOf(ctx, t.Project)
	if err != nil {
		return web.Accepted{}, err
	}
	e := ci.Event{Project: path, Source: pipeline.SourceTrigger, IgnoreSkip: true}
	caller, job, ofJob := s.JobOf(t.Token) // 0: of none
	if ofJob {
		if err := s.mayTrigger(ctx, caller, path); err != nil {
			return web.Accepted{}, err
		}
	} else if e.User, err = s.triggerNamed(ctx, path, t.Token); err != nil {
		return web.Accepted{}, err
	}
	whose := "trigger " + e.User
	if ofJob {
		whose = fmt.Sprintf("job %d of %s", job, caller)
	}
	return web.Accepted{Project: path, Who: whose, Make: func(ctx context.Context) (web.Triggered, error) { return s.trigger(ctx, t, e, job) }}, nil
}

// trigger makes a pipeline of an event that a request with a token asks for, with that of a job or, where that is 0, of a trigger.
func (s *pipelineServer) trigger(ctx context.Context, t web.TriggerRequest, e ci.Event, job int64) (web.Triggered, error) {
	p, err := s.cluster.Named(ctx, e.Project)
	if err != nil {
		return web.Triggered{}, err
	}
	if e.Ref, err = ci.FullRef(p, t.Ref); err != nil {
		return web.Triggered{}, web.ErrTriggerRef
	}
	if job != 0 {
		if e, err = s.ByJob(ctx, e, job); err != nil {
			return web.Triggered{}, err
		}
	}
	for name, value := range t.Variables {
		e.Variables = append(e.Variables, pipeline.Variable{Name: name, Value: value, Origin: pipeline.OriginPipeline})
	}
	slices.SortFunc(e.Variables, func(a, b pipeline.Variable) int { return strings.Compare(a.Name, b.Name) })
	e.Variables = append(e.Variables, pipeline.Variable{Name: "TRIGGER_PAYLOAD", Value: string(t.Payload), File: true, Raw: true, Origin: pipeline.OriginPipeline})
	made, err := s.Create(ctx, e)
	if err != nil {
		return web.Triggered{}, err
	}
	return web.TriggeredOf(made, s.url+"/"+e.Project), nil
}

// pathOf gives the path of a project that is named by it or by its number.
func (s *pipelineServer) pathOf(ctx context.Context, project string) (string, error) {
	id, err := strconv.ParseInt(project, 10, 64)
	if err != nil {
		return project, nil
	}
	all, err := s.store.Projects(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if p.ID == id {
			return p.Name, nil
		}
	}
	return project, nil // a path may be a number, too
}

// mayTrigger tells whether the jobs of a project may make pipelines of another one.
func (s *pipelineServer) mayTrigger(ctx context.Context, caller, path string) error {
	other, err := s.cluster.Named(ctx, path)
	if other.Path == "" || err != nil && errors.Is(err, ci.ErrNoProject) {
		return web.ErrTriggerRefused
	}
	if !(ci.Project{Path: caller}).Reads(other) {
		return web.ErrTriggerRefused
	}
	return nil
}

// triggerNamed finds the trigger of a project that a token is of, and gives its name. All of them are compared, each in constant time.
func (s *pipelineServer) triggerNamed(ctx context.Context, path, token string) (string, error) {
	all, err := s.cluster.all(ctx)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(all, func(p keelsonv1.Project) bool { return pathOf(p) == path })
	if at < 0 {
		return "", web.ErrTriggerRefused
	}
	given, found := sha256.Sum256([]byte(token)), ""
	for _, t := range all[at].Spec.Triggers {
		want, err := s.cluster.triggerToken(ctx, all[at].Namespace, t)
		if err != nil {
			s.log.Warn("a trigger cannot be used", "project", path, "trigger", t.Name, "error", err)
			continue
		}
		has := sha256.Sum256([]byte(want))
		if subtle.ConstantTimeCompare(given[:], has[:]) == 1 {
			found = t.Name
		}
	}
	if found == "" {
		return "", web.ErrTriggerRefused
	}
	return found, nil
}

// minToken is how long the token of a trigger is at least: a short one is guessed.
const minToken = 16

// triggerToken reads the token of a trigger.
func (l *lazyProjects) triggerToken(ctx context.Context, namespace string, t keelsonv1.ProjectTrigger) (string, error) {
	var secret corev1.Secret
	err := l.c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: t.TokenFrom.Name}, &secret)
	if client.IgnoreNotFound(err) != nil {
		return "", err
	}
	token := strings.TrimRight(string(secret.Data[t.TokenFrom.Key]), "\r\n")
	switch {
	case err != nil || token == "":
		return "", fmt.Errorf("trigger %s: there is no key %s in Secret %s/%s", t.Name, t.TokenFrom.Key, namespace, t.TokenFrom.Name)
	case len(token) < minToken:
		return "", fmt.Errorf("trigger %s: the token in Secret %s/%s has fewer than %d characters, so it can be guessed", t.Name, namespace, t.TokenFrom.Name, minToken)
	}
	return token, nil
}

// checkTriggers tells which triggers of a Project cannot be used.
func (l *lazyProjects) checkTriggers(ctx context.Context, p *keelsonv1.Project) error {
	var errs []error
	for _, t := range p.Spec.Triggers {
		_, err := l.triggerToken(ctx, p.Namespace, t)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
