package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/internal/redact"
)

const (
	maxStdout = 64 << 20 // bytes that are kept of a command's output; more is an error
	maxStderr = 64 << 10 // bytes that are kept of a command's messages
	// killDelay is how long a killed command may take to close its pipes.
	killDelay = 5 * time.Second
)

// command is one run of the git program.
type command struct {
	args   []string
	dir    string      // --git-dir; empty: none
	config [][2]string // more configuration; it travels through the environment
	env    []string
	stdin  io.Reader
	files  []*os.File // inherited as 3, 4, …; closed here once git runs, or cannot
}

// passed are the variables of our own environment that the git program sees: where programs are and how to reach the network.
var passed = []string{"PATH", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
	"http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_EXEC_PATH"}

// baseConfig holds for every command: no hooks, no helpers, nothing left running behind.
var baseConfig = [][2]string{
	{"safe.directory", "*"},
	{"core.hooksPath", "/dev/null"},
	{"core.askPass", ""},
	{"credential.helper", ""},
	{"credential.interactive", "false"},
	{"gc.autoDetach", "false"},
	{"maintenance.autoDetach", "false"},
	{"protocol.version", "2"},
	{"advice.detachedHead", "false"},
	// A remote that sends nothing at all for a minute is given up, even where nobody cancels.
	{"http.lowSpeedLimit", "1"},
	{"http.lowSpeedTime", "60"},
}

// Environ is the environment for a git process: nothing of the user's or the system's configuration, no prompts, no
// transports but HTTP, and the given configuration on top of the base one. Configuration travels here rather than
// on the command line, where other users of the machine could read it.
func Environ(config ...[2]string) []string {
	env := []string{
		"LC_ALL=C", "HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_ALLOW_PROTOCOL=http:https",
		"GIT_DEFAULT_HASH=sha1", "GIT_DEFAULT_REF_FORMAT=files", "GIT_OPTIONAL_LOCKS=0",
	}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	all := slices.Concat(baseConfig, config)
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(all)))
	for i, kv := range all {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return env
}

// Process makes a git process in a process group of its own; when ctx ends, the whole group is killed, for git
// leaves its work to children. The caller sets the pipes and runs it.
func Process(ctx context.Context, config [][2]string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = Environ(config...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	return cmd
}

// run runs git to its end and returns its output. Errors carry what git said, redacted, and wrap one of the
// package's errors where the cause is known.
func run(ctx context.Context, c command) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := c.args
	if c.dir != "" {
		args = append([]string{"--git-dir=" + c.dir}, args...)
	}
	cmd := Process(ctx, c.config, args...)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = c.stdin
	stdout := &bounded{max: maxStdout, full: cancel}
	stderr := &bounded{max: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.ExtraFiles = c.files
	err := cmd.Start()
	for _, f := range c.files {
		f.Close()
	}
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case stdout.over:
		return nil, fmt.Errorf("git %s: output is larger than %d MiB", c.args[0], maxStdout>>20)
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("git %s: %w", c.args[0], context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("the git program is not installed, or not in PATH")
	}
	return nil, classify(c.args[0], stderr.String(), err)
}

// bounded keeps the first max bytes; full is called when more come.
type bounded struct {
	bytes.Buffer
	max  int
	over bool
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); len(p) > room {
		b.Buffer.Write(p[:room])
		b.over = true
		if b.full != nil {
			b.full()
		}
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

// symptoms tells the cause of a failure from git's messages (which are in English: LC_ALL=C). The first match wins.
var symptoms = []struct {
	text  string
	cause error
}{
	{"Authentication failed for", ErrAuth},
	{"could not read Username", ErrAuth},
	{"could not read Password", ErrAuth},
	{"returned error: 401", ErrAuth},
	{"returned error: 403", ErrAuth},
	{"' not found", ErrRepoNotFound},
	{"returned error: 404", ErrRepoNotFound},
	{"returned error: 410", ErrRepoNotFound},
	{"not valid: is this a git repository?", ErrRepoNotFound},
	{"CONNECT tunnel failed, response 407", ErrAuth},
	{"HTTP code 407 from proxy", ErrAuth},
	{"couldn't find remote ref", ErrUnknownRef},
	{"not our ref", ErrUnknownRef},
	{"unadvertised object", ErrUnknownRef},
	{"no such remote ref", ErrUnknownRef},
	{"returned error: 408", ErrUnreachable}, // too slow, and too often: it may answer later
	{"returned error: 429", ErrUnreachable},
	{"returned error: 4", ErrRefused},
	{"Could not resolve", ErrUnreachable},
	{"unable to access", ErrUnreachable}, // what is left of it: connections, TLS, 5xx
	{"RPC failed", ErrUnreachable},
	{"unexpected disconnect", ErrUnreachable},
	{"the remote end hung up", ErrUnreachable},
	{"early EOF", ErrUnreachable},
	{"protocol error", ErrUnreachable},
	{"bad object", ErrCorrupt},
	{"missing blob", ErrCorrupt},
	{"missing tree", ErrCorrupt},
	{"missing commit", ErrCorrupt},
	{"did not send all necessary objects", ErrCorrupt},
	{"not a git repository", ErrCorrupt},
	{".lock': File exists", ErrCorrupt},
	{"is corrupt", ErrCorrupt},
	{"loose object", ErrCorrupt},
	{"packfile", ErrCorrupt},
}

func classify(verb, stderr string, err error) error {
	message := summary(redact.Text(stderr))
	if message == "" {
		message = err.Error()
	}
	own := ownWords(stderr)
	for _, s := range symptoms {
		said := stderr
		if errors.Is(s.cause, ErrCorrupt) {
			said = own // a remote does not tell what is wrong here
		}
		if strings.Contains(said, s.text) {
			return fmt.Errorf("git %s: %w: %s", verb, s.cause, message)
		}
	}
	return fmt.Errorf("git %s: %s", verb, message)
}

// ownWords is what git says of itself: its messages without those that it passes on from the remote.
func ownWords(stderr string) string {
	stderr, _, _ = strings.Cut(stderr, "remote error:") // what follows is the remote's, over several lines maybe
	var own strings.Builder
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(strings.TrimSpace(line), "remote:") {
			own.WriteString(line)
		}
	}
	return own.String()
}

// summary picks from git's messages what says most: what the remote said, then the errors.
func summary(stderr string) string {
	var remote, local, other []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "remote:"); ok {
			if s = strings.TrimSpace(s); s != "" {
				remote = append(remote, s)
			}
			continue
		}
		if s, ok := strings.CutPrefix(line, "fatal: "); ok {
			local = append(local, s)
		} else if s, ok := strings.CutPrefix(line, "error: "); ok {
			local = append(local, s)
		} else if line != "" {
			other = append(other, line)
		}
	}
	lines := slices.Concat(local, remote)
	if len(lines) == 0 {
		lines = other
	}
	said := accessed.ReplaceAllString(strings.Join(lines[:min(len(lines), 4)], "; "), "")
	return truncate(elapsed.ReplaceAllString(said, ""), 500)
}

// accessed names the URL, which those who asked know and say.
var accessed = regexp.MustCompile(`unable to access '[^']*': `)

// elapsed is what libcurl adds to "Failed to connect": another number each time would make each failure news.
var elapsed = regexp.MustCompile(` after \d+ ms`)

// truncate shortens s to n bytes.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
