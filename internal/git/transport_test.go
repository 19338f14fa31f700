package git_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"keelson.dev/keelson/internal/git"
	"keelson.dev/keelson/internal/githost"
)

func keyPair(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// sshd is a real ssh server on loopback that runs git-upload-pack, for one key and the user git.
type sshd struct {
	addr     string
	host     ssh.Signer
	identity string
	logins   atomic.Int64
	env      atomic.Value // what the last client set
}

func newSSHD(t *testing.T, root string) *sshd {
	t.Helper()
	s := &sshd{}
	var user ssh.Signer
	user, s.identity = keyPair(t)
	s.host, _ = keyPair(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || string(key.Marshal()) != string(user.PublicKey().Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}}
	// A server has keys of several types: the client asks for the one it knows.
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ssh.NewSignerFromKey(other)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(second)
	config.AddHostKey(s.host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.addr = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn, config, root)
		}
	}()
	return s
}

func (s *sshd) serve(conn net.Conn, config *ssh.ServerConfig, root string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	s.logins.Add(1)
	go ssh.DiscardRequests(requests)
	for c := range channels {
		ch, reqs, err := c.Accept()
		if err != nil {
			return
		}
		go s.session(ch, reqs, root)
	}
}

func (s *sshd) session(ch ssh.Channel, reqs <-chan *ssh.Request, root string) {
	env := os.Environ()
	for req := range reqs {
		switch req.Type {
		case "env":
			var kv struct{ Name, Value string }
			ssh.Unmarshal(req.Payload, &kv)
			env = append(env, kv.Name+"="+kv.Value)
			s.env.Store(kv.Name + "=" + kv.Value)
			req.Reply(true, nil)
		case "exec":
			var line struct{ Command string }
			ssh.Unmarshal(req.Payload, &line)
			req.Reply(true, nil)
			// As a login shell does: the command is one line for sh.
			cmd := exec.Command("sh", "-c", strings.Replace(line.Command, "'/", "'"+root+"/", 1))
			cmd.Env, cmd.Stdout, cmd.Stderr = env, ch, ch.Stderr()
			in, _ := cmd.StdinPipe()
			go func() {
				io.Copy(in, ch)
				in.Close()
			}()
			status := struct{ Status uint32 }{}
			if err := cmd.Run(); err != nil {
				status.Status = 128
			}
			ch.SendRequest("exit-status", false, ssh.Marshal(status))
			ch.Close()
			return
		default:
			req.Reply(false, nil)
		}
	}
}

func (s *sshd) knownHosts() string { return knownhosts.Line([]string{s.addr}, s.host.PublicKey()) }

func (s *sshd) auth() git.Auth { return git.Auth{Identity: s.identity, KnownHosts: s.knownHosts()} }

func TestSSH(t *testing.T) {
	host, _ := server(t, false)
	first := commit(t, hosted(t, host, "its"), "", fstest.MapFS{"a.txt": file("over ssh")})
	s := newSSHD(t, filepath.Dir(host.Dir("its")))
	remote := git.Remote{URL: "ssh://" + s.addr + "/its.git", Auth: s.auth()}
	refs, err := git.LsRemote(t.Context(), remote, "refs/heads/main")
	if err != nil || refs["refs/heads/main"] != first {
		t.Fatalf("LsRemote = %v, %v", refs, err)
	}
	if got := s.env.Load(); got != "GIT_PROTOCOL=version=2" {
		t.Errorf("the protocol asked for is %v", got)
	}
	r := initRepo(t, git.Options{})
	if err := r.Fetch(t.Context(), remote, git.FetchOptions{Refspecs: []string{"+" + first + ":refs/x"}, Depth: 1}); err != nil {
		t.Fatal(err)
	}
	tree, err := r.Tree(first)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tree.ReadFile("a.txt"); err != nil || string(b) != "over ssh" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
}

func TestSSHFailures(t *testing.T) {
	host, _ := server(t, false)
	commit(t, hosted(t, host, "r"), "", fstest.MapFS{"a.txt": file("x")})
	s := newSSHD(t, filepath.Dir(host.Dir("r")))
	foreign, foreignKey := keyPair(t)
	block, err := ssh.ParseRawPrivateKey([]byte(s.identity))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ssh.MarshalPrivateKeyWithPassphrase(*block.(*ed25519.PrivateKey), "", []byte("open-sesame"))
	if err != nil {
		t.Fatal(err)
	}
	encrypted := string(pem.EncodeToMemory(sealed))
	tests := map[string]struct {
		change func(*git.Remote)
		want   error
		text   string
	}{
		"good":             {func(*git.Remote) {}, nil, ""},
		"good passphrase":  {func(r *git.Remote) { r.Auth.Identity, r.Auth.Passphrase = encrypted, "open-sesame" }, nil, ""},
		"plain and phrase": {func(r *git.Remote) { r.Auth.Passphrase = "not needed" }, nil, ""},
		"no passphrase":    {func(r *git.Remote) { r.Auth.Identity = encrypted }, git.ErrAuth, "the key in identity is encrypted"},
		"wrong passphrase": {func(r *git.Remote) { r.Auth.Identity, r.Auth.Passphrase = encrypted, "wr0ng-phrase" }, git.ErrAuth, "the password does not open the key"},
		"unknown host": {func(r *git.Remote) {
			r.Auth.KnownHosts = knownhosts.Line([]string{"other.example"}, s.host.PublicKey())
		}, git.ErrAuth, "unknown: known_hosts has no entry for it"},
		"wrong host key": {func(r *git.Remote) {
			r.Auth.KnownHosts = knownhosts.Line([]string{s.addr}, foreign.PublicKey())
		}, git.ErrAuth, "is not the one in known_hosts"},
		"insecure":        {func(r *git.Remote) { r.Auth.KnownHosts, r.Auth.Insecure = "", true }, nil, ""},
		"bad known_hosts": {func(r *git.Remote) { r.Auth.KnownHosts = "what is this" }, git.ErrAuth, "known_hosts: "},
		"foreign key":     {func(r *git.Remote) { r.Auth.Identity = foreignKey }, git.ErrAuth, "does not accept the key in identity for the user git"},
		"other user":      {func(r *git.Remote) { r.Auth.Username = "root" }, git.ErrAuth, "for the user root"},
		"no key at all":   {func(r *git.Remote) { r.Auth = git.Auth{} }, git.ErrAuth, "ssh needs a private key (identity)"},
		"garbage":         {func(r *git.Remote) { r.Auth.Identity = "s3cret-but-no-key" }, git.ErrAuth, "identity holds no private key"},
		"no repository":   {func(r *git.Remote) { r.URL = "ssh://" + s.addr + "/none.git" }, git.ErrRepoNotFound, "none.git"},
		"nobody there":    {func(r *git.Remote) { r.URL = "ssh://127.0.0.1:1/r.git" }, git.ErrUnreachable, "127.0.0.1:1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			remote := git.Remote{URL: "ssh://" + s.addr + "/r.git", Auth: s.auth()}
			tt.change(&remote)
			_, err := git.LsRemote(t.Context(), remote)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not say %q", err, tt.text)
			}
			for _, secret := range []string{"wr0ng-phrase", "s3cret-but-no-key", "PRIVATE KEY"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells a secret: %v", err)
				}
			}
		})
	}
}

// A server that takes the connection and says nothing is given up in time.
func TestSSHSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	signer, identity := keyPair(t)
	ctx, cancel := contextWithTimeout(t, 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = git.LsRemote(ctx, git.Remote{URL: "ssh://" + l.Addr().String() + "/r.git", Auth: git.Auth{
		Identity: identity, KnownHosts: knownhosts.Line([]string{l.Addr().String()}, signer.PublicKey())}})
	if !errors.Is(err, git.ErrUnreachable) || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	der, key := a.issue(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.pem = key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func (a *authority) issue(t *testing.T, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// pair issues a certificate for loopback, as PEM.
func (a *authority) pair(t *testing.T) (string, string) {
	t.Helper()
	der, key := a.issue(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func TestTLS(t *testing.T) {
	host, _ := server(t, false)
	first := commit(t, hosted(t, host, "r"), "", fstest.MapFS{"a.txt": file("x")})
	ca := newAuthority(t)
	cert, key := ca.pair(t)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	start := func(clientAuth tls.ClientAuthType) string {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if rest, ok := strings.CutPrefix(r.URL.Path, "/old"); ok {
				http.Redirect(w, r, rest+"?"+r.URL.RawQuery, http.StatusFound)
				return
			}
			host.ServeHTTP(w, r)
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: clientAuth, ClientCAs: roots}
		s.Config.ErrorLog = nil
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.URL
	}
	plain, mutual := start(tls.NoClientCert), start(tls.RequireAndVerifyClientCert)
	clientCert, clientKey := ca.pair(t)
	foreignCert, foreignKey := newAuthority(t).pair(t)
	tests := map[string]struct {
		url  string
		auth git.Auth
		want error
	}{
		"authority":                {plain, git.Auth{CA: ca.pem}, nil},
		"no authority":             {plain, git.Auth{}, git.ErrUnreachable},
		"insecure":                 {plain, git.Auth{Insecure: true}, nil},
		"insecure and redirected":  {mutual + "/old", git.Auth{Insecure: true, ClientCert: clientCert, ClientKey: clientKey}, nil},
		"another authority":        {plain, git.Auth{CA: foreignCert}, git.ErrUnreachable},
		"client certificate":       {mutual, git.Auth{CA: ca.pem, ClientCert: clientCert, ClientKey: clientKey}, nil},
		"no client certificate":    {mutual, git.Auth{CA: ca.pem}, git.ErrUnreachable},
		"foreign certificate":      {mutual, git.Auth{CA: ca.pem, ClientCert: foreignCert, ClientKey: foreignKey}, git.ErrUnreachable},
		"redirect within the host": {mutual + "/old", git.Auth{CA: ca.pem, ClientCert: clientCert, ClientKey: clientKey}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			refs, err := git.LsRemote(t.Context(), git.Remote{URL: tt.url + githost.Prefix + "r.git", Auth: tt.auth}, "refs/heads/main")
			if !errors.Is(err, tt.want) || err == nil && refs["refs/heads/main"] != first {
				t.Errorf("LsRemote = %v, %v", refs, err)
			}
			if err != nil {
				t.Log(err)
			}
		})
	}
}

// proxyServer is an HTTP proxy for anything on loopback that wants a user and a password.
func proxyServer(t *testing.T, user, password string) (string, *atomic.Int64) {
	t.Helper()
	used := &atomic.Int64{}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user != "" && r.Header.Get("Proxy-Authorization") != want {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		used.Add(1)
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			for k, v := range resp.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(resp.StatusCode)
			io.Copy(w, resp.Body)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(to, buf); to.Close() }()
		io.Copy(conn, to)
		conn.Close()
	}))
	t.Cleanup(s.Close)
	return s.URL, used
}

// socksServer is a SOCKS5 proxy (RFC 1928) with user and password (RFC 1929).
func socksServer(t *testing.T, user, password string) (string, *atomic.Int64) {
	t.Helper()
	used := &atomic.Int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	read := func(c net.Conn, n int) []byte {
		b := make([]byte, n)
		io.ReadFull(c, b)
		return b
	}
	serve := func(c net.Conn) {
		defer c.Close()
		read(c, int(read(c, 2)[1]))
		c.Write([]byte{5, 2})
		name := read(c, int(read(c, 2)[1]))
		pass := read(c, int(read(c, 1)[0]))
		if string(name) != user || string(pass) != password {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
		var host string
		switch read(c, 4)[3] {
		case 1:
			host = net.IP(read(c, 4)).String()
		case 3:
			host = string(read(c, int(read(c, 1)[0])))
		default:
			return
		}
		to, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(read(c, 2)))))
		if err != nil {
			return
		}
		used.Add(1)
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		go func() { io.Copy(to, c); to.Close() }()
		io.Copy(c, to)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return "socks5://" + l.Addr().String(), used
}

func TestProxy(t *testing.T) {
	t.Setenv("NO_PROXY", "127.0.0.1")
	t.Setenv("no_proxy", "127.0.0.1")
	host, base := server(t, false)
	first := commit(t, hosted(t, host, "r"), "", fstest.MapFS{"a.txt": file("x")})
	s := newSSHD(t, filepath.Dir(host.Dir("r")))
	const user, password = "prox", "pr0xy-p@ss"
	proxies := map[string]func(*testing.T, string, string) (string, *atomic.Int64){"http": proxyServer, "socks5": socksServer}
	for kind, start := range proxies {
		address, used := start(t, user, password)
		with := func(u *url.Userinfo) string {
			p, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			p.User = u
			return p.String()
		}
		for name, remote := range map[string]git.Remote{"http": {URL: base + "r.git"}, "ssh": {URL: "ssh://" + s.addr + "/r.git", Auth: s.auth()}} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				before := used.Load()
				remote.Auth.Proxy = with(url.UserPassword(user, password))
				refs, err := git.LsRemote(t.Context(), remote, "refs/heads/main")
				if err != nil || refs["refs/heads/main"] != first || used.Load() == before {
					t.Errorf("LsRemote = %v, %v; the proxy was used %d times", refs, err, used.Load()-before)
				}
				remote.Auth.Proxy = with(url.UserPassword(user, "wr0ng-one"))
				_, err = git.LsRemote(t.Context(), remote)
				if err == nil || strings.Contains(err.Error(), "wr0ng-one") {
					t.Errorf("with another password: %v", err)
				}
				t.Log(err)
				before = used.Load()
				remote.Auth.NoProxy = "example.com,127.0.0.1"
				if refs, err := git.LsRemote(t.Context(), remote, "refs/heads/main"); err != nil || refs["refs/heads/main"] != first || used.Load() != before {
					t.Errorf("a host that the proxy is not for: %v, %v; the proxy was used %d times", refs, err, used.Load()-before)
				}
			})
		}
	}
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
