package notify

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/internal/delivery"
)

var update = flag.Bool("update", false, "write the golden files")

const sha = "731f7eaddfb6af01cb2173e18f0f75b0ba780ef1"

func news(change ...func(n *News)) News {
	n := News{
		Event: eventv1.Event{
			InvolvedObject: corev1.ObjectReference{
				APIVersion: "kustomize.toolkit.fluxcd.io/v1", Kind: "Kustomization", Name: "webapp", Namespace: "apps", UID: "7d0cdc51-ddcf-4743-b223-83ca5c699632",
			},
			Severity: "error", Reason: "HealthCheckFailed", Message: "deployment/apps/webapp: <!channel> is *not* ready & waits",
			Timestamp: metav1.NewTime(time.Date(2026, 10, 28, 7, 26, 19, 0, time.UTC)), ReportingController: Controller, ReportingInstance: "keelson-0",
			Metadata: map[string]string{
				"kustomize.toolkit.fluxcd.io/revision": "main@sha1:" + sha, "kustomize.toolkit.fluxcd.io/token": "internal",
				"event.toolkit.fluxcd.io/env": "production", "unrelated/x": "y",
			},
		},
		Labels: map[string]string{"team": "shop"},
	}
	for _, f := range change {
		f(&n)
	}
	return n
}

func info(n *News) {
	n.Severity, n.Reason, n.Message = "info", "ReconciliationSucceeded", "Applied revision: main@sha1:"+sha
}

func underway(n *News) {
	n.Severity, n.Reason, n.Message = "info", meta.ProgressingReason, "Deployment/apps/webapp configured"
}

func drift(n *News) {
	n.Severity, n.Reason, n.Message = "info", "DriftRepaired", "Deployment/apps/webapp repaired: it was changed by kubectl-edit"
}

func alert(change func(s *notificationv1beta3.AlertSpec)) *notificationv1beta3.Alert {
	a := &notificationv1beta3.Alert{ObjectMeta: metav1.ObjectMeta{Name: "all", Namespace: "apps"}}
	a.Spec.EventSeverity = "info"
	a.Spec.EventSources = []notificationv1.CrossNamespaceObjectReference{{Kind: "Kustomization", Name: "*"}}
	if change != nil {
		change(&a.Spec)
	}
	return a
}

func TestMatches(t *testing.T) {
	type spec = notificationv1beta3.AlertSpec
	source := func(s ...notificationv1.CrossNamespaceObjectReference) func(*spec) {
		return func(a *spec) { a.EventSources = s }
	}
	closed := delivery.Policy{NoCrossNamespaceRefs: true}
	elsewhere := func(n *News) { n.InvolvedObject.Namespace = "other" }
	for name, test := range map[string]struct {
		alert    func(*spec)
		policy   delivery.Policy
		news     func(*News)
		want     bool
		problems []string
	}{
		"any name":              {want: true},
		"info and errors":       {news: info, want: true},
		"no severity is info":   {alert: func(a *spec) { a.EventSeverity = "" }, news: info, want: true},
		"errors only":           {alert: func(a *spec) { a.EventSeverity = "error" }, want: true},
		"errors only, info":     {alert: func(a *spec) { a.EventSeverity = "error" }, news: info},
		"suspended":             {alert: func(a *spec) { a.Suspend = true }},
		"by name":               {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "webapp"}), want: true},
		"another name":          {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "web"})},
		"another kind":          {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "HelmRelease", Name: "*"})},
		"second source":         {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "HelmRelease", Name: "*"}, notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "webapp"}), want: true},
		"the Alert's namespace": {news: elsewhere},
		"another namespace":     {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "*", Namespace: "other"}), news: elsewhere, want: true},
		"another namespace, forbidden": {
			alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "*", Namespace: "other"}), news: elsewhere, policy: closed,
			problems: []string{"spec.eventSources[0]: Kustomization other/*: cross-namespace references have been blocked"},
		},
		"own namespace, others forbidden": {policy: closed, want: true},
		"labels":                          {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "*", MatchLabels: map[string]string{"team": "shop"}}), want: true},
		"other labels":                    {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "*", MatchLabels: map[string]string{"team": "other"}})},
		"labels, none":                    {alert: source(notificationv1.CrossNamespaceObjectReference{Kind: "Kustomization", Name: "*", MatchLabels: map[string]string{"team": "shop"}}), news: func(n *News) { n.Labels = nil }},
		"included":                        {alert: func(a *spec) { a.InclusionList = []string{"^nothing$", "is .not."} }, want: true},
		"not included":                    {alert: func(a *spec) { a.InclusionList = []string{"^nothing$"} }},
		"excluded":                        {alert: func(a *spec) { a.ExclusionList = []string{"waits$"} }},
		"excluded goes before included":   {alert: func(a *spec) { a.ExclusionList, a.InclusionList = []string{"waits$"}, []string{"."} }},
		"bad inclusion lets nothing in": {
			alert:    func(a *spec) { a.InclusionList = []string{"("} },
			problems: []string{"spec.inclusionList[0]: error parsing regexp: missing closing ): `(`"},
		},
		"bad exclusion keeps nothing out": {
			alert: func(a *spec) { a.ExclusionList = []string{"a", "*"} }, want: false,
			problems: []string{"spec.exclusionList[1]: error parsing regexp: missing argument to repetition operator: `*`"},
		},
		"a kind without events": {
			alert:    source(notificationv1.CrossNamespaceObjectReference{Kind: "ImagePolicy", Name: "*"}),
			problems: []string{"spec.eventSources[0]: no events of the kind ImagePolicy come from Keelson"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := Compile(alert(test.alert), test.policy)
			if !slices.Equal(r.Problems, test.problems) {
				t.Errorf("problems: %q, want %q", r.Problems, test.problems)
			}
			n := news()
			if test.news != nil {
				test.news(&n)
			}
			if got := r.Matches(n); got != test.want {
				t.Errorf("matches: %v", got)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		alert func(*notificationv1beta3.AlertSpec)
		news  func(*News)
		want  map[string]string
	}{
		"of object and controller": {want: map[string]string{"revision": "main@sha1:" + sha, "env": "production"}},
		"the Alert goes before annotations, the controller before all": {
			alert: func(a *notificationv1beta3.AlertSpec) {
				a.EventMetadata = map[string]string{"env": "staging", "revision": "forged", "summary": "new", "token": "mine", "app.kubernetes.io/region": "eu"}
				a.Summary = "old"
			},
			want: map[string]string{"revision": "main@sha1:" + sha, "env": "staging", "summary": "old", "app.kubernetes.io/region": "eu"},
		},
		"none": {news: func(n *News) { n.Metadata = map[string]string{"a": "b"} }},
	} {
		t.Run(name, func(t *testing.T) {
			n := news()
			if test.news != nil {
				test.news(&n)
			}
			before := maps.Clone(n.Metadata)
			if got := Compile(alert(test.alert), delivery.Policy{}).Event(n).Metadata; !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if !maps.Equal(before, n.Metadata) {
				t.Errorf("the event was changed: %v", n.Metadata)
			}
		})
	}
}

func provider(kind string, change func(s *notificationv1beta3.ProviderSpec)) *notificationv1beta3.Provider {
	p := &notificationv1beta3.Provider{ObjectMeta: metav1.ObjectMeta{Name: "chat", Namespace: "apps", UID: "0c9c2e41-d2f9-4f9b-9c41-bebc1984d67a"}}
	p.Spec.Type, p.Spec.Address, p.Spec.Channel, p.Spec.SecretRef = kind, "https://hooks.example.com/T0/B0", "general", &meta.LocalObjectReference{Name: "chat"}
	if formats[kind].commit || formats[kind].repository {
		p.Spec.Address = "https://forge.example.com/shop/webapp.git"
	}
	if kind == "zulip" {
		p.Spec.Channel = "ops/deploys"
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

// shown gives what is sent as a text: requests, their headers and bodies, JSON made readable.
func shown(requests []Request) string {
	var b strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&b, "%s %s\n", r.Method, r.URL)
		for _, k := range slices.Sorted(maps.Keys(r.Headers)) {
			fmt.Fprintf(&b, "%s: %s\n", k, r.Headers[k])
		}
		b.WriteString("\n")
		var pretty bytes.Buffer
		if json.Indent(&pretty, r.Body, "", "  ") != nil {
			pretty.Reset()
			pretty.Write(r.Body)
		}
		b.Write(pretty.Bytes())
		b.WriteString("\n\n")
	}
	return b.String()
}

// Every type of Provider, about a failure, a success, something under way and a status that is for commits only.
func TestPayloads(t *testing.T) {
	type variant struct {
		name, kind string
		change     func(s *notificationv1beta3.ProviderSpec)
	}
	var all []variant
	for _, kind := range Types() {
		all = append(all, variant{kind, kind, nil})
	}
	all = append(all,
		variant{"msteams-connector", "msteams", func(s *notificationv1beta3.ProviderSpec) { s.Address = "https://team.webhook.office.com/webhookb2/x" }},
		variant{"slack-api", "slack", func(s *notificationv1beta3.ProviderSpec) {
			s.Address, s.Username = "https://slack.com/api/chat.postMessage", "deploys"
		}},
		variant{"telegram-thread", "telegram", func(s *notificationv1beta3.ProviderSpec) { s.Address, s.Channel = "", "-1557265138:7" }},
		variant{"github-com", "github", func(s *notificationv1beta3.ProviderSpec) {
			s.Address = "git@github.com:shop/webapp.git"
			s.CommitStatusExpr = "event.involvedObject.kind + '/' + event.involvedObject.name + '/' + event.metadata.env + '/' + provider.metadata.uid.split('-').first().value() + '/' + alert.metadata.name"
		}},
		variant{"gitlab-id", "gitlab", func(s *notificationv1beta3.ProviderSpec) { s.Address = "https://gitlab.com/1234" }},
	)
	secrets := Secrets{Auth: map[string][]byte{"token": []byte("t0ken-value\n"), "headers": []byte("X-Team: shop\nAuthorization: own\n")}}
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			target, err := Resolve(provider(v.kind, v.change), secrets)
			if err != nil {
				t.Fatal(err)
			}
			if v.kind == "zulip" {
				target.Username, target.Password = "bot@example.com", "pass-word"
			}
			a := alert(func(s *notificationv1beta3.AlertSpec) { s.EventMetadata = map[string]string{"summary": "eu-west"} })
			var b strings.Builder
			for _, c := range []struct {
				name   string
				change func(*News)
			}{{"error", func(*News) {}}, {"info", info}, {"progressing", underway}, {"drift", drift}, {"status only", func(n *News) {
				info(n)
				n.Metadata["kustomize.toolkit.fluxcd.io/commit_status"] = "update"
			}}} {
				n := news(c.change)
				requests, err := target.Requests(a, n, Compile(a, delivery.Policy{}).Event(n))
				if err != nil {
					t.Fatal(c.name, err)
				}
				fmt.Fprintf(&b, "=== %s: %d\n%s", c.name, len(requests), shown(requests))
			}
			golden(t, "testdata/"+v.name+".golden", b.String())
		})
	}
}

// What somebody writes into a cluster calls nobody.
func TestMentions(t *testing.T) {
	const call = "@all @**everyone** <@all> <@personEmail:a@b.example> <!channel> <at id=all></at> x@sha256:12"
	secrets := Secrets{Auth: map[string][]byte{"token": []byte("t0ken-value")}}
	for _, kind := range []string{"slack", "discord", "rocket", "webex", "matrix", "lark", "zulip"} {
		t.Run(kind, func(t *testing.T) {
			target, err := Resolve(provider(kind, nil), secrets)
			if err != nil {
				t.Fatal(err)
			}
			n := news(func(n *News) { n.Message, n.Metadata["event.toolkit.fluxcd.io/env"] = call, call })
			a := alert(func(s *notificationv1beta3.AlertSpec) { s.EventMetadata = map[string]string{call: call} })
			requests, err := target.Requests(a, n, Compile(a, delivery.Policy{}).Event(n))
			if err != nil || len(requests) != 1 {
				t.Fatal(requests, err)
			}
			text := string(requests[0].Body)
			if kind == "zulip" {
				text, err = url.QueryUnescape(text)
			} else {
				text = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(text)
			}
			if err != nil || !strings.Contains(text, "x@sha256:12") {
				t.Errorf("%v: no digest in %s", err, text)
			}
			wrong := []string{"@all", "@**", "@everyone", "<@", "<!"}
			switch kind {
			case "slack":
				wrong = []string{"<@", "<!"}
			case "lark":
				wrong = []string{"<"}
			}
			for _, w := range wrong {
				if strings.Contains(strings.ReplaceAll(text, "@\u200b", ""), w) {
					t.Errorf("%q is in %s", w, text)
				}
			}
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s", file, got)
	}
}

func TestGenericSignatureIsOfTheBody(t *testing.T) {
	target, err := Resolve(provider("generic-hmac", nil), Secrets{Auth: map[string][]byte{"token": []byte("key")}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := target.Requests(alert(nil), news(), news().Event)
	if err != nil {
		t.Fatal(err)
	}
	var e eventv1.Event
	if err := json.Unmarshal(got[0].Body, &e); err != nil || e.Message != news().Message {
		t.Errorf("%v, %v", e, err)
	}
	if want := signature("key", got[0].Body); got[0].Headers["X-Signature"] != want || want == signature("another", got[0].Body) {
		t.Errorf("signature %q, want %q", got[0].Headers["X-Signature"], want)
	}
	// RFC 4231, test case 2
	if got := signature("Jefe", []byte("what do ya want for nothing?")); got != "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" {
		t.Error(got)
	}
}

func TestCommitOf(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for name, test := range map[string]struct {
		metadata map[string]string
		want     string
	}{
		"revision":                   {map[string]string{"revision": "main@sha1:" + sha}, sha},
		"a bare commit":              {map[string]string{"revision": "sha1:" + sha}, sha},
		"the older form":             {map[string]string{"revision": "main/" + sha}, sha},
		"an artifact's digest":       {map[string]string{"revision": "latest@sha256:" + digest}, ""},
		"what it was made from":      {map[string]string{"revision": "latest@sha256:" + digest, "originRevision": "main@sha1:" + sha}, sha},
		"a repository of SHA-256":    {map[string]string{"revision": "latest@sha256:" + digest, "originRevision": "main@sha256:" + digest}, digest},
		"an annotation goes before":  {map[string]string{"revision": "main@sha1:" + strings.Repeat("0", 40), "commit": sha}, sha},
		"a chart's version":          {map[string]string{"revision": "1.2.3"}, ""},
		"nothing":                    {nil, ""},
		"a path instead of a commit": {map[string]string{"commit": "../../" + strings.Repeat("z", 40)}, ""},
	} {
		if got := commitOf(eventv1.Event{Metadata: test.metadata}); got != test.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
	target, err := Resolve(provider("gitlab", nil), Secrets{Auth: map[string][]byte{"token": []byte("key")}})
	if err != nil {
		t.Fatal(err)
	}
	n := news(func(n *News) { n.Metadata = nil })
	if got, err := target.Requests(alert(nil), n, n.Event); err != nil || len(got) > 0 {
		t.Errorf("an event without a commit: %v, %v", got, err)
	}
}

func TestRepositoryOf(t *testing.T) {
	for address, want := range map[string]string{
		"https://github.com/owner/repo":             "https://github.com owner/repo",
		"https://github.com/owner/repo.git/":        "https://github.com owner/repo.git", // what follows .git is no clone URL
		"http://git.local:3000/owner/repo.git":      "http://git.local:3000 owner/repo",
		"ssh://git@git.example.com:2222/owner/repo": "https://git.example.com owner/repo",
		"git@gitlab.com:group/sub/repo.git":         "https://gitlab.com group/sub/repo",
		"https://gitlab.com/1234":                   "https://gitlab.com 1234",
		"https://gitlab.com":                        "ERR",
		"file:///srv/repo":                          "ERR",
		"owner/repo":                                "ERR",
		"":                                          "ERR",
	} {
		r, err := repositoryOf(address)
		got := r.base + " " + r.path
		if err != nil {
			got = "ERR"
		}
		if address == "https://github.com/owner/repo.git/" {
			want = "https://github.com owner/repo"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	type spec = notificationv1beta3.ProviderSpec
	ref := &meta.LocalObjectReference{Name: "x"}
	for name, test := range map[string]struct {
		kind    string
		change  func(*spec)
		secrets Secrets
		err     string
		check   func(t Target) bool
	}{
		"the Secret goes before the spec": {kind: "generic", change: func(s *spec) { s.Username, s.Proxy = "spec", "http://spec:1" }, secrets: Secrets{Auth: map[string][]byte{
			"address": []byte("https://a.example.com/x\n"), "username": []byte("u"), "proxy": []byte("http://p:2"), "password": []byte("pw")}},
			check: func(t Target) bool {
				return t.Address == "https://a.example.com/x" && t.Username == "u" && t.Proxy == "http://p:2" && t.Password == "pw"
			}},
		"proxySecretRef": {kind: "generic", secrets: Secrets{Proxy: map[string][]byte{"address": []byte("http://p:2"), "username": []byte("u"), "password": []byte("p@w")}},
			check: func(t Target) bool { return t.Proxy == "http://u:p%40w@p:2" }},
		"a proxy without an address": {kind: "generic", secrets: Secrets{Proxy: map[string][]byte{"username": []byte("u")}}, err: "spec.proxySecretRef: the key address is missing, or is no URL"},
		"a proxy of another kind":    {kind: "generic", change: func(s *spec) { s.Proxy = "socks5://p:1" }, err: "the proxy is not an http or https URL"},
		"no address":                 {kind: "generic", change: func(s *spec) { s.Address, s.SecretRef = "", nil }, err: "neither spec.address nor a Secret (spec.secretRef) says where to send to"},
		"no address in the Secret":   {kind: "generic", change: func(s *spec) { s.Address = "" }, err: "the address is not an http or https URL (hint: spec.address, or the key address of spec.secretRef)"},
		"an address of a file":       {kind: "generic", change: func(s *spec) { s.Address = "file:///etc/passwd" }, err: "the address is not an http or https URL (hint: spec.address, or the key address of spec.secretRef)"},
		"telegram's own address":     {kind: "telegram", change: func(s *spec) { s.Address = "" }, secrets: Secrets{Auth: map[string][]byte{"token": []byte("t")}}, check: func(t Target) bool { return t.Address == "https://api.telegram.org" }},
		"no token":                   {kind: "gitlab", err: "type gitlab needs the key token in the Secret of spec.secretRef"},
		"no channel":                 {kind: "matrix", change: func(s *spec) { s.Channel = "" }, secrets: Secrets{Auth: map[string][]byte{"token": []byte("t")}}, err: "type matrix needs spec.channel"},
		"another type":               {kind: "sentry", err: "spec.type sentry: not supported; nothing is sent"},
		"identity of the cloud":      {kind: "generic", change: func(s *spec) { s.ServiceAccountName = "x" }, err: "spec.serviceAccountName: not supported; nothing is sent"},
		"bad expression":             {kind: "github", change: func(s *spec) { s.CommitStatusExpr = "event." }, err: "spec.commitStatusExpr: line 1, column 7: Syntax error: no viable alternative at input '.'"},
		"expression elsewhere":       {kind: "slack", change: func(s *spec) { s.CommitStatusExpr = "'a'" }, err: "spec.commitStatusExpr: type slack sets no commit status"},
		"headers that are none":      {kind: "generic", secrets: Secrets{Auth: map[string][]byte{"headers": []byte("- a")}}, err: "the key headers of spec.secretRef is not a YAML map of strings"},
		"a header in a header":       {kind: "generic", secrets: Secrets{Auth: map[string][]byte{"headers": []byte("A: \"b\\r\\nC: d\"")}}, err: `the key headers of spec.secretRef: "A" is no header`},
		"certificates": {kind: "generic", secrets: Secrets{Cert: map[string][]byte{"ca.crt": []byte("ca"), "tls.crt": []byte("crt"), "tls.key": []byte("key")}},
			check: func(t Target) bool { return string(t.CA)+string(t.Cert)+string(t.Key) == "cacrtkey" }},
		"certificates, older names": {kind: "generic", secrets: Secrets{Cert: map[string][]byte{"caFile": []byte("ca")}}, check: func(t Target) bool { return string(t.CA) == "ca" }},
		"half a certificate":        {kind: "generic", secrets: Secrets{Cert: map[string][]byte{"tls.crt": []byte("crt")}}, err: "spec.certSecretRef: of tls.crt and tls.key only one is there"},
		"an empty certificate":      {kind: "generic", secrets: Secrets{Cert: map[string][]byte{}}, err: "spec.certSecretRef: it has neither ca.crt nor tls.crt and tls.key"},
		"a forge's CA":              {kind: "gitlab", secrets: Secrets{Auth: map[string][]byte{"token": []byte("t"), "ca.crt": []byte("ca")}}, check: func(t Target) bool { return string(t.CA) == "ca" }},
		"time":                      {kind: "generic", change: func(s *spec) { s.Timeout = &metav1.Duration{Duration: time.Hour} }, check: func(t Target) bool { return t.Timeout == MaxTimeout }},
		"time, none":                {kind: "generic", check: func(t Target) bool { return t.Timeout == 15*time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			p := provider(test.kind, test.change)
			if test.secrets.Proxy != nil {
				p.Spec.ProxySecretRef = ref
			}
			got, err := Resolve(p, test.secrets)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || test.check != nil && !test.check(got) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(kind string) Request {
		target := Target{Type: kind, Address: "https://forge.example.com/a/b", Token: "t", Channel: "c"}
		if kind == "slack" {
			target.Address = "https://slack.com/api/chat.postMessage"
		}
		e := news().Event
		e.Metadata = map[string]string{"commit": sha}
		all, err := target.Requests(alert(nil), News{Event: e}, e)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	for name, test := range map[string]struct {
		kind   string
		status int
		retry  string
		body   string
		err    string
		want   Result
	}{
		"taken":                  {kind: "generic", status: 200},
		"accepted":               {kind: "generic", status: 204},
		"moved":                  {kind: "generic", status: 302, err: "it answers 302: the address has moved, and what is sent is not sent elsewhere (hint: set the new address)"},
		"not allowed":            {kind: "generic", status: 403, body: "no\n  way", err: "it answers 403: no way"},
		"broken":                 {kind: "generic", status: 500, err: "it answers 500", want: Result{Retry: true}},
		"too many":               {kind: "generic", status: 429, retry: "7", err: "it answers 429", want: Result{Retry: true, Pause: true, After: 7 * time.Second}},
		"too many, a fraction":   {kind: "generic", status: 429, retry: "0.5", err: "it answers 429", want: Result{Retry: true, Pause: true, After: 500 * time.Millisecond}},
		"too many, a date":       {kind: "generic", status: 503, retry: "Fri, 02 Jan 2026 03:05:05 GMT", err: "it answers 503", want: Result{Retry: true, Pause: true, After: time.Minute}},
		"too many, a past date":  {kind: "generic", status: 503, retry: "Fri, 02 Jan 2026 03:00:05 GMT", err: "it answers 503", want: Result{Retry: true, Pause: true}},
		"too many, for long":     {kind: "generic", status: 429, retry: "86400", err: "it answers 429", want: Result{Retry: true, Pause: true, After: 10 * time.Minute}},
		"too many, nonsense":     {kind: "generic", status: 429, retry: "-1e9", err: "it answers 429", want: Result{Retry: true, Pause: true}},
		"slack":                  {kind: "slack", status: 200, body: `{"ok":true}`},
		"slack, refused":         {kind: "slack", status: 200, body: `{"ok":false,"error":"channel_not_found"}`, err: "refused: channel_not_found"},
		"slack, no reason":       {kind: "slack", status: 200, body: `{}`, err: "refused: no reason is given"},
		"slack, somebody else":   {kind: "slack", status: 200, body: `<html>`, err: "refused: the answer is not Slack's"},
		"slack, too many":        {kind: "slack", status: 429, retry: "1", err: "it answers 429", want: Result{Retry: true, Pause: true, After: time.Second}},
		"gitlab, the same state": {kind: "gitlab", status: 400, body: `{"message":"Cannot transition status via :succeed from :success"}`},
		"gitlab, refused":        {kind: "gitlab", status: 400, body: `{"message":"x"}`, err: `it answers 400: {"message":"x"}`},
		"a long answer":          {kind: "generic", status: 400, body: strings.Repeat("x", 5000), err: "it answers 400: " + strings.Repeat("x", 200) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			got := at(test.kind).Judge(test.status, test.retry, []byte(test.body), now)
			text := ""
			if got.Err != nil {
				text = got.Err.Error()
			}
			got.Err = nil
			if text != test.err || got != test.want {
				t.Errorf("got %+v %q", got, text)
			}
		})
	}
}

func TestWords(t *testing.T) {
	for reason, want := range map[string]string{
		"ReconciliationSucceeded": "reconciliation succeeded", "HTTPCheckFailed": "http check failed", "Ready2Go": "ready 2 go", "": "", "ok": "ok", "A": "a",
	} {
		if got := words(reason); got != want {
			t.Errorf("%s: got %q", reason, got)
		}
	}
}

// Whatever is in an event, JSON stays JSON, texts stay in their bounds, and no URL gets another host.
func FuzzRequests(f *testing.F) {
	f.Add("message", "name", "key", "value", "Reason")
	f.Add(strings.Repeat("\xff<", 9000), "../../x?y#z", "a\nb", "<@everyone>", "\x00")
	f.Fuzz(func(t *testing.T, message, name, key, value, reason string) {
		for _, kind := range Types() {
			p := provider(kind, nil)
			target, err := Resolve(p, Secrets{Auth: map[string][]byte{"token": []byte("t0ken")}})
			if err != nil {
				t.Fatal(err)
			}
			n := news(func(n *News) {
				n.Message, n.InvolvedObject.Name, n.Reason = message, name, reason
				n.Metadata["event.toolkit.fluxcd.io/"+key] = value
			})
			e := Compile(alert(nil), delivery.Policy{}).Event(n)
			requests, err := target.Requests(alert(nil), n, e)
			if err != nil {
				t.Fatal(kind, err)
			}
			for _, r := range requests {
				if kind != "zulip" && !json.Valid(r.Body) {
					t.Errorf("%s: no JSON: %q", kind, r.Body)
				}
				was, err := url.Parse(p.Spec.Address)
				if err != nil {
					t.Fatal(err)
				}
				if is, err := url.Parse(r.URL); err != nil || is.Host != was.Host {
					t.Errorf("%s: %q: %v", kind, r.URL, err)
				}
			}
		}
	})
}
