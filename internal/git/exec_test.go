package git

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestClassifyRemoteText: only git's own words say that a repository here is damaged; a remote could have a mirror thrown away.
func TestClassifyRemoteText(t *testing.T) {
	for stderr, damaged := range map[string]bool{
		"fatal: loose object 12 (stored in x) is corrupt\n":               true,
		"remote: counting\nerror: packfile x.pack does not match index\n": true,
		"fatal: remote error: is corrupt\n":                               false,
		"fatal: remote error: sorry\nfatal: loose object\n":               false,
		"remote: packfile\nremote: is corrupt\nfatal: no\n":               false,
		"remote: a\rremote: is corrupt\n":                                 false,
	} {
		if err := classify("fetch", stderr, errors.New("exit status 128")); errors.Is(err, ErrCorrupt) != damaged {
			t.Errorf("%q: %v", stderr, err)
		}
	}
}

// TestClassifyNamesNoURL: those who asked say which repository it was; git's own mention of it would be one more.
func TestClassifyNamesNoURL(t *testing.T) {
	err := classify("ls-remote", "fatal: unable to access 'http://127.0.0.1:1/gone.git/': Failed to connect to 127.0.0.1 port 1 after 7 ms: Couldn't connect to server\n", errors.New("exit status 128"))
	const want = "git ls-remote: remote is unreachable: Failed to connect to 127.0.0.1 port 1: Couldn't connect to server"
	if !errors.Is(err, ErrUnreachable) || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// TestTunnelBoundsTheHeader: a proxy that never ends its header is given up, not kept in memory.
func TestTunnelBoundsTheHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20))
				<-done
			}()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = tunnel(ctx, &net.Dialer{}, &url.URL{Scheme: "http", Host: l.Addr().String()}, "example.com:22")
	if err == nil || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// TestTunnelCarriesMuch: the bound is the header's alone.
func TestTunnelCarriesMuch(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 1<<20))
			conn.(*net.TCPConn).CloseWrite()
		}
	}()
	conn, err := tunnel(t.Context(), &net.Dialer{}, &url.URL{Scheme: "http", Host: l.Addr().String()}, "example.com:22")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := io.Copy(io.Discard, conn); n != 1<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestUserEnviron: all that this git names as a repository's own is left out, but for configuration.
func TestUserEnviron(t *testing.T) {
	out, err := exec.Command("git", "rev-parse", "--local-env-vars").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(strings.Fields(string(out)), "GIT_AUTHOR_NAME") {
		t.Setenv(name, "x")
	}
	env := UserEnviron()
	for _, name := range strings.Fields(string(out)) {
		kept := name == "GIT_CONFIG_COUNT" || name == "GIT_CONFIG_PARAMETERS"
		if slices.Contains(env, name+"=x") != kept {
			t.Errorf("%s: kept %t", name, !kept)
		}
	}
	if !slices.Contains(env, "GIT_AUTHOR_NAME=x") {
		t.Error("the author is gone")
	}
}
