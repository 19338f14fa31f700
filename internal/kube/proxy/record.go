package proxy

import (
	"bufio"
	"bytes"
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// maxRecorded is how many objects a [Record] knows. A job that writes more is no deployment that anybody could follow.
const maxRecorded = 4096

// maxRecordFile bounds the file of a record, in bytes: beyond that it is written anew, with what is known.
const maxRecordFile = 8 << 20

// Record keeps what a job has written: of each object the last write, the newest objects last, and at most 4096 of them. The zero value is
// empty and in memory only; its Add is made for [Grant.OnWrite].
type Record struct {
	mu   sync.Mutex
	by   map[object]*list.Element
	list list.List // of Written

	path string   // of the file; empty: there is none
	file *os.File // nil: nothing is written yet, or it cannot be
	size int64
}

// OpenRecord makes a record that is kept in a file, too, so that the next process goes on with it. What an earlier one had not got to
// writing is not known. The file is made with the first write, and nothing of it is synced: a job's writes wait for no disk.
func OpenRecord(path string) (*Record, error) {
	r := &Record{}
	f, err := os.Open(path)
	if err == nil {
		err = r.read(f)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read what a job has written: %w", err)
	}
	r.path = path
	if r.list.Len() > 0 {
		r.rewrite() // the last line may be a part of one
	}
	return r, nil
}

// read takes in the lines of a file. A line that is none is left out.
func (r *Record) read(f *os.File) error {
	defer f.Close()
	lines := bufio.NewReader(io.LimitReader(f, 2*maxRecordFile))
	for {
		line, err := lines.ReadBytes('\n')
		var w Written
		if err == nil && json.Unmarshal(line, &w) == nil {
			r.Add(w)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// keep writes a line to the file. Where that fails the rest is in memory only.
func (r *Record) keep(w Written) {
	if r.path == "" {
		return
	}
	if r.size > maxRecordFile || r.file == nil {
		r.rewrite()
		return
	}
	line, err := json.Marshal(w)
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
		r.size += int64(len(line)) + 1
	}
	if err != nil {
		r.path = ""
	}
}

// rewrite writes the file anew, with what is known, and puts it in the place of the old one.
func (r *Record) rewrite() {
	var text bytes.Buffer
	for at := r.list.Front(); at != nil; at = at.Next() {
		line, err := json.Marshal(at.Value)
		if err == nil {
			text.Write(append(line, '\n'))
		}
	}
	f, err := os.OpenFile(r.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(text.Bytes())
	}
	if err == nil {
		err = os.Rename(r.path+".new", r.path)
	}
	if r.file != nil {
		_ = r.file.Close() // it is replaced
	}
	r.file, r.size = f, int64(text.Len())
	if err != nil {
		r.path = ""
	}
}

// Close removes the file: the job has ended.
func (r *Record) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		_ = r.file.Close()
		_ = os.Remove(r.file.Name())
		_ = os.Remove(strings.TrimSuffix(r.file.Name(), ".new"))
	}
	r.file, r.path = nil, ""
}

// object tells objects apart. An API version does not: one object is served in several.
type object struct{ group, resource, namespace, name string }

// Add takes in a write. What an answer does not say of an object, an earlier one of the same object has said.
func (r *Record) Add(w Written) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(r.add(w))
}

// add gives what is known of the object now.
func (r *Record) add(w Written) Written {
	key := object{w.Group, w.Resource, w.Namespace, w.Name}
	at := r.by[key]
	if at == nil {
		if r.by == nil {
			r.by = map[object]*list.Element{}
		}
		r.by[key] = r.list.PushBack(w)
		if r.list.Len() > maxRecorded {
			oldest, _ := r.list.Remove(r.list.Front()).(Written)
			delete(r.by, object{oldest.Group, oldest.Resource, oldest.Namespace, oldest.Name})
		}
		return w
	}
	before, _ := at.Value.(Written)
	if before.Verb != "delete" {
		w.Created = w.Created || before.Created && w.Verb != "delete"
		if w.Kind == "" {
			w.Kind = before.Kind
		}
		if w.UID == "" {
			w.UID = before.UID
		}
	}
	at.Value = w
	r.list.MoveToBack(at)
	return w
}

// Written gives what was written so far.
func (r *Record) Written() []Written {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Written, 0, r.list.Len())
	for at := r.list.Front(); at != nil; at = at.Next() {
		if w, ok := at.Value.(Written); ok {
			out = append(out, w)
		}
	}
	return out
}
