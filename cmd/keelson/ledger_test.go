package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
)

// TestLedgerRotates: a server that plays no pipelines changes the key of its audit as one that does.
func TestLedgerRotates(t *testing.T) {
	t.Setenv(databaseVariable, "")
	log := &logText{}
	l := newLedger(&global{data: t.TempDir(), dataGiven: true}, retention{}, make(chan error, 1), slog.New(slog.NewTextHandler(log, nil)))
	l.people = newPeople(peopleOptions{token: "t", store: l.db, log: l.log})
	l.people.review.review = func(context.Context, web.Person, string, web.Target) (bool, string, error) { return true, "", nil }
	l.apps = newAppsServer(l.people.may.Authorize)
	l.begin(t.Context())
	ask := httptest.NewRequest(http.MethodPost, web.PipelinesPath+"audit/key", strings.NewReader(`{}`))
	ask.Header.Set("Authorization", "Bearer t")
	ask.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	l.people.Guard(l).ServeHTTP(answer, ask)
	if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), `"before"`) {
		t.Errorf("%d %s; %s", answer.Code, answer.Body, log)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	expect(t, l.data, 0, "audit.rotate-key", "audit", "list")
}

// TestLedgerOpensAlone: nobody waits for a database that is being opened and does not answer.
func TestLedgerOpensAlone(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Setenv(databaseVariable, "postgres://keelson@"+silent.Addr().String()+"/keelson?sslmode=disable")
	log := &logText{}
	l := newLedger(&global{data: t.TempDir()}, retention{}, make(chan error, 1), slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	l.elected(ctx)
	opening, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = l.db()
		l.queue()
		l.record(audit.Entry{Action: "app.sync"})
		l.waits("another")
		l.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-answered:
	case <-time.After(5 * time.Second):
		t.Error("somebody waits for the database")
	}
	cancel()
	opening.Close()
}

// TestBesideEnds: records that wait for a database that was never opened go to the auditor that there is by then; without one they are counted and
// told, and so is what comes later.
func TestBesideEnds(t *testing.T) {
	t.Setenv(databaseVariable, "")
	log := &logText{}
	data := t.TempDir()
	a := openAudited(t, data)
	begin := func() (*people, *besideStore) {
		p := &people{log: slog.New(slog.NewTextHandler(log, nil))}
		b := openBeside(t.Context(), t.TempDir(), "postgres://keelson@127.0.0.1:1/keelson?sslmode=disable", p.log)
		p.beside.Store(b)
		p.record(audit.Entry{Actor: "ann", Action: "login"})
		p.record(audit.Entry{Actor: "ann", Action: "logout"})
		return p, b
	}
	p, b := begin()
	p.auditor.Store(a.auditor)
	if err := b.end(a.auditor); err != nil {
		t.Error(err)
	}
	p.record(audit.Entry{Actor: "ann", Action: "token.add"})
	kept := func() (n int) {
		all, _, err := a.db.Audit(t.Context(), store.AuditFilter{Actor: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	for deadline := time.Now().Add(time.Minute); kept() < 3 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	if n := kept(); n != 3 {
		t.Errorf("%d records are in the audit", n)
	}
	a.close(t)

	p, b = begin()
	before := testutil.ToFloat64(telemetry.AuditFailures.WithLabelValues("record"))
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	p.record(audit.Entry{Actor: "ann", Action: "token.add"}) // somebody has it in the hand yet
	if n := testutil.ToFloat64(telemetry.AuditFailures.WithLabelValues("record")) - before; n != 3 || !strings.Contains(log.String(), "records=2") {
		t.Errorf("%g records were lost: %s", n, log)
	}
}

// askedKeeper notes that somebody has asked for the store.
type askedKeeper struct {
	*ledger
	asked chan struct{}
}

func (k askedKeeper) db() (*store.DB, error) {
	ring(k.asked)
	return k.ledger.db()
}

// TestCommitsAreNamedLater: what commits say is shown of apps that were there before the history was.
func TestCommitsAreNamedLater(t *testing.T) {
	t.Setenv(databaseVariable, "")
	data := t.TempDir()
	db, err := openDatabaseOf(data)
	if err != nil {
		t.Fatal(err)
	}
	sha := strings.Repeat("a", 40)
	err = db.KeepDeliveries(t.Context(), []history.Delivery{{
		Key: "k", App: history.App{Kind: "Kustomization", Namespace: "x", Name: "web"}, Revision: "main@sha1:" + sha, Status: history.Succeeded, Began: time.Now(),
		Commit: history.Commit{SHA: sha, Title: "Add a page", Author: "ann"},
	}})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	l := newLedger(&global{data: data, dataGiven: true}, retention{}, make(chan error, 1), slog.New(slog.DiscardHandler))
	apps := newAppsServer(nil)
	asked := askedKeeper{l, make(chan struct{}, 1)}
	apps.kept = asked
	index := web.NewIndex(apps.feed)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		apps.nameCommits(ctx, index, l.log)
	}()
	index.SetApp(web.App{ID: "Kustomization/x/web", SHA: sha})
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	until("nobody looks for the commit", func() bool { return len(asked.asked) > 0 })
	l.begin(t.Context())
	until("the commit is not named", func() bool {
		all, err := index.Apps(t.Context())
		return err == nil && len(all) == 1 && all[0].Title == "Add a page"
	})
	cancel()
	<-ended
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
