package git

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	hostkeys "github.com/fluxcd/pkg/ssh/knownhosts" // reads text, where x/crypto's wants files
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/net/proxy"

	"keelson.dev/keelson/internal/redact"
)

// sshTimeout bounds connecting and authenticating where the caller's context does not.
const sshTimeout = 30 * time.Second

// exchangeSSH runs a command that talks to the remote over ssh. This process speaks ssh and hands git the two ends of the
// server's git-upload-pack (git-remote-fd): no other ssh program is needed, and no key leaves this process.
func (r Remote) exchangeSSH(ctx context.Context, dir string, config [][2]string, args func(url string) []string) ([]byte, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, fmt.Errorf("%s is not a valid URL", redact.URL(r.URL))
	}
	client, err := r.Auth.dialSSH(ctx, u)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: no answer from %s in time: %w", ErrUnreachable, u.Host, ctx.Err())
		}
		return nil, err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	s, err := openSession(client, u)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, u.Host, err)
	}
	out, err := run(ctx, command{
		dir: dir, args: args("fd::3"), config: config, files: []*os.File{s.git},
		env: []string{"GIT_ALLOW_PROTOCOL=fd"},
	})
	said, ended := s.close()
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: no answer from %s in time: %w", ErrUnreachable, u.Host, ctx.Err())
	}
	return nil, classifySSH(err, said, ended)
}

// session is a git-upload-pack at the server and the socket between it and git. It has to be a socket: git's processes all
// inherit their end, so the end of what they write is told by a shutdown, not by a close.
type session struct {
	*ssh.Session
	git    *os.File // git's end
	ours   *net.UnixConn
	stderr bounded
}

func openSession(client *ssh.Client, u *url.URL) (*session, error) {
	inner, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	s := &session{Session: inner, stderr: bounded{max: maxStderr}}
	inner.Stderr = &s.stderr
	stdin, err := inner.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := inner.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Servers may refuse it; they speak the older protocol then.
	_ = inner.Setenv("GIT_PROTOCOL", "version=2")
	if err := inner.Start("git-upload-pack " + quote(sshPath(u))); err != nil {
		return nil, err
	}
	if s.git, s.ours, err = socketPair(); err != nil {
		return nil, err
	}
	go func() {
		// How it ends is git's to tell.
		_, _ = io.Copy(s.ours, stdout)
		_ = s.ours.CloseWrite()
	}()
	go func() {
		defer stdin.Close()
		_, _ = io.Copy(stdin, s.ours)
	}()
	return s, nil
}

// socketPair gives the two ends of a socket: one for a child, one for this process.
func socketPair() (*os.File, *net.UnixConn, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	child, own := os.NewFile(uintptr(fds[0]), "git"), os.NewFile(uintptr(fds[1]), "ssh")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		child.Close()
		return nil, nil, err
	}
	return child, conn.(*net.UnixConn), nil
}

// close ends the session and gives what the server said, and how its program ended.
func (s *session) close() (string, error) {
	s.ours.Close() // git has ended, or never began
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		s.Session.Close()
		return s.stderr.String(), err
	case <-time.After(killDelay):
		s.Session.Close()
		return "", errors.New("the server's git-upload-pack does not end")
	}
}

// sshPath is the repository's path as the server's shell gets it: "/~user/repo" is below a home directory (as in git).
func sshPath(u *url.URL) string {
	if strings.HasPrefix(u.Path, "/~") {
		return u.Path[1:]
	}
	return u.Path
}

// quote makes one word for a shell of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// classifySSH tells why an exchange failed: servers say it on the side.
func classifySSH(err error, said string, ended error) error {
	message := summary(redact.Text(said))
	low := strings.ToLower(said)
	for _, s := range []struct {
		text  string
		cause error
	}{
		{"not found", ErrRepoNotFound}, {"does not exist", ErrRepoNotFound}, {"not appear to be a git repository", ErrRepoNotFound},
		{"could not be found", ErrRepoNotFound}, {"no such", ErrRepoNotFound}, {"not a git repository", ErrRepoNotFound},
		{"denied", ErrAuth}, {"not authorized", ErrAuth}, {"unauthorized", ErrAuth},
	} {
		if strings.Contains(low, s.text) {
			return fmt.Errorf("ssh: %w: %s", s.cause, message)
		}
	}
	if message != "" {
		return fmt.Errorf("%w; the server said: %s", err, message)
	}
	var exit *ssh.ExitError
	if errors.As(ended, &exit) && exit.ExitStatus() != 0 {
		return fmt.Errorf("%w; git-upload-pack ended with code %d", err, exit.ExitStatus())
	}
	return err
}

// dialSSH connects and authenticates.
func (a Auth) dialSSH(ctx context.Context, u *url.URL) (*ssh.Client, error) {
	config, err := a.sshConfig(u)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sshTimeout)
	defer cancel()
	addr := sshAddr(u)
	conn, err := a.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w", ErrUnreachable, addr, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, addr, config)
	if err != nil {
		conn.Close()
		return nil, explainSSH(addr, config.User, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

func sshAddr(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "22")
	}
	return net.JoinHostPort(u.Hostname(), u.Port())
}

// explainSSH tells people why a server was not believed, or does not believe us.
func explainSSH(addr, user string, err error) error {
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &key) && len(key.Want) == 0:
		return fmt.Errorf("%w: the host key of %s is unknown: known_hosts has no entry for it", ErrAuth, addr)
	case errors.As(err, &key):
		return fmt.Errorf("%w: the host key of %s is not the one in known_hosts: the server was set up anew, or it is another one", ErrAuth, addr)
	case errors.As(err, &revoked):
		return fmt.Errorf("%w: the host key of %s is revoked in known_hosts", ErrAuth, addr)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w: %s does not accept the key in identity for the user %s", ErrAuth, addr, user)
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return fmt.Errorf("%w: the host key of %s is of another type than those in known_hosts", ErrAuth, addr)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, addr, err)
}

// sshConfig reads the key and the known hosts.
func (a Auth) sshConfig(u *url.URL) (*ssh.ClientConfig, error) {
	if a.Identity == "" || a.KnownHosts == "" && !a.Insecure {
		return nil, fmt.Errorf("%w: ssh needs a private key (identity) and the host's keys (known_hosts)", ErrAuth)
	}
	signer, err := ssh.ParsePrivateKey([]byte(a.Identity))
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		if a.Passphrase == "" {
			return nil, fmt.Errorf("%w: the key in identity is encrypted, and there is no password for it", ErrAuth)
		}
		if signer, err = ssh.ParsePrivateKeyWithPassphrase([]byte(a.Identity), []byte(a.Passphrase)); err != nil {
			return nil, fmt.Errorf("%w: the password does not open the key in identity", ErrAuth)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: identity holds no private key that can be read: %w", ErrAuth, err)
	}
	user := a.Username
	if user == "" {
		user = "git"
	}
	if a.Insecure {
		return &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: sshTimeout,
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // only where the user says so
		}, nil
	}
	known, _, err := hostkeys.New([]byte(a.KnownHosts))
	if err != nil {
		return nil, fmt.Errorf("%w: known_hosts: %w", ErrAuth, err)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: sshTimeout,
		HostKeyCallback: known, HostKeyAlgorithms: hostKeyAlgorithms(known, sshAddr(u)),
	}, nil
}

// hostKeyAlgorithms are those of the host's known keys: a server has keys of several types, and shows one that it is
// asked for. Nil where nothing is known of the host.
func hostKeyAlgorithms(known ssh.HostKeyCallback, addr string) []string {
	var key *knownhosts.KeyError
	if !errors.As(known(addr, &net.TCPAddr{}, noKey{}), &key) {
		return nil
	}
	var all []string
	for _, k := range key.Want {
		if t := k.Key.Type(); t == ssh.KeyAlgoRSA {
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			all = append(all, t)
		}
	}
	return all
}

// noKey is a host key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// dial connects to an address, through the proxy where there is one.
func (a Auth) dial(ctx context.Context, addr string) (net.Conn, error) {
	direct := &net.Dialer{}
	if a.Proxy == "" || a.direct(&url.URL{Scheme: "https", Host: addr}) {
		return direct.DialContext(ctx, "tcp", addr)
	}
	u, err := url.Parse(a.Proxy)
	if err != nil {
		return nil, errors.New("the proxy's address is not a valid URL")
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return tunnel(ctx, direct, u, addr)
	}
	var auth *proxy.Auth
	if u.User != nil {
		auth = &proxy.Auth{User: u.User.Username()}
		auth.Password, _ = u.User.Password()
	}
	d, err := proxy.SOCKS5("tcp", u.Host, auth, direct)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return d.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
}

// maxTunnelHeader bounds, in bytes, what a proxy answers before the tunnel begins.
const maxTunnelHeader = 64 << 10

// tunnel connects to an address through an HTTP proxy (CONNECT, RFC 9110 section 9.3.6).
func tunnel(ctx context.Context, direct *net.Dialer, u *url.URL, addr string) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	conn, err := direct.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if u.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u.User != nil {
		password, _ := u.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	if err := req.WithContext(ctx).Write(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	header := &io.LimitedReader{R: conn, N: maxTunnelHeader}
	r := bufio.NewReader(header)
	resp, err := http.ReadResponse(r, req) //nolint:bodyclose // what follows is the tunnel, not a body
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		conn.Close()
		return nil, fmt.Errorf("the proxy answers %s", resp.Status)
	}
	header.N = math.MaxInt64 // the tunnel itself has no end
	return &buffered{Conn: conn, r: r}, nil
}

// buffered is a connection of which something was read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
