package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/web"
)

// gitLimit bounds how long it may take to find out what somebody may do with a repository.
const gitLimit = 10 * time.Second

// gitPerson is the Git host's port for the access tokens of people. They read a repository as they see one of its Projects (get), and push as
// they may push to all of them: each has its pipelines. Rights to a repository that no Project names are those for all namespaces.
func gitPerson(who *people, played *lazyPipelines) func(context.Context, string, string, bool) (string, error) {
	return func(ctx context.Context, token, repository string, write bool) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, gitLimit)
		defer cancel()
		person, err := who.ByToken(ctx, token)
		switch {
		case errors.Is(err, identity.ErrNoToken):
			return "", githost.ErrUnknown
		case err != nil:
			return "", fmt.Errorf("find out whose the token is: %w", err)
		case repository == "":
			return person.Name, nil
		}
		server := played.get()
		if server == nil {
			return "", errors.New("nobody can tell yet what people may do: the instance is starting")
		}
		projects, err := server.cluster.repository(ctx, repository)
		if err != nil {
			return "", fmt.Errorf("find the Projects of %s: %w", repository, err)
		}
		verb := web.VerbGet
		if write {
			verb = web.VerbPush
		}
		return person.Name, mayWithAll(ctx, who.may.Authorize, person, verb, projects, write)
	}
}

// mayWithAll asks for a verb on projects: on each of them, or on one.
func mayWithAll(ctx context.Context, may web.Authorize, who web.Person, verb string, projects []client.ObjectKey, each bool) error {
	if len(projects) == 0 {
		projects = []client.ObjectKey{{}}
	}
	var refused error
	for _, p := range projects {
		err := may(ctx, who, verb, web.Target{Group: web.KeelsonGroup, Resource: web.ProjectResource, Namespace: p.Namespace, Name: p.Name})
		switch {
		case errors.Is(err, web.ErrForbidden) && !each:
			refused = err
		case err != nil && errors.Is(err, web.ErrForbidden):
			return fmt.Errorf("%w: %w", githost.ErrForbidden, err)
		case err != nil:
			return err
		case !each:
			return nil
		}
	}
	if refused != nil {
		return fmt.Errorf("%w: %w", githost.ErrForbidden, refused)
	}
	return nil
}
