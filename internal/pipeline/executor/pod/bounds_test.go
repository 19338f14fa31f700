package pod

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
)

// drip begins to send what a job leaves, and goes on with a byte now and then for as long as the other side takes them.
func (s *served) drip(url string) (ended <-chan struct{}) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		q, err := http.NewRequestWithContext(s.Context(), http.MethodPut, url+Path+"5/files", r)
		if err != nil {
			s.Error(err)
			return
		}
		q.Header.Set("Authorization", "Bearer "+s.x.o.token(5))
		if answer, err := http.DefaultClient.Do(q); err == nil {
			answer.Body.Close()
		}
		r.Close()
	}()
	go func() {
		text := "keelson-files/1\n\x00\x00\x00\x00\x00\x0f\x00\x00"
		for { // the beginning of a bundle whose list is long
			if _, err := w.Write([]byte(text)); err != nil {
				return
			}
			text = " "
			time.Sleep(time.Millisecond)
		}
	}()
	return done
}

// What an agent sends drop by drop keeps no job from its end.
func TestDrip(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	server := httptest.NewServer(s.x.Handler())
	t.Cleanup(server.Close)
	s.j.heed(agent.Status{Server: s.x.name, Phase: agent.Script})
	s.j.order = agent.Order{Phase: agent.Upload, Uploads: 1}
	s.j.ctx = t.Context()
	dripping := s.drip(server.URL)
	for taken := false; !taken; time.Sleep(time.Millisecond) {
		s.j.mu.Lock()
		taken = s.j.upload != nil
		s.j.mu.Unlock()
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.j.finish(executor.Failed(pipeline.ScriptFailure, "it failed"))
	}()
	for _, end := range []<-chan struct{}{finished, dripping} {
		select {
		case <-end:
		case <-time.After(20 * time.Second):
			t.Fatal("the job waits for its agent")
		}
	}
}

// A transfer has to move, to keep a pace, and to end.
func TestTransferBounds(t *testing.T) {
	begun := time.Unix(1000, 0)
	for name, tt := range map[string]struct {
		after   time.Duration
		size    int64
		waiting int32         // other jobs
		want    time.Duration // since it began
	}{
		"its first byte":              {0, 0, 0, stall},
		"it drips":                    {stall - time.Second, 100, 0, stall},
		"it keeps a pace":             {10 * time.Minute, 1 << 30, 1, 10*time.Minute + stall},
		"it is just slow":             {10 * time.Minute, 10 * 60 * pace, 0, 10*time.Minute + stall},
		"it does not end":             {transferLimit - time.Second, 1 << 40, 0, transferLimit},
		"it falls too far":            {10 * time.Minute, 60 * pace, 0, 2 * stall},
		"it is slow, and others wait": {10 * time.Minute, 60 * busyPace, 1, 2 * stall},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stalling{begun: begun, size: tt.size, slots: newSlots()}
			s.slots.waiting.Store(tt.waiting)
			if got := s.until(begun.Add(tt.after)).Sub(begun); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	s := &stalling{Reader: strings.NewReader("x"), slots: newSlots(), ctx: t.Context(), c: http.NewResponseController(httptest.NewRecorder()), begun: time.Now().Add(-transferLimit)}
	if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Of many uploads some wait until others are done, and a job that ends does not wait with them.
func TestUploadsWait(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	server := httptest.NewServer(s.x.Handler())
	t.Cleanup(server.Close)
	s.j.heed(agent.Status{Server: s.x.name, Phase: agent.Script})
	s.j.order = agent.Order{Phase: agent.Upload, Uploads: 1}
	for i := range maxUploads {
		if _, err := s.x.uploads.take(t.Context(), fmt.Sprint("project", i%2)); err != nil {
			t.Fatal(err)
		}
	}
	waits := s.drip(server.URL)
	for taken := false; !taken; time.Sleep(time.Millisecond) {
		s.j.mu.Lock()
		taken = s.j.upload != nil
		s.j.mu.Unlock()
	}
	s.j.refuseFiles()()
	select {
	case <-waits:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits on")
	}
}

// The uploads of one project wait for each other before they hold up those of others.
func TestUploadsOfOneProject(t *testing.T) {
	s := newSlots()
	for range maxUploadsEach {
		if _, err := s.take(t.Context(), "many"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for range 2 * maxUploads {
		go func() {
			_, err := s.take(ctx, "many")
			ended <- err
		}()
	}
	for range maxUploads - maxUploadsEach {
		done, err := s.take(t.Context(), "another")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
	}
	cancel()
	for range 2 * maxUploads {
		if err := <-ended; err == nil {
			t.Error("one project has more than its slots")
		}
	}
	if n := s.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// Nothing is written to the log of a job that is over.
func TestLogAfterEnd(t *testing.T) {
	s := serve(t, executor.Job{ID: 5})
	s.j.heed(agent.Status{Server: s.x.name, Phase: agent.Upload})
	s.j.end()
	if code, text := s.ask("POST", "5/log?offset=0", s.x.o.token(5), "late"); code != http.StatusServiceUnavailable || strings.Contains(s.log.String(), "late") {
		t.Errorf("%d %s", code, text)
	}
}
