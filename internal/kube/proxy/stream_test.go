package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// kubelet stands for an API server whose nodes run pods, which the embedded ones do not: it answers exec in both protocols with the
// command and what comes on the standard input, and follows a log. It notes who asks.
type kubelet struct {
	asked chan http.Header
	more  chan string // lines of the log
	gone  chan struct{}
}

func newKubelet(w *world) *kubelet {
	k := &kubelet{asked: make(chan http.Header, 10), more: make(chan string), gone: make(chan struct{}, 10)}
	server := httptest.NewUnstartedServer(k)
	server.EnableHTTP2 = true // as an API server, which then cannot switch to another protocol
	server.StartTLS()
	w.Cleanup(server.Close)
	var err error
	w.Proxy, err = New(&rest.Config{Host: server.URL, BearerToken: "keelson's own", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, Options{})
	w.must(err)
	w.serve(w.Server())
	return k
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.asked <- r.Header.Clone()
	defer func() { k.gone <- struct{}{} }()
	switch {
	case strings.HasSuffix(r.URL.Path, "/log"):
		for {
			select {
			case line := <-k.more:
				fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case r.Header.Get("Upgrade") == "websocket":
		websocket.Server{Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{"v5.channel.k8s.io"}
			return nil
		}, Handler: func(c *websocket.Conn) { k.websocket(c, r) }}.ServeHTTP(w, r)
	default:
		k.spdy(w, r)
	}
}

// websocket speaks v5.channel.k8s.io: the first byte of a message is its channel, 255 closes one.
func (k *kubelet) websocket(c *websocket.Conn, r *http.Request) {
	send := func(channel byte, text string) {
		_ = websocket.Message.Send(c, append([]byte{channel}, text...))
	}
	send(1, fmt.Sprintln(r.URL.Query()["command"]))
	for {
		var message []byte
		if err := websocket.Message.Receive(c, &message); err != nil {
			return
		}
		if len(message) == 2 && message[0] == 255 {
			break
		}
		send(1, string(message[1:]))
	}
	send(3, `{"status": "Success"}`)
	_ = c.WriteClose(1000)
}

func (k *kubelet) spdy(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 3)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	of := map[string]httpstream.Stream{}
	for range 3 {
		select {
		case s := <-streams:
			of[s.Headers().Get("streamType")] = s
		case <-time.After(limit):
			return
		}
	}
	fmt.Fprintln(of["stdout"], r.URL.Query()["command"])
	if _, err := io.Copy(of["stdout"], of["stdin"]); err != nil {
		return
	}
	of["stdout"].Close()
	fmt.Fprint(of["error"], `{"status": "Success"}`)
	of["error"].Close()
	select {
	case <-conn.CloseChan():
	case <-time.After(limit):
	}
}

// exec makes an executor of a protocol, as kubectl does.
func (w *world) exec(protocol, token string) remotecommand.Executor {
	w.Helper()
	url := w.client(token).CoreV1().RESTClient().Post().Namespace("shop").Resource("pods").Name("web").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true}, scheme.ParameterCodec).URL()
	var x remotecommand.Executor
	var err error
	if protocol == "websocket" {
		x, err = remotecommand.NewWebSocketExecutor(w.config(token), "GET", url.String())
	} else {
		x, err = remotecommand.NewSPDYExecutor(w.config(token), "POST", url)
	}
	w.must(err)
	return x
}

// exec works in both protocols, as the account, and with nothing of the client's credentials; it writes nothing.
func TestExec(t *testing.T) {
	for _, protocol := range []string{"websocket", "spdy"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t, Options{})
			k := newKubelet(w)
			token, _ := w.grant()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			var out bytes.Buffer
			err := w.exec(protocol, token).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
			if err != nil || out.String() != "[cat]\nhello" {
				t.Errorf("%q %v", out.String(), err)
			}
			var h http.Header
			select {
			case h = <-k.asked:
			default: // what it came to has been told
			}
			if user, auth := h.Get("Impersonate-User"), h.Get("Authorization"); user != "system:serviceaccount:"+w.ns+":deploy" || auth != "Bearer keelson's own" {
				t.Errorf("the server was asked as %q by %q", user, auth)
			}
			if told := w.written(); len(told) > 0 {
				t.Errorf("told %q", told)
			}
		})
	}
}

// exec is cut off when its token ends, on both sides.
func TestExecEnds(t *testing.T) {
	for _, protocol := range []string{"websocket", "spdy"} {
		t.Run(protocol, func(t *testing.T) {
			w := newWorld(t, Options{})
			k := newKubelet(w)
			token, revoke := w.grant()
			stdin, typing := io.Pipe()
			defer typing.Close()
			ended := make(chan error, 1)
			out := &signalled{seen: make(chan struct{})}
			go func() {
				ended <- w.exec(protocol, token).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: stdin, Stdout: out})
			}()
			select {
			case <-out.seen:
			case err := <-ended:
				t.Fatalf("it has ended before: %v", err)
			case <-time.After(limit):
				t.Fatal("it says nothing")
			}
			revoke()
			if !came(ended) {
				t.Error("the client goes on")
			}
			if !came(k.gone) {
				t.Error("the server goes on")
			}
		})
	}
}

// signalled tells when something is written.
type signalled struct {
	buf  bytes.Buffer
	seen chan struct{}
}

func (s *signalled) Write(p []byte) (int, error) {
	if s.buf.Len() == 0 {
		close(s.seen)
	}
	return s.buf.Write(p)
}

// came tells whether something comes out of a channel in time.
func came[T any](c <-chan T) bool {
	select {
	case <-c:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

// A log that is followed comes line by line.
func TestFollow(t *testing.T) {
	w := newWorld(t, Options{})
	k := newKubelet(w)
	token, revoke := w.grant()
	stream := make(chan io.ReadCloser)
	go func() {
		body, err := w.client(token).CoreV1().Pods("shop").GetLogs("web", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
		if err != nil {
			t.Error(err)
		}
		stream <- body
	}()
	k.more <- "one"
	body := <-stream
	defer body.Close()
	for _, want := range []string{"one\n", "two\n"} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != want {
			t.Fatalf("%q %v, want %q", got, err, want)
		}
		if want == "one\n" {
			k.more <- "two"
		}
	}
	revoke()
	if _, err := body.Read(make([]byte, 1)); err == nil {
		t.Error("it goes on")
	}
	if !came(k.gone) {
		t.Error("the server goes on")
	}
}
