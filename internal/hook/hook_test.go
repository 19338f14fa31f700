package hook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/internal/cel"
)

const token = "It's a Secret to Everybody"

func sign(name string, made func() hash.Hash, key, body string) string {
	mac := hmac.New(made, []byte(key))
	mac.Write([]byte(body))
	return name + hex.EncodeToString(mac.Sum(nil))
}

// request makes a request from "Name: value" lines and a body.
func request(body string, headers ...string) Request {
	h := textproto.MIMEHeader{}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Set(name, value)
	}
	return Request{Header: h, Body: []byte(body)}
}

const isJSON = "Content-Type: application/json"

var (
	push    = `{"ref":"refs/heads/main"}`
	signed  = "X-Hub-Signature-256: " + sign("sha256=", sha256.New, token, push)
	cdevent = `{"context":{"version":"0.4.1","id":"1","source":"/ci","type":"dev.cdevents.artifact.published.0.2.0","timestamp":"2026-01-02T03:04:05Z"},"subject":{"id":"pkg:x"}}`
)

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		kind   string
		events []string
		req    Request
		want   Event
		err    string // a part of the refusal; empty: accepted
	}{
		"generic":                      {kind: "generic", req: request("anything")},
		"hmac sha1":                    {kind: "generic-hmac", req: request("x", "X-Signature: "+sign("sha1=", sha1.New, token, "x")), want: Event{Signed: true}},
		"hmac sha512":                  {kind: "generic-hmac", req: request("x", "X-Signature: "+sign("sha512=", sha512.New, token, "x")), want: Event{Signed: true}},
		"hmac, another token":          {kind: "generic-hmac", req: request("x", "X-Signature: "+sign("sha1=", sha1.New, "guess", "x")), err: "does not match"},
		"hmac, another body":           {kind: "generic-hmac", req: request("y", "X-Signature: "+sign("sha1=", sha1.New, token, "x")), err: "does not match"},
		"hmac, none":                   {kind: "generic-hmac", req: request("x"), err: "there is no header X-Signature"},
		"hmac, no hash":                {kind: "generic-hmac", req: request("x", "X-Signature: abcdef"), err: "not of the form"},
		"hmac, empty":                  {kind: "generic-hmac", req: request("x", "X-Signature: sha256="), err: "does not match"},
		"hmac, a part":                 {kind: "generic-hmac", req: request("x", "X-Signature: "+sign("sha256=", sha256.New, token, "x")[:20]), err: "not in hexadecimal"},
		"hmac, md5":                    {kind: "generic-hmac", req: request("x", "X-Signature: md5=00"), err: "not of the form"},
		"github's own example":         {kind: "github", req: request("Hello, World!", isJSON, "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"), want: Event{Signed: true}},
		"github push":                  {kind: "github", events: []string{"ping", "PUSH"}, req: request(push, isJSON, signed, "X-GitHub-Event: push", "X-GitHub-Delivery: 72d3162e"), want: Event{Name: "push", ID: "72d3162e", Signed: true}},
		"github, sha1":                 {kind: "github", req: request(push, isJSON, "X-Hub-Signature: "+sign("sha1=", sha1.New, token, push)), want: Event{Signed: true}},
		"github, a form":               {kind: "github", req: request("payload=%7B%7D", "Content-Type: application/x-www-form-urlencoded", "X-Hub-Signature: "+sign("sha1=", sha1.New, token, "payload=%7B%7D")), want: Event{Signed: true}},
		"github, the better one wrong": {kind: "github", req: request(push, isJSON, "X-Hub-Signature-256: sha256=00", "X-Hub-Signature: "+sign("sha1=", sha1.New, token, push)), err: "does not match"},
		"github, unsigned":             {kind: "github", req: request(push, isJSON, "X-GitHub-Event: push"), err: "signature is missing"},
		"github, another event":        {kind: "github", events: []string{"push"}, req: request(push, isJSON, signed, "X-GitHub-Event: issues\x07"), err: `"issues?" is not in spec.events`},
		"github, no event":             {kind: "github", events: []string{"push"}, req: request(push, isJSON, signed), err: `"" is not in spec.events`},
		"github, plain text":           {kind: "github", req: request(push, "Content-Type: text/plain", signed), err: "Content-Type"},
		"gitea": {kind: "github", events: []string{"push"}, req: request(push, isJSON, signed, "X-Gitea-Event: push", "X-Gitea-Delivery: 9"),
			want: Event{Name: "push", ID: "9", Signed: true}},
		"gitlab":                {kind: "gitlab", events: []string{"Push Hook"}, req: request(push, "X-Gitlab-Token: "+token, "X-Gitlab-Event: Push Hook", "X-Gitlab-Event-UUID: u"), want: Event{Name: "Push Hook", ID: "u"}},
		"gitlab, another token": {kind: "gitlab", req: request(push, "X-Gitlab-Token: "+token+"x"), err: "does not match"},
		"gitlab, a part of it":  {kind: "gitlab", req: request(push, "X-Gitlab-Token: "+token[:5]), err: "does not match"},
		"gitlab, none":          {kind: "gitlab", req: request(push), err: "does not match"},
		"bitbucket":             {kind: "bitbucket", events: []string{"repo:refs_changed"}, req: request(push, isJSON, signed, "X-Event-Key: repo:refs_changed", "X-Request-Id: r"), want: Event{Name: "repo:refs_changed", ID: "r", Signed: true}},
		"bitbucket, unsigned":   {kind: "bitbucket", req: request(push, isJSON, "X-Event-Key: repo:refs_changed"), err: "signature is missing"},
		"harbor":                {kind: "harbor", req: request("", "Authorization: "+token)},
		"harbor, another token": {kind: "harbor", req: request("", "Authorization: Bearer"), err: "does not match"},
		"dockerhub":             {kind: "dockerhub", req: request(`{"push_data":{"tag":"1"},"repository":{"repo_url":"https://r"}}`)},
		"dockerhub, no JSON":    {kind: "dockerhub", req: request("tag"), err: "no DockerHub payload"},
		"quay":                  {kind: "quay", req: request(`{"docker_url":"quay.io/x","updated_tags":["1"]}`)},
		"quay, another form":    {kind: "quay", req: request(`{"updated_tags":"1"}`), err: "no Quay payload"},
		"acr":                   {kind: "acr", req: request(`{"action":"push","target":{"tag":"1"}}`)},
		"nexus":                 {kind: "nexus", req: request(`{"action":"UPDATED"}`, "X-Nexus-Webhook-Delivery: d", "X-Nexus-Webhook-Signature: "+sign("", sha1.New, token, `{"action":"UPDATED"}`)), want: Event{ID: "d", Signed: true}},
		"nexus, unsigned":       {kind: "nexus", req: request(`{}`), err: "signature is missing"},
		"nexus, forged":         {kind: "nexus", req: request(`{}`, "X-Nexus-Webhook-Signature: "+sign("", sha1.New, "guess", `{}`)), err: "does not match"},
		"cdevents": {kind: "cdevents", events: []string{"dev.cdevents.artifact.published.0.2.0"}, req: request(cdevent, "Ce-Type: dev.cdevents.artifact.published.0.2.0", "Ce-Id: 1"),
			want: Event{Name: "dev.cdevents.artifact.published.0.2.0", ID: "1"}},
		"cdevents, something else": {kind: "cdevents", req: request(`{"context":{}}`), err: "no CDEvent"},
		"gcr":                      {kind: "gcr", req: request("{}"), err: `"gcr" is not supported`},
		"a header too long":        {kind: "gitlab", req: request("", "X-Gitlab-Token: "+strings.Repeat("a", maxHeader+1)), err: "longer than 1024"},
		"an id too long":           {kind: "github", req: request(push, isJSON, signed, "X-GitHub-Delivery: "+strings.Repeat("a", maxHeader+1)), err: "longer than 1024"},
		"a body too large":         {kind: "generic", req: Request{Body: make([]byte, MaxBody+1)}, err: "larger than 3145728"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Check(Rule{Type: test.kind, Token: token, Events: test.events}, test.req)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if err == nil && got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
}

func TestAnEmptyTokenLetsNobodyIn(t *testing.T) {
	for kind := range senders {
		if _, err := Check(Rule{Type: kind}, request("{}", isJSON, "X-Hub-Signature: "+sign("sha1=", sha1.New, "", "{}"))); err == nil || !strings.Contains(err.Error(), "token is empty") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestFilter(t *testing.T) {
	resource := map[string]any{"kind": "GitRepository", "metadata": map[string]any{"name": "shop", "labels": map[string]any{"team": "a"}}}
	body := map[string]any{
		"ref": "refs/heads/main", "long": strings.Repeat("a", 1<<20), "n": 3.0,
		"huge":       anyOf(200_000),
		"many":       anyOf(2000),
		"files":      anyOf(4000), // a look through them is within the limit, says docs/flux.md
		"repository": map[string]any{"name": "shop", "topics": []any{"x", "y"}},
	}
	for text, want := range map[string]string{
		`req.repository.name == res.metadata.name`:                          "true",
		`res.metadata.labels.team == 'b'`:                                   "false",
		`req.ref.split('/').size() == 3 && res.kind.startsWith('Git')`:      "true",
		`'x' in req.repository.topics`:                                      "true",
		`sets.contains(req.repository.topics, ['y'])`:                       "true",
		`sets.intersects(req.repository.topics, ['z'])`:                     "false",
		`req.ref.replace('refs/heads/', '') == 'main'`:                      "true",
		`req.ref.replace('e', 'E', 1) == 'rEfs/heads/main'`:                 "true",
		`['a', 'b'].join('-') == 'a-b' && ['a','b'].join() == 'ab'`:         "true",
		`'%s:%d'.format(['a', 1]) == 'a:1'`:                                 "true",
		`req.ref.indexOf('heads') == 5 && req.ref.lastIndexOf('/', 9) == 4`: "true",
		`req.?head.?id.orValue('none') == 'none'`:                           "true",
		`has(req.deleted) && req.deleted`:                                   "false",
		`req.missing == 'x'`:                                                "error: no such key",
		`req.long.replace('', req.long) == ''`:                              "error: cost limit",
		`req.many.map(x, req.long).join() == ''`:                            "error: cost limit",
		`'%s%s'.format([req.long, req.long]) == ''`:                         "error: cost limit",
		`sets.contains(req.huge, req.huge)`:                                 "error: cost limit",
		`req.long.indexOf(req.long + 'b') == 0`:                             "error: cost limit",
		`req.many.all(x, req.long.lowerAscii() != '')`:                      "error: cost limit",
		`req.many.all(x, req.many.all(y, x != '' || y != ''))`:              "error: cost limit",
		`req.many.map(x, 'a'.replace('a', req.ref + req.ref + req.ref)).map(y, y.replace('r', req.ref + req.ref)).size() > 0`: "error: cost limit",
		`req.ref`:        "invalid: type",
		`req.ref ==`:     "invalid: Syntax error",
		`request.x == 1`: "invalid: undeclared reference",

		`req.files.exists(f, f.startsWith('deploy/') && f.endsWith('.yaml'))`:    "false",
		`req.files.map(f, f.split('/')[0]).exists(d, d in ['deploy', 'charts'])`: "false",

		`req.many.all(x, {'a': req.huge} == {'a': req.huge})`:  "error: cost limit",
		`req.many.all(x, 'zz' in req.huge || true)`:            "error: cost limit",
		`req.many.all(x, (req.long + req.long) != '')`:         "error: cost limit",
		`req.many.exists(x, req.huge.exists_one(y, y == 'q'))`: "error: cost limit",
		`req.many.all(x, string(bytes(req.long)) != '')`:       "error: cost limit",
		`req.many.all(x, req.long.matches('(a|aa)+$'))`:        "error: cost limit",
	} {
		t.Run(text, func(t *testing.T) {
			began := time.Now()
			defer func() {
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %s", took)
				}
			}()
			var got string
			f, err := Compile(text)
			if err != nil {
				got = "invalid: " + err.Error()
			} else if ok, err := f.Accepts(resource, body); err != nil {
				got = "error: " + err.Error()
			} else if ok {
				got = "true"
			} else {
				got = "false"
			}
			kind, part, _ := strings.Cut(want, ": ")
			if !strings.HasPrefix(got, kind) || !strings.Contains(got, part) {
				t.Errorf("got %.300s, want %s", got, want)
			}
		})
	}
	if _, err := Compile(strings.Repeat(" ", cel.MaxText) + "true"); err == nil {
		t.Error("an endless expression is compiled")
	}
}

func anyOf(n int) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = strings.Repeat("x", 1+i%7)
	}
	return list
}

func TestRequestJSON(t *testing.T) {
	for name, test := range map[string]struct {
		req    Request
		fields int
		bad    bool
	}{
		"JSON":      {req: request(`{"a":1}`, isJSON), fields: 1},
		"charset":   {req: request(`{"a":1}`, isJSON+"; charset=utf-8"), fields: 1},
		"not JSON":  {req: request(`{"a":1}`, "Content-Type: text/plain")},
		"no type":   {req: request(`{"a":1}`)},
		"malformed": {req: request(`{"a"`, isJSON), bad: true},
		"a list":    {req: request(`[]`, isJSON), bad: true},
		"null":      {req: request(`null`, isJSON), bad: true},
	} {
		got, err := test.req.JSON()
		if (err != nil) != test.bad || len(got) != test.fields {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestGateBoundsRequests(t *testing.T) {
	now := time.Unix(1000, 0)
	g := NewGate()
	admitted := 0
	for range 2 * burst {
		if _, ok := g.Enter("a", now); ok {
			admitted++
			g.Leave("a")
		}
	}
	if admitted != burst {
		t.Errorf("%d requests at one moment, want %d", admitted, burst)
	}
	if _, ok := g.Enter("b", now); !ok {
		t.Error("another receiver has to pay for it")
	}
	g.Leave("b")
	if _, ok := g.Enter("a", now.Add(time.Second/perSecond)); !ok {
		t.Error("no credit comes back")
	}
	g.Leave("a")
	for _, step := range []struct {
		receiver string
		places   int
	}{
		{"tenant/one", ofReceiver},
		{"tenant/two", ofNamespace - ofReceiver}, // the namespace has no more
		{"other/one", ofReceiver},
		{"other/two", ofNamespace - ofReceiver},
		{"third/one", 0}, // nor have all
	} {
		for i := range step.places + 1 {
			if _, ok := g.Enter(step.receiver, now); ok != (i < step.places) {
				t.Errorf("request %d to %s: %v", i, step.receiver, ok)
			}
		}
	}
	g.Leave("tenant/one")
	if _, ok := g.Enter("third/one", now); !ok {
		t.Error("a place that was left stays taken")
	}
}

func TestGateRemembersDeliveries(t *testing.T) {
	now := time.Unix(1000, 0)
	g := NewGate()
	a, b := KeyOf("r", Event{ID: "1"}, request("x")), KeyOf("r", Event{ID: "2"}, request("x"))
	if a == b || a == KeyOf("r2", Event{ID: "1"}, request("x")) || a == KeyOf("r", Event{ID: "1"}, request("y")) || KeyOf("ab", Event{ID: "c"}, request("")) == KeyOf("a", Event{ID: "bc"}, request("")) {
		t.Error("deliveries are mixed up")
	}
	if !g.Claim(a, now) || g.Claim(a, now.Add(window-1)) {
		t.Error("a replay is not known")
	}
	g.Release(a)
	if !g.Claim(a, now) {
		t.Error("what failed cannot be tried again")
	}
	if !g.Claim(a, now.Add(window)) {
		t.Error("it is remembered for ever")
	}
	for i := range 3 * remembered {
		g.Claim(KeyOf("r", Event{ID: string(rune(i))}, Request{}), now)
	}
	if len(g.seen) > remembered || len(g.order) > remembered {
		t.Errorf("%d deliveries are remembered", len(g.seen))
	}
}

func TestGateJoinsRequests(t *testing.T) {
	now := time.Unix(1000, 0)
	g := NewGate()
	for i, step := range []struct {
		after, wait time.Duration
		ok          bool
	}{
		{0, 0, true},
		{300 * time.Millisecond, 700 * time.Millisecond, true}, // once more, a second after the first
		{400 * time.Millisecond, 0, false},                     // that one will do
		{900 * time.Millisecond, 0, false},
	} {
		if wait, ok := g.Ask("x", Gap, now.Add(step.after)); wait != step.wait || ok != step.ok {
			t.Errorf("step %d: %v, %v", i, wait, ok)
		}
	}
	if _, ok := g.Ask("y", Gap, now); !ok {
		t.Error("another resource has to wait")
	}
	if g.Due("x", now.Add(999*time.Millisecond)) {
		t.Error("it is due too early")
	}
	if !g.Due("x", now.Add(time.Second)) || g.Due("x", now.Add(time.Second)) {
		t.Error("it is not due once")
	}
	if wait, ok := g.Ask("x", Gap, now.Add(1100*time.Millisecond)); wait != 900*time.Millisecond || !ok {
		t.Errorf("after the second: %v, %v", wait, ok)
	}
	if !g.Due("x", now.Add(2*time.Second)) {
		t.Error("it is not due again")
	}
	if wait, ok := g.Ask("x", Gap, now.Add(9*time.Second)); wait != 0 || !ok {
		t.Errorf("long after: %v, %v", wait, ok)
	}
	if len(g.targets) != 1 {
		t.Errorf("%d resources are remembered", len(g.targets))
	}
	g.Failed("x")
	if wait, ok := g.Ask("x", Gap, now.Add(9*time.Second)); wait != 0 || !ok {
		t.Errorf("after a failure: %v, %v", wait, ok)
	}
}

// A replay does not make what is new wait.
func TestGateLetsNewsPass(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	g := NewGate()
	g.Ask("x", Gap, at(0))
	if wait, ok := g.Ask("x", RepeatGap, at(100)); wait != 4900*time.Millisecond || !ok {
		t.Errorf("a replay: %v, %v", wait, ok)
	}
	if wait, ok := g.Ask("x", Gap, at(200)); wait != 800*time.Millisecond || !ok {
		t.Errorf("news: %v, %v", wait, ok)
	}
	if _, ok := g.Ask("x", RepeatGap, at(300)); ok {
		t.Error("a replay is put off although it is asked for anyway")
	}
	if !g.Due("x", at(1000)) || g.Due("x", at(5000)) {
		t.Error("the news has to do for both")
	}
	g.Ask("x", RepeatGap, at(1500))
	if wait, ok := g.Ask("x", Gap, at(2500)); wait != 0 || !ok || g.Due("x", at(6000)) {
		t.Errorf("news a gap later: %v, %v", wait, ok)
	}
}

// FuzzReceiverCheck: no request makes any type panic, and nobody gets in without the token.
func FuzzReceiverCheck(f *testing.F) {
	for kind := range senders {
		f.Add(kind, push, "application/json", signed[len("X-Hub-Signature-256: "):], "push", "1")
		f.Add(kind, cdevent, "application/json; =", "sha1=", "dev.cdevents.x", "")
		f.Add(kind, "null", "", "=", "\x00\xff", "é")
	}
	f.Fuzz(func(t *testing.T, kind, body, contentType, signature, event, id string) {
		req := Request{Header: textproto.MIMEHeader{}, Body: []byte(body)}
		req.Header.Set("Content-Type", contentType)
		for _, name := range []string{"X-Signature", "X-Hub-Signature", "X-Hub-Signature-256", "X-Gitlab-Token", "Authorization", "X-Nexus-Webhook-Signature"} {
			req.Header.Set(name, signature)
		}
		for _, s := range senders {
			for _, name := range s.events {
				req.Header.Set(name, event)
			}
			for _, name := range s.ids {
				req.Header.Set(name, id)
			}
		}
		const secret = "9b8f3f0f1d2c4e5a9b8f3f0f1d2c4e5a" // nothing that the seeds are signed with
		got, err := Check(Rule{Type: kind, Token: secret, Events: []string{"push", event}}, req)
		if err == nil && senders[kind].verify != nil && signature != secret {
			t.Fatalf("%s lets %q in", kind, signature)
		}
		if err == nil && len(got.Name) > 64 {
			t.Fatalf("the event's name has %d bytes", len(got.Name))
		}
		if body, err := req.JSON(); err == nil && body == nil {
			t.Fatal("a body that is nil")
		}
	})
}

// FuzzReceiverFilter: no expression and no body makes an evaluation panic or go on without end.
func FuzzReceiverFilter(f *testing.F) {
	for _, text := range []string{
		`req.ref.replace('', req.ref) != ''`, `sets.contains(req.a, req.a)`, `req.a.map(x, x).join('') == ''`,
		`'%s'.format([req]) == ''`, `req.a.all(x, req.a.all(y, x != y))`, `res.metadata.name.split('/').size() > 0`, `b'a' == base64.decode('YQ==')`,
	} {
		f.Add(text, `{"ref":"main","a":["1","2",{"b":[null]}]}`)
	}
	f.Fuzz(func(t *testing.T, text, body string) {
		filter, err := Compile(text)
		if err != nil {
			return
		}
		if vars, err := request(body, isJSON).JSON(); err == nil {
			_, _ = filter.Accepts(map[string]any{"metadata": map[string]any{"name": "x"}}, vars)
		}
	})
}
