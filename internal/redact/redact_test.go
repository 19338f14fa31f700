package redact_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/redact"
)

func TestURL(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"none":                {"https://git.example.com/a.git", "https://git.example.com/a.git"},
		"user and password":   {"https://bob:pw@git.example.com/a.git", "https://git.example.com/a.git"},
		"token only":          {"https://ghp_abc@github.com/a/b", "https://github.com/a/b"},
		"port":                {"http://bob:pw@127.0.0.1:8080/git/a.git", "http://127.0.0.1:8080/git/a.git"},
		"port, no userinfo":   {"http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b"},
		"ipv6":                {"http://bob:pw@[::1]:8080/a", "http://[::1]:8080/a"},
		"ipv6, no userinfo":   {"http://[::1]/a@b", "http://[::1]/a@b"},
		"at in password":      {"https://bob:p@w@host/a", "https://host/a"},
		"slash in password":   {"https://bob:p/w@host/a", "https://host/a"},
		"space in password":   {"https://bob:p w@host/a", "https://host/a"},
		"query token":         {"https://host/a?x=1&access_token=abc&y=2", "https://host/a?x=1&access_token=**REDACTED**&y=2"},
		"signed":              {"https://s3/a?X-Amz-Signature=abc#f", "https://s3/a?X-Amz-Signature=**REDACTED**#f"},
		"harmless query":      {"https://host/a?monkey=1&page=2", "https://host/a?monkey=1&page=2"},
		"scp-like, no secret": {"git@github.com:a/b.git", "git@github.com:a/b.git"},
		"no url":              {"hello", "hello"},
		"empty":               {"", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := redact.URL(tt.in); got != tt.want {
				t.Errorf("URL(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestText(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"git's stderr": {
			"fatal: Authentication failed for 'https://bob:s3cret@host/a.git/'\nremote: try http://u:p@b/c",
			"fatal: Authentication failed for 'https://host/a.git/'\nremote: try http://b/c",
		},
		"two without a space":   {"'http://u:p@a/x','http://u:p@b/y'", "'http://a/x','http://b/y'"},
		"quote in the password": {"unable to access 'http://u:p'w@a/x'", "unable to access 'http://a/x'"},
		"an address in prose":   {"see https://host/a or mail bob@example.com", "see https://host/a or mail bob@example.com"},
		"header":                {"> Authorization: Basic Ym9iOnB3\n> Host: a", "> Authorization: Basic **REDACTED**\n> Host: a"},
		"header, lower case":    {"authorization: bearer abc.def", "authorization: bearer **REDACTED**"},
		"an access token":       {"curl -H 'X: kst_0123456789abcdefABCDEF-_xyz0123456789abcdefABCDE' kst_short", "curl -H 'X: **REDACTED**' kst_short"},
		"query":                 {"GET http://h/p?token=abc HTTP/1.1", "GET http://h/p?token=**REDACTED** HTTP/1.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := redact.Text(tt.in); got != tt.want {
				t.Errorf("Text(%q)\n got %q\nwant %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestRedactor(t *testing.T) {
	r := redact.New("hunter2", "hunter2-long", "p&w/d", "abc", "")
	in := "a hunter2 b hunter2-long c aHVudGVyMg== d p%26w%2Fd e abc http://u:x@h/"
	want := "a **REDACTED** b **REDACTED** c **REDACTED** d **REDACTED** e abc http://h/"
	if got := r.Text(in); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := new(redact.Redactor).Text("http://u:x@h/ hunter2"); got != "http://h/ hunter2" {
		t.Errorf("zero Redactor: %q", got)
	}
}

func FuzzText(f *testing.F) {
	f.Add("fatal: 'https://", "bob", "pw", "host/a.git'")
	f.Add("", "b:", "p@w", "[::1]:80/x?token=1")
	f.Fuzz(func(t *testing.T, before, user, password, after string) {
		if strings.ContainsAny(user+password, "/?# \t\r\n\v\f:") || len(password) < 6 || strings.Contains(before+user+after, password) {
			t.Skip("not a userinfo, or the password stands elsewhere too")
		}
		if strings.Contains(redact.Mask, password) || strings.Contains("://"+after, password) || strings.HasPrefix(after, "@") {
			t.Skip("the password cannot be told from its surroundings")
		}
		in := before + " https://" + user + ":" + password + "@" + after
		if got := redact.Text(in); strings.Contains(got, password) {
			t.Errorf("Text(%q) = %q still holds the password", in, got)
		}
	})
}

func secret(data, stringData map[string]any, annotations map[string]any) *unstructured.Unstructured {
	o := map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}}
	if data != nil {
		o["data"] = data
	}
	if stringData != nil {
		o["stringData"] = stringData
	}
	if annotations != nil {
		o["metadata"].(map[string]any)["annotations"] = annotations
	}
	return &unstructured.Unstructured{Object: o}
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func TestSecret(t *testing.T) {
	in := secret(map[string]any{"a": "eA==", "odd": int64(7)}, map[string]any{"b": "plain"},
		map[string]any{lastApplied: `{"data":{"a":"eA=="}}`, "team": "x"})
	before := in.DeepCopy()
	want := secret(map[string]any{"a": redact.Mask, "odd": redact.Mask}, map[string]any{"b": redact.Mask},
		map[string]any{lastApplied: redact.Mask, "team": "x"})
	if diff := cmp.Diff(want.Object, redact.Secret(in).Object); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before.Object, in.Object); diff != "" {
		t.Errorf("the input was changed (-want +got):\n%s", diff)
	}
	malformed := secret(nil, nil, nil)
	malformed.Object["data"] = "topsecret"
	if got := redact.Secret(malformed).Object["data"]; got != redact.Mask {
		t.Errorf("malformed data = %v", got)
	}
	other := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"a": "b"}}}
	if got := redact.Secret(other); got != other {
		t.Errorf("a ConfigMap came back as %v", got)
	}
	if redact.Secret(nil) != nil {
		t.Error("Secret(nil) is not nil")
	}
}

func TestSecretPair(t *testing.T) {
	live := secret(map[string]any{"same": "eA==", "other": "eA==", "gone": "eA=="}, nil, map[string]any{lastApplied: "old"})
	desired := secret(map[string]any{"other": "eQ==", "new": "eA=="}, map[string]any{"same": "x"}, map[string]any{lastApplied: "new"})
	gotLive, gotDesired := redact.SecretPair(live, desired)
	wantLive := secret(map[string]any{"same": redact.Mask, "other": redact.Mask, "gone": redact.Mask}, nil, map[string]any{lastApplied: redact.Mask})
	wantDesired := secret(map[string]any{"same": redact.Mask, "other": redact.Changed, "new": redact.Mask}, nil, map[string]any{lastApplied: redact.Changed})
	if diff := cmp.Diff(wantLive.Object, gotLive.Object); diff != "" {
		t.Errorf("live (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantDesired.Object, gotDesired.Object); diff != "" {
		t.Errorf("desired (-want +got):\n%s", diff)
	}
	if l, d := redact.SecretPair(nil, desired); l != nil || d.Object["stringData"].(map[string]any)["same"] != redact.Mask {
		t.Errorf("created: %v %v", l, d)
	}
	malformed := secret(nil, nil, nil)
	malformed.Object["stringData"] = []any{"topsecret"}
	if _, d := redact.SecretPair(live, malformed); strings.Contains(mustJSON(t, d), "topsecret") {
		t.Errorf("malformed stringData shows: %v", d)
	}
}

func mustJSON(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	b, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRotated(t *testing.T) {
	secret := func(kind string, data map[string]any, plain map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind, "data": data, "stringData": plain}}
	}
	before := secret("Secret", map[string]any{"same": "c2FtZQ==", "old": "b2xk", "gone": "Z29uZQ=="}, nil)
	after := secret("Secret", map[string]any{"same": "c2FtZQ=="}, map[string]any{"old": "new", "more": "more"})
	got := redact.Rotated(before, after)
	slices.Sort(got)
	if want := []string{"gone", "new", "old"}; !slices.Equal(got, want) {
		t.Errorf("rotated are %q, want %q", got, want)
	}
	if got := redact.Rotated(before, nil); len(got) != 3 {
		t.Errorf("with the Secret go %q", got)
	}
	if got := redact.Rotated(secret("ConfigMap", map[string]any{"a": "b2xk"}, nil), nil); got != nil {
		t.Errorf("of a ConfigMap: %q", got)
	}
}

// TestJoin: what one knows is a part of what another one knows whole.
func TestJoin(t *testing.T) {
	r := redact.Join(redact.New("hunter2"), nil, redact.New("hunter2-2025"), &redact.Redactor{})
	if got, want := r.Text("was hunter2, is hunter2-2025"), "was "+redact.Mask+", is "+redact.Mask; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
