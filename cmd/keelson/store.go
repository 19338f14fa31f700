package main

import (
	"archive/tar"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/audit/witness"
	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/store"
)

// What is in a backup: a tar archive of these.
const (
	backupManifest = "keelson-backup.json" // the first
	backupDatabase = "store.db"
	backupKey      = "store.key"
	backupLogs     = "logs/"
)

// backupForm is of the archive; another one gets another number.
const backupForm = 1

// Bounds of what is read of a backup, in bytes.
const (
	maxManifest, maxBackupKey = 4 << 10, 4 << 10
	maxBackup                 = 1 << 40 // of one file
)

// manifest says what a backup is.
type manifest struct {
	Form    int       `json:"form"`
	Program string    `json:"program"` // that made it
	Schema  int       `json:"schema"`  // version of the database
	Made    time.Time `json:"made"`
	Records int64     `json:"records"` // of the audit: the number of the last one
	Logs    bool      `json:"logs"`
}

func storeCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "store", Long: `Store is for the database of an instance or a server that keeps its data in the data directory. Where ` + databaseVariable + ` names a PostgreSQL
database, as it does for keelson server, that one is meant. A backup of one can be restored into the other.`, Short: "Back up, restore and check the database of pipelines, people and the audit", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(errors.New("store what?"), "keelson store backup FILE, restore FILE, or check"))
		},
	}
	var logs bool
	backup := &cobra.Command{
		Use: "backup FILE", Short: "Write the database and its key to a file, while the instance runs or not", Args: args(cobra.ExactArgs(1)),
		Long: `Backup writes a tar archive with a whole copy of the database as it is at one moment, and the key that opens what is sealed in it; with --logs the
logs of jobs too. Who has the archive has the secrets in it: keep it as you would keep these. The key of the audit's checkpoints is not in it.`,
		RunE: func(cmd *cobra.Command, a []string) error { return runStoreBackup(cmd.Context(), g, a[0], logs) },
	}
	backup.Flags().BoolVar(&logs, "logs", false, "with the logs of jobs")
	restore := &cobra.Command{
		Use: "restore FILE", Short: "Put a backup in the place of the database, while the instance does not run", Args: args(cobra.ExactArgs(1)),
		Long: `Restore puts the database of a backup and its key into the data directory. What was there is moved aside, to ci/before-restore-TIME, and not
deleted. The audit tells of it, and the witness too: the records that came after the backup are lost, and verify says so.`,
		RunE: func(cmd *cobra.Command, a []string) error { return runStoreRestore(cmd.Context(), g, a[0]) },
	}
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Read the whole database, or that of a backup, and tell what is damaged", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return runStoreCheck(cmd.Context(), g, a) },
	}
	cmd.AddCommand(backup, restore, check)
	return cmd
}

// openStoreFile opens the database of the instance for reading.
func openStoreFile(g *global) (*store.File, error) {
	if err := g.onlyHere(); err != nil {
		return nil, err
	}
	if dsn := os.Getenv(databaseVariable); dsn != "" {
		return store.OpenServed(dsn)
	}
	f, err := store.OpenFile(databaseFile(g.data))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hintf(fmt.Errorf("there is no database in %s", g.data), "--data names the data directory of an instance, %s a PostgreSQL database, %s a server that is asked for its audit", databaseVariable, serverVariable)
	}
	return f, err
}

func runStoreBackup(ctx context.Context, g *global, file string, logs bool) (err error) {
	f, err := openStoreFile(g)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return hintf(fmt.Errorf("back up to %s: %w", file, fs.ErrExist), "name a file that is not there yet")
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".keelson-backup-*") // 0700, and with room where the backup is to be
	if err != nil {
		return fmt.Errorf("back up to %s: %w", file, err)
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, backupDatabase)
	if err := f.Backup(ctx, copied); err != nil {
		return err
	}
	m, err := describeBackup(ctx, copied)
	if err != nil {
		return err
	}
	m.Logs = logs
	archive := filepath.Join(dir, "backup.tar")
	if err := writeBackup(archive, m, copied, filepath.Join(g.data, ciDir)); err != nil {
		return fmt.Errorf("back up to %s: %w", file, err)
	}
	if err := os.Link(archive, file); err != nil { // whole or not at all, and never over another file
		return fmt.Errorf("back up to %s: %w", file, err)
	}
	return g.print(m, printf("%s has the database as of %s, and its key. Keep it as you keep secrets.", file, m.Made.Format(time.RFC3339)))
}

// describeBackup says what is in a copy of the database.
func describeBackup(ctx context.Context, copied string) (manifest, error) {
	m := manifest{Form: backupForm, Program: version, Made: time.Now().UTC().Truncate(time.Second)}
	f, err := store.OpenFile(copied)
	if err != nil {
		return m, err
	}
	defer f.Close()
	if m.Schema, err = f.Version(ctx); err != nil {
		return m, err
	}
	if m.Schema == 0 {
		return m, errors.New("it is no database of Keelson")
	}
	if has, err := f.HasAudit(ctx); err != nil || !has {
		return m, err
	}
	head, err := f.AuditHead(ctx)
	m.Records = head.Seq
	return m, err
}

func writeBackup(file string, m manifest, database, from string) (err error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	err = w.WriteHeader(&tar.Header{Name: backupManifest, Mode: 0o600, Size: int64(len(text)), ModTime: m.Made, Format: tar.FormatPAX})
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = addFile(w, database, backupDatabase)
	}
	if err == nil {
		err = addFile(w, filepath.Join(from, backupKey), backupKey)
	}
	if err == nil && m.Logs {
		err = addLogs(w, filepath.Join(from, "logs"))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return out.Sync()
}

// addFile adds what a file has now: a log may grow meanwhile.
func addFile(w *tar.Writer, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

func addLogs(w *tar.Writer, dir string) error {
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if err := addFile(w, file, backupLogs+filepath.ToSlash(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) { // retention has removed it meanwhile
			return err
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no job has written any
	}
	return err
}

// unpackBackup puts the files of a backup into a directory, which is empty.
func unpackBackup(file, dir string) (m manifest, err error) {
	in, err := os.Open(file)
	if err != nil {
		return m, err
	}
	defer in.Close()
	r := tar.NewReader(in)
	seen := map[string]bool{}
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && seen[backupDatabase] && seen[backupKey] {
			return m, nil
		}
		if err != nil || (n == 0) != (h.Name == backupManifest) {
			return m, hintf(fmt.Errorf("%s is no whole backup of Keelson", file), "keelson store backup makes one")
		}
		if n == 0 {
			text, err := io.ReadAll(io.LimitReader(r, maxManifest))
			if err == nil {
				err = json.Unmarshal(text, &m)
			}
			if err != nil {
				return m, fmt.Errorf("read %s: %w", file, err)
			}
			if m.Form != backupForm {
				return m, fmt.Errorf("%s is a backup of the form %d, and this program knows %d: use the one that made it, %s", file, m.Form, backupForm, m.Program)
			}
			continue
		}
		if err := unpackFile(r, h, dir); err != nil {
			return m, fmt.Errorf("read %s: %w", file, err)
		}
		seen[h.Name] = true
	}
}

// unpackFile writes a file of a backup; one of another name is refused.
func unpackFile(r io.Reader, h *tar.Header, dir string) (err error) {
	most := int64(maxBackup)
	switch {
	case h.Name == backupKey:
		most = maxBackupKey
	case h.Name == backupDatabase:
	case strings.HasPrefix(h.Name, backupLogs) && path.Clean(h.Name) == h.Name && filepath.IsLocal(h.Name):
	default:
		return fmt.Errorf("there should be no %q in it", h.Name)
	}
	if h.Typeflag != tar.TypeReg || h.Size > most {
		return fmt.Errorf("%q is no file, or too large", h.Name)
	}
	to := filepath.Join(dir, filepath.FromSlash(h.Name))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, r, h.Size)
	return errors.Join(err, f.Sync(), f.Close())
}

func runStoreCheck(ctx context.Context, g *global, a []string) error {
	file := databaseFile(g.data)
	var f *store.File
	var err error
	if len(a) == 0 {
		if f, err = openStoreFile(g); err == nil {
			file = f.String()
		}
	} else {
		file = a[0]
		dir, terr := os.MkdirTemp("", "keelson-check-*")
		if terr != nil {
			return fmt.Errorf("check %s: %w", file, terr)
		}
		defer os.RemoveAll(dir)
		if _, err = unpackBackup(file, dir); err == nil {
			f, err = store.OpenFile(filepath.Join(dir, backupDatabase))
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Check(ctx); err != nil {
		return hintf(err, "keelson store restore FILE puts a backup in its place")
	}
	schema, err := f.Version(ctx)
	if err != nil {
		return err
	}
	return g.print(map[string]any{"file": file, "sound": true, "schema": schema}, printf("%s is sound: a database of version %d.", file, schema))
}

func runStoreRestore(ctx context.Context, g *global, file string) (err error) {
	if err := g.onlyHere(); err != nil {
		return err
	}
	held, err := lock(g.data)
	if errors.Is(err, errRunning) {
		return hintf(fmt.Errorf("restore %s: %w", file, err), "keelson down --data %s stops it", g.data)
	}
	if err != nil {
		return err
	}
	defer held.Close()
	dir := filepath.Join(g.data, ciDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	if err := unlocked(filepath.Join(dir, backupDatabase+".lock")); err != nil { // of keelson server, which has no lock on the data directory
		return hintf(fmt.Errorf("restore %s: %w", file, err), "stop the server that uses it")
	}
	fresh, err := os.MkdirTemp(dir, ".restore-*")
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	defer os.RemoveAll(fresh)
	m, err := unpackBackup(file, fresh)
	if err != nil {
		return err
	}
	if err := checkUnpacked(ctx, fresh); err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	aside := filepath.Join(dir, "before-restore-"+strings.ReplaceAll(time.Now().UTC().Format("20060102T150405.000"), ".", "-"))
	if dsn := os.Getenv(databaseVariable); dsn != "" {
		aside, err = swapServed(ctx, dir, fresh, aside, m.Logs, dsn)
	} else {
		_, err = swap(dir, fresh, aside, m.Logs)
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	if err := tellRestored(ctx, g.data, m); err != nil {
		return hintf(fmt.Errorf("the database is restored, but the audit does not tell of it: %w", err), "keelson audit verify tells how it stands")
	}
	return g.print(m, printf("The database is as it was at %s. What was there before is in %s: remove it when all is well.", m.Made.Format(time.RFC3339), aside))
}

// unlocked tells whether nobody has a database open.
func unlocked(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return store.ErrLocked
	}
	return nil
}

// checkUnpacked opens the database of a backup with its key, as the instance will.
func checkUnpacked(ctx context.Context, dir string) error {
	f, err := store.OpenFile(filepath.Join(dir, backupDatabase))
	if err != nil {
		return err
	}
	err = f.Check(ctx)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	key, err := store.OpenKey(filepath.Join(dir, backupKey))
	if err != nil {
		return err
	}
	db, err := store.Open(filepath.Join(dir, backupDatabase), store.Options{Key: key})
	if err != nil {
		return err
	}
	return db.Close()
}

// swapServed puts the database of a backup into a PostgreSQL one, and the rest of it into its place. It says where what was there is.
func swapServed(ctx context.Context, dir, fresh, aside string, logs bool, dsn string) (string, error) {
	imported := filepath.Join(fresh, "imported", backupDatabase)
	if err := os.Mkdir(filepath.Dir(imported), 0o700); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(fresh, backupDatabase), imported); err != nil {
		return "", err
	}
	undo, err := swap(dir, fresh, aside, logs)
	if err != nil {
		return "", err
	}
	schema := strings.ReplaceAll(strings.ToLower(filepath.Base(aside)), "-", "_")
	moved, err := store.Import(ctx, imported, dsn, schema)
	if err != nil {
		return "", errors.Join(err, undo())
	}
	if moved {
		aside += " and in the schema " + schema + " of the database"
	}
	return aside, nil
}

// swap moves what is there aside, and what is fresh into its place. What it has begun it undoes where it fails, or when it is told to.
func swap(dir, fresh, aside string, logs bool) (back func() error, err error) {
	if err := os.Mkdir(aside, 0o700); err != nil {
		return nil, err
	}
	var undo []func() error
	back = func() (err error) {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		return errors.Join(err, os.Remove(aside))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, back())
		}
	}()
	move := func(from, to string) error {
		err := os.Rename(from, to)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			undo = append(undo, func() error { return os.Rename(to, from) })
		}
		return err
	}
	names := []string{backupDatabase, backupDatabase + "-wal", backupDatabase + "-shm", backupKey}
	if logs {
		names = append(names, strings.TrimSuffix(backupLogs, "/"))
	}
	for _, name := range names {
		if err := move(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if err := move(filepath.Join(fresh, name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return back, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keepKeys takes over from the witness which keys have followed each other, where that came after the backup: else what is signed now would be with a key
// that the database knows nothing of.
func keepKeys(ctx context.Context, db *store.DB, data string, key ed25519.PublicKey) error {
	newest, err := db.LastCheckpoint(ctx)
	if errors.Is(err, store.ErrNotFound) || err == nil && newest.Key.Equal(key) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(witnessDir(data)); err != nil {
		return nil //nolint:nilerr // there is no witness: keelson audit verify tells of the key
	}
	seen, err := witness.ReadFrom(ctx, witnessDir(data))
	if err != nil {
		return err
	}
	var rotations []audit.Signed
	for _, c := range seen {
		if audit.IsRotation(c.Kind) {
			rotations = append(rotations, c.Signed)
		}
	}
	return db.KeepRotations(ctx, rotations)
}

// tellRestored records in the audit that it was put back, and gives the witness a checkpoint that says so.
func tellRestored(ctx context.Context, data string, m manifest) (err error) {
	db, err := openDatabaseOf(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	head, err := db.AuditHead(ctx)
	if err != nil {
		return err
	}
	key, err := witness.OpenKey(filepath.Join(data, ciDir, auditKey))
	if err != nil {
		return err
	}
	if err := keepKeys(ctx, db, data, publicOf(key)); err != nil {
		return err
	}
	s, err := audit.Sign(key, audit.Checkpoint{Seq: head.Seq, Hash: head.Hash, Time: time.Now().UTC().Truncate(time.Microsecond), Kind: audit.Restored})
	if err == nil && head.Seq > 0 { // else the backup is from before the first record, and the witness alone is told
		err = db.KeepCheckpoint(ctx, s)
	}
	if err != nil {
		return err
	}
	_, err = db.AppendAudit(ctx, audit.Entry{
		Actor: userName(), Action: "store.restore", Object: "store", Detail: fmt.Sprintf("put back to the backup of %s, record %d", m.Made.Format(time.RFC3339), head.Seq),
	})
	if err != nil {
		return err
	}
	repo, err := git.Open(witnessDir(data), git.Options{})
	if err != nil {
		return nil //nolint:nilerr // there is none yet: the next start makes it, and gives it the checkpoint
	}
	defer repo.Close()
	if err := witness.Push(ctx, repo, s); err != nil {
		return err
	}
	return db.Witnessed(ctx, s)
}
