package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

const (
	// openLogs is how many files of logs are open at a time, whoever writes and reads how many.
	openLogs = 64
	// readMax is the most that [DB.ReadLog] gives at once.
	readMax = 8 << 20
)

// logs are the files of jobs' logs: logs/aa/ID.log, where aa is the last byte of the number in hex.
type logs struct {
	dir string

	mu    sync.Mutex
	shut  bool
	tails map[int64]*tail // of the jobs whose log somebody writes or follows

	slots chan struct{} // one for each file that is in use
	files map[logFile]*openFile
	idle  *list.List // of *openFile: those that nobody uses now, the one that was used last in front
}

// logFile is one of the ways in which a log is open.
type logFile struct {
	job   int64
	write bool
}

type openFile struct {
	logFile
	*os.File
	uses int
	idle *list.Element // in logs.idle while uses is 0
	gone bool          // it was deleted: nobody else takes it
}

// tail is the end of a log, where writers and followers meet.
type tail struct {
	users   int // writers and followers
	writers int
	ended   bool // the last writer has closed it
	more    signal
	writing sync.Mutex
}

func newLogs(dir string) *logs {
	return &logs{dir: dir, tails: map[int64]*tail{}, slots: make(chan struct{}, openLogs), files: map[logFile]*openFile{}, idle: list.New()}
}

func (l *logs) path(job int64) string {
	return filepath.Join(l.dir, fmt.Sprintf("%02x", byte(job)), fmt.Sprintf("%d.log", job))
}

// file gives the file of a log until done is called. It waits while all that may be open are in use.
func (l *logs) file(job int64, write bool) (f *os.File, done func(), err error) {
	l.slots <- struct{}{}
	defer func() {
		if err != nil {
			<-l.slots
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return nil, nil, ErrClosed
	}
	key := logFile{job, write}
	o := l.files[key]
	if o == nil {
		if len(l.files) >= openLogs && l.idle.Len() > 0 {
			l.forget(l.idle.Back().Value.(*openFile))
		}
		f, err := l.openFile(key)
		if err != nil {
			return nil, nil, err
		}
		o = &openFile{logFile: key, File: f}
		l.files[key] = o
	} else if o.uses == 0 {
		l.idle.Remove(o.idle)
	}
	o.uses++
	return o.File, func() { l.putBack(o) }, nil
}

func (l *logs) putBack(o *openFile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.uses--; o.uses == 0 {
		if o.gone || l.shut {
			o.Close()
		} else {
			o.idle = l.idle.PushFront(o)
		}
	}
	<-l.slots
}

// forget closes a file that nobody uses.
func (l *logs) forget(o *openFile) {
	l.idle.Remove(o.idle)
	delete(l.files, o.logFile)
	o.Close()
}

func (l *logs) openFile(key logFile) (*os.File, error) {
	path := l.path(key.job)
	if !key.write {
		return os.Open(path)
	}
	const how = os.O_WRONLY | os.O_CREATE | os.O_APPEND // at the real end, also after a torn write
	f, err := os.OpenFile(path, how, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, how, 0o600)
	}
	return f, err
}

// remove deletes the file of a log. Who reads it meanwhile reads on.
func (l *logs) remove(job int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, write := range []bool{false, true} {
		o := l.files[logFile{job, write}]
		switch {
		case o == nil:
		case o.uses == 0:
			l.forget(o)
		default:
			o.gone = true
			delete(l.files, o.logFile)
		}
	}
	err := os.Remove(l.path(job))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (l *logs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	for l.idle.Len() > 0 {
		l.forget(l.idle.Back().Value.(*openFile))
	}
}

// hold gives the tail of a log until let is called with it.
func (l *logs) hold(job int64, writers int) *tail {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tails[job]
	if t == nil {
		t = &tail{}
		l.tails[job] = t
	}
	t.users++
	t.writers += writers
	if writers > 0 {
		t.ended = false
	}
	return t
}

func (l *logs) let(job int64, t *tail, writers int) {
	l.mu.Lock()
	t.writers -= writers
	if writers > 0 && t.writers == 0 {
		t.ended = true
	}
	if t.users--; t.users == 0 {
		delete(l.tails, job)
	}
	l.mu.Unlock()
	t.more.wake()
}

// wake has those who follow a log look again: its job is over.
func (l *logs) wake(job int64) {
	l.mu.Lock()
	t := l.tails[job]
	l.mu.Unlock()
	if t != nil {
		t.more.wake()
	}
}

// Log is a job's log that is being written.
type Log struct {
	db   *DB
	job  int64
	tail *tail
	once sync.Once
	shut bool // guarded by tail.writing
}

// LogWriter appends to the log of a job; what an earlier process has written stays. Close it: those who follow the log are at its
// end then. It holds no file open.
func (db *DB) LogWriter(job int64) (*Log, error) {
	if db.isClosed() {
		return nil, fmt.Errorf("store: write the log of job %d: %w", job, ErrClosed)
	}
	if job <= 0 {
		return nil, fmt.Errorf("store: %d is not the number of a job", job)
	}
	return &Log{db: db, job: job, tail: db.logs.hold(job, 1)}, nil
}

// Write appends and wakes those who follow. What it has written survives the end of the process. The error is [ErrFull] where there
// is no space: n bytes have been written.
func (l *Log) Write(p []byte) (n int, err error) {
	l.tail.writing.Lock()
	defer l.tail.writing.Unlock()
	if l.shut {
		return 0, fmt.Errorf("store: write the log of job %d: %w", l.job, os.ErrClosed)
	}
	f, done, err := l.db.logs.file(l.job, true)
	if err == nil {
		n, err = f.Write(p)
		done()
	}
	if n > 0 {
		l.tail.more.wake()
	}
	if err != nil {
		return n, l.db.wrap(fmt.Sprintf("write the log of job %d", l.job), err)
	}
	return n, nil
}

// Close ends the log, and waits until the disk has it.
func (l *Log) Close() error {
	var err error
	l.once.Do(func() {
		l.tail.writing.Lock()
		l.shut = true
		f, done, ferr := l.db.logs.file(l.job, true)
		if err = ferr; err == nil {
			err = f.Sync()
			done()
		}
		l.tail.writing.Unlock()
		l.db.logs.let(l.job, l.tail, 1)
	})
	return l.db.wrap(fmt.Sprintf("end the log of job %d", l.job), err)
}

// ReadLog gives at most limit bytes of a log from an offset on, and how long the log is now. A negative offset counts from the end.
// A job without a log has an empty one. It reads at most 8 MiB at a time.
func (db *DB) ReadLog(job, offset int64, limit int) (chunk []byte, size int64, err error) {
	doing := fmt.Sprintf("read the log of job %d", job)
	f, done, err := db.logs.file(job, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, db.wrap(doing, err)
	}
	defer done()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, db.wrap(doing, err)
	}
	size = info.Size()
	if offset < 0 {
		offset = max(0, size+offset)
	}
	chunk = make([]byte, max(0, min(int64(limit), readMax, size-offset)))
	n, err := f.ReadAt(chunk, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, db.wrap(doing, err)
	}
	return chunk[:n], size, nil
}

// Tail reads a log from an offset on, and at its end waits for more.
type Tail struct {
	db     *DB
	ctx    context.Context
	job    int64
	tail   *tail
	offset int64
	once   sync.Once
}

// Follow reads the log of a job from an offset on and waits for what is written until the log is closed; one that nobody writes now
// ends when its job is over. Close what it gives. An offset behind the end waits for what comes there.
func (db *DB) Follow(ctx context.Context, job, offset int64) *Tail {
	return &Tail{db: db, ctx: ctx, job: job, offset: max(0, offset), tail: db.logs.hold(job, 0)}
}

// Offset is where the next Read begins: where to follow on with another connection.
func (t *Tail) Offset() int64 { return t.offset }

// Close ends the following.
func (t *Tail) Close() error {
	t.once.Do(func() { t.db.logs.let(t.job, t.tail, 0) })
	return nil
}

// Read gives what there is, waits where there is nothing, and is at io.EOF where nothing comes any more.
func (t *Tail) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		woken := t.tail.more.waits()
		n, err := t.read(p)
		if n > 0 || err != nil {
			return n, err
		}
		over, err := t.over()
		if err != nil {
			return 0, err
		}
		if over { // before the next look, so nothing is missed
			if n, err := t.read(p); n > 0 || err != nil {
				return n, err
			}
			return 0, io.EOF
		}
		if err := t.db.wait(t.ctx, woken); err != nil {
			return 0, err
		}
	}
}

func (t *Tail) read(p []byte) (int, error) {
	f, done, err := t.db.logs.file(t.job, false)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		var n int
		n, err = f.ReadAt(p, t.offset)
		done()
		t.offset += int64(n)
		if n > 0 || errors.Is(err, io.EOF) {
			return n, nil
		}
	}
	return 0, t.db.wrap(fmt.Sprintf("follow the log of job %d", t.job), err)
}

// over tells whether nobody will write the log any more.
func (t *Tail) over() (bool, error) {
	t.db.logs.mu.Lock()
	ended, writers := t.tail.ended, t.tail.writers
	t.db.logs.mu.Unlock()
	if ended || writers > 0 {
		return ended, nil
	}
	job, err := t.db.Job(t.ctx, t.job)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	return err == nil && !job.Finished.IsZero(), err
}

// buryLogs deletes the logs of jobs that are gone. It is done again at the next start where the process ends in between.
func (db *DB) buryLogs(ctx context.Context) error {
	for {
		var dead []int64
		err := db.read(ctx, func(tx *tx) error {
			return tx.numbers(&dead, `SELECT job FROM dead_logs ORDER BY job LIMIT 500`)
		})
		if err != nil || len(dead) == 0 {
			return err
		}
		for _, job := range dead {
			if err := db.logs.remove(job); err != nil {
				return err
			}
			db.logs.wake(job)
		}
		err = db.write(ctx, false, func(tx *tx) error {
			for _, job := range dead {
				if err := tx.exec(`DELETE FROM dead_logs WHERE job = ?`, job); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
