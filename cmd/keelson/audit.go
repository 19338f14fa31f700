package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

// auditListOptions are the filters of a list.
type auditListOptions struct {
	query, actor, action, object, project, environment, outcome, from, to string
	before                                                                int64
	limit                                                                 int
}

func (o *auditListOptions) values(now time.Time) (url.Values, error) {
	q := url.Values{}
	for name, value := range map[string]string{
		"q": o.query, "actor": o.actor, "action": o.action, "object": o.object, "project": o.project, "environment": o.environment, "outcome": o.outcome,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if o.before > 0 {
		q.Set("before", strconv.FormatInt(o.before, 10))
	}
	q.Set("limit", strconv.Itoa(o.limit))
	return q, auditSpan(q, now, o.from, o.to)
}

// auditSpan puts times into a query: as people give them, they may also be ages.
func auditSpan(q url.Values, now time.Time, from, to string) error {
	for name, text := range map[string]string{"from": from, "to": to} {
		if text == "" {
			continue
		}
		if age, err := time.ParseDuration(text); err == nil {
			text = now.Add(-age).UTC().Format(time.RFC3339)
		} else if _, err := time.Parse(time.RFC3339, text); err != nil {
			if _, err := time.Parse(time.DateOnly, text); err != nil {
				return usagef("--%s %q: it takes a time as 2026-03-01T12:00:00Z, a day as 2026-03-01, or an age as 24h", name, text)
			}
		}
		q.Set(name, text)
	}
	return nil
}

func auditCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Who did what: list, search, export and verify the audit", Args: args(cobra.NoArgs),
		Long: `Audit reads the chain of records of who did what (docs/audit.md). On the machine of an instance it reads the instance's database, whether the
instance runs or not. Where --server or KEELSON_SERVER names a server, list, search, export, erase and rotate-key ask that server.`,
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(errors.New("audit what?"), "keelson audit list, search, verify, export, erase, key or rotate-key"))
		},
	}
	cmd.AddCommand(auditListCommand(g, false), auditListCommand(g, true), auditExportCommand(g), auditVerifyCommand(g), auditEraseCommand(g), auditKeyCommand(g), auditRotateCommand(g))
	return cmd
}

func auditListCommand(g *global, search bool) *cobra.Command {
	var o auditListOptions
	cmd := &cobra.Command{
		Use: "list", Short: "List records, the newest first", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditList(cmd.Context(), g, o) },
	}
	if search {
		cmd.Use, cmd.Short, cmd.Args = "search WORDS", "List records that have each of some words in their action, object, project, environment, detail or actor", args(cobra.ExactArgs(1))
		cmd.RunE = func(cmd *cobra.Command, a []string) error {
			o.query = a[0]
			return runAuditList(cmd.Context(), g, o)
		}
	}
	f := cmd.Flags()
	f.StringVar(&o.actor, "actor", "", "only what this `person` did, by name or id")
	f.StringVar(&o.action, "action", "", "only this `action`, as pipeline.play; pipeline.* is all of them")
	f.StringVar(&o.object, "object", "", "only what was done to this `object`, as pipeline/12/deploy; a * at its end is for what begins so")
	f.StringVar(&o.project, "project", "", "only in this project, by its `path`")
	f.StringVar(&o.environment, "environment", "", "only what was done to this `environment`")
	f.StringVar(&o.outcome, "outcome", "", "only with this `outcome`: asked, done, refused or failed")
	f.StringVar(&o.from, "from", "", "only from this `time` on: 2026-03-01, 2026-03-01T12:00:00Z, or an age as 24h")
	f.StringVar(&o.to, "to", "", "only before this `time`")
	f.Int64Var(&o.before, "before", 0, "only records with smaller `numbers`: the next page")
	f.IntVar(&o.limit, "limit", 50, "how many at most, 1 to 1000")
	return cmd
}

func runAuditList(ctx context.Context, g *global, o auditListOptions) error {
	q, err := o.values(time.Now())
	if err != nil {
		return err
	}
	var list web.AuditList
	if g.asksServer() {
		if _, err := g.callAPI(ctx, http.MethodGet, web.PipelinesPath+"audit?"+q.Encode(), nil, &list); err != nil {
			return fmt.Errorf("list the audit: %w", err)
		}
	} else {
		filter, err := web.AuditFilterOf(q.Get)
		if err != nil {
			return withCode(exitUsage, err)
		}
		f, err := openAudit(ctx, g)
		if err != nil {
			return err
		}
		defer f.Close()
		records, next, err := f.Audit(ctx, filter)
		if err != nil {
			return err
		}
		list = web.AuditListOf(records, next)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, false, "SEQ", "TIME", "ACTOR", "ACTION", "OBJECT", "PROJECT", "OUTCOME", "DETAIL", "FROM")
		for _, r := range list.Records {
			t.row(strconv.FormatInt(r.Seq, 10), r.Time.UTC().Format(time.RFC3339), show.Plain(r.Actor), show.Plain(r.Action), show.Plain(r.Object), orDash(r.Project),
				show.Plain(r.Outcome), orDash(r.Detail), orDash(r.Address))
		}
		if err := t.flush(); err != nil || list.Next == 0 {
			return err
		}
		_, err := fmt.Fprintf(w, "There are more: --before %d\n", list.Next)
		return err
	})
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return show.Plain(text)
}

// databaseFile is where the database of a data directory is.
func databaseFile(data string) string { return filepath.Join(data, ciDir, "store.db") }

// openAudit opens the database of the instance for reading.
func openAudit(ctx context.Context, g *global) (*store.File, error) {
	f, err := openStoreFile(g)
	if err != nil {
		return nil, err
	}
	has, err := f.HasAudit(ctx)
	if err == nil && !has {
		err = hintf(errors.New("the database has no audit: it is of an older version"), "start the instance once with this version")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func auditExportCommand(g *global) *cobra.Command {
	var from, to string
	var noNames bool
	cmd := &cobra.Command{
		Use: "export", Short: "Write the audit as lines of JSON, which verify --file reads", Args: args(cobra.NoArgs),
		Annotations: map[string]string{formatsOf: "jsonl"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if err := auditSpan(q, time.Now(), from, to); err != nil {
				return err
			}
			if noNames {
				q.Set("names", "false")
			}
			return runAuditExport(cmd.Context(), g, q)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "only from this `time` on: 2026-03-01, 2026-03-01T12:00:00Z, or an age as 24h")
	cmd.Flags().StringVar(&to, "to", "", "only before this `time`")
	cmd.Flags().BoolVar(&noNames, "no-names", false, "leave out whose the ids of people and addresses are")
	return cmd
}

func runAuditExport(ctx context.Context, g *global, q url.Values) error {
	if g.asksServer() {
		_, res, err := g.openAPI(ctx, http.MethodGet, web.PipelinesPath+"audit/export?"+q.Encode(), nil)
		if err != nil {
			return fmt.Errorf("export the audit: %w", err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(g.out, res.Body); err != nil {
			return fmt.Errorf("export the audit: %w", err)
		}
		return nil
	}
	filter, err := web.AuditFilterOf(q.Get)
	if err != nil {
		return withCode(exitUsage, err)
	}
	f, err := openAudit(ctx, g)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.ExportAudit(ctx, g.out, store.AuditExport{From: filter.From, To: filter.To, NoNames: q.Get("names") == "false"})
}

type auditVerifyOptions struct {
	file, repository string
	keys             []string
}

func auditVerifyCommand(g *global) *cobra.Command {
	var o auditVerifyOptions
	cmd := &cobra.Command{
		Use: "verify", Short: "Look whether anybody has changed, removed or added a record", Args: args(cobra.NoArgs),
		Long: `Verify goes along the chain of records, in the database of an instance or in an export, and holds it against all signed checkpoints: those of the
database or the export, and those of the witness. It needs no running instance and writes nothing. The first record that is not as it was is
named, and the exit code is 1.

The witness of an instance is looked at by itself. A copy of it, on another machine or fetched with git fetch URL refs/keelson/audit:refs/keelson/audit,
is named with --repository; somebody who could change the instance's disk could not change that one.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditVerify(cmd.Context(), g, o) },
	}
	cmd.Flags().StringVar(&o.file, "file", "", "verify this export instead of a database")
	cmd.Flags().StringVar(&o.repository, "repository", "", "the witness: a folder or `URL` of a Git repository (default: the one of the instance)")
	cmd.Flags().StringArrayVar(&o.keys, "key", nil, "a public `key` that checkpoints may be signed with, as keelson audit key prints it; may be given several times (default: that of the instance)")
	return cmd
}

// auditVerdict is what verify finds out.
type auditVerdict struct {
	OK      bool           `json:"ok"`
	Problem *audit.Problem `json:"problem,omitempty"`
	Report  audit.Report   `json:"report"`
}

func runAuditVerify(ctx context.Context, g *global, o auditVerifyOptions) error {
	accept, err := auditKeys(g, o)
	if err != nil {
		return err
	}
	place := o.repository
	if own := witnessDir(g.data); place == "" && o.file == "" {
		if _, err := os.Stat(own); err == nil {
			place = own
		}
	}
	var v auditVerdict
	if o.file != "" {
		var found []audit.Found
		if found, err = readWitness(ctx, place, o.repository, nil); err != nil {
			return err
		}
		v.Report, v.Problem, err = audit.VerifyExport(func() (io.ReadCloser, error) { return os.Open(o.file) }, accept, found)
	} else {
		v.Report, v.Problem, err = verifyDatabase(ctx, g, place, o.repository, accept)
	}
	if err != nil {
		return err
	}
	v.OK = v.Problem == nil
	if err := g.print(v, v.text); err != nil {
		return err
	}
	if !v.OK {
		return hintf(v.Problem, "docs/audit.md tells what to do about it")
	}
	return nil
}

// verifyDatabase holds the audit of an instance against its own checkpoints and those of a witness.
func verifyDatabase(ctx context.Context, g *global, place, named string, accept []ed25519.PublicKey) (audit.Report, *audit.Problem, error) {
	f, err := openAudit(ctx, g)
	if err != nil {
		return audit.Report{}, nil, err
	}
	defer f.Close()
	own, err := f.Checkpoints(ctx)
	if err != nil { // it is damaged: what is wrong is found below
		own = nil
	}
	found, err := readWitness(ctx, place, named, own)
	if err != nil {
		return audit.Report{}, nil, err
	}
	return f.VerifyAudit(ctx, accept, found)
}

// readWitness reads the checkpoints of a witness that are not those that the database has itself; nearly all are, so nearly none is kept. An empty place
// has none; one that somebody has named has to have some.
func readWitness(ctx context.Context, place, named string, own []store.Checkpoint) (found []audit.Found, err error) {
	if place == "" {
		return nil, nil
	}
	known := make(map[[sha256.Size]byte]bool, len(own))
	for _, c := range own {
		sum, err := sumOf(c.Signed)
		if err != nil {
			return nil, err
		}
		known[sum] = true
	}
	seen := 0
	err = witness.EachFrom(ctx, place, func(c audit.Found) error {
		seen++
		sum, err := sumOf(c.Signed)
		if err == nil && !known[sum] {
			found = append(found, c)
		}
		return err
	})
	if err == nil && seen == 0 && named != "" {
		err = hintf(fmt.Errorf("the witness %s has no checkpoints", named), "fetch them with git fetch URL %s:%s", witness.Ref, witness.Ref)
	}
	return found, err
}

// sumOf stands for all that a checkpoint says.
func sumOf(s audit.Signed) (sum [sha256.Size]byte, err error) {
	text, err := s.MarshalJSON()
	return sha256.Sum256(text), err
}

// text is what people read of a good one.
func (v auditVerdict) text(w io.Writer) error {
	if !v.OK {
		return nil // the error says it
	}
	r := v.Report
	switch {
	case r.Records == 0:
		fmt.Fprintln(w, "There are no records.")
	case r.Signed == 0:
		fmt.Fprintf(w, "Records %d to %d follow each other. No checkpoint proves them.\n", r.First, r.Last)
	default:
		fmt.Fprintf(w, "Records %d to %d are as they were written. %d checkpoints agree; the last is of record %d, of %s, with the key %s.\n",
			r.First, r.Last, r.Checkpoints, r.Signed, r.SignedAt.UTC().Format(time.RFC3339), strings.Join(r.Keys, " "))
	}
	if t := tail(r); t != "" {
		fmt.Fprintln(w, t)
	}
	_, err := io.WriteString(w, notes(r))
	return err
}

// witnessDir is the repository of the witness in a data directory.
func witnessDir(data string) string {
	return filepath.Join(data, gitDir, filepath.FromSlash(witness.Repository)+".git")
}

// auditKeys are the keys that are accepted: those that were given, else that of the instance. None: the one of the first checkpoint.
func auditKeys(g *global, o auditVerifyOptions) (keys []ed25519.PublicKey, err error) {
	for _, text := range o.keys {
		key, err := audit.ParseKey(strings.TrimSpace(text))
		if err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("--key: %w", err))
		}
		keys = append(keys, key)
	}
	if len(keys) > 0 || o.file != "" {
		return keys, nil
	}
	key, err := publicAuditKey(g)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return []ed25519.PublicKey{key}, err
}

func publicAuditKey(g *global) (ed25519.PublicKey, error) {
	if err := g.onlyHere(); err != nil {
		return nil, err
	}
	key, err := witness.ReadKey(filepath.Join(g.data, ciDir, auditKey))
	if err != nil {
		return nil, err
	}
	return publicOf(key), nil
}

func auditKeyCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "key", Short: "Print the public key of the instance's checkpoints", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			key, err := publicAuditKey(g)
			if errors.Is(err, fs.ErrNotExist) {
				return hintf(fmt.Errorf("there is no key of checkpoints in %s", g.data), "--data names the data directory of an instance")
			}
			if err != nil {
				return err
			}
			return g.print(map[string]string{"key": audit.FormatKey(key), "id": audit.KeyID(key)}, printf("%s", audit.FormatKey(key)))
		},
	}
}

func auditEraseCommand(g *global) *cobra.Command {
	var also []string
	cmd := &cobra.Command{
		Use: "erase PERSON", Short: "Forget a person everywhere: an id that nobody can resolve stands in the place of their name", Args: args(cobra.ExactArgs(1)),
		Long: `Erase puts an id into the place of a person's name in the audit, the history, pipelines, jobs and deployments, and removes their account, tokens
and sessions. The chain of the audit stays as it is. In commits people have another name than at the login, and an address: name these with --also.
What erase does not reach it says.`,
		RunE: func(cmd *cobra.Command, a []string) error { return runAuditErase(cmd.Context(), g, a[0], also) },
	}
	cmd.Flags().StringArrayVar(&also, "also", nil, "another `name` of the person, or the address in their commits; may be given several times")
	return cmd
}

func runAuditErase(ctx context.Context, g *global, person string, also []string) error {
	answer := web.Erased{Left: web.NotErased()}
	running, err := daemonPID(g.data)
	if err != nil {
		return err
	}
	if running != 0 || g.asksServer() {
		_, err = g.callAPI(ctx, http.MethodDelete, web.PipelinesPath+"audit/people?"+url.Values{"person": {person}, "also": also}.Encode(), nil, &answer)
	} else {
		answer.Forgotten, err = eraseOffline(ctx, g, person, also)
	}
	if err != nil {
		return fmt.Errorf("erase %s: %w", person, err)
	}
	return g.print(answer, func(w io.Writer) error {
		fmt.Fprintf(w, "%s is forgotten; in the place of the name is %s.\n", show.Plain(person), answer.ID)
		for _, table := range slices.Sorted(maps.Keys(answer.Rows)) {
			fmt.Fprintf(w, "  %s: %d\n", show.Plain(table), answer.Rows[table])
		}
		_, err := fmt.Fprintf(w, "Not reached, so look there yourself:\n  %s\n", strings.Join(answer.Left, "\n  "))
		return err
	})
}

// eraseOffline erases in the database of an instance that does not run.
func eraseOffline(ctx context.Context, g *global, person string, also []string) (gone store.Forgotten, err error) {
	db, err := openStopped(g)
	if err != nil {
		return gone, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	gone, err = db.ErasePerson(ctx, person, also...)
	if len(gone.Rows) == 0 {
		return gone, err
	}
	e := audit.Entry{Actor: userName(), Action: "audit.erase", Object: "person/" + gone.ID}
	if err != nil { // the rows are gone nevertheless
		e.Outcome, e.Detail = audit.Failed, err.Error()
	}
	_, kept := db.AppendAudit(ctx, e)
	return gone, errors.Join(err, kept)
}

// openStopped opens the database of an instance that does not run, for writing.
func openStopped(g *global) (*store.DB, error) {
	if err := g.onlyHere(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(databaseFile(g.data)); err != nil && os.Getenv(databaseVariable) == "" {
		return nil, hintf(err, "--data names the data directory of an instance, %s a PostgreSQL database", databaseVariable)
	}
	return openDatabaseOf(g.data)
}

// openDatabaseOf opens the database of a data directory for writing; the error is [store.ErrLocked] while an instance runs.
func openDatabaseOf(data string) (*store.DB, error) {
	key, err := store.OpenKey(filepath.Join(data, ciDir, "store.key"))
	if err != nil {
		return nil, err
	}
	return store.Open(databaseFile(data), store.Options{Key: key, PostgreSQL: os.Getenv(databaseVariable)})
}

// userName is who runs this program.
func userName() string {
	if me, err := user.Current(); err == nil {
		return me.Username
	}
	return "somebody"
}
