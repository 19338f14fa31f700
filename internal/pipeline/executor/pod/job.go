package pod

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/executor"
	"keelson.dev/keelson/internal/pipeline/executor/pod/agent"
	"keelson.dev/keelson/internal/pipeline/executor/script"
)

// job is one run of a job.
type job struct {
	executor.Job
	x     *Executor
	trace *executor.Trace
	dir   string // in the Pod
	plan  blueprint
	setup agent.Setup

	life  context.Context // ended by an abort, and when the job is let go
	ctx   context.Context // ended by the time limit and by a cancel too
	stop  context.CancelCauseFunc
	ready bool // the agent has the directory

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, with every change of what follows
	heard   bool          // the agent has been heard of
	status  agent.Status  // of the agent
	order   agent.Order   // what it is to do
	pod     *corev1.Pod   // as it was seen last; nil: not yet
	sight   sight
	gone    bool           // the Pod is no more
	dead    bool           // nothing is expected of the agent any more
	closed  bool           // nothing is taken from the agent any more
	ended   bool           // nothing is written to the log any more
	making  bool           // something may have been made for the job
	secret  *corev1.Secret // as it was made; nil: not by this process, or the answer was lost
	serving bool           // the directory is ready to be fetched
	history map[string]*pulls
	notes   []string         // for the log, to be told
	told    map[string]bool  // notes
	late    *executor.Result // the job has waited for its Pod for too long

	asking atomic.Int32 // requests of the agent that are being answered
	logs   sync.Mutex   // held while the log is written
	next   int64        // the offset of what comes next of the log; -1: the agent tells
	files  sync.Mutex   // held while the job's directory is written for the agent
	upload context.CancelFunc
}

func newJob(x *Executor, work executor.Job, trace *executor.Trace) *job {
	return &job{Job: work, x: x, trace: trace, changed: make(chan struct{}), history: map[string]*pulls{}, told: map[string]bool{}, next: -1, life: context.Background()}
}

// begin decides what the Pod is made of.
func (j *job) begin(ctx context.Context, now time.Time) error {
	if err := script.Unsupported(j.Job.Job); err != nil {
		return err
	}
	if info, err := os.Stat(j.Dir); err != nil || !info.IsDir() || !filepath.IsAbs(j.Dir) {
		return fmt.Errorf("the job's directory %q is not there", j.Dir)
	}
	j.dir = jobDir(j.Job)
	plan, notes, err := plan(j.Job, j.x.o, j.dir)
	if err != nil {
		return err
	}
	if !j.Resume { // else it has them
		if err := plan.allowed(ctx, j.Job, j.x.o); err != nil {
			return err
		}
	}
	plan.pullSecrets, plan.nonce = j.x.o.PullSecrets, rand.Text()
	j.plan, j.notes = plan, notes
	return j.environment(now)
}

// environment makes the variables of the job's shells, with the files of its file variables.
func (j *job) environment(now time.Time) error {
	inside := j.Job
	inside.Dir, inside.BuildsDir = j.dir, agent.Builds
	temp := j.dir + ".tmp"
	vars, files, err := inside.Environment(j.x.o.Runner, now, func() (string, error) { return temp, nil })
	if err != nil {
		return err
	}
	j.setup = agent.Setup{Dir: j.dir, Temp: temp, Grace: j.x.o.Grace}
	content := map[string]string{}
	for _, f := range files {
		content[f.Path] = f.Content
		j.setup.Files = append(j.setup.Files, agent.File{Name: filepath.Base(f.Path), Content: f.Content})
	}
	mask := append(j.MaskedValues(), j.x.o.token(j.ID))
	for _, v := range vars {
		if value, isFile := content[v.Value]; v.Masked && isFile {
			mask = append(mask, value)
		} else if v.Masked {
			mask = append(mask, v.Value)
		}
		if len(v.Name)+1+len(v.Value) > script.MaxVariable {
			return &executor.Failure{Reason: pipeline.ConfigurationError, Err: fmt.Errorf(
				"variable %s has %d bytes, and a process takes no more than %d in one; make it a file variable", v.Name, len(v.Value), script.MaxVariable-len(v.Name)-1)}
		}
		j.setup.Env = append(j.setup.Env, v.Name+"="+v.Value)
	}
	if script.WantsEnvFile(j.Job.Job) {
		j.setup.Files = append(j.setup.Files, agent.File{Name: envFile})
		j.setup.Env = append(j.setup.Env, "GITLAB_ENV="+temp+"/"+envFile)
	}
	j.trace.Mask(mask...)
	j.setup.Mask = shortest(mask)
	return nil
}

// shortest gives the shorter ones of some texts, as many as an agent may keep: tokens are among them, which another server may not know.
func shortest(texts []string) []string {
	texts = slices.DeleteFunc(slices.Clone(texts), func(v string) bool { return v == "" })
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	texts = slices.Compact(texts)
	size := 0
	for i, v := range texts {
		if size += len(v); size > maxMask {
			return texts[:i]
		}
	}
	return texts
}

// envFile is the file whose lines NAME=VALUE after_script finds as variables.
const envFile = "gitlab_runner_env"

// errTimeout is the cause with which the context of a job ends that takes too long.
var errTimeout = errors.New("time limit")

// scriptTimeout is the cause of the end of a script that took longer than it may.
type scriptTimeout time.Duration

func (t scriptTimeout) Error() string { return "script time limit" }

// afterDowntime is what a job that is taken up again has left at least, if its time was over while nobody looked.
const afterDowntime = 30 * time.Second

// run runs the parts of a job in their order.
func (j *job) run(ctx context.Context) executor.Result {
	life, done := j.untilLeft(context.WithoutCancel(ctx))
	defer done()
	j.life = life
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(nil) })()
	j.ctx, j.stop = ctx, cancel
	limit := j.Limit()
	if j.Resume && !j.Started.IsZero() {
		limit = max(limit-time.Since(j.Started), afterDowntime)
	}
	timer := time.AfterFunc(limit, func() { cancel(errTimeout) })
	defer timer.Stop()
	defer context.AfterFunc(ctx, j.trace.Hurry)()

	if err := j.launch(); err != nil {
		if j.ctx.Err() != nil {
			return j.finish(j.stopped(j.ctx))
		}
		return j.finish(executor.FailedWith(err))
	}
	result, ready := j.prepare()
	if ready {
		result = j.verify(j.script())
		result = j.afterScript(result)
	}
	return j.finish(result)
}

// untilLeft gives a context that ends with an abort, and when the job is let go.
func (j *job) untilLeft(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-j.Abort:
			cancel()
		case <-j.Leave:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (j *job) left() bool { return closed(j.Leave) }

// launch makes the Pod, or finds the one that an earlier process has made.
func (j *job) launch() error {
	late := time.NewTimer(j.x.o.Sync)
	defer late.Stop()
	ctx, done := j.outlasting()
	defer done()
	select {
	case <-j.x.synced:
	case <-late.C:
		return j.x.unsynced()
	case <-ctx.Done():
		return ctx.Err()
	}
	if j.Resume {
		j.mu.Lock()
		pod := j.pod
		j.mu.Unlock()
		if pod == nil {
			return errors.New("the process that ran the job has ended, and its Pod is gone")
		}
		go j.watchStart(pod)
		return nil
	}
	end := j.trace.Section("prepare_executor", "Preparing the pod executor", false)
	defer end()
	j.trace.Printf("Using Kubernetes namespace: %s", j.plan.namespace)
	j.trace.Printf("Using Kubernetes executor with image %s ...", j.plan.image)
	for _, s := range j.plan.services {
		j.trace.Printf("Starting service %s (%s) ...", s.image, join("", "", fmt.Sprint(s.names)))
	}
	j.tell()
	return j.create()
}

// takeUpLimit is how long one tries to find out how far a job is that has to stop.
const takeUpLimit = 30 * time.Second

// outlasting gives the context for what comes before the script. That of a job which is taken up outlasts the job's by a while: it may have been
// canceled meanwhile, and then its script is stopped, and after_script runs, as for any job.
func (j *job) outlasting() (context.Context, context.CancelFunc) {
	if !j.Resume {
		return j.ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(j.life)
	stop := context.AfterFunc(j.ctx, func() {
		time.AfterFunc(takeUpLimit, func() { cancel(context.Cause(j.ctx)) })
	})
	return ctx, func() { stop(); cancel(nil) }
}

// past tells whether a job that is taken up has its sources and is at its script, or past it.
func (j *job) past() bool { return j.Resume && j.begun(agent.Script) && j.life.Err() == nil }

// prepare runs what comes before the script; false: it failed, or the job has to stop.
func (j *job) prepare() (executor.Result, bool) {
	if j.Resume { // how far is it?
		if r, ok := j.hello(); !ok {
			return r, false
		}
	}
	if len(j.PreGet) > 0 {
		if r := j.preGet(); r.Status != pipeline.StatusSuccess {
			return r, false
		}
	}
	if j.Prepare != nil {
		trace := j.trace
		if j.Resume {
			trace = executor.NewTrace(nowhere{}, j.Job)
		}
		ctx, done := j.outlasting()
		err := j.Prepare(ctx, trace)
		done()
		switch {
		case err == nil:
		case !j.past() && j.ctx.Err() != nil:
			return j.stopped(j.ctx), false
		case !j.past():
			return executor.FailedWith(err), false
		default: // the Pod has what it needs
			j.trace.Warningf("the job's directory cannot be made ready once more after a restart of Keelson; what is untracked, and the keys of caches that are made of files, may be others than they were: %v", err)
		}
	}
	if j.ctx.Err() != nil && !j.past() {
		return j.stopped(j.ctx), false
	}
	if r, ok := j.hello(); !ok {
		return r, false
	}
	j.mu.Lock()
	j.serving = true
	j.mu.Unlock()
	order := agent.Order{Phase: agent.Fetch}
	for _, s := range j.plan.services {
		if s.port > 0 {
			order.Wait = append(order.Wait, agent.Port{Service: s.image, Port: s.port})
		}
	}
	if r := j.execute(j.ctx, order); r.Status != pipeline.StatusSuccess {
		return r, false
	}
	j.ready = true
	return j.services()
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// hello waits for the agent.
func (j *job) hello() (executor.Result, bool) {
	first := false
	ctx, done := j.outlasting()
	defer done()
	err := j.await(ctx, func() bool { first = first || !j.heard; return j.heard })
	if err != nil {
		return j.failed(ctx, err), false
	}
	j.mu.Lock()
	pod := j.pod
	j.mu.Unlock()
	if first && !j.Resume && pod != nil && pod.Spec.NodeName != "" {
		j.trace.Printf("Running in Pod %s/%s on %s", pod.Namespace, pod.Name, pod.Spec.NodeName)
	}
	return executor.Succeeded(), true
}

// services waits until those have started that will, and those that listen somewhere are reached by the agent.
func (j *job) services() (executor.Result, bool) {
	if len(j.plan.services) == 0 || j.begun(agent.Script) {
		return executor.Succeeded(), true
	}
	ctx, cancel := context.WithTimeout(j.ctx, serviceStart)
	defer cancel()
	err := j.await(ctx, func() bool { return j.sight.services })
	if err != nil && j.ctx.Err() == nil && ctx.Err() != nil {
		j.trace.Warningf("not all services have started after %s; the job goes on without them", serviceStart)
		err = nil
	}
	if err != nil {
		return j.failed(j.ctx, err), false
	}
	j.tell()
	return executor.Succeeded(), true
}

// serviceStart is how long a job waits for containers of services that do not start.
const serviceStart = 5 * time.Minute

func (j *job) dialect() script.Dialect {
	j.mu.Lock()
	defer j.mu.Unlock()
	return script.DialectOf(j.Job, j.status.Bash)
}

// preGet runs hooks:pre_get_sources_script.
func (j *job) preGet() executor.Result {
	if r, ok := j.hello(); !ok {
		return r
	}
	defer j.section(agent.PreGet, "pre_get_sources", "Executing hooks:pre_get_sources_script")()
	w := script.New(j.dialect())
	w.Commands("section_pre_get_sources", j.PreGet)
	return j.execute(j.ctx, agent.Order{Phase: agent.PreGet, Text: w.String()})
}

// script runs before_script and script, or the steps.
func (j *job) script() executor.Result {
	ctx := j.ctx
	limit, err := j.ScriptLimit()
	if err != nil && !j.Resume {
		j.trace.Warningf("%v", err)
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, scriptTimeout(limit))
		defer cancel()
	}
	defer j.section(agent.Script, "step_script", `Executing "step_script" stage of the job script`)()
	w := script.New(j.dialect())
	w.Commands("section_before_script", j.BeforeScript)
	w.Commands("section_script_step", j.Script)
	w.Steps(j.Job.Run)
	return j.execute(ctx, agent.Order{Phase: agent.Script, Text: w.String(), Limit: j.alone(limit)})
}

// alone is how long a script may take while nobody looks: a little longer than it may.
func (j *job) alone(limit time.Duration) time.Duration {
	if all := j.Limit(); limit == 0 || limit > all {
		limit = all
	}
	return limit + 5*time.Second
}

// verify asks whether what the script has done is good.
func (j *job) verify(result executor.Result) executor.Result {
	if j.Verify == nil || result.Status != pipeline.StatusSuccess || j.noted() != nil {
		return result
	}
	err := j.Verify(j.ctx, j.trace)
	switch {
	case j.ctx.Err() != nil:
		return j.stopped(j.ctx)
	case err != nil:
		return executor.FailedWith(err)
	}
	return result
}

// noted is the result that an earlier process had come to; nil: it had not. The agent has kept it, and cannot have changed it.
func (j *job) noted() *executor.Result {
	j.mu.Lock()
	defer j.mu.Unlock()
	sign, text, ok := strings.Cut(j.status.Note, " ")
	var r executor.Result
	if !j.Resume || !ok || !hmac.Equal([]byte(sign), []byte(j.sign(text))) || json.Unmarshal([]byte(text), &r) != nil {
		return nil
	}
	return &r
}

// note is a result for the agent to keep.
func (j *job) note(r executor.Result) string {
	text, _ := json.Marshal(r) // plain data
	return j.sign(string(text)) + " " + string(text)
}

func (j *job) sign(text string) string {
	return hex.EncodeToString(j.x.o.digest(fmt.Sprintf("note/%d/%s", j.ID, text)))
}

// afterScript runs after_script, whose outcome counts only with AFTER_SCRIPT_IGNORE_ERRORS=false.
func (j *job) afterScript(result executor.Result) executor.Result {
	if before := j.noted(); before != nil {
		result = *before
	}
	if len(j.AfterScript) == 0 || j.life.Err() != nil || j.isDead() {
		return result
	}
	limit, err := j.AfterScriptLimit()
	if err != nil && !j.Resume {
		j.trace.Warningf("%v", err)
	}
	ctx, cancel := context.WithTimeoutCause(j.life, limit, scriptTimeout(limit))
	defer cancel()
	begun := j.begun(agent.AfterScript)
	defer j.section(agent.AfterScript, "after_script", "Running after_script")()
	if !begun {
		j.trace.Noticef("Running after script...")
	}
	w := script.New(j.dialect())
	w.Exports(j.setup.Temp + "/" + envFile)
	w.Commands("section_after_script_step", j.AfterScript)
	after := j.execute(ctx, agent.Order{
		Phase: agent.AfterScript, Text: w.String(), Env: []string{"CI_JOB_STATUS=" + result.JobStatus()}, Limit: j.alone(limit), Note: j.note(result),
	})
	switch {
	case after.Status == pipeline.StatusSuccess || j.life.Err() != nil:
	case result.Status == pipeline.StatusSuccess && !j.Is("AFTER_SCRIPT_IGNORE_ERRORS", true):
		return after
	default:
		j.trace.Warningf("after_script failed, but job will continue unaffected: %s", after.Message)
	}
	return result
}

// uploadLimit is how long it may take to get what a job leaves.
const uploadLimit = time.Hour

// finish gets what the job leaves and keeps it.
func (j *job) finish(result executor.Result) executor.Result {
	if j.life.Err() != nil {
		return j.stopped(j.ctx)
	}
	var tracked []string
	var err error
	selected, caches := j.wanted(result)
	if slices.ContainsFunc(selected, func(s artifact.Selection) bool { return s.Untracked }) {
		tracked, err = artifact.Tracked(j.Dir, j.x.o.Limits)
	}
	uploaded := false
	if err == nil && j.ready && !j.isDead() {
		err = j.collect(result, selected, tracked)
		if err != nil && caches > 0 && !j.isDead() && j.life.Err() == nil {
			j.trace.Warningf("the caches are not saved: %v", err)
			if err = j.clear(selected[:caches], tracked); err == nil {
				selected = selected[caches:]
				err = j.collect(result, selected, tracked)
			}
		}
		uploaded = err == nil
	}
	j.tell()
	defer j.refuseFiles()()
	if j.Finish == nil || j.life.Err() != nil {
		return j.conclude(result, err)
	}
	if !uploaded && len(selected) > 0 { // what was there before the job is not what it has left
		err = errors.Join(err, artifact.Clear(j.life, j.Dir, selected, tracked, j.x.o.Limits))
	}
	return j.conclude(result, errors.Join(err, j.Finish(j.life, j.trace, result)))
}

// wanted says which files of the job's directory are kept; the first so many are those of caches.
func (j *job) wanted(result executor.Result) (selected []artifact.Selection, caches int) {
	if j.Finish == nil {
		return nil, 0
	}
	work, passed := artifact.Work{Dir: j.Dir, Vars: containerVariables(j.Job, j.Dir)}, result.Status == pipeline.StatusSuccess
	without := j.Job.Job
	without.Caches = nil
	selected = artifact.Wanted(j.Job.Job, work, passed)
	return selected, len(selected) - len(artifact.Wanted(without, work, passed))
}

// collect has the agent send what is selected of the job's directory.
func (j *job) collect(result executor.Result, selected []artifact.Selection, tracked []string) error {
	ctx, cancel := context.WithTimeoutCause(j.life, uploadLimit, scriptTimeout(uploadLimit))
	defer cancel()
	r := j.execute(ctx, agent.Order{Phase: agent.Upload, Selected: selected, Tracked: tracked, Note: j.note(result), Uploads: j.uploads()})
	if r.Status != pipeline.StatusSuccess {
		return errors.New(r.Message)
	}
	return nil
}

// clear removes what is selected of the job's directory, once nobody else writes to it.
func (j *job) clear(selected []artifact.Selection, tracked []string) error {
	j.files.Lock()
	defer j.files.Unlock()
	return artifact.Clear(j.life, j.Dir, selected, tracked, j.x.o.Limits)
}

// refuseFiles sees to it that what an agent still sends is not taken, and waits until nobody writes to the job's directory. Done lets go of it.
func (j *job) refuseFiles() (done func()) {
	j.mu.Lock()
	if j.dead = true; j.upload != nil {
		j.upload()
	}
	j.mu.Unlock()
	j.files.Lock() // only now: who has it waits for the agent
	return j.files.Unlock
}

// uploads is the how many-eth time it is that the agent sends what the job leaves: what it has sent to an earlier process is gone.
func (j *job) uploads() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.status.Phase == agent.Upload && j.status.Running {
		return j.status.Uploads
	}
	return j.status.Uploads + 1
}

// conclude gives the result of a job whose end has gone wrong, or not.
func (j *job) conclude(result executor.Result, err error) executor.Result {
	switch {
	case j.life.Err() != nil && result.Status == pipeline.StatusSuccess:
		return executor.Canceled()
	case err != nil && result.Status == pipeline.StatusSuccess:
		return executor.FailedWith(err)
	case err != nil && j.life.Err() == nil:
		j.trace.Warningf("%v", err)
	}
	return result
}

// end lets the Pod go, unless the job goes on without this process. Where all of it has ended, that waits until the result is kept.
func (j *job) end() {
	j.mu.Lock()
	left := j.left()
	j.closed = left
	runs := j.heard && j.status.Phase > agent.Hello && !j.status.Done(agent.Upload) // its scripts may
	if j.ended = true; runs && !left {
		j.order = agent.Order{Phase: agent.End}
	}
	j.change()
	j.mu.Unlock()
	j.written()
	j.refuseFiles()()
	switch {
	case left:
		j.x.remove(j)
	case runs:
		j.delete(j.life, 1)
		ctx, cancel := context.WithTimeout(context.Background(), goneLimit)
		defer cancel()
		_ = j.awaitGone(ctx) // else the cluster does it later
		j.x.remove(j)
	default:
		j.x.ends.Go(j.letGo)
	}
}

// letGo removes what was made for the job once its result is kept, unless the process ends before: then another one takes the job up at its end.
// Where it turns out that the result could not be kept yet, the sweep does it later.
func (j *job) letGo() {
	defer j.x.remove(j)
	if j.Kept != nil {
		select {
		case <-j.Kept:
		case <-j.Leave:
			return
		case <-j.x.ended:
			return
		}
		if j.x.o.Over != nil {
			if over, err := j.x.o.Over(context.Background(), j.ID); err != nil || !over {
				return
			}
		}
	}
	j.mu.Lock()
	j.order = agent.Order{Phase: agent.End}
	j.change()
	j.mu.Unlock()
	j.delete(context.Background(), 0)
}

// delete removes what was made for the job.
func (j *job) delete(ctx context.Context, grace int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deletePatience)
	defer cancel()
	pod, secret, err := j.makings(ctx)
	if err != nil {
		j.x.o.Log.Warn("look for what was made for a job; it is removed later", "job", j.ID, "error", err)
	}
	if pod != nil {
		j.x.deletePod(ctx, pod, grace)
	}
	if secret != nil {
		j.x.deleteSecret(ctx, secret)
	}
}

// makings gives what was made for the job; nil: nothing, or somebody else's is there by that name. Where the cluster's answer was lost, or an earlier
// process has made it, the cluster is asked.
func (j *job) makings(ctx context.Context) (pod *corev1.Pod, secret *corev1.Secret, err error) {
	j.mu.Lock()
	making := j.making
	pod, secret = j.pod, j.secret
	j.mu.Unlock()
	if !j.Resume && !making || j.Resume && pod == nil {
		return nil, nil, nil
	}
	if pod == nil {
		list, e := j.x.o.Client.CoreV1().Pods(j.plan.namespace).List(ctx, j.byName())
		if err = e; err == nil && len(list.Items) == 1 && j.mine(&list.Items[0]) {
			pod = &list.Items[0]
		}
	}
	if secret == nil {
		list, e := j.x.o.Client.CoreV1().Secrets(j.plan.namespace).List(ctx, j.byName())
		if err = errors.Join(err, e); e == nil && len(list.Items) == 1 {
			found := &list.Items[0]
			if j.Resume && pod != nil && metav1.IsControlledBy(found, pod) || !j.Resume && j.mine(found) {
				secret = found
			}
		}
	}
	return pod, secret, err
}

// byName selects what has the job's name. No other right is needed for this than to list.
func (j *job) byName() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", j.plan.name).String()}
}

// written waits until what is being written to the log has its answer.
func (j *job) written() {
	j.logs.Lock()
	defer j.logs.Unlock()
}

// goneLimit is how long one waits for the end of the Pod of a job that was aborted.
const goneLimit = 15 * time.Second
