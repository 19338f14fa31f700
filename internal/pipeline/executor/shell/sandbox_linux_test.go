package shell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/shell"
)

// server is what an attacker's job would like to have: the data of a server, its credentials, and the job of somebody else.
type server struct {
	data, kubeconfig, outside string // outside is a directory that everybody may write to
	mine, victims             string // the jobs' directories
	x                         *shell.Executor
}

// The secrets; the attacks do not have them in their text.
const (
	ofData       = "loot-of-the-data-directory"
	ofKubeconfig = "loot-of-the-kubeconfig"
	ofFiles      = "loot-of-the-other-jobs-files"
	ofVariables  = "loot-of-the-other-jobs-variables"
	ofServer     = "loot-of-the-servers-environment"
	ofSocket     = "loot-of-a-directory-in-run"
)

// othersBase names the directory for the tests that root runs as somebody else.
const othersBase = "KEELSON_SANDBOX_TEST_DIR"

// newServer makes a server beside the sources, since what is in /tmp is hidden from jobs anyway, and starts the victim.
func newServer(t *testing.T, sandbox bool) *server {
	t.Helper()
	t.Setenv("KEELSON_TEST_SECRET", ofServer)
	here := os.Getenv(othersBase)
	if here == "" {
		here, _ = os.Getwd()
	}
	base, err := os.MkdirTemp(here, "sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("chmod", "-R", "u+rwX", base).Run()
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	s := &server{data: base + "/data", kubeconfig: base + "/kubeconfig", outside: base + "/outside", mine: base + "/data/jobs/1/mine", victims: base + "/data/jobs/2/victims"}
	for _, dir := range []string{s.outside, s.mine, s.victims} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{base, s.outside} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{s.data + "/token": ofData, s.kubeconfig: ofKubeconfig, s.victims + "/file": ofFiles} {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := shell.Options{}
	if sandbox {
		o.Sandbox = &shell.Sandbox{Hide: []string{s.data, s.kubeconfig}}
	}
	s.x = newExecutor(t, o)
	return s
}

// start runs the victim's job until stop is called, which gives how it has ended.
func (s *server) start(t *testing.T) (stop func() executor.Result) {
	t.Helper()
	j := job("echo ready > ready", "until [ -e stop ]; do sleep 0.05; done")
	j.Dir = s.victims
	j.Variables = pipeline.Variables{{Name: "TOKEN", Value: ofVariables}}
	over := make(chan executor.Result, 1)
	go func() { over <- s.x.Run(context.Background(), j, io.Discard) }()
	await(t, s.victims+"/ready")
	return func() executor.Result {
		if err := os.WriteFile(s.victims+"/stop", nil, 0o644); err != nil {
			t.Error(err)
		}
		return <-over
	}
}

// attacks are scripts in which DATA, KUBECONFIG, VICTIMS, OUTSIDE stand for what a server has. What one gets it prints, or it leaves
// something where it should not.
var attacks = []struct {
	name, script string
	works        bool // without a sandbox, whoever runs it
}{
	{"data directory", `cat $DATA/token; ls -R $DATA; find $DATA -type f -exec cat {} +`, true},
	{"kubeconfig", `cat $KUBECONFIG; cp $KUBECONFIG copy; cat copy`, true},
	{"another job's files", `cat $VICTIMS/file; echo x > $VICTIMS/planted`, true},
	{"another job's files, by a way round", `cat $CI_PROJECT_DIR/../../2/victims/file; cd $CI_PROJECT_DIR/../..; cat 2/victims/file; cat jobs/*/*/file`, true},
	{"environments", `cat /proc/*/environ /proc/*/task/*/environ | tr '\0' '\n' | grep loot`, true},
	{"the server's environment", `cat /proc/$PPID/environ /proc/1/environ | tr '\0' '\n' | grep loot; env | grep loot`, true},
	{"memory", `for p in /proc/[0-9]*; do
		[ $p = /proc/$$ ] && continue
		grep -E 'stack|heap' $p/maps | while read -r range rest; do
			from=$((0x${range%-*} / 4096)); to=$((0x${range#*-} / 4096))
			dd if=$p/mem bs=4096 skip=$from count=$((to - from)) | tr -cd '[:print:]' | grep -o 'loot-of-the-other-jobs-var[a-z]*'
		done
	done`, true},
	{"a debugger", `for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || timeout 5 gdb -batch -p $p -ex 'info proc environ' -ex 'dump memory core 0 1' ; done | grep loot`, false},
	{"the first process", `ls -l /proc/1/fd /proc/1/cwd /proc/1/root; cat /proc/1/root$DATA/token /proc/1/cwd$DATA/token /proc/*/root$DATA/token; cat /proc/1/mem /proc/1/maps /proc/1/environ`, true},
	{"the first process's namespaces", `nsenter -t 1 -m -p cat $DATA/token; nsenter --mount=/proc/1/ns/mnt cat $DATA/token`, false},
	{"open files", `for f in /proc/*/fd/*; do timeout 1 cat $f$DATA/token $f/../token; done`, false},
	{"unmount", `umount $DATA; umount -l $DATA; umount -l /proc; umount -l /tmp; umount -l $CI_PROJECT_DIR; cat $DATA/token /proc/*/environ`, false},
	{"remount", `mount -o remount,rw /; mount -o remount,rw $DATA; mount --bind / /tmp; cat /tmp$DATA/token; echo x > $OUTSIDE/planted`, false},
	{"a user namespace of its own", `unshare -Urm sh -c "umount $DATA; umount -l $DATA; umount -l /run; cat $DATA/token; mount -o remount,rw,bind /; echo x > $OUTSIDE/planted; mount --bind / /tmp; cat /tmp$DATA/token"; unshare -Urmpf --mount-proc sh -c "cat $DATA/token"`, false},
	{"a device", `mknod disk b 254 0; mknod disk b 8 0; head -c 512 disk | wc -c; for d in /dev/vda /dev/sda /dev/nvme0n1 /dev/mem; do [ -r $d ] && head -c 16 $d >/dev/null && echo "loot from $d"; done`, false},
	{"another place", `echo x > $OUTSIDE/planted; cp /bin/sh $OUTSIDE/planted; touch $OUTSIDE/../planted; ln -s / $OUTSIDE/planted`, true},
	{"a file below the root", `echo x > /planted; echo x > /etc/planted; echo x > /usr/bin/planted; echo x >> /etc/passwd; [ -e /planted ] || [ -e /etc/planted ]`, false},
	{"what is in /run", `cat /run/*/secret /run/user/*/* ${XDG_RUNTIME_DIR:-/run/none}/*; ls -A /run | grep -v -e keelson -e systemd -e resolvconf -e NetworkManager && echo "loot: /run"`, false},
	{"a hard link", `ln $KUBECONFIG link; ln $DATA/token link2; ln $OUTSIDE/../kubeconfig link3; cat link link2 link3`, true},
	{"a link", `ln -s $DATA/token link; ln -s $VICTIMS dir; cat link dir/file`, true},
	{"setuid programs", `for p in $OUTSIDE/../suid /tmp/suid; do $p $OUTSIDE/../root-only; done; echo | su -c "cat $OUTSIDE/../root-only"; sudo -n cat $OUTSIDE/../root-only; cp /bin/cat mine; chmod 6755 mine; ./mine $OUTSIDE/../root-only`, false},
	{"privileges", `[ "$(grep -c -E '^Cap(Inh|Prm|Eff|Bnd|Amb):.0{16}$' /proc/self/status)" = 5 ] || echo "loot: capabilities"; grep -q 'NoNewPrivs:.1' /proc/self/status || echo "loot: new privileges"; [ "$(id -u)" != 0 ] || echo "loot: root"; grep -q 'Groups:.0' /proc/self/status && echo "loot: groups"`, true},
	{"signals", `kill -9 $VICTIM $SERVER; pkill -9 -f 'until .* stop'; kill -9 1; kill -STOP 1; kill -0 $VICTIM && echo "loot: a process of another job"`, false},
	{"all processes", `kill -9 -1`, false},
	{"priorities", `renice -n 19 -p $VICTIM $SERVER && echo "loot: priorities"`, false},
	{"terminals", `ls /dev/pts | grep -v ptmx && echo "loot: terminals"`, false},
	{"shared memory", `ls /dev/shm | grep . && echo "loot: shared memory"; ipcs -m | grep 0x && echo "loot: segments"`, false},
	{"a temporary file of the server", `ls /tmp /var/tmp | grep keelson && echo "loot: temporary files"; cat /tmp/*/*/token`, false},
	{"a daemon", `setsid -f env -i sh -c "cd $CI_PROJECT_DIR; while :; do echo x >> ticks; sleep 0.05; done" > /dev/null 2>&1; sleep 0.3`, false},
}

func (s *server) attack(t *testing.T, script string, victim string) string {
	t.Helper()
	// Each attack goes on whatever fails of it.
	j := job("set +e +o pipefail", "exec 2>&1", script)
	j.Dir, j.Timeout = s.mine, pipeline.Duration(30*time.Second)
	for name, value := range map[string]string{"DATA": s.data, "KUBECONFIG": s.kubeconfig, "VICTIMS": s.victims, "OUTSIDE": s.outside, "VICTIM": victim, "SERVER": strconv.Itoa(os.Getpid())} {
		j.Variables = append(j.Variables, pipeline.Variable{Name: name, Value: value, Raw: true})
	}
	var log strings.Builder
	s.x.Run(t.Context(), j, &log)
	// What is echoed of the script itself is no loot.
	var out []string
	for line := range strings.Lines(markup.ReplaceAllString(log.String(), "")) {
		if !strings.HasPrefix(line, "$ ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// loot is what an attack has got, or changed.
func (s *server) loot(out string) string {
	for _, secret := range []string{ofData, ofKubeconfig, ofFiles, ofVariables, ofServer, ofSocket, "loot: ", "loot from", "for root only"} {
		if strings.Contains(out, secret) {
			return "it got " + secret
		}
	}
	for _, dir := range []string{s.outside, s.victims, filepath.Dir(s.outside), "/", "/etc", "/usr/bin"} {
		if _, err := os.Lstat(dir + "/planted"); err == nil {
			_ = os.Remove(dir + "/planted")
			return "it wrote to " + dir
		}
	}
	return ""
}

// setuid leaves what only root can: a program that reads as root, a file for it, and a directory in /run.
func (s *server) setuid(t *testing.T) {
	if os.Getuid() != 0 {
		return
	}
	base := filepath.Dir(s.outside)
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("/run", "sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	for _, err := range []error{
		os.WriteFile(base+"/suid", program, 0o755), os.Chmod(base+"/suid", 0o755|os.ModeSetuid), os.WriteFile(base+"/root-only", []byte("for root only\n"), 0o600),
		os.Chmod(run, 0o755), os.WriteFile(run+"/secret", []byte(ofSocket), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestAttacks holds that an attacker's job gets nothing, and that what it tries would work without a sandbox.
func TestAttacks(t *testing.T) {
	needsSandbox(t)
	s := newServer(t, true)
	s.setuid(t)
	stop := s.start(t)
	victim := child(t, s.victims)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			out := s.attack(t, a.script, victim)
			if loot := s.loot(out); loot != "" {
				t.Errorf("%s:\n%.3000s", loot, out)
			}
			if a.name != "a daemon" {
				return
			}
			if size := length(s.mine + "/ticks"); size == 0 {
				t.Error("the daemon did not run at all")
			} else if time.Sleep(300 * time.Millisecond); length(s.mine+"/ticks") != size {
				t.Error("the daemon runs when the job is over")
			}
		})
	}
	if r := stop(); r.Status != pipeline.StatusSuccess {
		t.Errorf("the victim: %+v", r)
	}
	t.Run("without a sandbox", func(t *testing.T) {
		s := newServer(t, false)
		defer s.start(t)()
		for _, a := range attacks {
			if !a.works {
				continue
			}
			t.Run(a.name, func(t *testing.T) {
				if out := s.attack(t, a.script, victim); s.loot(out) == "" {
					t.Errorf("the attack gets nothing, so it tests nothing:\n%.3000s", out)
				}
			})
		}
	})
}

func length(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// child is the process that works in a directory, as the machine names it.
func child(t *testing.T, dir string) string {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range all {
		if at, err := os.Readlink(link); err == nil && at == dir {
			return filepath.Base(filepath.Dir(link))
		}
	}
	t.Fatalf("no process works in %s", dir)
	return ""
}

// TestLeftInArtifacts has a job leave what should lead the server astray, which then reads it with all its rights.
func TestLeftInArtifacts(t *testing.T) {
	needsSandbox(t)
	s := newServer(t, true)
	store, err := artifact.Open(t.TempDir(), artifact.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	j := job("mkdir out", "ln -s $DATA/token out/link", "ln -s $DATA out/dir", "mkfifo out/pipe", "echo fine > out/file", "ln -s $DATA/token dotenv", "ln -s $DATA/token junit.xml",
		"chmod 4755 out/file", "ln -s / root")
	j.Dir = s.mine
	j.Variables = pipeline.Variables{{Name: "DATA", Value: s.data}}
	var saveErr error
	j.Finish = func(ctx context.Context, trace *executor.Trace, _ executor.Result) error {
		a := &pipeline.Artifacts{Paths: []string{"out", "out/dir/token", "root" + s.data + "/token", "../../2"}, Reports: map[string][]string{"dotenv": {"dotenv"}, "junit": {"junit.xml"}}}
		_, saveErr = store.Save(ctx, artifact.Key{Project: "p", Pipeline: "1", Job: "j"}, a, artifact.Work{Dir: s.mine, Log: trace}, true)
		return nil
	}
	r, log := run(t, s.x, j)
	if r.Status != pipeline.StatusSuccess {
		t.Errorf("%+v", r)
	}
	t.Logf("saving: %v", saveErr)
	to := t.TempDir()
	if err := store.Restore(t.Context(), []artifact.Key{{Project: "p", Pipeline: "1", Job: "j"}}, artifact.Work{Dir: to}); err != nil && saveErr == nil {
		t.Error(err)
	}
	found := log
	_ = filepath.WalkDir(to, func(path string, d os.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			text, _ := os.ReadFile(path)
			found += string(text)
			if info.Mode()&os.ModeSetuid != 0 {
				t.Errorf("%s is a program that runs as another user", path)
			}
		}
		return nil
	})
	if strings.Contains(found, "loot-of") || !strings.Contains(found, "fine\n") {
		t.Errorf("the artifacts have\n%s", found)
	}
}

// TestOwnOfAJob tells what a job does have: a user, a directory, a home and temporary files, for all of its shells.
func TestOwnOfAJob(t *testing.T) {
	kind := needsSandbox(t)
	s := newServer(t, true)
	inner := filepath.Join(s.mine, "sub", "sources")
	shared := filepath.Join(s.data, "object")
	j := job(`echo "HOME=$HOME USER=$USER"`, `[ "$USER" != keelson-job ] || [ "$(whoami)" = keelson-job ]`, "id -u; (cd; pwd)", "cat sub/sources", "echo more >> sub/sources", "ls -ld . sub/sources | cut -d' ' -f1,3", "echo kept > /tmp/file; echo kept > ~/file", "chmod u+w linked; echo x > linked", "mkdir new; chmod 0 new", "sleep 77 & until pgrep -x sleep >/tmp/its; do :; done")
	j.PreGet = []string{"echo x > planted || echo not yet", "ln -s / link || echo nor this", "echo early > ~/early"}
	j.AfterScript = []string{"cat /tmp/file ~/file ~/early", `pgrep -c sleep`}
	j.Prepare = func(context.Context, *executor.Trace) error {
		if err := os.MkdirAll(filepath.Dir(inner), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(shared, []byte("shared\n"), 0o444); err != nil {
			return err
		}
		return errors.Join(os.WriteFile(inner, []byte("text\n"), 0o600), os.Link(shared, filepath.Join(s.mine, "linked")))
	}
	j.Dir = s.mine
	r, log := run(t, s.x, j)
	who := strconv.Itoa(os.Getuid())
	if kind == shell.OwnUser {
		who = "6" // 60800 and more
	}
	want := []string{"not yet", "nor this", "HOME=/run/keelson/home USER=", who, "/run/keelson/home", "text", "kept", "kept", "early", "1", "Ended what the job had left running: sleep"}
	rest := log
	for _, line := range want {
		_, after, ok := strings.Cut(rest, "\n"+line)
		if !ok {
			t.Errorf("no line %q after those before it", line)
			continue
		}
		rest = after
	}
	if r.Status != pipeline.StatusSuccess {
		t.Errorf("%+v", r)
	}
	if info, err := os.Stat(s.mine); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() || kind == shell.OwnUser && info.Mode().Perm() != 0o700 {
		t.Errorf("the next job with this one's user gets into its directory: %v, %v", info, err)
	}
	if text, err := os.ReadFile(inner); err != nil || string(text) != "text\nmore\n" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := os.ReadFile(shared); err != nil || string(text) != "shared\n" {
		t.Errorf("a file that the job's directory has by another name is now %q, %v", text, err)
	}
}

func TestWhatCannotBeHidden(t *testing.T) {
	needsSandbox(t)
	for _, tt := range []struct {
		sandbox shell.Sandbox
		want    string
	}{
		{shell.Sandbox{Hide: []string{"data"}}, `no sandbox for jobs: hide "data" from jobs: it is no absolute path`},
		{shell.Sandbox{Hide: []string{"/nonexistent/data"}}, `no sandbox for jobs: hide "/nonexistent/data" from jobs: lstat /nonexistent: no such file or directory`},
		{shell.Sandbox{Hide: []string{"/proc/../"}}, "no sandbox for jobs: hide / from jobs: then nothing is left for them"},
		{shell.Sandbox{Show: []string{"bin"}}, `no sandbox for jobs: show "bin" to jobs: it is no absolute path`},
	} {
		if _, err := shell.New(shell.Options{Sandbox: &tt.sandbox}); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// TestForbidden asks for the sandbox where it cannot be.
func TestForbidden(t *testing.T) {
	switch os.Getenv("KEELSON_TEST_FORBIDDEN") {
	case "users":
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		fallthrough
	case "root":
		kind, why := shell.Check()
		fmt.Printf("[%s] %s\n", kind, why)
		return
	}
	needsSandbox(t)
	for _, tt := range []struct {
		who  string
		uid  int // in a user namespace
		want string
	}{
		{"users", 1234, "[] this system lets users make no user namespaces (no space left on device); allow it (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or run the server as root\n"},
		{"root", 0, "[] "}, // that of a container without root, which has no other users
	} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestForbidden$")
		cmd.Env = append(os.Environ(), "KEELSON_TEST_FORBIDDEN="+tt.who)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: tt.uid, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: tt.uid, HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{24}, // CAP_SYS_RESOURCE
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), tt.want) || strings.HasPrefix(string(out), "[] \n") {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.who, err, out, tt.want)
		}
	}
}

// TestShow has a program in what is hidden, which jobs shall find.
func TestShow(t *testing.T) {
	needsSandbox(t)
	s := newServer(t, true)
	bin := s.data + "/bin"
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(bin+"/tool", []byte("#!/bin/sh\necho the tool\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	x := newExecutor(t, shell.Options{Sandbox: &shell.Sandbox{Hide: []string{s.data}, Show: []string{bin}}})
	j := job(bin+"/tool", "ls "+s.data, "echo x > "+bin+"/tool || echo not to be written")
	j.Dir = s.mine
	if r, log := run(t, x, j); r.Status != pipeline.StatusSuccess || !strings.Contains(log, "\nthe tool\n") || !strings.Contains(log, "\nbin\njobs\n") || !strings.Contains(log, "\nnot to be written\n") {
		t.Errorf("%+v", r)
	}
}

// TestKeeperIsReplaced has the kernel end the sandbox's process: the next job has another one.
func TestKeeperIsReplaced(t *testing.T) {
	needsSandbox(t)
	x := newExecutor(t, shell.Options{Sandbox: &shell.Sandbox{}})
	if err := syscall.Kill(x.Keeper(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r, _ := run(t, x, job("true")); r.Status != pipeline.StatusSuccess {
		t.Errorf("%+v", r)
	}
}

// TestServerIsKilled ends a server without a warning: its jobs end with it.
func TestServerIsKilled(t *testing.T) {
	needsSandbox(t)
	if dir := os.Getenv("KEELSON_TEST_SERVER"); dir != "" { // this is the server
		j := job("while :; do echo x >> ticks; sleep 0.02; done")
		j.Dir = dir
		newExecutor(t, shell.Options{Sandbox: &shell.Sandbox{}}).Run(t.Context(), j, io.Discard)
		return
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestServerIsKilled$")
	cmd.Env = append(os.Environ(), "KEELSON_TEST_SERVER="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, dir+"/ticks")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	time.Sleep(200 * time.Millisecond)
	size := length(dir + "/ticks")
	if time.Sleep(300 * time.Millisecond); length(dir+"/ticks") != size {
		t.Error("the job goes on without its server")
	}
}

// TestAbstractSockets holds that jobs do not reach the sockets without a file of other programs, where the kernel can see to that.
func TestAbstractSockets(t *testing.T) {
	needsSandbox(t)
	if !shell.Scopes() {
		t.Skip("NOT TESTED: this kernel has no Landlock with scopes (Linux 6.12)")
	}
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip("NOT TESTED: there is no perl to connect with")
	}
	l, err := net.Listen("unix", "@keelson-sandbox-test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := `perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, pack("S a*", AF_UNIX, "\0keelson-sandbox-test")) or die "no: $!\n"; print "connected\n"'`
	if _, log := run(t, newExecutor(t, shell.Options{}), job(connect)); !strings.Contains(log, "\nconnected\n") {
		t.Error("it cannot be reached at all")
	}
	if r, log := run(t, newExecutor(t, shell.Options{Sandbox: &shell.Sandbox{}}), job(connect)); r.Status != pipeline.StatusFailed || strings.Contains(log, "\nconnected\n") {
		t.Error("it can be reached from the sandbox")
	}
}

// TestSandboxAsAnotherUser runs the tests of the sandbox, where root runs them, as somebody who is not.
func TestSandboxAsAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is another user already")
	}
	const uid = 54321
	base, err := os.MkdirTemp("/var/lib", "sandbox-test-")
	if err != nil {
		t.Skipf("NOT TESTED: no directory for another user: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(base, 0o755), os.Mkdir(base+"/home", 0o755), os.Mkdir(base+"/dir", 0o755), os.WriteFile(base+"/shell.test", self, 0o755), os.Chown(base+"/home", uid, uid), os.Chown(base+"/dir", uid, uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), base+"/shell.test", "-test.v", "-test.short", "-test.run", "^(TestConformanceInSandbox|TestAttacks|TestLeftInArtifacts|TestOwnOfAJob|TestShow|TestWhatCannotBeHidden|TestKeeperIsReplaced|TestServerIsKilled|TestAbstractSockets|TestForkBombs|TestDiskIsNotFilled)$")
	cmd.Dir = base + "/dir"
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "HOME=") || strings.HasPrefix(kv, "XDG_") }), "HOME="+base+"/home", othersBase+"="+base+"/dir")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "NOT TESTED: no sandbox") {
			t.Skip(strings.TrimSpace(line))
		}
	}
	if !strings.Contains(string(out), "--- PASS: TestAttacks/another_place") {
		t.Errorf("the attacks did not run:\n%s", out)
	}
	fmt.Fprintf(t.Output(), "%d lines\n", strings.Count(string(out), "\n"))
}
