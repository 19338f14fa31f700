package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/kube"
	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/rollout"
	"keelson.dev/keelson/internal/source"
)

// lazyFollow follows what jobs deploy, once the cluster is known.
type lazyFollow struct {
	host    *githost.Host
	hosted  func(url string) (name string, ok bool)
	sources *source.Fetcher // reads the host's repositories, and no others
	known   chan struct{}
	cluster *kube.Cluster // once known is closed
}

// newLazyFollow makes what follows; dir is for what it keeps, which is nothing as long as repositories are the host's own.
func newLazyFollow(dir string, host *githost.Host, base string) (*lazyFollow, error) {
	l := &lazyFollow{host: host, hosted: hostedAt(host, base), known: make(chan struct{})}
	var err error
	l.sources, err = source.New(source.Options{Dir: filepath.Join(dir, "sources"), Local: func(url string) (string, bool) {
		name, ok := l.hosted(url)
		return host.Dir(name), ok
	}})
	return l, err
}

// Close closes the repositories.
func (l *lazyFollow) Close() error {
	l.sources.Close()
	return nil
}

// set says which cluster it is.
func (l *lazyFollow) set(config *rest.Config) error {
	cluster, err := kube.NewCluster(config)
	if err != nil {
		return err
	}
	l.cluster = cluster
	close(l.known)
	return nil
}

// follow implements [ci.Options.Follow]. What did not get healthy fails the job like its script.
func (l *lazyFollow) follow(ctx context.Context, w ci.Work, trace *executor.Trace) error {
	select {
	case <-l.known:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	work := rollout.Work{Began: w.Began, Wrote: w.Wrote}
	for _, c := range w.Pushed {
		work.Pushed = append(work.Pushed, rollout.Commit(c))
	}
	err := rollout.Follow(ctx, rollout.Options{
		Cluster: l.cluster, Timeout: w.Timeout, Hosted: l.hosted, Resolve: l.resolve, Contains: l.contains, File: l.file,
	}, work, trace)
	if errors.Is(err, rollout.ErrNotHealthy) {
		return &executor.Failure{Reason: pipeline.ScriptFailure, Err: err}
	}
	return err
}

func (l *lazyFollow) resolve(ctx context.Context, src delivery.Source) (delivery.Revision, error) {
	if _, ok := l.hosted(src.URL); !ok {
		return delivery.Revision{}, fmt.Errorf("%s is not on this host", src.URL)
	}
	src.Fresh = true
	return l.sources.Resolve(ctx, src)
}

func (l *lazyFollow) contains(ctx context.Context, repository, commit, ancestor string) (bool, error) {
	repo, err := git.Open(l.host.Dir(repository), git.Options{})
	if err != nil {
		return false, err
	}
	defer repo.Close()
	return repo.Contains(ctx, strings.ToLower(commit), strings.ToLower(ancestor))
}

// maxFollowedFile bounds a file that is read to follow a rollout, in bytes.
const maxFollowedFile = 1 << 20

func (l *lazyFollow) file(_ context.Context, repository, commit, path string) ([]byte, error) {
	repo, err := git.Open(l.host.Dir(repository), git.Options{})
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	tree, err := repo.Tree(commit)
	if err != nil {
		return nil, err
	}
	return tree.ReadAtMost(path, maxFollowedFile)
}

// followingOf says for which environments of a Project its jobs wait.
func followingOf(p keelsonv1.Project) []ci.Following {
	var out []ci.Following
	for _, e := range p.Spec.Environments {
		f := ci.Following{Environment: e.Name, Off: e.Follow != nil && !*e.Follow}
		if e.FollowTimeout != nil {
			f.Timeout = e.FollowTimeout.Duration
		}
		out = append(out, f)
	}
	return out
}
