package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/store"
)

func TestTriggers(t *testing.T) {
	var got TriggerRequest
	made := store.Pipeline{ID: 7, IID: 3, Project: 2, Source: "trigger", Ref: "main", SHA: "c0ffee", Status: "created", Created: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	h := NewTriggers(TriggersOptions{Accept: func(_ context.Context, r TriggerRequest) (Accepted, error) {
		got = r
		if r.Token != "secret" || r.Project == "nosuch" {
			return Accepted{}, ErrTriggerRefused
		}
		return Accepted{Project: r.Project, Make: func(context.Context) (Triggered, error) {
			switch r.Ref {
			case "nosuch":
				return Triggered{}, ErrTriggerRef
			case "empty":
				return Triggered{}, fmt.Errorf("no pipeline: no job runs")
			}
			return TriggeredOf(made, "http://keelson/"+r.Project), nil
		}}, nil
	}})
	const form, multi = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
	part := func(name, value string) string {
		return "--x\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	for _, c := range []struct {
		name, path, kind, body string
		status                 int
		want                   string // project, ref and variables, or what the answer has
	}{
		{"a form", "group%2Fapp/trigger/pipeline", form, "token=secret&ref=main&variables[A]=1&variables[B]=x%26y", 201, "group/app main map[A:1 B:x&y]"},
		{"a plain path", "group/app/trigger/pipeline", form, "token=secret&ref=main", 201, "group/app main map[]"},
		{"a number", "2/trigger/pipeline", form, "token=secret&ref=v1", 201, "2 v1 map[]"},
		{"parts", "app/trigger/pipeline", multi, part("token", "secret") + part("ref", "main") + part("variables[A]", "1") + "--x--\r\n", 201, "app main map[A:1]"},
		{"JSON", "app/trigger/pipeline", "application/json", `{"token":"secret","ref":"main","variables":{"A":"1"},"more":[1]}`, 201, "app main map[A:1]"},
		{"the query", "app/trigger/pipeline?token=secret&ref=main&variables[A]=1", "", "", 201, "app main map[A:1]"},
		{"the ref in the path", "group%2Fapp/ref/feature%2Fa/trigger/pipeline?token=secret", "", "", 201, "group/app feature/a map[]"},
		{"a webhook", "app/ref/main/trigger/pipeline?token=secret", "application/json", `{"object_kind":"push","ref":"refs/heads/x"}`, 201, "app main map[]"},
		{"no token", "app/trigger/pipeline", form, "ref=main", 400, `"token is missing"`},
		{"nothing", "app/trigger/pipeline", "", "", 400, `"ref is missing, token is missing"`},
		{"a wrong token", "app/trigger/pipeline", form, "token=x&ref=main", 404, `{"message":"404 Not Found"}`},
		{"no project", "nosuch/trigger/pipeline", form, "token=secret&ref=main", 404, `{"message":"404 Not Found"}`},
		{"no ref", "app/trigger/pipeline", form, "token=secret&ref=nosuch", 400, `{"message":{"base":["Reference not found"]}}`},
		{"no job", "app/trigger/pipeline", form, "token=secret&ref=empty", 400, `no job runs`},
		{"variables that are none", "app/trigger/pipeline", "application/json", `{"token":"secret","ref":"main","variables":[1]}`, 400, "variables is invalid"},
		{"a variable that is no text", "app/trigger/pipeline", "application/json", `{"token":"secret","ref":"main","variables":{"A":1}}`, 400, "map of key-valued strings"},
		{"a token that is no text", "app/trigger/pipeline", "application/json", `{"token":1,"ref":"main"}`, 400, "token is invalid"},
		{"no JSON", "app/trigger/pipeline", "application/json", `[`, 400, "no JSON object"},
		{"null", "app/trigger/pipeline", "application/json", `null`, 400, "no JSON object"},
		{"null, and all in the query", "app/trigger/pipeline?token=secret&ref=main", "application/json", ` null `, 400, "no JSON object"},
		{"a list", "app/trigger/pipeline", "application/json", `[{"token":"secret"}]`, 400, "no JSON object"},
		{"a number", "app/trigger/pipeline", "application/json", `1`, 400, "no JSON object"},
		{"a text", "app/trigger/pipeline", "application/json", `"token"`, 400, "no JSON object"},
		{"half an object", "app/trigger/pipeline", "application/json", `{"token":"secret","ref"`, 400, "no JSON object"},
		{"deep JSON", "app/trigger/pipeline", "application/json", strings.Repeat(`{"a":`, 20_000), 400, "no JSON object"},
		{"no body", "app/trigger/pipeline?token=secret&ref=main", "application/json", "", 201, "app main map[]"},
		{"an empty object", "app/trigger/pipeline", "application/json", `{}`, 400, `"ref is missing, token is missing"`},
		{"everything is null", "app/trigger/pipeline", "application/json", `{"token":null,"ref":null,"variables":null}`, 400, "is invalid"},
		{"a ref that is null", "app/trigger/pipeline", "application/json", `{"token":"secret","ref":null}`, 400, "ref is invalid"},
		{"a variable that is null", "app/trigger/pipeline", "application/json", `{"token":"secret","ref":"main","variables":{"A":null}}`, 400, "map of key-valued strings"},
		{"a variable without a name", "app/trigger/pipeline", form, "token=secret&ref=main&variables[]=1", 400, "map of key-valued strings"},
		{"bytes that are no text", "app/trigger/pipeline", "application/json", "{\"token\":\"\xff\",\"ref\":\"main\"}", 404, "404"},
		{"a bad escape", "app/trigger/pipeline", form, "token=%zz", 400, "invalid URL escape"},
		{"a bad query", "app/trigger/pipeline?%zz;=", "application/json", `{}`, 400, "missing"},
		{"parts without an end", "app/trigger/pipeline", multi, part("token", "secret"), 400, "read the request"},
		{"parts without a boundary", "app/trigger/pipeline", "multipart/form-data", "", 400, "boundary"},
		{"no content type", "app/trigger/pipeline", "/;", "", 400, "content type"},
		{"too much", "app/trigger/pipeline", form, "token=secret&ref=main&x=" + strings.Repeat("a", 2<<20), 400, "too large"},
		{"another page", "app/trigger", form, "token=secret&ref=main", 404, "404"},
		{"no project in the path", "/trigger/pipeline", form, "token=secret&ref=main", 404, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got = TriggerRequest{}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, TriggersPath+c.path, strings.NewReader(c.body))
			if c.kind != "" {
				r.Header.Set("Content-Type", c.kind)
			}
			r.RemoteAddr = "192.0.2.1:" + fmt.Sprint(len(c.name))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			have := w.Body.String()
			if w.Code == http.StatusCreated {
				have = fmt.Sprintf("%s %s %v", got.Project, got.Ref, got.Variables)
			}
			if w.Code != c.status || !strings.Contains(have, c.want) {
				t.Errorf("%d %s\nwant %d %s", w.Code, have, c.status, c.want)
			}
			if strings.Contains(string(got.Payload), "secret") {
				t.Errorf("the payload has the token: %s", got.Payload)
			}
			if c.name == "a webhook" && string(got.Payload) != `{"object_kind":"push","ref":"refs/heads/x"}` {
				t.Errorf("payload %s", got.Payload)
			}
		})
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, TriggersPath+"group%2Fapp/trigger/pipeline?"+url.Values{"token": {"secret"}, "ref": {"main"}}.Encode(), nil))
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"id": 7.0, "iid": 3.0, "project_id": 2.0, "ref": "main", "sha": "c0ffee", "status": "created", "source": "trigger", "web_url": "http://keelson/group/app/-/pipelines/7",
		"before_sha": "0000000000000000000000000000000000000000", "yaml_errors": nil, "created_at": "2026-03-01T12:00:00Z",
	} {
		if answer[name] != want {
			t.Errorf("%s is %v, want %v", name, answer[name], want)
		}
	}
}

// TestTriggersAreBounded holds that who tries tokens is held off, and nobody else of the same address: all pods have one.
func TestTriggersAreBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	h := NewTriggers(TriggersOptions{Now: func() time.Time { return now }, Accept: func(_ context.Context, r TriggerRequest) (Accepted, error) {
		if r.Token != "secret" {
			return Accepted{}, ErrTriggerRefused
		}
		path := r.Project
		if path == "1" {
			path = "a"
		}
		return Accepted{Project: path, Make: func(context.Context) (Triggered, error) { return Triggered{}, nil }}, nil
	}})
	ask := func(from, project, token string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, TriggersPath+project+"/trigger/pipeline?ref=main&token="+token, nil)
		r.RemoteAddr = from + ":1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for i := range wrongPerMinute {
		if got := ask("192.0.2.1", "a", "x"); got != 404 {
			t.Fatalf("wrong token %d: %d", i, got)
		}
	}
	for _, c := range []struct {
		name, from, project, token string
		want                       int
	}{
		{"one more", "192.0.2.1", "a", "x", 429},
		{"the right one", "192.0.2.1", "a", "secret", 201},
		{"another project", "192.0.2.1", "b", "secret", 201},
		{"a wrong one for another project", "192.0.2.1", "b", "x", 429},
		{"a wrong one from elsewhere", "192.0.2.2", "a", "x", 404},
	} {
		if got := ask(c.from, c.project, c.token); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	now = now.Add(time.Minute)
	for i := range 2 * triggersPerMinute {
		if got := ask(fmt.Sprintf("192.0.2.%d", 3+i/5), "a", "x"); got != 404 {
			t.Fatalf("wrong tokens, %d: %d", i, got)
		}
	}
	for i := range triggersPerMinute { // wrong ones are no requests for the project
		if got := ask("192.0.2.1", []string{"a", "1"}[i%2], "secret"); got != 201 {
			t.Fatalf("a minute later, %d: %d", i, got)
		}
	}
	for project, want := range map[string]int{"a": 429, "1": 429, "b": 201} {
		if got := ask("192.0.2.3", project, "secret"); got != want {
			t.Errorf("too many of a project, asked as %s: %d, want %d", project, got, want)
		}
	}
}

// TestTriggersAtOnce holds how many tokens are looked at at a time, and that one request that is being made holds up no other.
func TestTriggersAtOnce(t *testing.T) {
	looks, goOn := make(chan struct{}), make(chan struct{})
	h := NewTriggers(TriggersOptions{Accept: func(_ context.Context, r TriggerRequest) (Accepted, error) {
		if r.Project == "slow" {
			looks <- struct{}{}
			<-goOn
		}
		return Accepted{Project: r.Project, Make: func(context.Context) (Triggered, error) { return Triggered{}, nil }}, nil
	}})
	h.(*triggers).patience = time.Millisecond
	ask := func(project string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, TriggersPath+project+"/trigger/pipeline?ref=main&token=x", nil))
		return w.Code
	}
	done := make(chan int)
	for i := range triggersAtOnce {
		if got := ask("fast"); got != 201 {
			t.Fatalf("with %d at work: %d", i, got)
		}
		go func() { done <- ask("slow") }()
		<-looks
	}
	if got := ask("fast"); got != 429 {
		t.Errorf("with all at work: %d", got)
	}
	close(goOn)
	for range triggersAtOnce {
		if got := <-done; got != 201 {
			t.Errorf("one that was at work: %d", got)
		}
	}
	if got := ask("fast"); got != 201 {
		t.Errorf("afterwards: %d", got)
	}
}

// TestTriggerIsReadInTime gives up a client that sends half of a request, and no one whose pipeline takes its time.
func TestTriggerIsReadInTime(t *testing.T) {
	const limit = 100 * time.Millisecond
	h := NewTriggers(TriggersOptions{Accept: func(ctx context.Context, r TriggerRequest) (Accepted, error) {
		return Accepted{Project: r.Project, Make: func(context.Context) (Triggered, error) {
			select {
			case <-ctx.Done():
				return Triggered{}, context.Cause(ctx)
			case <-time.After(3 * limit):
				return Triggered{}, nil
			}
		}}, nil
	}})
	h.(*triggers).limit = limit
	s := httptest.NewServer(h)
	defer s.Close()
	for body, want := range map[string]string{"ref=main&token=x": "201", "ref=main&": "400"} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // it is open
		fmt.Fprintf(c, "POST %sa/trigger/pipeline HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 16\r\n\r\n%s", TriggersPath, body)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+want) {
			t.Errorf("%s: %q, %v, want %s", body, line, err, want)
		}
		c.Close()
	}
}

// TestCounter holds that what comes newly displaces the oldest alone, and that a minute ends.
func TestCounter(t *testing.T) {
	var c counter
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range maxCounted {
		c.add(now, fmt.Sprint(i))
	}
	c.add(now, "one too many")
	for _, want := range []struct {
		after time.Duration
		what  string
		n     int
	}{{0, "1", 2}, {0, fmt.Sprint(maxCounted - 1), 2}, {0, "one too many", 2}, {0, "0", 1}, {0, "1", 1}, {59 * time.Second, "0", 2}, {time.Minute, "0", 1}} {
		if got := c.add(now.Add(want.after), want.what); got != want.n {
			t.Errorf("%s after %s: %d, want %d", want.what, want.after, got, want.n)
		}
	}
	if len(c.of) > maxCounted || len(c.of) != len(c.order) {
		t.Errorf("%d are counted, in an order of %d", len(c.of), len(c.order))
	}
}
