package ci

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"keelson.dev/keelson/internal/githost"
)

// TestSubmodulesAsTheJob holds that a job's submodules are what the job may read, though a Git host lets everybody on this machine read, and
// that nobody has the server ask something else in its network.
func TestSubmodulesAsTheJob(t *testing.T) {
	w := newWorld(t, "app", "lib", "deep", "closed")
	open, err := githost.New(githost.Options{
		Root: filepath.Join(w.dir, "git"), Token: hostToken, Allow: func(token, repository string, write bool) error { return w.current().Allow(token, repository, write) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	internal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNotFound) }))
	defer internal.Close()
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/git/moved.git/") {
			http.Redirect(w, r, internal.URL+r.URL.Path, http.StatusFound)
			return
		}
		open.ServeHTTP(w, r)
	}))
	defer hs.Close()
	w.server.At(Place{URL: w.url, GitURL: hs.URL + "/git"})
	w.projects.all[1].ReadableBy, w.projects.all[2].ReadableBy = []string{"group/app"}, []string{"group/app"}
	modules := func(url string) string {
		return fmt.Sprintf("[submodule \"the sub\"]\n\tpath = sub\n\turl = %s\n", url)
	}
	heads := map[string]string{}
	for _, name := range []string{"deep", "closed", "lib"} {
		dir := w.clone(name)
		files := map[string]string{"text": "of " + name + "\n"}
		if name == "lib" {
			files[".gitmodules"] = modules("../deep.git")
		}
		w.commit(dir, "First", files)
		if name == "lib" {
			w.git(dir, "update-index", "--add", "--cacheinfo", "160000,"+heads["deep"]+",sub")
			w.git(dir, "commit", "-qm", "A submodule")
		}
		heads[name] = strings.TrimSpace(w.git(dir, "rev-parse", "HEAD"))
		w.push(dir, 0, "HEAD")
	}
	dir := w.clone("app")
	port := hs.URL[strings.LastIndex(hs.URL, ":")+1:]
	for _, c := range []struct{ what, url, of, want, log string }{
		{"relative, with one of its own", "../lib.git", "lib", "success", "of deep"},
		{"absolute", hs.URL + "/git/lib.git", "lib", "success", "of deep"},
		{"as scripts write it", hs.URL + "/lib.git", "lib", "success", "of deep"},
		{"not readable", "../closed.git", "closed", "failed", "has to name this one in readableBy"},
		{"not readable, absolute", hs.URL + "/git/closed.git", "closed", "failed", "has to name this one in readableBy"},
		{"by another name of this machine", "http://localhost:" + port + "/git/closed.git", "closed", "failed", "an address of the server's own network"},
		{"by a number", "http://2130706433:" + port + "/git/closed.git", "closed", "failed", "this is no host's name"},
		{"with another user", strings.Replace(hs.URL, "http://", "http://a:b@", 1) + "/git/closed.git", "closed", "failed", "name it without a user"},
		{"of another service", internal.URL + "/x.git", "closed", "failed", "an address of the server's own network"},
		{"sent elsewhere", "../moved.git", "closed", "failed", "302"},
		{"of the disk", w.host.Dir("closed"), "closed", "failed", "only http and https addresses are fetched"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := &world{T: t, dir: w.dir, host: w.host, url: w.url, projects: w.projects, server: w.server, db: w.db}
			w.commit(dir, c.what, map[string]string{"what": c.what, ".gitmodules": modules(c.url), ".gitlab-ci.yml": `
job:
  variables: {GIT_SUBMODULE_STRATEGY: recursive, CI_JOB_TOKEN: ` + hostToken + `}
  script: [cat sub/text, "if [ -e sub/sub/text ]; then cat sub/sub/text; fi", "git config remote.origin.url | grep -q keelson[-]job"]
`})
			w.git(dir, "update-index", "--add", "--cacheinfo", "160000,"+heads[c.of]+",sub")
			w.git(dir, "commit", "-qm", "A submodule")
			p := w.push(dir, 1, "HEAD")[0]
			w.wants(p, "push main "+c.want+": job/1="+c.want)
			jobs, err := w.db.Jobs(t.Context(), p.ID)
			if err != nil {
				t.Fatal(err)
			}
			said := w.log(p, "job") + jobs[0].Message
			if !strings.Contains(said, c.log) || strings.Contains(said, "of closed") || strings.Contains(said, "keelson-job-") {
				t.Errorf("want %q in\n%s", c.log, said)
			}
		})
	}
	if asked.Load() > 0 {
		t.Errorf("another service was asked %d times", asked.Load())
	}
}
