package artifact

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
)

// TestRead: what a job has left can be listed and read file by file, and says so where it is gone, lost or another one's.
func TestRead(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	root := t.TempDir()
	s, err := Open(root, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := t.TempDir()
	large := strings.Repeat("0123456789", 600_000) // more than a bundle takes
	for name, text := range map[string]string{"a/one": "first", "a/two": "second", "a/empty": "", "large": large} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := Key{Project: "group/app", Pipeline: "7", Job: "build"}
	for _, k := range []Key{key, {"group/app", "7", "another"}, {"group/app", "77", "build"}, {"group/other", "7", "build"}} {
		what := &pipeline.Artifacts{Paths: []string{"a", "large"}, ExpireIn: pipeline.Duration(time.Hour)}
		if _, err := s.Save(t.Context(), k, what, Work{Dir: dir}, true); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.OfPipeline(t.Context(), "group/app", "7")
	if err != nil || len(all) != 2 || all[0].Job != "another" || all[1].Job != "build" {
		t.Fatalf("%+v %v", all, err)
	}
	rec := &all[1]
	files, err := s.Files(t.Context(), rec, "", 3)
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	if want := []string{"a/empty", "a/one", "a/two"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("have %v, want %v; %v", names, want, err)
	}

	// Whole, and from any place on.
	for name, want := range map[string]string{"a/one": "first", "a/two": "second", "a/empty": "", "large": large} {
		f, err := s.Open(t.Context(), rec, "", name)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []int{0, len(want) / 2, len(want), 0} {
			if _, err := f.Seek(int64(from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if have, err := io.ReadAll(f); err != nil || string(have) != want[from:] {
				t.Errorf("%s from %d: %d bytes, want %d; %v", name, from, len(have), len(want)-from, err)
			}
		}
		if end, err := f.Seek(-1, io.SeekEnd); want != "" && (err != nil || end != int64(len(want)-1)) {
			t.Errorf("%s: %d %v", name, end, err)
		}
		if _, err := f.Seek(-1, io.SeekStart); err == nil {
			t.Errorf("%s: before its beginning", name)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "a", "nosuch", "../large", "/large", "a/../large"} {
		if _, err := s.Open(t.Context(), rec, "", name); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Files(t.Context(), rec, "junit", 1); !errors.Is(err, ErrNone) {
		t.Error(err)
	}

	// Those that are kept do not expire; others do.
	if err := s.Keep(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), Key{Project: "group/app", Pipeline: "7", Job: "nosuch"}); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	now = now.Add(2 * time.Hour)
	var missing *MissingError
	if _, err := s.Open(t.Context(), &all[0], "", "a/one"); !errors.As(err, &missing) || !strings.Contains(missing.Why[0], "expired 1h0m0s ago") {
		t.Error(err)
	}
	if err := s.Keep(t.Context(), all[0].Key); !errors.As(err, &missing) {
		t.Error(err)
	}
	kept, err := s.Get(t.Context(), key)
	if err != nil || !kept.Expires.IsZero() || s.Gone(kept) != "" {
		t.Fatalf("%+v %v", kept, err)
	}

	// What the store has lost is no end of a file.
	f, err := s.Open(t.Context(), kept, "", "large")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(root, blobKey(f.entry.Blob)), 1000); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, f); err == nil {
		t.Errorf("%d bytes of a file that was cut off are read as a whole one", n)
	}
	if err := os.RemoveAll(filepath.Join(root, "blobs")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Files(t.Context(), kept, "", 10); !errors.As(err, &missing) || !strings.Contains(missing.Why[0], "lost") {
		t.Error(err)
	}
}
