package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	keelsonv1 "keelson.dev/keelson/api/v1alpha1"
	"keelson.dev/keelson/internal/ci"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/redact"
	"keelson.dev/keelson/internal/source"
)

// mirror keeps the copy of a Project's repository that comes from another Git server; one that comes from nowhere else may be pushed to.
func (k *projectKeeper) mirror(ctx context.Context, p *keelsonv1.Project, all []keelsonv1.Project) (ci.MirrorStanding, error) {
	host, name, path := k.s.cluster.host, p.Spec.Repository, pathOf(*p)
	if p.Spec.Source == nil {
		k.s.DropMirrors(path, "")
		others := slices.ContainsFunc(all, func(o keelsonv1.Project) bool { return o.Spec.Repository == name && o.Spec.Source != nil })
		if others || githost.CheckName(name) != nil || host.MirrorOf(name) == "" {
			return ci.MirrorStanding{}, nil
		}
		return ci.MirrorStanding{}, host.SetMirror(name, "", "")
	}
	k.s.DropMirrors(path, name)
	remote, err := k.s.cluster.remote(ctx, p)
	if err != nil {
		return ci.MirrorStanding{}, err
	}
	if err := k.claimMirror(ctx, p, all); err != nil {
		return ci.MirrorStanding{}, err
	}
	of := ci.Mirrored{
		Project: path, Repository: name, Dir: host.Dir(name), Remote: remote, Asked: p.Annotations[fluxmeta.ReconcileRequestAnnotation],
	}
	if p.Spec.Source.Interval != nil {
		of.Interval = p.Spec.Source.Interval.Duration
	}
	return k.s.KeepMirror(of)
}

// claimMirror makes a repository of the Git host the mirror of a Project, which is noted there: after a restart, too, nobody else gets it.
// One with commits of its own is left alone: they would be gone.
func (k *projectKeeper) claimMirror(ctx context.Context, p *keelsonv1.Project, all []keelsonv1.Project) error {
	host, name, of := k.s.cluster.host, p.Spec.Repository, redact.URL(p.Spec.Source.URL)
	if err := githost.CheckName(name); err != nil {
		return err
	}
	k.claims.Lock()
	defer k.claims.Unlock()
	keeper, has := p.Namespace+"/"+p.Name, mirrorKeeper(host, name, all)
	if has != "" && has != keeper {
		return fmt.Errorf("repository %s is the mirror of %s that the Project %s keeps; set spec.repository to another name", name, host.MirrorOf(name), has)
	}
	if !host.Exists(name) {
		if err := host.Create(ctx, name); err != nil && !errors.Is(err, githost.ErrExists) {
			return err
		}
	} else if host.MirrorOf(name) == "" {
		repo, err := git.Open(host.Dir(name), git.Options{})
		if err != nil {
			return err
		}
		refs, err := repo.Refs()
		if err := errors.Join(err, repo.Close()); err != nil {
			return err
		}
		if len(refs) > 0 {
			return fmt.Errorf("repository %s has commits of its own, which a mirror of %s would replace; set spec.repository to another name", name, of)
		}
	}
	return host.SetMirror(name, of, keeper)
}

// releaseWait is how long somebody who pushes to a mirror waits for the Projects.
const releaseWait = 5 * time.Second

// release lets go of a mirror that no Project wants any more: it was deleted, maybe while nothing ran here.
func (k *projectKeeper) release(repository string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	all, err := k.s.cluster.all(ctx)
	return err == nil && k.releaseOf(repository, all)
}

func (k *projectKeeper) releaseOf(repository string, all []keelsonv1.Project) bool {
	k.claims.Lock()
	defer k.claims.Unlock()
	if slices.ContainsFunc(all, func(o keelsonv1.Project) bool { return o.Spec.Repository == repository && o.Spec.Source != nil }) {
		return false
	}
	if err := k.s.cluster.host.SetMirror(repository, "", ""); err != nil {
		k.s.log.Error("let go of a mirror", "repository", repository, "error", err)
		return false
	}
	return true
}

// mirrorKeeper is the Project that keeps a mirror; empty: none does any more. Where none was noted it is the oldest one that wants it.
func mirrorKeeper(host *githost.Host, name string, all []keelsonv1.Project) string {
	if host.MirrorOf(name) == "" {
		return ""
	}
	noted := host.MirrorKeeper(name)
	for _, o := range all {
		key := o.Namespace + "/" + o.Name
		if o.Spec.Repository == name && o.Spec.Source != nil && (noted == "" || noted == key) {
			return key
		}
	}
	return ""
}

// remote is where a Project's repository comes from, with its credentials.
func (l *lazyProjects) remote(ctx context.Context, p *keelsonv1.Project) (git.Remote, error) {
	src := delivery.Source{URL: p.Spec.Source.URL}
	if ref := p.Spec.Source.SecretRef; ref != nil {
		var secret corev1.Secret
		if err := l.c.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: ref.Name}, &secret); err != nil {
			return git.Remote{}, fmt.Errorf("read the credentials of spec.source: %w", err)
		}
		var err error
		if src.Credentials, err = dialect.Credentials(src, secret.Data); err != nil {
			return git.Remote{}, fmt.Errorf("read the credentials of spec.source: Secret %s/%s: %w", p.Namespace, ref.Name, err)
		}
	}
	return source.Remote(src)
}
