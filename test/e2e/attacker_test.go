package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
)

// What the attacker is after, and what is its own.
const (
	prize     = "s3cret-prize-of-the-fort"
	loot      = "the private loot of the fort"
	protected = "s3cret/of+protected branches"
	own       = "s3cret/of+the outlaw's own"
)

// try is one thing that a job of the attacker tries: a command, which has to fail and to say why: one of the reasons, with | between them.
// A command gets at one thing only: one that fails for a second one might have got the first.
type try struct{ name, command, want string }

// tryScript is a job's script with the tries. What a command gets it shows, and goes on.
func tryScript(tries []try) []string {
	script := []string{`t() { n=$1; shift; if sh -c "$*" >/tmp/answer 2>/tmp/err </dev/null; then echo "attack $n: got in"; head -c 2000 /tmp/answer; else echo "attack $n: refused: $(cat /tmp/err /tmp/answer | head -c 2000 | tr '\n' ' ')"; fi; }`}
	for _, a := range tries {
		script = append(script, "t "+a.name+" '"+strings.ReplaceAll(a.command, "'", `'\''`)+"'")
	}
	return script
}

// noProgram is what a shell says where it does not find a command: nothing was tried then.
var noProgram = regexp.MustCompile(`sh: (\d+: |line \d+: )?\S+: (command )?not found`)

// refused holds that a log tells of every try that it was refused, with the reason that is wanted.
func refused(t *testing.T, log string, tries []try) {
	t.Helper()
	for _, a := range tries {
		_, said, found := strings.Cut(log, "\nattack "+a.name+": ")
		said, _, _ = strings.Cut(said, "\nattack ")
		if !found {
			said = "it was not tried: " + log[max(0, len(log)-2000):]
		}
		because := slices.ContainsFunc(strings.Split(a.want, "|"), func(why string) bool { return why != "" && strings.Contains(said, why) })
		if !found || !strings.HasPrefix(said, "refused: ") || !because || noProgram.MatchString(said) {
			t.Errorf("%s: want it refused with %q:\n%s\n%s", a.name, a.want, a.command, said)
		}
	}
}

// ended pushes a configuration, waits until nothing of its pipeline runs any more, and gives what became of its jobs, and their logs.
func (in *instance) ended(t *testing.T, c clone, project, branch string, config map[string]any) (p pipelineShown, status, logs map[string]string) {
	t.Helper()
	before := len(in.pipelines(t, project))
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.dir, ".gitlab-ci.yml"), string(text))
	c.commit("play " + branch)
	c.git("push", "-q", "-f", "origin", "HEAD:"+branch)
	id := in.newest(t, project, before+1)
	eventually(t, fmt.Sprintf("the end of pipeline %d", id), func() error {
		p = pipelineShown{}
		if err := json.Unmarshal([]byte(in.must(t, "ci", "show", fmt.Sprint(id), "-o", "json")), &p); err != nil {
			return err
		}
		if !slices.Contains([]string{"success", "failed", "canceled"}, p.Status) {
			return fmt.Errorf("%s", p.sum())
		}
		return nil
	})
	if len(p.Jobs) == 0 {
		t.Fatal(in.must(t, "ci", "show", fmt.Sprint(id)))
	}
	status, logs = map[string]string{}, map[string]string{}
	for _, j := range p.Jobs {
		status[j.Name] = strings.TrimSuffix(j.Status+" "+j.Reason, " ")
		logs[j.Name] = "\n" + in.keelson("ci", "logs", fmt.Sprint(id), j.Name).out
		for _, secret := range []string{prize, loot, protected, in.Token} {
			if strings.Contains(logs[j.Name], secret) {
				t.Errorf("job %s got %q:\n%s", j.Name, secret, logs[j.Name])
			}
		}
	}
	return p, status, logs
}

// fort makes the victim and the attacker: two projects, and a pipeline of the victim that has left something. It gives the numbers of that
// pipeline and its job, and the attacker's clone.
func fort(t *testing.T, in *instance, executor string) (pipeline, job int64, c clone) {
	t.Helper()
	apply(t, in.Kubeconfig, `
apiVersion: v1
kind: Namespace
metadata: {name: fort}
---
apiVersion: v1
kind: Namespace
metadata: {name: outlaw}
---
apiVersion: v1
kind: Secret
metadata: {name: prize, namespace: fort}
stringData: {password: "`+prize+`"}
---
apiVersion: v1
kind: Secret
metadata: {name: own, namespace: outlaw}
stringData: {protected: "`+protected+`", own: "`+own+`"}
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: victim, namespace: fort}
spec:
  repository: team/victim
  path: acme/victim
  executor: {`+executor+`}
  variables: [{name: PRIZE, protected: true, valueFrom: {secretKeyRef: {name: prize, key: password}}}]
  access: [{name: production, serviceAccount: strong}]
---
apiVersion: keelson.dev/v1alpha1
kind: Project
metadata: {name: attacker, namespace: outlaw}
spec:
  repository: team/attacker
  path: acme/attacker
  defaultBranch: main
  protected: {branches: [main]}
  executor: {`+executor+`}
  variables:
  - {name: PROTECTED, protected: true, valueFrom: {secretKeyRef: {name: own, key: protected}}}
  - {name: OWN, valueFrom: {secretKeyRef: {name: own, key: own}}}
  access: [{name: mine, serviceAccount: weak}, {name: production, serviceAccount: strong, protected: true}]
  environments: [{name: production, deployers: [ada]}]
`)
	in.rbac(t, "fort", "strong")
	in.rbac(t, "outlaw", "strong")
	in.rbac(t, "outlaw", "weak")
	in.must(t, "git", "create", "team/victim")
	in.must(t, "git", "create", "team/attacker")
	v := cloneOf(t, in.Git+"/team/victim.git")
	p, status, _ := in.ended(t, v, "acme/victim", "main", map[string]any{
		"keep": map[string]any{"script": []string{`test -n "$PRIZE"`, `printf 'the private loot of %s' 'the fort' > loot`}, "artifacts": map[string]any{"paths": []string{"loot"}}},
	})
	if status["keep"] != "success" {
		t.Fatalf("the victim's own pipeline: %s", p.sum())
	}
	c = cloneOf(t, in.Git+"/team/attacker.git")
	c.git("commit", "-q", "--allow-empty", "-m", "Begin [skip ci]")
	c.git("push", "-q", "origin", "HEAD:main")
	return p.ID, p.Jobs[0].ID, c
}

// clusterTries are what a job tries with the way to the cluster that it has.
func clusterTries(kubectl string) []try {
	const not = "forbidden"
	return []try{
		{"secret", kubectl + " get secret prize -n fort -o yaml", not},
		{"every-secret", kubectl + " get secrets -A -o yaml", not},
		{"as-admin", kubectl + " --as system:admin --as-group system:masters get secret prize -n fort -o yaml", not},
		{"as-victim", kubectl + " --as system:serviceaccount:fort:strong get pods -n fort", not},
		{"a-token-of-another-account", kubectl + " create token strong -n fort", not},
		{"rights", kubectl + " create rolebinding mine -n fort --clusterrole admin --serviceaccount outlaw:weak", not},
		{"another-context", kubectl + " --context acme/attacker:production get pods", "context was not found"},
		{"a-pod-of-the-victim", kubectl + " run spy -n fort --image spy", not},
		{"projects", kubectl + " patch project attacker --type merge -p '{\"spec\":{\"suspend\":true}}'", not},
		{"no-token", kubectl + " --token nonsense get pods", "no token of a job"},
	}
}

// environs writes the environments of all processes that a job may read.
const environs = `cat /proc/[0-9]*/environ 2>/dev/null | tr "\0" "\n"`

// TestAttackerInTheShell: a hostile project on the same instance gets nothing of another project, of the instance, or of its own protected branches.
func TestAttackerInTheShell(t *testing.T) {
	in := shared
	victim, job, c := fort(t, in, "type: shell")
	base := strings.TrimSuffix(in.Dashboard, "/")
	pwned := filepath.Join(t.TempDir(), "pwned")

	var api []try
	for i, path := range []string{"pipelines", fmt.Sprintf("pipelines/%d", victim), fmt.Sprintf("pipelines/%d/variables", victim), fmt.Sprintf("jobs/%d/log", job),
		fmt.Sprintf("jobs/%d/artifacts/archive", job), "projects/variables?project=acme/victim", "environments", "events"} {
		for _, header := range []string{"Authorization: Bearer", "PRIVATE-TOKEN:", "JOB-TOKEN:"} {
			api = append(api, try{fmt.Sprintf("api-%d-%s", i, header[:3]), `curl -sS -m 10 --fail -H "` + header + ` $CI_JOB_TOKEN" "` + base + "/api/v1/" + path + `"`, "401"})
		}
	}
	api = append(api,
		try{"api-basic", `curl -sS -m 10 --fail -u "keelson:$CI_JOB_TOKEN" ` + base + "/api/v1/pipelines", "401"},
		try{"api-retry", fmt.Sprintf(`curl -sS -m 10 --fail -H "Authorization: Bearer $CI_JOB_TOKEN" -d {} %s/api/v1/pipelines/%d/retry`, base, victim), "401"},
		try{"trigger", `curl -sS -m 10 --fail -F token=$CI_JOB_TOKEN -F ref=main ` + base + "/api/v4/projects/acme%2Fvictim/trigger/pipeline", "404"},
		try{"push", "git push http://gitlab-ci-token:$CI_JOB_TOKEN@${CI_REPOSITORY_URL#*@} HEAD:refs/heads/main", "does not push"},
		try{"push-the-victim", "git push ${CI_REPOSITORY_URL%/*}/victim.git HEAD:refs/heads/evil", "does not push"},
		try{"push-without", "git push " + base + "/git/team/victim.git HEAD:refs/heads/evil", "could not read Username"},
	)
	cluster := clusterTries("kubectl")
	for _, header := range []string{"Impersonate-User: system:admin", "impersonate-group: system:masters", "X-Remote-User: system:admin", "X-Remote-Group: system:masters", "Connection: Authorization"} {
		cluster = append(cluster, try{strings.ReplaceAll(strings.ToLower(header[:strings.Index(header, ":")]), "-", "_"),
			`curl -sS -m 10 --fail-with-body --cacert $KUBE_CA_PEM_FILE -H "Authorization: Bearer $KUBE_TOKEN" -H "` + header + `" $KUBE_URL/api/v1/namespaces/fort/secrets/prize`, `outlaw:weak\" cannot get resource \"secrets\"`})
	}
	cluster = append(cluster,
		try{"basic", `curl -sS -m 10 --fail-with-body --cacert $KUBE_CA_PEM_FILE -u "x:$KUBE_TOKEN" $KUBE_URL/api/v1/namespaces/fort/secrets/prize`, "a job's token is needed"},
		try{"dots", `curl -sS -m 10 --fail-with-body --path-as-is --cacert $KUBE_CA_PEM_FILE -H "Authorization: Bearer $KUBE_TOKEN" $KUBE_URL/api/v1/namespaces/outlaw/../fort/secrets/prize`, "has a part . or .."})
	files := []try{
		{"data", "find " + in.data + ` -path "$CI_BUILDS_DIR" -prune -o -type f -print | grep . || { ls ` + in.data + ` >/dev/null && echo "it has no file"; exit 1; }`, "it has no file"},
		{"instance", "cat " + in.data + "/instance.json", "No such file"},
		{"logs", "ls " + in.data + "/logs", "No such file"},
		{"store", "ls " + in.data + "/ci/store.db", "No such file"},
		{"key", "cat " + in.data + "/ci/store.key", "No such file"},
		{"kubeconfig", "cat " + in.Kubeconfig, "No such file"},
		{"first-process", "cat /proc/1/environ", "ermission denied"},
		{"first-process-files", "cat /proc/1/root" + in.Kubeconfig, "ermission denied"},
		{"all-processes", environs + ` | grep -i "KEELSON_TOKEN\|PRIZE=" || { ` + environs + ` | grep -q "^CI_JOB_ID=" && echo "they are its own"; exit 1; }`, "they are its own"},
		{"shadow", "cat /etc/shadow", "ermission denied"},
		{"write", "touch " + pwned, "No such file"},
		{"mount", "mount --bind / /mnt", "must be superuser|ermission denied"},
		{"device", "mknod /tmp/disk b 8 0", "not permitted"},
		{"docker", "ls /run/docker.sock", "No such file"},
		{"containerd", "ls /run/containerd", "No such file"},
		{"signal", "kill -9 1", "not permitted"},
	}
	hook := `printf '#!/bin/sh\nid > ` + pwned + `\n' > program; chmod +x program; git config core.fsmonitor "$PWD/program"; git config core.hooksPath "$PWD"; cp program post-index-change`
	_, status, logs := in.ended(t, c, "acme/attacker", "feature", map[string]any{
		"stages": []string{"one", "two"}, "default": map[string]any{"before_script": tryScript(nil)},
		"api":     map[string]any{"stage": "one", "script": tryScript(api)[1:]},
		"cluster": map[string]any{"stage": "one", "script": tryScript(cluster)[1:]},
		"files":   map[string]any{"stage": "one", "script": tryScript(files)[1:]},
		"lying": map[string]any{"stage": "one", "variables": map[string]string{"CI_COMMIT_REF_PROTECTED": "true", "CI_COMMIT_BRANCH": "main", "CI_PROJECT_PATH": "acme/victim"},
			"script": []string{`echo "protected [$PROTECTED] prize [$PRIZE]"`, `printf '%s\n' "$OWN"`, `printf %s "$OWN" | base64 -w0; echo`, `printf 'user:%s' "$OWN" | base64 -w0; echo`,
				`echo s3cret%2Fof%2Bthe%20outlaw%27s%20own s3cret%2Fof%2Bthe+outlaw%27s+own`, `echo "x${OWN}x"; printf 's3cret/of+'; sleep 0.2; echo "the outlaw's own"; echo "$OWN" >&2; env | grep OWN; export`}},
		"production": map[string]any{"stage": "one", "environment": "production", "script": []string{"echo deployed"}},
		"monitor":    map[string]any{"stage": "one", "script": []string{hook}, "artifacts": map[string]any{"untracked": true}, "cache": map[string]any{"key": map[string]any{"files_commits": []string{".gitlab-ci.yml"}}, "untracked": true}},
		"disk":       map[string]any{"stage": "one", "script": []string{"truncate -s 9G big"}, "artifacts": map[string]any{"paths": []string{"big"}}},
		"flood":      map[string]any{"stage": "one", "script": []string{"head -c 100000000 /dev/zero | tr '\\0' x", "echo; echo the e''nd"}},
		"links": map[string]any{"stage": "one", "script": []string{"ln -s " + in.data + "/ci/store.key key", "ln -s / top", "ln -s ../../../../../.. up"},
			"artifacts": map[string]any{"paths": []string{"key", "top", "up", "top/etc", "../*", "/etc/passwd", in.data + "/ci/store.key", "up/etc/passwd"}}},
		"tokens": map[string]any{"stage": "one", "script": []string{`echo $KUBE_TOKEN > kube; echo $CI_JOB_TOKEN > token`}, "artifacts": map[string]any{"paths": []string{"kube", "token"}}},
		"dotenv": map[string]any{"stage": "one", "script": []string{`printf 'CI_COMMIT_REF_PROTECTED=true\nCI_PROJECT_PATH=acme/victim\nCI_ENVIRONMENT_NAME=production\nCI_JOB_TOKEN=guess\nKUBE_NAMESPACE=fort\n' > env`},
			"artifacts": map[string]any{"reports": map[string]any{"dotenv": "env"}}},
		"poison": map[string]any{"stage": "one", "script": []string{"echo poison > dep"}, "variables": map[string]string{"SUFFIX": "deps-protected", "UP": "x/../deps-protected", "OTHER": "../../acme/victim/deps-protected/."}, "cache": []any{
			map[string]any{"key": "deps", "paths": []string{"dep"}}, map[string]any{"key": "$UP", "paths": []string{"dep"}}, map[string]any{"key": "$SUFFIX", "paths": []string{"dep"}, "unprotect": true},
			map[string]any{"key": "$OTHER", "paths": []string{"dep"}}}},
		"dead":   map[string]any{"stage": "two", "needs": []string{"tokens"}, "script": tryScript(deadTries(base))[1:]},
		"heir":   map[string]any{"stage": "two", "needs": []string{"dotenv"}, "script": tryScript(heirTries)[1:]},
		"taker":  map[string]any{"stage": "two", "needs": []string{"links"}, "script": tryScript(takerTries)[1:]},
		"other":  map[string]any{"stage": "two", "needs": []any{map[string]any{"project": "acme/victim", "job": "keep", "ref": "main", "artifacts": true}}, "script": []string{"cat loot"}},
		"bridge": map[string]any{"stage": "two", "trigger": map[string]any{"project": "acme/victim", "branch": "main"}},
	})
	for name, want := range map[string]string{
		"api": "success", "cluster": "success", "files": "success", "lying": "success", "production": "failed protected_environment_failure", "monitor": "success",
		"flood": "success", "links": "success", "tokens": "success", "dotenv": "success", "poison": "success",
	} {
		if status[name] != want {
			t.Errorf("job %s: %s, want %s:\n%.3000s", name, status[name], want, logs[name])
		}
	}
	for name, want := range map[string]string{"disk": "failed", "other": "failed missing_dependency_failure", "bridge": "skipped"} {
		if !strings.HasPrefix(status[name], want) {
			t.Errorf("job %s: %s, want %s:\n%.3000s", name, status[name], want, logs[name])
		}
	}
	refused(t, logs["api"], api)
	refused(t, logs["cluster"], cluster)
	refused(t, logs["files"], files)
	contains(t, logs["lying"], "protected [] prize []", "[MASKED]")
	for _, form := range []string{own, base64.StdEncoding.EncodeToString([]byte(own)), base64.StdEncoding.EncodeToString([]byte("user:" + own))[8:30], url.QueryEscape(own), url.PathEscape(own)} {
		if strings.Contains(logs["lying"], form) {
			t.Errorf("a masked value is in the log as %q:\n%s", form, logs["lying"])
		}
	}
	if _, err := os.Stat(pwned); err == nil {
		t.Error("the server ran a program of the job")
	}
	if len(logs["flood"]) > 5<<20 || !strings.Contains(logs["flood"], "exceeded limit of") || strings.Contains(logs["flood"], "the end") {
		t.Errorf("the log has %d bytes", len(logs["flood"]))
	}
	if strings.Contains(logs["production"], "\ndeployed") {
		t.Errorf("it deployed:\n%s", logs["production"])
	}
	refused(t, logs["dead"], deadTries(base))
	refused(t, logs["heir"], heirTries)
	refused(t, logs["taker"], takerTries)

	// A pipeline of a protected branch finds nothing of what the other branch has put into caches; another project's pipeline is not made.
	_, status, logs = in.ended(t, c, "acme/attacker", "main", map[string]any{
		"clean": map[string]any{"script": []string{"ls", "test ! -e dep"}, "cache": []any{
			map[string]any{"key": "deps", "paths": []string{"dep"}}, map[string]any{"key": "other", "fallback_keys": []string{"deps"}, "paths": []string{"dep"}}}},
	})
	if status["clean"] != "success" {
		t.Errorf("the cache of a protected branch has what another branch put there:\n%s", logs["clean"])
	}
	bridge, _, _ := in.ended(t, c, "acme/attacker", "feature", map[string]any{"bridge": map[string]any{"trigger": map[string]any{"project": "acme/victim", "branch": "main"}}})
	if got := in.pipelines(t, "acme/victim"); bridge.Status != "failed" || len(got) != 1 {
		t.Errorf("%s, and the victim has pipelines %v", bridge.sum(), got)
	}
}

// deadTries are what a job tries with the tokens of one that is over.
func deadTries(base string) []try {
	return []try{
		{"dead-kube", `kubectl --token $(cat kube) get pods`, "the job has ended"},
		{"dead-trigger", `curl -sS -m 10 --fail -F token=$(cat token) -F ref=feature ` + base + "/api/v4/projects/acme%2Fattacker/trigger/pipeline", "404"},
		{"dead-push", "git push http://gitlab-ci-token:$(cat token)@${CI_REPOSITORY_URL#*@} HEAD:refs/heads/evil", "the token is wrong, or its job is over"},
	}
}

// takerTries are what a job tries with the links that another one has left.
var takerTries = []try{{"link", "cat key", "No such file"}, {"shadow-by-link", "cat top/etc/shadow", "ermission denied"}}

// heirTries are what a job tries whose variables say that it is another one.
var heirTries = []try{
	{"heir-secret", "kubectl get secret prize -n fort -o yaml", "forbidden"},
	{"heir-context", "kubectl --context acme/attacker:production get pods", "context was not found"},
	{"heir-protected", `test -z "$PROTECTED" && echo "it has none" && exit 1; echo "$PROTECTED"`, "it has none"},
}

// direct is kubectl in a Pod, with a job's token and past the proxy; the wget there speaks no TLS that these servers do.
const direct = "timeout 20 /tmp/kubectl --kubeconfig /dev/null --insecure-skip-tls-verify --token $CI_JOB_TOKEN "

// TestAttackerInPods: the same in Pods, whose ways are the registry, the node and the Git host, which asks everybody there.
func TestAttackerInPods(t *testing.T) {
	in := realInstance(t, "--ci-executor", "pod")
	login := crane.WithAuth(&authn.Basic{Username: "me", Password: in.Token})
	for _, name := range []string{"/tools/shell:1", "/acme/victim:1"} {
		if err := crane.Push(busyboxImage(t), in.Registry+name, login); err != nil {
			t.Fatal(err)
		}
	}
	victim, job, c := fort(t, in, "image: "+in.Registry+"/tools/shell:1")
	node, _, _ := strings.Cut(in.Registry, ":")
	get := func(address string) string {
		return `wget -O - --header "Authorization: Basic $(printf gitlab-ci-token:$CI_JOB_TOKEN | base64 | tr -d '\n')" ` + "'http://" + in.Registry + address + "'"
	}
	post := func(address string) string { return get(address) + " --post-data=" }
	network := []try{
		{"git-victim", get("/git/team/victim.git/info/refs?service=git-upload-pack"), "401"},
		{"git-nobody", "wget -O - http://" + in.Registry + "/git/team/victim.git/info/refs?service=git-upload-pack", "401"},
		{"git-push", get("/git/team/attacker.git/info/refs?service=git-receive-pack"), "401"},
		{"api", "wget -O - --header \"Authorization: Bearer $CI_JOB_TOKEN\" http://" + in.Registry + "/api/v1/pipelines", "401"},
		{"api-log", fmt.Sprintf("wget -O - --header \"Authorization: Bearer $CI_JOB_TOKEN\" http://%s/api/v1/jobs/%d/log", in.Registry, job), "401"},
		{"api-variables", fmt.Sprintf("wget -O - --header \"Authorization: Bearer $CI_JOB_TOKEN\" http://%s/api/v1/pipelines/%d/variables", in.Registry, victim), "401"},
		{"pull", get("/v2/acme/victim/manifests/1"), "403"},
		{"push", post("/v2/acme/victim/blobs/uploads/"), "403"},
		{"push-helper", post("/v2/keelson/helper/blobs/uploads/"), "403"},
		{"kubelet", direct + "--server https://" + node + ":10250 get --raw /pods", "provide credentials"},
		{"kubelet-read", "timeout 10 wget -O - http://" + node + ":10255/pods", "Connection refused"},
		{"dashboard", "timeout 10 wget -O - http://" + node + ":" + strings.TrimSuffix(in.Dashboard[strings.LastIndex(in.Dashboard, ":")+1:], "/") + "/api/v1/pipelines", "Connection refused"},
	}
	inside := []try{
		{"account", "cat /var/run/secrets/kubernetes.io/serviceaccount/token", "No such file"},
		{"host", "cat " + in.data + "/ci/store.key", "No such file"},
		{"host-kubeconfig", "cat " + in.Kubeconfig, "No such file"},
		{"hosts-root", "cat /proc/1/root" + in.Kubeconfig, "No such file"},
		{"mount", "mount -t tmpfs none /mnt", "permission denied"},
		{"device", "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk", "not permitted"},
		{"containerd", "ls /run/containerd/containerd.sock", "No such file"},
		{"docker", "ls /var/run/docker.sock", "No such file"},
		{"node-processes", "ls /proc/*/root" + in.data, "No such file"},
		{"api-server", direct + "--server https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT get --raw /api/v1/namespaces/fort/secrets/prize", "(Unauthorized)"},
	}
	cluster := clusterTries("/tmp/kubectl")
	_, status, logs := in.ended(t, c, "acme/attacker", "feature", map[string]any{
		"default": map[string]any{"before_script": append(tryScript(nil), "ln -s /proc/1/exe /tmp/kubectl")},
		"network": map[string]any{"script": tryScript(network)[1:]},
		"inside":  map[string]any{"script": append(tryScript(inside)[1:], "cat /proc/[0-9]*/environ | tr '\\0' '\\n'", `echo "protected [$PROTECTED] prize [$PRIZE]"`)},
		"cluster": map[string]any{"script": tryScript(cluster)[1:]},
		"links":   map[string]any{"script": []string{"ln -s " + in.data + "/ci/store.key key", "ln -s / top"}, "artifacts": map[string]any{"paths": []string{"key", "top", "top/etc", "../*", "/etc/passwd", in.data + "/ci/store.key"}}},
	})
	for _, name := range []string{"network", "inside", "cluster", "links"} {
		if status[name] != "success" {
			t.Errorf("job %s: %s:\n%.3000s", name, status[name], logs[name])
		}
	}
	refused(t, logs["network"], network)
	refused(t, logs["inside"], inside)
	refused(t, logs["cluster"], cluster)
	contains(t, logs["inside"], "protected [] prize []")
}
