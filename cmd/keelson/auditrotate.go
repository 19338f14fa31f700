package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// nextAuditKey is the file of a key that is about to follow the one in [auditKey].
const nextAuditKey = "audit.key.next"

// installAuditKey puts the next key in the place of the one before, which is gone then.
func installAuditKey(dir string) error {
	if err := os.Rename(filepath.Join(dir, nextAuditKey), filepath.Join(dir, auditKey)); err != nil {
		return fmt.Errorf("put the new key of the audit in its place: %w", err)
	}
	return syncDir(dir)
}

// finishRotation installs a key that follows already, where a process ended in between. A key that nobody has signed yet waits for the next rotation.
func finishRotation(ctx context.Context, dir string, db *store.DB) error {
	next, err := witness.ReadKey(filepath.Join(dir, nextAuditKey))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if follows, err := db.KeyFollows(ctx, publicOf(next)); err != nil || !follows {
		return err
	}
	return installAuditKey(dir)
}

// asker is who asks for something, and from where.
type asker struct{ name, address string }

// errUnsettled is that a new key may have followed or not: the database has not answered whether it has what says so.
var errUnsettled = errors.New("whether the new key has followed is not known yet")

// rotateAuditKey has a new key follow the one before, with the signatures of both, and puts it in its place. Where that alone fails the new key counts
// nevertheless: it comes with the error. So it does with [errUnsettled]: then [store.DB.KeyFollows] tells later which key counts, and neither signs until it has.
func rotateAuditKey(ctx context.Context, dir string, db *store.DB, old ed25519.PrivateKey, by asker) (ed25519.PrivateKey, web.AuditKey, error) {
	fresh, err := witness.OpenKey(filepath.Join(dir, nextAuditKey))
	if err != nil {
		return nil, web.AuditKey{}, err
	}
	before, after := publicOf(old), publicOf(fresh)
	if before.Equal(after) {
		return nil, web.AuditKey{}, fmt.Errorf("%s has the key that is in use: remove it", filepath.Join(dir, nextAuditKey))
	}
	_, err = db.AppendAudit(ctx, audit.Entry{
		Actor: by.name, Address: by.address, Action: "audit.rotate-key", Object: "key/" + audit.KeyID(after),
		Detail: fmt.Sprintf("checkpoints are signed with %s, and not with %s any more", audit.FormatKey(after), audit.KeyID(before)),
	})
	if err != nil {
		return nil, web.AuditKey{}, err
	}
	c, err := checkpointNow(ctx, db)
	if err != nil {
		return nil, web.AuditKey{}, err
	}
	retiring, taking, err := audit.Rotate(old, fresh, c)
	if err != nil {
		return nil, web.AuditKey{}, err
	}
	if err := db.KeepCheckpoint(ctx, retiring, taking); err != nil { // that the answer alone was lost is one way to fail
		follows, rerr := db.KeyFollows(context.WithoutCancel(ctx), after)
		switch {
		case rerr != nil:
			return fresh, web.AuditKey{}, errors.Join(errUnsettled, err, rerr)
		case !follows:
			return nil, web.AuditKey{}, err
		}
	}
	return fresh, auditKeyOf(after, before, c.Seq), installAuditKey(dir)
}

// checkpointNow is a checkpoint of the end of the chain, not before the one before it: the clock may have been put back.
func checkpointNow(ctx context.Context, db *store.DB) (audit.Checkpoint, error) {
	head, err := db.AuditHead(ctx)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	c := audit.Checkpoint{Seq: head.Seq, Hash: head.Hash, Time: time.Now().UTC().Truncate(time.Microsecond)}
	newest, err := db.LastCheckpoint(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return c, nil
	}
	if !c.Time.After(newest.Time) {
		c.Time = newest.Time.Add(time.Microsecond)
	}
	return c, err
}

// vouchAuditKey has the key in use say that those before it that nobody has followed were lost. The chain has to be whole with them.
func vouchAuditKey(ctx context.Context, db *store.DB, key ed25519.PrivateKey, seen []audit.Found, by asker) (web.AuditKey, error) {
	mine := publicOf(key)
	all, err := db.Checkpoints(ctx)
	if err != nil {
		return web.AuditKey{}, err
	}
	for _, c := range all {
		seen = append(seen, audit.Found{Signed: c.Signed, Where: "the database"})
	}
	accept := audit.Trusted([]ed25519.PublicKey{mine}, seen)
	known := len(accept)
	for _, c := range seen {
		if !hasKey(accept, c.Key) {
			accept = append(accept, c.Key)
		}
	}
	lost := accept[known:]
	if len(lost) == 0 {
		return web.AuditKey{}, hintf(errors.New("no key is lost: each one that has signed a checkpoint is known"), "without --lost a new key follows the one in use")
	}
	if _, problem, err := db.VerifyAudit(ctx, accept, seen); err != nil || problem != nil {
		if problem != nil {
			err = hintf(problem, "a new key vouches for no chain that is broken")
		}
		return web.AuditKey{}, err
	}
	for _, k := range lost {
		_, err := db.AppendAudit(ctx, audit.Entry{
			Actor: by.name, Address: by.address, Action: "audit.lost-key", Object: "key/" + audit.KeyID(k),
			Detail: fmt.Sprintf("the key %s was lost; checkpoints are signed with %s", audit.FormatKey(k), audit.KeyID(mine)),
		})
		if err != nil {
			return web.AuditKey{}, err
		}
		c, err := checkpointNow(ctx, db)
		if err != nil {
			return web.AuditKey{}, err
		}
		c.Kind, c.Other = audit.Lost, audit.FormatKey(k)
		s, err := audit.Sign(key, c)
		if err == nil {
			err = db.KeepCheckpoint(ctx, s)
		}
		if err != nil {
			return web.AuditKey{}, err
		}
	}
	return auditKeyOf(mine, lost[0], 0), nil
}

func hasKey(keys []ed25519.PublicKey, key ed25519.PublicKey) bool {
	for _, k := range keys {
		if k.Equal(key) {
			return true
		}
	}
	return false
}

func auditKeyOf(key, before ed25519.PublicKey, seq int64) web.AuditKey {
	return web.AuditKey{Key: audit.FormatKey(key), ID: audit.KeyID(key), Before: audit.FormatKey(before), BeforeID: audit.KeyID(before), Seq: seq}
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	public, _ := key.Public().(ed25519.PublicKey) // it is one
	return public
}

// rotate changes the key while the instance runs.
func (a *auditor) rotate(ctx context.Context, lost bool, who, address string) (web.AuditKey, error) {
	a.signing.Lock()
	defer a.signing.Unlock()
	if a.key == nil {
		return web.AuditKey{}, errors.New("no checkpoints are signed here: the log says why")
	}
	if err := a.settle(ctx); err != nil {
		return web.AuditKey{}, err
	}
	by := asker{who, address}
	if lost {
		var seen []audit.Found
		if a.host.Exists(witness.Repository) {
			repo, err := a.witness(ctx)
			if err != nil {
				return web.AuditKey{}, err
			}
			defer repo.Close()
			if seen, err = witness.Read(ctx, repo); err != nil {
				return web.AuditKey{}, err
			}
		}
		return vouchAuditKey(ctx, a.store, a.key, seen, by)
	}
	fresh, told, err := rotateAuditKey(ctx, a.dir, a.store, a.key, by)
	switch {
	case errors.Is(err, errUnsettled):
		a.next = fresh
	case fresh != nil:
		a.key = fresh
	}
	return told, err
}

// settle finds out which key signs, where that is not known since a rotation. Nothing is signed while it fails. The caller holds the lock.
func (a *auditor) settle(ctx context.Context) error {
	if a.next == nil {
		return nil
	}
	follows, err := a.store.KeyFollows(ctx, publicOf(a.next))
	if err != nil {
		return errors.Join(errUnsettled, err)
	}
	if follows {
		a.key = a.next
		err = installAuditKey(a.dir)
	}
	a.next = nil
	return err
}

func auditRotateCommand(g *global) *cobra.Command {
	var lost bool
	cmd := &cobra.Command{
		Use: "rotate-key", Short: "Sign checkpoints with a new key from now on", Args: args(cobra.NoArgs),
		Long: `Rotate-key makes a new key, and has the old one sign that the new one follows it, and the new one that it follows the old one: at one record of the
chain, in the database and in the witness. Verify follows keys by these, from whichever of them it is given. The old key is removed then; a
checkpoint that it signs later is refused.

With --lost the key in use says that the one before it was lost: an instance that finds no key at its start makes a new one. Nobody but the new
key can say so, so verify believes it only where it is given the new one; the chain has to be whole with both.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditRotate(cmd.Context(), g, lost) },
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "the key before the one in use was lost")
	return cmd
}

func runAuditRotate(ctx context.Context, g *global, lost bool) error {
	running, err := daemonPID(g.data)
	if err != nil {
		return err
	}
	var told web.AuditKey
	if running != 0 || g.asksServer() {
		var ask []byte
		if ask, err = json.Marshal(web.AskAuditKey{Lost: lost}); err == nil {
			_, err = g.callAPI(ctx, http.MethodPost, web.PipelinesPath+"audit/key", ask, &told)
		}
	} else {
		told, err = rotateOffline(ctx, g, lost)
	}
	if err != nil {
		return fmt.Errorf("rotate the key of the audit: %w", err)
	}
	if lost {
		return g.print(told, printf("The key %s says that %s was lost.\nNote it where you keep the public key: %s", told.ID, told.BeforeID, told.Key))
	}
	return g.print(told, printf("The key %s follows %s, at record %d.\nNote it where you keep the public key: %s", told.ID, told.BeforeID, told.Seq, told.Key))
}

// rotateOffline changes the key of an instance that does not run, and gives the witness what it has not got.
func rotateOffline(ctx context.Context, g *global, lost bool) (told web.AuditKey, err error) {
	dir := filepath.Join(g.data, ciDir)
	db, err := openStopped(g)
	if err != nil {
		return told, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := finishRotation(ctx, dir, db); err != nil {
		return told, err
	}
	key, err := witness.ReadKey(filepath.Join(dir, auditKey))
	if errors.Is(err, fs.ErrNotExist) && lost {
		key, err = witness.OpenKey(filepath.Join(dir, auditKey))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = hintf(fmt.Errorf("there is no key of checkpoints in %s", dir), "put it back from where you keep a copy; where it is lost, --lost makes a new one")
	}
	if err != nil {
		return told, err
	}
	repo, err := git.Open(witnessDir(g.data), git.Options{})
	if err != nil {
		repo = nil // there is none yet: the next start makes it, and gives it the checkpoints
	} else {
		defer repo.Close()
	}
	by := asker{name: userName()}
	if lost {
		var seen []audit.Found
		if repo != nil {
			if seen, err = witness.Read(ctx, repo); err != nil {
				return told, err
			}
		}
		told, err = vouchAuditKey(ctx, db, key, seen, by)
	} else {
		_, told, err = rotateAuditKey(ctx, dir, db, key, by)
	}
	if err != nil || repo == nil {
		return told, err
	}
	return told, testify(ctx, db, repo)
}

// testify gives the witness what it has not got yet.
func testify(ctx context.Context, db *store.DB, repo *git.Repository) error {
	all, err := db.Unwitnessed(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if err := witness.Push(ctx, repo, c.Signed); err != nil {
			return err
		}
		if err := db.Witnessed(ctx, c.Signed); err != nil {
			return err
		}
	}
	return nil
}

// tail says in words what the chain alone covers.
func tail(r audit.Report) string {
	if r.Unsigned == 0 || r.Signed == 0 {
		return ""
	}
	which := fmt.Sprintf("%d records, %d to %d, come", r.Unsigned, r.Signed+1, r.Last)
	if r.Unsigned == 1 {
		which = fmt.Sprintf("One record, %d, comes", r.Last)
	}
	return fmt.Sprintf("%s after the last checkpoint, since %s: the chain alone covers what is there, and whether something was cut off behind it nobody can tell.",
		which, r.Since.UTC().Format(time.RFC3339))
}

// notes are what else there is to say of a chain.
func notes(r audit.Report) string {
	var b strings.Builder
	for _, n := range r.Notes {
		b.WriteString("Note: " + show.Plain(n) + ".\n")
	}
	return b.String()
}
