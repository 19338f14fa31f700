package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
)

// keeper has what is kept of deliveries, people and what they do, and serves it below [web.PipelinesPath].
type keeper interface {
	http.Handler
	// db gives the store; the error says why there is none.
	db() (*store.DB, error)
	// queue is what takes in the history; nil: nothing does yet.
	queue() *historyQueue
	// record keeps what somebody has done, where there is an audit.
	record(e audit.Entry)
	// asks is what people ask for by the API of this process.
	asks() *ownAsks
}

// ledger keeps the history, the audit and the people of keelson server where it plays no pipelines: in a file of its data directory, or in a
// PostgreSQL database, which is its own once it has the lease. Without a database everything else goes on.
type ledger struct {
	data, database string
	kept           *historyQueue
	people         *people     // nil: nobody is served
	apps           *appsServer // nil: nothing is
	lost           func()      // is told when another process has taken the database
	keep           retention
	log            *slog.Logger

	mu      sync.Mutex
	store   *store.DB
	auditor *auditor
	api     http.Handler
	why     error // there is no store
	closed  bool
	leaving chan struct{}
	own     ownAsks
}

// newLedger makes one, which keeps nothing yet.
func newLedger(g *global, keep retention, ended chan<- error, log *slog.Logger) *ledger {
	l := &ledger{data: g.data, database: os.Getenv(databaseVariable), kept: newHistoryQueue(log), keep: keep, log: log, why: errStarting, leaving: make(chan struct{})}
	l.lost = func() {
		ended <- hintf(errors.New("another Keelson has the database now"), "a lease that two servers hold is that of two clusters: give each cluster a database")
	}
	if !g.dataGiven && l.database == "" {
		log.Warn("the history, the audit and the people are kept in the user's own directory: name a place that stays with --data, KEELSON_DATA or "+databaseVariable,
			"directory", filepath.Join(g.data, ciDir))
	}
	return l
}

var errStarting = errors.New("the server is starting")

// begin opens a database of the server's own at once, so that people are known from the first request on. One that servers share is opened when this
// one has the lease: [ledger.elected].
func (l *ledger) begin(ctx context.Context) {
	if l.database != "" {
		return
	}
	if err := l.open(); err != nil {
		l.failed(err)
		go l.again(ctx)
	}
}

// elected tells that this server has the lease.
func (l *ledger) elected(ctx context.Context) {
	if l.database != "" {
		go l.again(ctx)
	}
}

func (l *ledger) failed(err error) {
	l.mu.Lock()
	l.why = err
	l.mu.Unlock()
	l.log.Error("there is no history, no audit, and nobody is known but by the server's token", "error", err, "again in", databaseRetry)
}

// again opens the database as soon as that can be done. What is wrong with anything else than the database stays wrong.
func (l *ledger) again(ctx context.Context) {
	for {
		err := l.open()
		if err == nil || ctx.Err() != nil {
			return
		}
		l.failed(err)
		if !slices.ContainsFunc(databaseErrors, func(kind error) bool { return errors.Is(err, kind) }) || !pause(ctx, databaseRetry) {
			return
		}
	}
}

// open opens the database and begins to keep. One does so at a time; nobody else waits for it.
func (l *ledger) open() (err error) {
	l.mu.Lock()
	over := l.closed || l.store != nil
	l.mu.Unlock()
	if over {
		return nil
	}
	dir := filepath.Join(l.data, ciDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	// Nobody reaches this host: it has the witness of the audit, where keelson audit verify looks for it.
	host, err := githost.New(githost.Options{Root: filepath.Join(l.data, gitDir), Token: newToken(), GuardReads: true, Private: isWitness})
	if err != nil {
		return err
	}
	_, db, err := openDatabase(dir, own{database: l.database, lost: l.lost}, l.log)
	if err != nil {
		return err
	}
	return l.publish(db, startAuditor(dir, db, host, l.keep, l.log))
}

// publish takes in what was opened, and closes it where nobody keeps anything any more.
func (l *ledger) publish(db *store.DB, a *auditor) error {
	var api http.Handler
	if l.apps != nil {
		api = web.NewHistory(web.PipelinesOptions{
			Store: db, Authorize: l.people.may.Authorize, Leaving: l.leaving, Feed: l.apps.feed, Sight: l.apps.sight, Audit: l.people.audit(a),
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(a.Close(), db.Close())
	}
	l.store, l.why, l.auditor, l.api = db, nil, a, api
	l.kept.keep(l.keep)
	l.kept.open(db)
	if l.people != nil {
		l.people.known(a)
	}
	return nil
}

// db implements [keeper].
func (l *ledger) db() (*store.DB, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.store, l.why
}

// queue implements [keeper].
func (l *ledger) queue() *historyQueue {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		return nil
	}
	return l.kept
}

// record implements [keeper].
func (l *ledger) record(e audit.Entry) {
	if l.people != nil {
		l.people.record(e)
		return
	}
	l.mu.Lock()
	a := l.auditor
	l.mu.Unlock()
	if a == nil {
		notRecorded(l.log, e)
		return
	}
	a.Record(e)
}

// asked records what somebody has asked for by changing an object of the cluster.
func (l *ledger) asked(a controller.Asked) { recordAsked(l, a) }

// asks implements [keeper].
func (l *ledger) asks() *ownAsks { return &l.own }

// waits tells that another server works, until this one is elected.
func (l *ledger) waits(holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		l.why = waitingFor(holder)
	}
}

// ServeHTTP implements [http.Handler].
func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	api, why := l.api, l.why
	l.mu.Unlock()
	if api != nil {
		api.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintf(w, "{\"error\":%q}\n", "there is no history here: "+cmp.Or(redactedError(why), errStarting.Error()))
}

// leave ends what is followed.
func (l *ledger) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.leaving)
	}
}

// Close implements [io.Closer].
func (l *ledger) Close() error {
	l.leave()
	err := l.kept.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		return err
	}
	err = errors.Join(err, l.auditor.Close(), l.store.Close())
	l.store, l.why = nil, errors.New("the server ends")
	return err
}

// waitingFor says why a server that waits does nothing.
func waitingFor(holder string) error {
	return fmt.Errorf("this server waits for the lease %s/%s, which %s has: that one works, and answers", leaseNamespace, leaseName, cmp.Or(holder, "another one"))
}

// Bounds of what a server that waits does with the database.
const (
	besideRetry = 5 * time.Second
	besideLimit = 30 * time.Second
	besideQueue = 1000 // records for the audit
)

// besideStore knows the people of a PostgreSQL database while another server has it.
type besideStore struct {
	queue chan audit.Entry
	stop  context.CancelFunc
	done  chan struct{}
	log   *slog.Logger

	mu    sync.Mutex
	store *store.DB
	why   error
	ended bool // nothing is taken in any more
}

// openBeside begins to open the database, again and again until that can be done, or until ctx ends.
func openBeside(ctx context.Context, dir, database string, log *slog.Logger) *besideStore {
	ctx, stop := context.WithCancel(ctx)
	b := &besideStore{queue: make(chan audit.Entry, besideQueue), stop: stop, done: make(chan struct{}), log: log, why: errStarting}
	go b.run(ctx, dir, database)
	return b
}

func (b *besideStore) run(ctx context.Context, dir, database string) {
	defer close(b.done)
	told := ""
	for ctx.Err() == nil {
		db, err := store.OpenBeside(filepath.Join(dir, "store.db"), store.Options{PostgreSQL: database, Logger: b.log})
		b.mu.Lock()
		b.store, b.why = db, err
		b.mu.Unlock()
		if err == nil {
			b.log.Info("people are known while this server waits")
			b.checkKey(ctx, dir, db)
			b.keep(ctx, db)
			return
		}
		if err.Error() != told {
			told = err.Error()
			b.log.Warn("nobody is known but by the server's token while this server waits", "error", err, "again in", besideRetry)
		}
		pause(ctx, besideRetry)
	}
}

// checkKey tells now, and not once the other server has ended, that this one could not take over.
func (b *besideStore) checkKey(ctx context.Context, dir string, db *store.DB) {
	key, err := store.OpenKey(filepath.Join(dir, "store.key"))
	if err == nil {
		err = db.OpensWith(ctx, key)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Error("this server cannot take the database over", "error", err)
	}
}

// keep leaves records for the audit until ctx ends, and what waits then.
func (b *besideStore) keep(ctx context.Context, db *store.DB) {
	for {
		var all []audit.Entry
		select {
		case e := <-b.queue:
			all = []audit.Entry{e}
		case <-ctx.Done():
		}
		if all = append(all, b.waiting()...); len(all) == 0 {
			return
		}
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), besideLimit)
		if err := db.InboxAudit(short, all...); err != nil {
			b.lose(len(all), err)
		}
		cancel()
	}
}

// waiting takes what waits to be kept.
func (b *besideStore) waiting() (all []audit.Entry) {
	for {
		select {
		case e := <-b.queue:
			all = append(all, e)
		default:
			return all
		}
	}
}

func (b *besideStore) lose(n int, err error) {
	telemetry.AuditFailures.WithLabelValues("record").Add(float64(n))
	b.log.Error("records of the audit were not kept", "records", n, "error", err)
}

// db gives the store; the error is for whoever asks who somebody is.
func (b *besideStore) db() (*store.DB, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		return b.store, nil
	}
	return nil, identity.Unavailable("this server waits for the lease "+leaseNamespace+"/"+leaseName+", and cannot ask the database who people are: ask the server that has the lease, "+
		"try again later, or log in at "+identity.LoginPath+" with the server's token", b.why)
}

// record leaves a record for the audit. It does not wait; false: it has ended, and takes none.
func (b *besideStore) record(e audit.Entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	select {
	case b.queue <- e:
	default:
		b.lose(1, errors.New("too many wait"))
	}
	return true
}

// Close implements [io.Closer]; a nil one is closed.
func (b *besideStore) Close() error {
	if b == nil {
		return nil
	}
	return b.end(nil)
}

// end is Close where there is an auditor by now, which keeps what the database has not got; nil: there is none.
func (b *besideStore) end(to *auditor) error {
	b.stop()
	<-b.done
	b.mu.Lock()
	b.ended = true
	db := b.store
	b.store, b.why = nil, errStarting
	b.mu.Unlock()
	switch left := b.waiting(); {
	case to != nil:
		for _, e := range left {
			to.Record(e)
		}
	case len(left) > 0:
		b.lose(len(left), errors.New("the database was never opened"))
	}
	if db == nil {
		return nil
	}
	return db.Close()
}

// recordAsked records what somebody has asked for by changing an object of the cluster, but not what is recorded already.
func recordAsked(k keeper, a controller.Asked) {
	if !k.asks().seen(a.Action, a.Kind+"/"+a.Namespace+"/"+a.Name, time.Now()) {
		k.record(auditAsked(a))
	}
}

// auditAsked is the record of what somebody has asked for by changing an object of the cluster.
func auditAsked(a controller.Asked) audit.Entry {
	e := audit.Entry{
		Actor: cmp.Or(a.By, "somebody"), Action: a.Action, Object: a.Kind + "/" + a.Namespace + "/" + a.Name, Outcome: audit.Done, Detail: a.Detail,
	}
	if strings.HasPrefix(strings.ToLower(e.Actor), "system:") { // what an object says proves nothing
		e.Actor = "somebody"
	}
	return e
}
