package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sampleKinds are the kinds of everything that the sample declares.
const sampleKinds = "namespaces,networkpolicies,deployments,statefulsets,services,ingresses,configmaps,gitrepositories,kustomizations"

// owned reads the objects that apps own, without what only the server writes, and checks that the apps' inventories name
// exactly these.
func owned(t *testing.T, kubeconfig string) map[string]any {
	t.Helper()
	var list struct{ Items []map[string]any }
	out := kubectl(t, kubeconfig, "get", sampleKinds, "-A", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	objects, inventories := map[string]any{}, map[string]any{}
	for _, o := range list.Items {
		meta, _ := o["metadata"].(map[string]any)
		status, _ := o["status"].(map[string]any)
		if inventory, ok := status["inventory"].(map[string]any); ok {
			entries, _ := inventory["entries"].([]any)
			for _, e := range entries {
				id, _ := e.(map[string]any)["id"].(string)
				inventories[id] = true
			}
		}
		labels, _ := meta["labels"].(map[string]any)
		if labels["kustomize.toolkit.fluxcd.io/name"] == nil {
			continue
		}
		api, _ := o["apiVersion"].(string)
		group, _, grouped := strings.Cut(api, "/")
		if !grouped {
			group = ""
		}
		namespace, _ := meta["namespace"].(string)
		objects[fmt.Sprintf("%s_%s_%s_%s", namespace, meta["name"], group, o["kind"])] = lasting(o)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(inventories)), slices.Sorted(maps.Keys(objects))); diff != "" {
		t.Errorf("the objects with an owner are not those of the inventories (-inventories +objects):\n%s", diff)
	}
	return objects
}

// lasting takes out of an object what differs each time it is made.
func lasting(o map[string]any) map[string]any {
	delete(o, "status")
	meta, _ := o["metadata"].(map[string]any)
	for _, f := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
		delete(meta, f)
	}
	if a, ok := meta["annotations"].(map[string]any); ok {
		delete(a, "deployment.kubernetes.io/revision")
		delete(a, "reconcile.fluxcd.io/requestedAt")
		if len(a) == 0 {
			delete(meta, "annotations")
		}
	}
	spec, _ := o["spec"].(map[string]any)
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	return o
}

func TestDisasterRecovery(t *testing.T) {
	apply(t, shared.Kubeconfig, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: by-hand, namespace: default}\n")
	before, was := owned(t, shared.Kubeconfig), *shared
	if len(before) < 30 {
		t.Fatalf("the sample has %d objects only", len(before))
	}
	shared.must(t, "down")
	if r := tryKubectl(shared.Kubeconfig, "get", "namespaces"); r.code == 0 {
		t.Error("the cluster still answers after down")
	}
	if err := os.RemoveAll(filepath.Join(shared.data, "cluster")); err != nil {
		t.Fatal(err)
	}
	if r := shared.up(); r.code != 0 {
		t.Fatal(r.err)
	}
	if *shared != was {
		t.Errorf("up says %+v, before the loss %+v", *shared, was)
	}
	if diff := cmp.Diff(before, owned(t, shared.Kubeconfig)); diff != "" {
		t.Errorf("what the apps own (-before +after):\n%s", diff)
	}
	if r := tryKubectl(shared.Kubeconfig, "-n", "default", "get", "configmap", "by-hand"); r.code == 0 {
		t.Error("an object that was in no repository is there: the cluster was not lost")
	}
	if r := shared.keelson("down", "--timeout", "1ns"); r.code == 0 { // asked to stop, not waited for: the next up waits
		t.Log("down was faster than a nanosecond")
	}
	eventually(t, "end of the daemon", func() error {
		if pid := shared.daemon(t); pid != 0 {
			return fmt.Errorf("process %d runs", pid)
		}
		return nil
	})
	contains(t, shared.must(t, "down"), "nothing runs on "+shared.data)
	if r := shared.up(); r.code != 0 {
		t.Fatal(r.err)
	}
	if diff := cmp.Diff(before, owned(t, shared.Kubeconfig)); diff != "" {
		t.Errorf("what the apps own after down and up (-before +after):\n%s", diff)
	}
}

// TestKilledDaemon: what it has started ends with it, but a little later; up waits for that.
func TestKilledDaemon(t *testing.T) {
	apply(t, shared.Kubeconfig, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: survivor, namespace: default}\n")
	c := cloneOf(t, shared.Git+"/sample.git")
	c.replace("overlays/dev/kustomization.yaml", "newTag: "+backendTag(t, c, "dev"), "newTag: 7.1.0-killed")
	c.push("Move the backend to 7.1.0")
	t.Cleanup(func() { // whatever becomes of this test, the others have their instance
		eventually(t, "start after the kill", func() error {
			if r := shared.up(); r.code != 0 {
				return errors.New(r.err)
			}
			return nil
		})
	})
	shared.kill(t, false)
	if r := shared.up(); r.code != 0 {
		t.Fatalf("up after the daemon was killed ended with %d:\n%s", r.code, r.err)
	}
	image(t, shared.Kubeconfig, "dev", "backend", "ghcr.io/stefanprodan/podinfo:7.1.0-killed")
	shared.kubectl(t, "-n", "default", "get", "configmap", "survivor")
	owned(t, shared.Kubeconfig)
}

// TestEverythingKilled ends the daemon, the control plane and etcd in the middle of a delivery.
func TestEverythingKilled(t *testing.T) {
	apply(t, shared.Kubeconfig, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: veteran, namespace: default}\n")
	many := newMany(t, shared)
	for round := range 2 {
		commit := many.change(round)
		pause := time.Duration(rand.IntN(400)) * time.Millisecond
		t.Logf("round %d: killed %s after the push", round, pause)
		<-time.After(pause) // the moment of the kill is what varies
		shared.kill(t, true)
		if r := shared.up(); r.code != 0 {
			t.Fatal(r.err)
		}
		many.delivered(commit)
	}
	shared.kubectl(t, "-n", "default", "get", "configmap", "veteran")
	many.remove()
	contains(t, shared.must(t, "diff", "dev"), "0 of 8 objects differ")
	owned(t, shared.Kubeconfig)
}

// many is an app of many objects: each change edits two thirds of them and replaces one third by others.
type many struct {
	clone
	in *instance
}

const manyObjects = 45

func newMany(t *testing.T, in *instance) many {
	t.Helper()
	in.must(t, "git", "create", "many")
	m := many{cloneOf(t, in.Git+"/many.git"), in}
	m.change(-1)
	apply(t, in.Kubeconfig, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: many}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: many, namespace: many}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: many, namespace: many}
spec:
  interval: 1h
  retryInterval: 2s
  path: ./objects
  prune: true
  targetNamespace: many
  sourceRef: {kind: GitRepository, name: many}
`, in.Dashboard+"git/many.git"))
	m.delivered(m.git("rev-parse", "HEAD"))
	return m
}

// write commits the objects of a round.
func (m many) write(round int) string {
	m.Helper()
	var b strings.Builder
	for i := range manyObjects {
		name := fmt.Sprintf("object-%d", i)
		if i%3 == 0 {
			name = fmt.Sprintf("object-%d-%d", i, round)
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {round: \"%d\"}\n", name, round)
	}
	write(m.T, filepath.Join(m.dir, "objects", "objects.yaml"), b.String())
	return m.commit(fmt.Sprintf("Round %d", round))
}

// change pushes a round.
func (m many) change(round int) string {
	m.Helper()
	commit := m.write(round)
	m.git("push", "-q", "origin", "HEAD:main")
	return commit
}

// delivered waits until the cluster holds exactly what a commit wants.
func (m many) delivered(commit string) {
	m.Helper()
	round := strings.TrimPrefix(m.git("log", "-1", "--format=%s", commit), "Round ")
	want := map[string]string{}
	for i := range manyObjects {
		name := fmt.Sprintf("object-%d", i)
		if i%3 == 0 {
			name += "-" + round
		}
		want[name] = round
	}
	eventually(m.T, "delivery of "+commit, func() error {
		r := tryKubectl(m.in.Kubeconfig, "-n", "many", "get", "kustomization", "many", "-o", "jsonpath={.status.lastAppliedRevision}")
		if r.out != "main@sha1:"+commit {
			return fmt.Errorf("lastAppliedRevision is %q %s", r.out, r.err)
		}
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Data     map[string]string
			}
		}
		r = tryKubectl(m.in.Kubeconfig, "-n", "many", "get", "configmaps", "-l", "kustomize.toolkit.fluxcd.io/name=many", "-o", "json")
		if err := json.Unmarshal([]byte(r.out), &list); err != nil {
			return fmt.Errorf("%w: %s", err, r.err)
		}
		got := map[string]string{}
		for _, o := range list.Items {
			got[o.Metadata.Name] = o.Data["round"]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("the objects (-Git +cluster):\n%s", diff)
		}
		return nil
	})
}

// remove deletes the app and waits until its objects are gone.
func (m many) remove() {
	m.Helper()
	kubectl(m.T, m.in.Kubeconfig, "-n", "many", "delete", "kustomization", "many", "--timeout=60s")
	kubectl(m.T, m.in.Kubeconfig, "-n", "many", "delete", "gitrepository", "many", "--timeout=60s")
	left := kubectl(m.T, m.in.Kubeconfig, "-n", "many", "get", "configmaps", "-l", "kustomize.toolkit.fluxcd.io/name=many", "-o", "name")
	if left != "" {
		m.Errorf("objects of the deleted app are left:\n%s", left)
	}
}
