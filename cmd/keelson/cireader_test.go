package main

import (
	"bytes"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline/run"
)

// gate is a writer that waits until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	b    bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func unreadBounds(t *testing.T, all, free int) {
	allBefore, freeBefore := maxUnread, freeWords
	maxUnread, freeWords = all, free
	t.Cleanup(func() { maxUnread, freeWords = allBefore, freeBefore })
}

// A reader who does not read keeps neither time limits nor other jobs nor interrupts waiting.
func TestReaderWhoDoesNotRead(t *testing.T) {
	chdir(t, "main")
	unreadBounds(t, 64<<10, 16<<10)
	if err := os.WriteFile(".gitlab-ci.yml", []byte(`
noisy:
  script: yes again
  timeout: 1 seconds
  allow_failure: true
next:
  needs: [noisy]
  script: touch next
long:
  script: sleep 600
`), 0o644); err != nil {
		t.Fatal(err)
	}
	out := &gate{open: make(chan struct{})}
	defer close(out.open)
	over := make(chan error, 1)
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	go func() {
		g := &global{streams: streams{out: out, err: &bytes.Buffer{}}}
		over <- runCIRun(ctx, g, ciRunOptions{store: filepath.Join(t.TempDir(), "store")}, nil)
	}()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat("next"); err == nil {
			break
		}
		select {
		case err := <-over:
			t.Fatal(err)
		default:
		}
		if time.Since(start) > 60*time.Second {
			t.Fatal("the job that waits for the noisy one has not run")
		}
	}
	for start := time.Now(); ; {
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // somebody listens as long as it runs
		select {
		case err := <-over:
			if exitCode(err) != exitFailure {
				t.Error(err)
			}
			return
		case <-time.After(200 * time.Millisecond):
		}
		if time.Since(start) > 60*time.Second {
			t.Fatal("interrupts do not end it")
		}
	}
}

// A slow reader gets everything, in its order.
func TestSlowReader(t *testing.T) {
	unreadBounds(t, 10, 0)
	w := &gate{open: make(chan struct{})}
	r := newReader(w, nil)
	s := newPacedSink(run.JSON(r), r)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range 100 {
			s.Log(run.JobRef{ID: 1, Job: "a"}, []byte("x\n"))
		}
	}()
	s.Event(run.Event{Kind: run.KindPipeline, To: "running"})
	time.Sleep(50 * time.Millisecond)
	select {
	case <-told:
		t.Error("the job does not wait")
	default:
	}
	close(w.open)
	<-told
	s.Event(run.Event{Kind: run.KindPipeline, To: "success"})
	r.close()
	got := w.b.String()
	if n := strings.Count(got, `"text":"x"`); n != 100 || !strings.Contains(got[strings.LastIndex(strings.TrimSpace(got), "\n"):], `"success"`) {
		t.Errorf("%d lines\n%s", n, got)
	}
}

// From when a job hurries on, what it says is dropped where there is no room, which is said.
func TestHurry(t *testing.T) {
	unreadBounds(t, 10, 0)
	w := &gate{open: make(chan struct{})}
	r := newReader(w, nil)
	s, ref := newPacedSink(run.JSON(r), r), run.JobRef{ID: 1, Job: "a"}
	s.Log(ref, []byte("first\n"))
	told := make(chan struct{})
	go func() {
		defer close(told)
		s.Log(ref, []byte("second\n"))
		s.Log(ref, []byte("third\n"))
	}()
	s.Hurry(ref)
	<-told
	close(w.open)
	r.close()
	if got := w.b.String(); !strings.Contains(got, "first") || strings.Contains(got, "second") || strings.Contains(got, "third") || strings.Count(got, "output is missing here") != 1 {
		t.Error(got)
	}
}
