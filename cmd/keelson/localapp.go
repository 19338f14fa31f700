package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
	"keelson.dev/keelson/internal/git"
)

// localApp is an app that is declared by flags, or in a file, and not in the cluster, and what it is delivered from.
type localApp struct {
	delivery.App
	snapshot delivery.Snapshot
	dirty    bool // the folder holds what is in no commit
	close    func()
}

// describe names the revision for people.
func (a localApp) describe() string {
	text := a.snapshot.Revision.Short()
	if text == "" {
		return "the folder as it is"
	}
	if a.dirty {
		text += " with uncommitted changes"
	}
	return text
}

// openLocalApp reads what the options declare. The caller closes it.
func openLocalApp(ctx context.Context, g *global, opts applyOptions) (localApp, error) {
	a := localApp{close: func() {}}
	at := opts.path
	if opts.file == "" {
		a.App = delivery.App{Guard: delivery.Guard{MaxPrunePercent: defaultMaxPrune}, Namespace: cmp.Or(g.namespace, defaultNamespace)}
		a.ID = delivery.ID{Namespace: a.Namespace, Name: opts.name}
	} else {
		k, err := readKustomization(opts.file)
		if err != nil {
			return a, err
		}
		if a.App, err = kustomizationApp(k, g.namespace); err != nil {
			return a, err
		}
		if at == "" {
			at = filepath.Dir(opts.file)
		}
	}
	a.App = delivery.Policy{LenientSubstitution: !opts.policy.strict}.Govern(a.App)
	a.ID.Kind = dialect.LocalKind
	if wrong := append(validation.IsDNS1123Subdomain(dialect.LocalConfigMap(a.ID.Name)), validation.IsValidLabelValue(a.ID.Name)...); len(wrong) > 0 {
		return a, usagef("%q is no name for an app: %s", a.ID.Name, wrong[0])
	}
	a.Prune = a.Prune || opts.prune
	a.Wait = a.Wait || opts.wait
	a.ServiceAccount = cmp.Or(opts.serviceAccount, a.ServiceAccount)
	a.Timeout = opts.timeout
	if opts.confirm {
		a.Guard = delivery.Guard{AllowEmpty: true, MaxPrunePercent: 100}
	}
	root, folder, err := placeOf(at)
	if err != nil {
		return a, err
	}
	if opts.file == "" || opts.path != "" {
		a.Build.Path = folder
	}
	return a, a.open(ctx, root, opts.ref)
}

// Defaults of what a file or a flag does not say.
const (
	defaultNamespace = "default"
	defaultMaxPrune  = 50 // percent, as for a Kustomization
)

// placeOf finds a folder: the root of the Git repository around it, or else the folder itself, and its path from there.
func placeOf(dir string) (root, folder string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", fmt.Errorf("find %s: %w", dir, err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", "", fmt.Errorf("find folder: %w", err)
	}
	root = repositoryRoot(dir)
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return "", "", fmt.Errorf("find %s in %s: %w", dir, root, err)
	}
	return root, path.Clean(filepath.ToSlash(rel)), nil
}

// readKustomization reads a Flux Kustomization from a file, which holds nothing else.
func readKustomization(file string) (*kustomizev1.Kustomization, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read app: %w", err)
	}
	if bytes.Contains(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("---")), []byte("\n---")) {
		return nil, usagef("%s holds more than one document: -f takes one Kustomization", file)
	}
	k := &kustomizev1.Kustomization{}
	if err := yaml.UnmarshalStrict(b, k); err != nil {
		return nil, fmt.Errorf("read app: %s: %w", file, err)
	}
	if k.Kind != kustomizev1.KustomizationKind || k.APIVersion != kustomizev1.GroupVersion.String() {
		return nil, hintf(fmt.Errorf("%s is a %s in %q", file, cmp.Or(k.Kind, "document without a kind"), k.APIVersion),
			"-f takes a Kustomization in %s; --path takes a folder", kustomizev1.GroupVersion)
	}
	return k, nil
}

// kustomizationApp gives the app that a Kustomization from a file declares. Its source is the repository around the file.
func kustomizationApp(k *kustomizev1.Kustomization, namespace string) (delivery.App, error) {
	if namespace != "" && k.Namespace != "" && namespace != k.Namespace {
		return delivery.App{}, usagef("the file names another namespace than -n %s", namespace)
	}
	k.Namespace = cmp.Or(k.Namespace, namespace, defaultNamespace)
	k.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: k.Spec.SourceRef.Name}
	app, err := dialect.Kustomization(k)
	switch {
	case err != nil:
		return app, err
	case app.Suspend:
		return app, errors.New("spec.suspend is set: the app is to be left as it is")
	case len(app.Refused) > 0:
		return app, fmt.Errorf("%s: not supported yet; nothing is applied", strings.Join(app.Refused, ", "))
	}
	return app, nil
}

// open takes the snapshot: of a commit of the repository, or of the folder as it is on disk.
func (a *localApp) open(ctx context.Context, root, ref string) error {
	if ref != "" {
		return a.openCommit(ctx, root, ref)
	}
	a.snapshot = delivery.Snapshot{FS: os.DirFS(root), Digest: "as it is on disk"}
	commit, err := gitSays(ctx, root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if err != nil {
		a.dirty = repositoryHas(root)
		return nil //nolint:nilerr // no repository, or one without a commit: the folder counts all the same
	}
	branch, _ := gitSays(ctx, root, "symbolic-ref", "--quiet", "--short", "HEAD") // none while HEAD is detached
	a.snapshot.Revision = delivery.Revision{Name: branch, Commit: commit}
	changed, err := gitSays(ctx, root, "status", "--porcelain", "--untracked-files=normal")
	a.dirty = err != nil || changed != ""
	return nil
}

func repositoryHas(root string) bool {
	_, err := os.Stat(filepath.Join(root, ".git"))
	return err == nil
}

func (a *localApp) openCommit(ctx context.Context, root, ref string) error {
	commit, err := gitSays(ctx, root, "rev-parse", "--verify", "--end-of-options", ref+"^{commit}")
	if err != nil {
		return fmt.Errorf("find commit %s in %s: %w", ref, root, err)
	}
	dir, err := gitSays(ctx, root, "rev-parse", "--path-format=absolute", "--git-common-dir")
	if err != nil {
		return fmt.Errorf("open the repository of %s: %w", root, err)
	}
	repo, err := git.Open(dir, git.Options{})
	if err != nil {
		return err
	}
	a.close = func() { repo.Close() }
	tree, err := repo.Tree(commit)
	if err != nil {
		a.close()
		return fmt.Errorf("read commit %s: %w", commit, err)
	}
	name := ref
	if strings.HasPrefix(commit, ref) || strings.ContainsAny(ref, "^~@{}:") {
		name = ""
	}
	a.snapshot = delivery.Snapshot{FS: tree, Digest: tree.ID().String(), Revision: delivery.Revision{Name: name, Commit: commit}}
	return nil
}

// gitSays runs git in a work tree, with nothing of the user's configuration, and gives what it prints.
func gitSays(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := git.Process(ctx, nil, args...)
	cmd.Dir = dir
	var diag bytes.Buffer
	cmd.Stderr = &diag
	out, err := cmd.Output()
	if err != nil {
		return "", errors.New(cmp.Or(firstLine(strings.TrimSpace(diag.String())), err.Error()))
	}
	return strings.TrimSpace(string(out)), nil
}
