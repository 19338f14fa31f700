package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson.dev/keelson/internal/pipeline/artifact"
)

// link is the way to Keelson. It tries again for as long as Keelson is away.
type link struct {
	url, token string
	client     *http.Client

	mu     sync.Mutex
	server string // that was heard of last
}

// goneError ends the agent: Keelson does not want the job any more.
type goneError struct{ what string }

func (e *goneError) Error() string { return e.what }

// refusedError says that Keelson has read a request and does not take it.
type refusedError struct{ what string }

func (e *refusedError) Error() string { return e.what }

func newLink(dir string) (*link, error) {
	read := func(name string) (string, error) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(text)), err
	}
	url, err := read(FileURL)
	if err != nil {
		return nil, fmt.Errorf("read where Keelson is: %w", err)
	}
	token, err := read(FileToken)
	if err != nil {
		return nil, fmt.Errorf("read the job's token: %w", err)
	}
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * PollWait,
		MaxIdleConnsPerHost:   4,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	if ca, err := read(FileCA); err == nil && ca != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("the certificates of Keelson cannot be read")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &link{url: url, token: token, client: &http.Client{Transport: transport}}, nil
}

// do sends one request.
func (l *link) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, l.url+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+l.token)
	answer, err := l.client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // what cannot be read says nothing
	what := strings.TrimSpace(string(text))
	if what == "" {
		what = answer.Status
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusGone:
		return nil, &goneError{what}
	case http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return nil, &refusedError{what}
	}
	return nil, errors.New(what)
}

// backoff waits longer each time, up to a few seconds; false: ctx has ended.
func backoff(ctx context.Context, attempt int) bool {
	wait := min(20*time.Millisecond<<min(attempt, 20), 3*time.Second)
	select {
	case <-time.After(wait/2 + rand.N(wait/2+1)):
		return true
	case <-ctx.Done():
		return false
	}
}

// tell is after how many attempts somebody is told that there is no answer.
const tell = 8

// poll tells Keelson how the job is, until there is an order. An error: nobody wants the job, or ctx has ended.
func (l *link) poll(ctx context.Context, s Status, mask []string) (Order, error) {
	for attempt := 0; ; attempt++ {
		l.mu.Lock()
		s.Server, s.Mask = l.server, nil
		l.mu.Unlock()
		if attempt > 0 || s.Server == "" {
			s.Mask = mask
		}
		order, err := l.pollOnce(ctx, s)
		var gone *goneError
		switch {
		case errors.As(err, &gone):
			return Order{}, err
		case err == nil && order.Server != s.Server:
			l.mu.Lock()
			l.server = order.Server
			l.mu.Unlock()
			attempt = 0 // so that it is told what to mask at once
			continue
		case err == nil:
			return order, nil
		}
		if attempt == tell && ctx.Err() == nil { // for who looks at the container's own log
			fmt.Fprintf(os.Stderr, "Keelson does not answer at %s, and is asked again: %v\n", l.url, err)
		}
		if !backoff(ctx, attempt) {
			return Order{}, ctx.Err()
		}
	}
}

func (l *link) pollOnce(ctx context.Context, s Status) (Order, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return Order{}, err
	}
	answer, err := l.do(ctx, http.MethodPost, "/poll", bytes.NewReader(body))
	if err != nil {
		return Order{}, err
	}
	defer answer.Body.Close()
	var o Order
	err = json.NewDecoder(io.LimitReader(answer.Body, MaxOrder)).Decode(&o)
	return o, err
}

// sendLog sends what the job writes, for ever.
func (l *link) sendLog(o *outbox) {
	var buf []byte
	for attempt := 0; ; {
		var offset int64
		buf, offset = o.next(buf)
		state, err := l.sendChunk(buf, offset)
		if err == nil {
			o.took(state)
			attempt = 0
			continue
		}
		o.again()
		backoff(context.Background(), attempt)
		attempt++
	}
}

func (l *link) sendChunk(chunk []byte, offset int64) (LogState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // Keelson may wait for who reads the log
	defer cancel()
	answer, err := l.do(ctx, http.MethodPost, "/log?offset="+strconv.FormatInt(offset, 10), bytes.NewReader(chunk))
	if err != nil {
		return LogState{}, err
	}
	defer answer.Body.Close()
	var s LogState
	err = json.NewDecoder(io.LimitReader(answer.Body, 1<<10)).Decode(&s)
	return s, err
}

// reading remembers why a body could not be read to its end.
type reading struct {
	io.Reader
	err error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// limits are those of the job's directory in the Pod: its disk is the node's, which bounds it.
var limits = artifact.Limits{Bytes: 1 << 40, Files: 5_000_000}

// download gets the job's directory.
func (l *link) download(ctx context.Context, dir string) error {
	for attempt := 0; ; attempt++ {
		answer, err := l.do(ctx, http.MethodGet, "/files", nil)
		if err == nil {
			body := &reading{Reader: answer.Body}
			err = artifact.Unpack(ctx, body, dir, limits)
			answer.Body.Close()
			if err == nil || body.err == nil {
				return err
			}
		}
		if final(err) || !backoff(ctx, attempt) {
			return err
		}
	}
}

// final tells whether it makes no sense to try again.
func final(err error) bool {
	var gone *goneError
	var refused *refusedError
	return errors.As(err, &gone) || errors.As(err, &refused)
}

// upload sends what is selected of the job's directory.
func (l *link) upload(ctx context.Context, dir string, selected []artifact.Selection, tracked []string) error {
	for attempt := 0; ; attempt++ {
		r, w := io.Pipe()
		packed := make(chan error, 1)
		go func() {
			err := artifact.PackSelected(ctx, w, dir, selected, tracked, limits)
			w.CloseWithError(err)
			packed <- err
		}()
		answer, err := l.do(ctx, http.MethodPut, "/files", r)
		_ = r.Close() // it never fails
		perr := <-packed
		if err == nil {
			answer.Body.Close()
			return nil
		}
		if final(err) {
			return err
		}
		if perr != nil && !errors.Is(perr, io.ErrClosedPipe) { // the files cannot be read
			return perr
		}
		if !backoff(ctx, attempt) {
			return err
		}
	}
}
