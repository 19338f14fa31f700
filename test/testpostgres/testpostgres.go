// Package testpostgres starts a real PostgreSQL for a test, of the programs that are on this machine (Debian: the package postgresql). It listens on
// a socket in a directory of its own and on nothing else.
package testpostgres

import (
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running PostgreSQL with a superuser keelson, who needs no password. It ends with the test.
type Server struct {
	Dir string // of the socket, and in data of all its files

	bin string
	who *syscall.Credential
	cmd *exec.Cmd
}

// Installed tells whether PostgreSQL is on this machine.
func Installed() bool { return programs() != "" }

func programs() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// Start starts a new server, and skips the test where PostgreSQL is not installed. As it does not run as root, it runs as the user postgres there.
func Start(t *testing.T) *Server {
	t.Helper()
	if !Installed() {
		t.Skip("NOT TESTED: PostgreSQL is not on this machine (apt-get install postgresql)")
	}
	dir, err := os.MkdirTemp("", "pg") // short: it is in the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{Dir: dir, bin: programs()}
	if os.Geteuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			who, err = user.Lookup("nobody")
		}
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.ParseUint(who.Uid, 10, 32)
		gid, _ := strconv.ParseUint(who.Gid, 10, 32)
		s.who = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	initdb := s.command("initdb", "--pgdata", dir+"/data", "--username", "keelson", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// URL is the address of a database, which may be followed by settings: "postgres&search_path=other". There is always one called postgres.
func (s *Server) URL(database string) string {
	name, settings, _ := strings.Cut(database, "&")
	return "postgres://keelson@/" + name + "?host=" + s.Dir + "&" + settings
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.who}
	return cmd
}

// Start starts it again, and waits until it takes connections.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = s.command("postgres", "-D", s.Dir+"/data", "-k", s.Dir, "-c", "listen_addresses=", "-c", "fsync=off")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		if time.Now().After(deadline) {
			_, _ = log.Seek(0, io.SeekStart)
			text, _ := io.ReadAll(log)
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

// Stop ends it and everybody's connections.
func (s *Server) Stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil { // a fast shutdown
		t.Error(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	s.cmd = nil
}
