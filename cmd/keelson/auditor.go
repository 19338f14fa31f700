package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/controller"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/telemetry"
	"keelson.dev/keelson/internal/web"
)

// auditKey is the file of the key that checkpoints are signed with, in the directory of the database.
const auditKey = "audit.key"

const (
	// auditQueue is how many records may wait for the database; what comes then is counted as lost.
	auditQueue = 4096
	// auditBatch is how many records are kept in one transaction.
	auditBatch = 200
	// auditRetry is the pause after a failure, and auditTries how often records are tried; where it is the database that fails, for as long as that does.
	auditRetry, auditTries = time.Second, 5
	// checkpointAfter is how long a record waits for a checkpoint.
	checkpointAfter = 30 * time.Second
	// urgentAfter is how long one does that is urgent: others that come with it have the same checkpoint.
	urgentAfter = 500 * time.Millisecond
	// witnessLimit bounds the time of a write to the witness.
	witnessLimit = time.Minute
	// auditSweep is how often old records are removed, and auditCut how many at a time.
	auditSweep = 24 * time.Hour
	auditCut   = 5000
)

// auditor keeps records that nobody waits for, signs checkpoints and gives them to the witness. Nothing that it does holds up anybody.
type auditor struct {
	store *store.DB
	dir   string // of the key
	host  *githost.Host
	kept  time.Duration // how long records stay; 0: for good
	log   *slog.Logger
	queue chan audit.Entry
	ends  []func() // in their order

	signing sync.Mutex         // held while checkpoints are made
	key     ed25519.PrivateKey // nil: none are
	next    ed25519.PrivateKey // may have followed already, see [auditor.settle]; nil: there is none

	mu   sync.Mutex
	lost int // records since the last one that was kept
}

// startAuditor begins. Without a key records are kept nevertheless; the error is told by the log.
func startAuditor(dir string, db *store.DB, host *githost.Host, keep retention, log *slog.Logger) *auditor {
	a := &auditor{store: db, dir: dir, host: host, kept: keep.auditAge(), log: log, queue: make(chan audit.Entry, auditQueue)}
	err := finishRotation(context.Background(), dir, db)
	if err == nil {
		a.key, err = witness.OpenKey(filepath.Join(dir, auditKey))
	}
	if err != nil {
		a.failed("checkpoint", "no checkpoints of the audit are signed", err)
	}
	a.begin(a.keep)
	if db.Shared() {
		a.begin(a.collect)
	}
	if a.key != nil {
		urgent := db.Urgent() // from before the end of the chain is known
		last := a.announce(context.Background())
		a.begin(func(ctx context.Context) { a.sign(ctx, last, urgent) }) // ends after what it signs is kept
	}
	return a
}

// begin runs f until the auditor is closed.
func (a *auditor) begin(f func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	a.ends = append(a.ends, func() { stop(); <-done })
}

// announce records by which key checkpoints are signed, where that is new, and gives the number of the last record that has one.
func (a *auditor) announce(ctx context.Context) (last int64) {
	newest, err := a.store.LastCheckpoint(ctx)
	none := errors.Is(err, store.ErrNotFound)
	if err != nil && !none {
		a.failed("checkpoint", "the checkpoints of the audit cannot be read", err)
		return 0
	}
	e := audit.Entry{Action: "audit.key", Object: "key/" + audit.KeyID(a.public()), Detail: "checkpoints are signed with " + audit.FormatKey(a.public())}
	if !none {
		if last, err = a.store.AuditSigned(ctx); err != nil {
			a.failed("checkpoint", "the checkpoints of the audit cannot be read", err)
		}
		if newest.Key.Equal(a.public()) {
			return last
		}
		e.Detail += ", and not with " + audit.KeyID(newest.Key) + " any more"
	}
	a.Record(e)
	return last
}

// auditFailed is the store's port for records that were not kept with what they are about.
func auditFailed(error) { telemetry.AuditFailures.WithLabelValues("record").Inc() }

func (a *auditor) failed(what, says string, err error) {
	telemetry.AuditFailures.WithLabelValues(what).Inc()
	a.log.Error(says, "error", err)
}

// Record has a record kept. It does not wait; a nil auditor keeps none.
func (a *auditor) Record(e audit.Entry) {
	if a == nil {
		return
	}
	select {
	case a.queue <- e:
	default:
		a.lose(1, errors.New("too many wait"))
	}
}

func (a *auditor) lose(n int, err error) {
	a.mu.Lock()
	a.lost += n
	a.mu.Unlock()
	telemetry.AuditFailures.WithLabelValues("record").Add(float64(n))
	a.log.Error("records of the audit were not kept", "records", n, "error", err)
}

// keep writes what is recorded, until ctx ends and nothing waits any more.
func (a *auditor) keep(ctx context.Context) {
	for {
		var batch []audit.Entry
		select {
		case e := <-a.queue:
			batch = append(batch, e)
		case <-ctx.Done():
			select {
			case e := <-a.queue:
				batch = append(batch, e)
			default:
				a.write(ctx, nil) // that some are missing, where that is so
				return
			}
		}
	more:
		for len(batch) < auditBatch {
			select {
			case e := <-a.queue:
				batch = append(batch, e)
			default:
				break more
			}
		}
		a.write(ctx, batch)
	}
}

// write keeps a batch; where it cannot be kept, a later record says how many are missing. While the database fails others wait in the queue, and
// beyond that are lost.
func (a *auditor) write(ctx context.Context, batch []audit.Entry) {
	a.mu.Lock()
	lost := a.lost
	a.mu.Unlock()
	if lost > 0 {
		batch = append([]audit.Entry{{Action: "audit.gap", Object: "audit", Outcome: audit.Failed, Detail: fmt.Sprintf("%d records before this one were lost", lost)}}, batch...)
	}
	for try := 1; len(batch) > 0; try++ {
		_, err := a.store.AppendAudit(context.WithoutCancel(ctx), batch...)
		if err == nil {
			a.mu.Lock()
			a.lost -= lost
			a.mu.Unlock()
			return
		}
		if try == auditTries {
			a.failed("record", "records of the audit wait for the database", err)
		}
		fails := slices.ContainsFunc(databaseErrors, func(kind error) bool { return errors.Is(err, kind) })
		if try >= auditTries && !fails || ctx.Err() != nil || !pause(ctx, auditRetry) {
			n := len(batch)
			if lost > 0 {
				n--
			}
			a.lose(n, err)
			return
		}
	}
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// inboxPause is how long what other servers leave for the audit waits.
const inboxPause = 10 * time.Second

// collect takes in what servers that wait have left for the audit. That is seldom, and nobody waits for it.
func (a *auditor) collect(ctx context.Context) {
	for {
		if _, err := a.store.TakeInbox(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			a.failed("record", "what other servers have left for the audit was not taken in", err)
		}
		if !pause(ctx, inboxPause) {
			return
		}
	}
}

// sign makes a checkpoint some time after a record, soon after one that is urgent, and at the end.
func (a *auditor) sign(ctx context.Context, last int64, urgent <-chan struct{}) {
	a.compare(context.WithoutCancel(ctx))
	cut := time.Time{}
	for {
		if time.Since(cut) > auditSweep {
			a.retain(ctx)
			cut = time.Now()
		}
		waiting, done := context.WithTimeout(ctx, auditSweep)
		_, err := a.store.Audited(waiting, last)
		due := waiting.Err() != nil && ctx.Err() == nil // for what is old to be removed
		done()
		if errors.Is(err, store.ErrClosed) {
			return
		}
		if due {
			continue
		}
		if err != nil && ctx.Err() == nil {
			a.failed("checkpoint", "a checkpoint of the audit was not made", err)
		}
		alive := await(ctx, urgent)
		urgent = a.store.Urgent()
		if last, err = a.checkpoint(context.WithoutCancel(ctx), last); err != nil {
			a.failed("checkpoint", "a checkpoint of the audit was not made", err)
		}
		if err := a.testify(context.WithoutCancel(ctx)); err != nil {
			a.failed("witness", "the witness of the audit has not got a checkpoint", err)
		}
		if !alive {
			return
		}
	}
}

// await waits until it is time for a checkpoint; false: ctx has ended.
func await(ctx context.Context, urgent <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-urgent:
		return pause(ctx, urgentAfter)
	case <-time.After(checkpointAfter):
		return true
	}
}

func (a *auditor) public() ed25519.PublicKey { return publicOf(a.key) }

// checkpoint signs the end of the chain, where it is longer than at the last time.
func (a *auditor) checkpoint(ctx context.Context, last int64) (int64, error) {
	a.signing.Lock()
	defer a.signing.Unlock()
	if err := a.settle(ctx); err != nil {
		return last, err
	}
	head, err := a.store.AuditHead(ctx)
	if err != nil || head.Seq <= last {
		return last, err
	}
	s, err := audit.Sign(a.key, audit.Checkpoint{Seq: head.Seq, Hash: head.Hash, Time: time.Now().UTC().Truncate(time.Microsecond)})
	if err == nil {
		err = a.store.KeepCheckpoint(ctx, s)
	}
	if err != nil {
		return last, err
	}
	return head.Seq, nil
}

// testify gives the witness what it has not got yet.
func (a *auditor) testify(ctx context.Context) error {
	all, err := a.store.Unwitnessed(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	repo, err := a.witness(ctx)
	if err != nil {
		return err
	}
	defer repo.Close()
	return testify(ctx, a.store, repo)
}

// witness opens the repository of the witness, and makes it at the first time.
func (a *auditor) witness(ctx context.Context) (*git.Repository, error) {
	if !a.host.Exists(witness.Repository) {
		if err := a.host.Create(ctx, witness.Repository); err != nil && !errors.Is(err, githost.ErrExists) {
			return nil, err
		}
	}
	return git.Open(a.host.Dir(witness.Repository), git.Options{})
}

// compare tells at a start whether the chain still has what the witness has seen last.
func (a *auditor) compare(ctx context.Context) {
	if !a.host.Exists(witness.Repository) {
		return
	}
	repo, err := a.witness(ctx)
	if err != nil {
		a.failed("witness", "the witness of the audit cannot be read", err)
		return
	}
	defer repo.Close()
	seen, there, err := witness.Last(repo)
	if err != nil || !there {
		return // keelson audit verify tells more
	}
	has, err := a.store.AuditAt(ctx, seen.Checkpoint.Seq)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && has.Hash != seen.Hash:
		a.failed("witness", "the audit is not what the witness has seen: keelson audit verify tells more", fmt.Errorf("record %d is missing or was changed", seen.Checkpoint.Seq))
	case err != nil:
		a.failed("witness", "the audit cannot be held against its witness", err)
	}
}

// retain removes what is older than it has to be, with a signed checkpoint that closes what is removed. The chain tells of it.
func (a *auditor) retain(ctx context.Context) {
	if a.kept == 0 {
		return
	}
	last := int64(0)
	for ctx.Err() == nil {
		seq, err := a.cut(ctx)
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			a.failed("checkpoint", "the old part of the audit was not removed", err)
			break
		}
		last = seq
	}
	if last > 0 {
		a.log.Info("the old part of the audit was removed", "records up to", last)
		e := audit.Entry{Action: "audit.cut", Object: "audit", Detail: fmt.Sprintf("the records up to %d were removed: they stay for %g days", last, a.kept.Hours()/24)}
		if _, err := a.store.AppendAudit(context.WithoutCancel(ctx), e); err != nil { // not by the queue, which may have ended
			a.lose(1, err)
		}
	}
}

// cut removes some old records, and gives the number of the last one. The error is [store.ErrNotFound] where there are none.
func (a *auditor) cut(ctx context.Context) (int64, error) {
	a.signing.Lock()
	defer a.signing.Unlock()
	if err := a.settle(ctx); err != nil {
		return 0, err
	}
	old, err := a.store.AuditBefore(ctx, time.Now().Add(-a.kept), auditCut)
	if err != nil {
		return 0, err
	}
	s, err := audit.Sign(a.key, audit.Checkpoint{Seq: old.Seq, Hash: old.Hash, Time: time.Now().UTC().Truncate(time.Microsecond), Kind: audit.Cut})
	if err != nil {
		return 0, err
	}
	return old.Seq, a.store.CutAudit(ctx, s)
}

// Close implements [io.Closer]: it keeps what waits and makes the last checkpoint. Nothing is recorded any more.
func (a *auditor) Close() error {
	for _, end := range a.ends {
		end()
	}
	return nil
}

// pushBy is the record of a push, without what it changes.
func pushBy(p githost.Push, outcome string) audit.Entry {
	who := cmp.Or(p.User, "somebody")
	if strings.HasPrefix(strings.ToLower(who), "system:") { // that is for programs, and the name proves nothing
		who = "somebody"
	}
	return audit.Entry{Actor: who, Action: "git.push", Object: "repository/" + p.Repository, Outcome: outcome, Address: p.Address}
}

// refusedPush records that a person may not push.
func (p *people) refusedPush(push githost.Push) { p.record(pushBy(push, audit.Refused)) }

// auditPush records what a push has changed: a record for each ref, as far as they are few.
func auditPush(p githost.Push) []audit.Entry {
	const most = 50
	var out []audit.Entry
	for i, c := range p.Changes {
		e := pushBy(p, audit.Done)
		if i == most {
			e.Detail = fmt.Sprintf("and %d more refs", len(p.Changes)-most)
			out = append(out, e)
			break
		}
		detail := fmt.Sprintf("%s %s..%s", c.Ref, c.Before, c.After)
		switch {
		case c.Deleted():
			detail = fmt.Sprintf("%s deleted, was %s", c.Ref, c.Before)
		case c.Before == githost.Zero:
			detail = fmt.Sprintf("%s created, %s", c.Ref, c.After)
		}
		if p.Job != 0 {
			detail += fmt.Sprintf(", by job %d", p.Job)
		}
		e.Detail = detail
		out = append(out, e)
	}
	return out
}

// isWitness tells whether a repository of the Git host is the witness of the audit: administrators read it, and nobody else writes it.
func isWitness(repository string) bool { return repository == witness.Repository }

// asked records what somebody has asked for by changing an object of the cluster.
func (l *lazyPipelines) asked(a controller.Asked) { recordAsked(l, a) }

// asks implements [keeper].
func (l *lazyPipelines) asks() *ownAsks { return &l.own }

// queue implements [keeper].
func (l *lazyPipelines) queue() *historyQueue {
	if s := l.get(); s != nil {
		return s.kept
	}
	return nil
}

// record implements [keeper].
func (l *lazyPipelines) record(e audit.Entry) {
	l.people.record(e)
}

// audit is what the API of the audit needs where a keeps it.
func (p *people) audit(a *auditor) web.AuditOptions {
	return web.AuditOptions{Record: a.Record, Authorize: p.may.Authorize, Rotate: a.rotate}
}

// known says who keeps what people do from now on.
func (p *people) known(a *auditor) {
	p.auditor.Store(a)
	if b := p.beside.Swap(nil); b != nil {
		go func() { _ = b.end(a) }() // what was written is written, and nobody asks it any more
	}
}

// ownAsks is what people ask for by the API of this process, which records it with their names: what is then seen of it in the cluster is not recorded
// once more, by somebody. Its zero value knows of nothing. It is safe for concurrent use.
type ownAsks struct {
	mu   sync.Mutex
	asks map[string][]time.Time // by action and object: until when each may be seen
}

// ownAskSeen is how long after it was asked for something may be seen in the cluster.
const ownAskSeen = time.Minute

// about notes what is about to be asked for of an object; what it gives takes that back.
func (o *ownAsks) about(object string, now time.Time, actions ...string) (withdraw func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asks == nil {
		o.asks = map[string][]time.Time{}
	}
	for key, all := range o.asks { // what was never seen
		if o.asks[key] = slices.DeleteFunc(all, func(until time.Time) bool { return until.Before(now) }); len(o.asks[key]) == 0 {
			delete(o.asks, key)
		}
	}
	for _, action := range actions {
		o.asks[action+" "+object] = append(o.asks[action+" "+object], now.Add(ownAskSeen))
	}
	return func() {
		for _, action := range actions {
			o.seen(action, object, now)
		}
	}
}

// seen tells whether what was seen in the cluster is something that was asked for here; it is so once.
func (o *ownAsks) seen(action, object string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := action + " " + object
	all := o.asks[key]
	if len(all) == 0 {
		return false
	}
	if o.asks[key] = all[1:]; len(all) == 1 {
		delete(o.asks, key)
	}
	return !all[0].Before(now)
}

// loggedIn records a login, its end, or a change of users and tokens. Who was not let in may be anybody, and what they typed a password: their name is
// kept only where it is known already.
func (p *people) loggedIn(e identity.Event) {
	out := audit.Entry{Actor: cmp.Or(e.Actor, "somebody"), Action: e.Action, Object: "session", Outcome: audit.Done, Address: e.Address, Detail: strings.TrimSpace(e.Way + " " + e.Failure)}
	if e.Failure != "" {
		out.Outcome, out.Unproven = audit.Refused, true
	}
	if about, token, ok := strings.Cut(e.Object, "/"); e.Object != "" {
		out.Object, out.About = "person/", about
		if ok {
			out.Detail = strings.TrimSpace("token " + token + " " + out.Detail)
		}
	}
	p.record(out)
}

// record keeps what somebody has done: in the audit, or for the server that has it. Where neither can be it is counted, and the log tells of it.
func (p *people) record(e audit.Entry) {
	if a := p.auditor.Load(); a != nil {
		a.Record(e)
		return
	}
	if b := p.beside.Load(); b != nil && b.record(e) {
		return
	}
	if a := p.auditor.Load(); a != nil { // it has come in between
		a.Record(e)
		return
	}
	notRecorded(p.log, e)
}

// notRecorded tells that nothing can keep a record. Whose it is the log does not say.
func notRecorded(log *slog.Logger, e audit.Entry) {
	auditFailed(nil)
	log.Error("a record of the audit was not kept", "action", e.Action, "error", "there is no audit now")
}
