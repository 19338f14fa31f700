package controller_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/keelson/internal/git"
)

// branch commits files to a branch of the test's repository.
func (w *world) branch(name string, files map[string]string) string {
	w.Helper()
	base, err := w.repo.Resolve("refs/heads/" + name)
	if err != nil && !errors.Is(err, git.ErrUnknownRef) {
		w.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for file, content := range files {
		fsys[file] = &fstest.MapFile{Data: []byte(content)}
	}
	id, err := w.repo.Commit(w.ctx, git.Change{Branch: name, Base: base, Files: fsys, Message: "change", Author: git.Signature{Name: "a", Email: "a@example.com"}})
	w.must(err)
	return id
}

// source waits until a GitRepository is as check wants it.
func (w *world) source(name string, check func(*sourcev1.GitRepository) error) {
	w.Helper()
	w.eventually("source "+name, func() error {
		var g sourcev1.GitRepository
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, &g); err != nil {
			return err
		}
		if err := check(&g); err != nil {
			return fmt.Errorf("%w; its conditions are %v", err, g.Status.Conditions)
		}
		return nil
	})
}

// has tells whether a source's condition has the status and the reason.
func has(g *sourcev1.GitRepository, kind string, status metav1.ConditionStatus, reason string) error {
	if c := meta.FindStatusCondition(g.Status.Conditions, kind); c == nil || c.Status != status || c.Reason != reason {
		return fmt.Errorf("%s is not %s with %s", kind, status, reason)
	}
	return nil
}

func (w *world) look(name string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, time.Now().Format(time.RFC3339Nano))
	w.must(w.client.Patch(w.ctx, &sourcev1.GitRepository{ObjectMeta: w.named(name)}, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// An included repository that moves moves the one that includes it, and the apps made from that one.
func TestIncludedRepository(t *testing.T) {
	w := newWorld(t)
	w.push(map[string]string{"app/kustomization.yaml": "resources: [../vendor/shared]\n"})
	w.apply(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: all}
spec: {interval: 1h, url: %s, ref: {branch: main}, include: [{repository: {name: lib}, fromPath: shared, toPath: vendor/shared}]}
`, w.url()))
	w.apply(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app}
spec: {interval: 1h, retryInterval: 2s, timeout: 20s, path: ./app, prune: true, sourceRef: {kind: GitRepository, name: all}}
`)
	w.source("all", func(g *sourcev1.GitRepository) error {
		return errors.Join(has(g, "IncludeUnavailable", metav1.ConditionTrue, "NotFound"), has(g, "Ready", metav1.ConditionFalse, "NotFound"))
	})
	first := w.branch("lib", map[string]string{"shared/a.yaml": w.configMap("a", "1"), "shared/kustomization.yaml": "resources: [a.yaml]\n"})
	w.apply(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: lib}
spec: {interval: 1h, url: %s, ref: {branch: lib}}
`, w.url()))
	w.value("a", "1")
	var digest string
	w.source("all", func(g *sourcev1.GitRepository) error {
		s := g.Status
		if err := has(g, "Ready", metav1.ConditionTrue, "Succeeded"); err != nil {
			return err
		}
		if meta.FindStatusCondition(s.Conditions, "IncludeUnavailable") != nil || len(s.IncludedArtifacts) != 1 || s.IncludedArtifacts[0].Revision != "lib@sha1:"+first ||
			len(s.ObservedInclude) != 1 || s.Artifact.Revision != "main@sha1:"+w.head {
			return fmt.Errorf("status %+v", s)
		}
		digest = s.Artifact.Digest
		return nil
	})
	second := w.branch("lib", map[string]string{"shared/a.yaml": w.configMap("a", "2")})
	w.look("lib")
	w.value("a", "2")
	w.source("all", func(g *sourcev1.GitRepository) error {
		if s := g.Status; s.IncludedArtifacts[0].Revision != "lib@sha1:"+second || s.Artifact.Digest == digest || s.Artifact.Revision != "main@sha1:"+w.head {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}

// What nobody trusted has signed is not applied; the last commit that was verified stays.
func TestUnsignedCommitIsNotApplied(t *testing.T) {
	w := newWorld(t)
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	w.must(err)
	w.must(w.client.Create(w.ctx, &corev1.Secret{ObjectMeta: w.named("authors"), Data: map[string][]byte{"ada.sshpub": public}}))
	sign := func(commit string) string {
		cmd := exec.Command("git", "-c", "gpg.format=ssh", "-c", "user.signingkey="+key, "commit-tree", "-S", "-m", "signed", commit+"^{tree}")
		cmd.Dir = w.repo.Dir()
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.Output()
		w.must(err)
		id := strings.TrimSpace(string(out))
		ref := exec.Command("git", "update-ref", "refs/heads/main", id)
		ref.Dir = w.repo.Dir()
		w.must(ref.Run())
		return id
	}
	unsigned := w.push(map[string]string{"app/a.yaml": w.configMap("a", "1")})
	w.app("app", "")
	w.ready("app", unsigned)
	// Verification comes later: what was applied stays, but counts no more.
	w.apply(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: repo}
spec: {interval: 1h, url: %s, ref: {branch: main}, verify: {mode: HEAD, secretRef: {name: authors}}}
`, w.url()))
	refused := func(g *sourcev1.GitRepository) error {
		return errors.Join(has(g, "SourceVerified", metav1.ConditionFalse, "InvalidCommitSignature"), has(g, "Ready", metav1.ConditionFalse, "InvalidCommitSignature"))
	}
	w.source("repo", refused)
	w.app("late", "")
	w.condition("late", metav1.ConditionFalse, "ArtifactFailed")
	w.value("a", "1")
	signed := sign(strings.TrimPrefix(unsigned, "main@sha1:"))
	w.reconcileSource()
	w.source("repo", func(g *sourcev1.GitRepository) error {
		if g.Status.SourceVerificationMode == nil || *g.Status.SourceVerificationMode != sourcev1.ModeGitHEAD || g.Status.Artifact.Revision != "main@sha1:"+signed {
			return fmt.Errorf("status %+v", g.Status)
		}
		return errors.Join(has(g, "SourceVerified", metav1.ConditionTrue, "Succeeded"), has(g, "Ready", metav1.ConditionTrue, "Succeeded"))
	})
	w.ready("app", "main@sha1:"+signed)
	w.branch("main", map[string]string{"app/a.yaml": w.configMap("a", "evil")})
	w.reconcileSource()
	w.source("repo", refused)
	w.value("a", "1")
	w.ready("app", "main@sha1:"+signed)
}
