package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
)

// What the history is filled with: so many deliveries of so many apps, each with three objects; and repairs beside them.
const (
	whyRecords = 100_000
	whyApps    = 1000
	whyRepairs = 10_000
	whyBatch   = 1000
)

// measureWhy asks who has changed what, of a history of 100,000 deliveries.
func (b *bench) measureWhy(ctx context.Context) error {
	in, err := b.stopped(ctx, "why")
	if err != nil {
		return err
	}
	wrote, err := fillHistory(ctx, filepath.Join(in.data, "ci"))
	if err != nil {
		return err
	}
	if in, _, err = b.up(ctx, "why"); err != nil {
		return err
	}
	pid, err := daemonOf(in.data)
	if err != nil {
		return err
	}
	before, err := memoryOf(pid)
	if err != nil {
		return err
	}
	ask := exec.CommandContext(ctx, b.keelson, "why", "--data", in.data, "deploy/web-7", "image", "-n", "team-7")
	ask.Env = environment()
	answer, err := output(ctx, ask)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("web:%d → registry.example.com/web:%d", whyRecords/whyApps-1, whyRecords/whyApps); !strings.Contains(string(answer), want) {
		return fmt.Errorf("keelson why does not say %q: %.1000s", want, answer)
	}
	size := fmt.Sprintf(", %d deliveries and %d repairs of %d apps", whyRecords, whyRepairs, whyApps)
	for _, q := range []struct {
		name, what string
		args       []string
	}{
		{"why", "keelson why of a field that changed last", []string{"deploy/web-7", "image", "-n", "team-7"}},
		{"why-old", "keelson why of a field that has never changed, of an object that every tenth delivery changes", []string{"configmap/shared", "data.never", "-n", "default"}},
		{"why-at", "keelson why as it was in the middle", []string{"deploy/web-7", "replicas", "-n", "team-7", "--at", historyStart.Add(whyRecords / 2 * time.Minute).Format(time.RFC3339)}},
	} {
		runs, err := b.runCommand(ctx, b.keelson, append([]string{"why", "--data", in.data}, q.args...)...)
		if err != nil {
			return err
		}
		var wall, resident []float64
		for _, u := range runs {
			wall, resident = append(wall, milliseconds(u.Wall)), append(resident, float64(u.Resident)/1024)
		}
		if err := errors.Join(
			b.add(Result{Name: q.name, What: q.what + ", start to end" + size, Unit: "ms", Target: target(1000)}, wall),
			b.add(Result{Name: q.name + "-memory", What: q.what + ", peak resident memory of the command", Unit: "MiB", Target: target(100)}, resident),
		); err != nil {
			return err
		}
	}
	if err := b.askHistory(ctx, in, size); err != nil {
		return err
	}
	after, err := memoryOf(pid)
	if err != nil {
		return err
	}
	return errors.Join(
		b.add(Result{Name: "why-server-memory", What: "peak resident memory of the instance over what it had before it was asked", Unit: "MiB", Target: target(100)}, []float64{max(0, after.peak-before.peak)}),
		b.add(Result{Name: "history-write", What: "one delivery with three objects, of batches of " + strconv.Itoa(whyBatch), Unit: "ms"}, wrote),
	)
}

// askHistory asks for lists of deliveries, each filter in turn.
func (b *bench) askHistory(ctx context.Context, in *instance, size string) error {
	c, err := in.ci()
	if err != nil {
		return err
	}
	for _, q := range []struct{ name, what, path string }{
		{"deliveries", "the newest 50 deliveries", "deliveries?limit=50"},
		{"deliveries-app", "the newest 50 of an app", "deliveries?limit=50&app=Kustomization/team-7/app-7"},
		{"deliveries-page", "50 in the middle", fmt.Sprintf("deliveries?limit=50&before=%d", whyRecords/2)},
		{"deliveries-object", "the newest 50 that changed an object", "deliveries?limit=50&object=Deployment/team-7/web-7"},
		{"deliveries-words", "the newest 50 with two words", "deliveries?limit=50&q=release+person-3"},
		{"deliveries-nothing", "50 with words that none has", "deliveries?limit=50&q=nothing-has-this"},
		{"deliveries-span", "the newest 50 of a time that is nearly all there is", "deliveries?limit=50&from=" + historyStart.Add(time.Hour).Format(time.RFC3339)},
		{"repairs-manager", "the newest 50 repairs of a manager", "repairs?limit=50&manager=kubectl-edit"},
	} {
		took, err := b.ask(ctx, c, "/api/v1/"+q.path)
		if err != nil {
			return err
		}
		if err := b.add(Result{Name: q.name, What: q.what + size, Unit: "ms", Tail: target(50), Floor: "deliveries-floor"}, took); err != nil {
			return err
		}
	}
	took, err := b.ask(ctx, c, "/healthz")
	if err != nil {
		return err
	}
	return b.add(Result{Name: "deliveries-floor", What: "/healthz, asked in the same way", Unit: "ms"}, took)
}

// ask gives how long the answers to a request took. The first one warms up.
func (b *bench) ask(ctx context.Context, c *ciClient, path string) (took []float64, err error) {
	for range b.runs + 1 {
		began := time.Now()
		if err := c.call(ctx, http.MethodGet, path, nil, nil); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began)))
	}
	return took[1:], nil
}

// historyStart is when the first delivery of the history was; there is one each minute.
var historyStart = time.Now().Add(-whyRecords * time.Minute).UTC().Truncate(time.Second)

// fillHistory writes deliveries and repairs into the store of an instance that is stopped, and gives how long one delivery took, in milliseconds, by batches.
func fillHistory(ctx context.Context, dir string) (took []float64, err error) {
	key, err := store.OpenKey(filepath.Join(dir, "store.key"))
	if err != nil {
		return nil, err
	}
	db, err := store.Open(filepath.Join(dir, "store.db"), store.Options{Key: key})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for first := 0; first < whyRecords; first += whyBatch {
		batch := make([]history.Delivery, whyBatch)
		for i := range batch {
			batch[i] = benchDelivery(first + i)
		}
		began := time.Now()
		if err := db.KeepDeliveries(ctx, batch); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began))/whyBatch)
	}
	for first := 0; first < whyRepairs; first += whyBatch {
		batch := make([]history.Repair, whyBatch)
		for i := range batch {
			n := first + i
			app := n % whyApps
			at := historyStart.Add(time.Duration(n) * 10 * time.Minute)
			batch[i] = history.Repair{
				App: benchApp(app), Object: history.Object{Group: "apps", Kind: "Deployment", Namespace: fmt.Sprint("team-", app), Name: fmt.Sprint("web-", app)},
				Fields:  []history.Field{{Path: "spec.replicas", Before: "9", After: "2"}},
				Manager: []string{"kubectl-edit", "kubectl-scale", "dashboard"}[n%3], Reason: "edited in the cluster", Found: at, Repaired: at, Times: 1,
			}
		}
		if err := db.KeepRepairs(ctx, batch); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func benchApp(n int) history.App {
	return history.App{Kind: "Kustomization", Namespace: fmt.Sprint("team-", n), Name: fmt.Sprint("app-", n)}
}

// benchDelivery is the delivery of a number: the first of each app makes its objects, and the others change them.
func benchDelivery(n int) history.Delivery {
	app := n % whyApps
	round := n / whyApps
	at := historyStart.Add(time.Duration(n) * time.Minute)
	sha, before := fmt.Sprintf("%040x", n+1), fmt.Sprintf("%040x", max(0, n+1-whyApps))
	name := func(kind string) history.Object {
		return history.Object{Group: map[string]string{"Deployment": "apps"}[kind], Kind: kind, Namespace: fmt.Sprint("team-", app), Name: fmt.Sprint("web-", app)}
	}
	verb, fields := "update", func(f ...history.Field) []history.Field { return f }
	if round == 0 {
		verb, fields = "create", func(...history.Field) []history.Field { return nil }
	}
	last := history.Change{Object: name("Service"), Verb: verb, Fields: fields(history.Field{Path: "spec.ports[name=http].port", Before: strconv.Itoa(round), After: strconv.Itoa(round + 1)})}
	if n%10 == 0 {
		last = history.Change{Object: history.Object{Kind: "ConfigMap", Namespace: "default", Name: "shared"}, Verb: "update", Fields: []history.Field{{Path: "data.last", Before: before, After: sha}}}
	}
	return history.Delivery{
		Key: fmt.Sprint("bench-", n), App: benchApp(app), Environment: []string{"dev", "staging", "production"}[app%3], Revision: "main@sha1:" + sha, Previous: before,
		Commit: history.Commit{
			SHA: sha, Title: fmt.Sprintf("Release %d of web-%d", round, app), Author: fmt.Sprint("person-", n%50), Email: fmt.Sprintf("person-%d@example.com", n%50),
			Authored: at, MergeRequest: fmt.Sprintf("group/web-%d!%d", app, round), Approvers: []string{fmt.Sprint("person-", (n+1)%50)},
		},
		Trigger: history.ByCommit, Status: history.Succeeded, Began: at, Applied: at.Add(time.Second), Finished: at.Add(2 * time.Second), Health: "Healthy", Healthy: at.Add(2 * time.Second),
		Changes: []history.Change{
			{Object: name("Deployment"), Verb: verb, Fields: fields(
				history.Field{Path: "spec.template.spec.containers[name=web].image", Before: "registry.example.com/web:" + strconv.Itoa(round), After: "registry.example.com/web:" + strconv.Itoa(round+1)},
				history.Field{Path: "spec.replicas", Before: strconv.Itoa(round%5 + 1), After: strconv.Itoa(round%5 + 2)})},
			{Object: name("ConfigMap"), Verb: verb, Fields: fields(history.Field{Path: "data.config", Before: strings.Repeat("a", 200), After: strings.Repeat("b", 200)})},
			last,
		},
	}
}

// daemonOf is the process that holds an instance's data directory.
func daemonOf(data string) (int, error) {
	f, err := os.Open(filepath.Join(data, "lock"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	l := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &l); err != nil {
		return 0, err
	}
	if l.Type == syscall.F_UNLCK {
		return 0, errors.New("no process holds " + data)
	}
	return int(l.Pid), nil
}
