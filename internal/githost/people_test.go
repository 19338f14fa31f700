package githost_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/githost"
)

// rights of people, by their tokens.
var rights = map[string]struct{ name, reads, writes string }{
	"kst_ann": {"ann", "sample other", "sample new"},
	"kst_bob": {"bob", "sample", ""},
}

// withPeople lets ann and bob in, who are in rights.
func withPeople(o githost.Options) githost.Options {
	o.Personal = func(token string) bool { return strings.HasPrefix(token, "kst_") }
	o.Person = func(_ context.Context, token, repository string, write bool) (string, error) {
		p, ok := rights[token]
		allowed := p.reads
		if write {
			allowed = p.writes
		}
		switch {
		case !ok:
			return "", githost.ErrUnknown
		case repository == "locked":
			return "", errors.New("the cluster does not answer")
		case repository != "" && !strings.Contains(" "+allowed+" ", " "+repository+" "):
			return p.name, fmt.Errorf("%w: %s may not", githost.ErrForbidden, p.name)
		}
		return p.name, nil
	}
	return o
}

// TestPeople: people clone and push with tokens of their own, and are who has pushed whatever name they give.
func TestPeople(t *testing.T) {
	var refused []string
	s := start(t, withPeople(githost.Options{
		GuardReads: true, Private: func(name string) bool { return name == "audit" },
		OnRefused: func(p githost.Push) { refused = append(refused, p.User+" "+p.Repository+" "+p.Address) },
	}))
	for _, name := range []string{"sample", "other", "locked", "audit"} {
		s.create(t, name)
	}
	dir := s.clone(t, "sample")
	gitOK(t, dir, "push", "-q", "origin", "HEAD")
	as := func(login string) string { return strings.Replace(s.url, "http://", "http://"+login+"@", 1) + "/git/" }
	for i, c := range []struct {
		login, repository, branch string // empty branch: a clone
		refused                   string // empty: it goes well
		by                        string // whose push it is
	}{
		{login: "ann:kst_ann", repository: "sample"},
		{login: "ann:kst_ann", repository: "sample", branch: "a", by: "ann"},
		{login: "root:kst_ann", repository: "sample", branch: "b", by: "ann"}, // the name proves nothing
		{login: "ann:kst_ann", repository: "other"},
		{login: "ann:kst_ann", repository: "other", branch: "a", refused: "ann may not"},
		{login: "bob:kst_bob", repository: "sample"},
		{login: "bob:kst_bob", repository: "sample", branch: "c", refused: "bob may not"},
		{login: "ann:kst_bob", repository: "other", refused: "bob may not"},
		{login: "ann:kst_gone", repository: "sample", refused: "Authentication failed"},
		{login: "ann:kst_gone", repository: "sample", branch: "d", refused: "Authentication failed"},
		{login: "ann:kst_ann", repository: "locked", refused: "the cluster does not answer"},
		{login: "ann:kst_ann", repository: "audit", refused: "Authentication failed"},
	} {
		url := as(c.login) + c.repository + ".git"
		args := []string{"clone", "-q", url, t.TempDir()}
		if c.branch != "" {
			args = []string{"push", "-q", url, "HEAD:refs/heads/" + c.branch}
		}
		before := len(s.pushes())
		out, err := tryGit(dir, args...)
		if (err != nil) != (c.refused != "") || !strings.Contains(out, c.refused) {
			t.Errorf("%d: git %v: %v\n%s", i, args, err, out)
		}
		told := s.pushes()[before:]
		if c.by == "" != (len(told) == 0) || c.by != "" && told[0].User != c.by {
			t.Errorf("%d: told %+v, and not of %q", i, told, c.by)
		}
	}
	if want := "[ann other 127.0.0.1 bob sample 127.0.0.1]"; fmt.Sprint(refused) != want { // of pushes, by those who are known
		t.Errorf("refused were %v, want %s", refused, want)
	}
}

func TestPeopleAPI(t *testing.T) {
	s := start(t, withPeople(githost.Options{GuardReads: true, Private: func(name string) bool { return name == "audit" }}))
	for _, name := range []string{"sample", "other", "audit"} {
		s.create(t, name)
	}
	for _, c := range []struct {
		token, method, body string
		status              int
		says                string
	}{
		{"kst_ann", "GET", "", 200, `other sample`},
		{"kst_bob", "GET", "", 200, `sample`},
		{"kst_gone", "GET", "", 401, "wrong or over"},
		{"kst_bob", "POST", `{"name":"new"}`, 403, "bob may not"},
		{"kst_ann", "POST", `{"name":"elsewhere"}`, 403, "ann may not"},
		{"kst_ann", "POST", `{"name":"../new"}`, 400, "bad repository name"},
		{"kst_gone", "POST", `{"name":"new"}`, 401, "wrong or over"},
		{"kst_ann", "POST", `{"name":"new"}`, 403, "another site"},
		{"kst_ann", "POST", `{"name":"new"}`, 201, "new"},
	} {
		req, err := http.NewRequest(c.method, s.url+githost.APIPath, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
		if c.says == "another site" {
			req.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var out struct {
			Repositories []githost.Info
			Name, Error  string
		}
		err = json.NewDecoder(res.Body).Decode(&out)
		res.Body.Close()
		said := out.Error + out.Name
		for _, r := range out.Repositories {
			said += " " + r.Name
		}
		if said = strings.TrimSpace(said); err != nil || res.StatusCode != c.status || c.status == 200 && said != c.says || !strings.Contains(said, c.says) {
			t.Errorf("%s %s %s: %s %q %v", c.token, c.method, c.body, res.Status, said, err)
		}
	}
}
