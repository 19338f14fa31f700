package redact_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/redact"
)

// through writes parts one by one and gives what comes out of a stream like s.
func through(t testing.TB, s *redact.Stream, parts ...string) string {
	t.Helper()
	var b strings.Builder
	s = s.Fresh(&b)
	for _, p := range parts {
		if n, err := io.WriteString(s, p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestStream(t *testing.T) {
	const pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\nx==\n-----END KEY-----\n"
	long := strings.Repeat("0123456789abcdef", 300)
	tests := map[string]struct {
		values   []string
		in, want string
	}{
		"literal":                 {[]string{"s3cretvalue"}, "a s3cretvalue b", "a [MASKED] b"},
		"twice in a row":          {[]string{"s3cretvalue"}, "s3cretvalues3cretvalue", "[MASKED][MASKED]"},
		"the longest first":       {[]string{"hunter2", "hunter2-long"}, "hunter2 hunter2-long hunter2-lon", "[MASKED] [MASKED] [MASKED]-lon"},
		"inside of another":       {[]string{"unter", "hunter2"}, "hunter2 unter2", "[MASKED] [MASKED]2"},
		"overlapping":             {[]string{"abcdef", "defxyz"}, "-abcdefxyz-", "-[MASKED]-"},
		"overlapping with itself": {[]string{"abab"}, "xababababax", "x[MASKED]ax"},
		"a false start":           {[]string{"aaab"}, "aaaaaab", "aaa[MASKED]"},
		"only its beginning":      {[]string{"s3cretvalue"}, "s3cretval", "s3cretval"},
		"too short":               {[]string{"abc", ""}, "abc", "abc"},
		"unicode":                 {[]string{"пароль"}, "мой пароль!", "мой [MASKED]!"},
		"not UTF-8":               {[]string{"\xff\xfe\x00\x01"}, "a\xff\xfe\x00\x01\xff", "a[MASKED]\xff"},
		"no values":               {nil, "plain text", "plain text"},

		"base64":                 {[]string{"hunter2-long"}, "x " + b64("hunter2-long") + " y", "x [MASKED] y"},
		"base64 with a padding":  {[]string{"hunter2-longer"}, b64("hunter2-longer"), "[MASKED]"},
		"base64, raw":            {[]string{"hunter2-longer"}, strings.TrimRight(b64("hunter2-longer"), "="), "[MASKED]"},
		"base64, one before":     {[]string{"hunter2-long"}, b64("ahunter2-long"), "YW[MASKED]"},
		"base64, basic auth":     {[]string{"hunter2-long"}, "Basic " + b64("bob:hunter2-long"), "Basic Ym9iOm[MASKED]"},
		"base64, text around":    {[]string{"hunter2-long"}, b64("{\"p\":\"hunter2-long\"}"), "eyJwIjoi[MASKED]In0="},
		"base64, URL's alphabet": {[]string{"\xfb\xff\xfe?>hunter"}, base64.RawURLEncoding.EncodeToString([]byte("\xfb\xff\xfe?>hunter")), "[MASKED]"},
		"base64 in lines": {[]string{strings.Repeat("hunter2-", 20)},
			b64(strings.Repeat("hunter2-", 20))[:76] + "\n" + b64(strings.Repeat("hunter2-", 20))[76:152] + "\n" + b64(strings.Repeat("hunter2-", 20))[152:],
			"[MASKED]\n[MASKED]\n[MASKED]"},
		"base64 in one line":  {[]string{strings.Repeat("hunter2-", 20)}, b64(strings.Repeat("hunter2-", 20)), "[MASKED]"},
		"URL, query":          {[]string{"p&w/d +é"}, "?x=" + url.QueryEscape("p&w/d +é"), "?x=[MASKED]"},
		"URL, path":           {[]string{"p&w/d +é"}, "/" + url.PathEscape("p&w/d +é"), "/[MASKED]"},
		"URL, small letters":  {[]string{"p&w/d+"}, "p%26w%2fd%2b", "[MASKED]"},
		"URL, userinfo":       {[]string{"p@ss:w/d"}, "https://bob:p%40ss%3Aw%2Fd@host/", "https://bob:[MASKED]@host/"},
		"URL, Python's quote": {[]string{"s3cr/t+val=ue1"}, "s3cr/t%2Bval%3Due1 s3cr/t%2bval%3due1", "[MASKED] [MASKED]"},
		"URL, encodeURI":      {[]string{"s3cr/t+v (é)"}, "s3cr/t+v%20(%C3%A9) s3cr/t+v%20(%c3%a9)", "[MASKED] [MASKED]"},
		"URL, a component":    {[]string{"s3cr/t!v(é)'*~"}, "s3cr%2Ft!v(%C3%A9)'*~", "[MASKED]"},
		"JSON":                {[]string{"say \"it\"\n<now>"}, `{"a":"say \"it\"\n\u003cnow\u003e"}`, `{"a":"[MASKED]"}`},
		"lines of a key":      {[]string{pem}, "  MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\r\n  x==\n-----BEGIN KEY-----", "  [MASKED]\r\n  x==\n-----BEGIN KEY-----"},
		"a key":               {[]string{pem}, "key:\n" + pem + "end", "key:\n[MASKED]end"},
		"a long value":        {[]string{long}, "<" + long + ">", "<[MASKED]>"},
		"the half of it":      {[]string{long}, "<" + long[:1024] + ">", "<[MASKED]>"},

		"token":                   {nil, "use glpat-abc_DEF.12=3-4, not glrt-", "use glpat-[MASKED], not glrt-"},
		"a token twice":           {nil, "glpat-aa glpat-bb", "glpat-[MASKED] glpat-[MASKED]"},
		"session":                 {nil, "Cookie: _gitlab_session=abc; a=b", "Cookie: _gitlab_session=[MASKED]; a=b"},
		"every prefix":            {nil, "glrtr-x gloas-x gldt-x glcbt-x glptt-x glft-x glimt-x glagent-x glsoat-x glffct-x gltok-x", "glrtr-[MASKED] gloas-[MASKED] gldt-[MASKED] glcbt-[MASKED] glptt-[MASKED] glft-[MASKED] glimt-[MASKED] glagent-[MASKED] glsoat-[MASKED] glffct-[MASKED] gltok-[MASKED]"},
		"after a false start":     {nil, "glglpat-x", "glglpat-[MASKED]"},
		"parameter":               {nil, "http://h/?private_token=abc&x=1", "http://h/?private_token=[MASKED]&x=1"},
		"parameters":              {nil, "?a=1&rss_token=a/b;c&authenticity_token=d e", "?a=1&rss_token=[MASKED]&authenticity_token=[MASKED] e"},
		"signed":                  {nil, "?X-Amz-Credential=AK/1&X-Amz-Signature=ff&X-Amz-Security-Token=t\n", "?X-Amz-Credential=[MASKED]&X-Amz-Signature=[MASKED]&X-Amz-Security-Token=[MASKED]\n"},
		"parameter in JSON":       {nil, `{"url":"h?private_token=abc"}`, `{"url":"h?private_token=[MASKED]"}`},
		"parameter without value": {nil, "?private_token=&x", "?private_token=&x"},
		"another parameter":       {nil, "?my_private_token=abc", "?my_private_token=abc"},
		"value in a token":        {[]string{"hunter2-long"}, "glpat-ahunter2-longb c", "glpat-[MASKED] c"},
		"value around a token":    {[]string{"xglpat-abc"}, "xglpat-abcd e", "[MASKED] e"},
		"value before a token":    {[]string{"hunter2-"}, "hunter2-glpat-a", "[MASKED]glpat-[MASKED]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := redact.NewStream(nil, tt.values...)
			if got := through(t, s, tt.in); got != tt.want {
				t.Errorf("in one write\n  in %q\n got %q\nwant %q", tt.in, got, tt.want)
			}
			if got := through(t, s, strings.Split(tt.in, "")...); got != tt.want {
				t.Errorf("a character a write\n  in %q\n got %q\nwant %q", tt.in, got, tt.want)
			}
			for i := range tt.in {
				if got := through(t, s, tt.in[:i], tt.in[i:]); got != tt.want {
					t.Errorf("split at %d\n  in %q\n got %q\nwant %q", i, tt.in, got, tt.want)
				}
			}
		})
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// What surrounds a value does not show it in base64, whatever stands before it.
func TestStreamBase64Alignments(t *testing.T) {
	const value = "correct-horse-battery"
	s := redact.NewStream(nil, value)
	for before := range 7 {
		for after := range 4 {
			text := b64(strings.Repeat("u", before) + value + strings.Repeat("v", after))
			got := through(t, s, text)
			// At most two characters on each side are not the value's alone.
			rest := strings.Replace(got, redact.LogMask, "", 1)
			if !strings.Contains(got, redact.LogMask) || len(rest) > len(text)-len(value)*8/6+2 {
				t.Errorf("%d before, %d after: %q became %q", before, after, text, got)
			}
		}
	}
}

// A line without an end takes no memory.
func TestStreamLongLine(t *testing.T) {
	for name, text := range map[string]string{
		"plain":              strings.Repeat("x", 1<<16),
		"begins of a value":  strings.Repeat("s3cretvalu", 1<<12),
		"a value":            strings.Repeat("s3cretvalue", 1<<12),
		"overlapping values": strings.Repeat("ab", 1<<15),
		"a token":            "glpat-" + strings.Repeat("y", 1<<16),
	} {
		t.Run(name, func(t *testing.T) {
			s := redact.NewStream(io.Discard, "s3cretvalue", "abababab")
			data := []byte(text)
			_, _ = s.Write(data)
			if n := testing.AllocsPerRun(100, func() { _, _ = s.Write(data) }); n > 0 {
				t.Errorf("%v allocations a write", n)
			}
		})
	}
}

type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestStreamError(t *testing.T) {
	s := redact.NewStream(&failing{left: 1})
	for i, want := range []error{nil, io.ErrShortWrite, io.ErrShortWrite} {
		if _, err := s.Write([]byte("text")); err != want {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
	}
	if err := s.Close(); err != io.ErrShortWrite {
		t.Errorf("Close: %v", err)
	}
}

// FuzzStream holds that however a text is split over writes the same comes out, and no value is in it.
func FuzzStream(f *testing.F) {
	f.Add("s3cretvalue", "abcd", "a s3cretvalue b abcdabcd", uint64(1))
	f.Add("abab", "baba", "xababababax", uint64(2))
	f.Add("line of a key\nanother line", "glpat-x", "?private_token=abc&glpat-xyz line of a key", uint64(3))
	f.Add(strings.Repeat("k", 1500), "kkkk", strings.Repeat("k", 4000), uint64(4))
	f.Add("\x00\xff\xfe\x01", "é€", "\x00\xff\xfe\x01é€", uint64(5))
	f.Add("hunter2&/", "user", b64("user:hunter2&/")+url.QueryEscape("hunter2&/"), uint64(6))
	f.Fuzz(func(t *testing.T, a, b, text string, seed uint64) {
		if len(a) > 4096 || len(b) > 4096 || len(text) > 1<<16 {
			return
		}
		values := []string{a, b}
		text += a + text + b + b64("x"+a+text) + url.QueryEscape(b) + a + b + a
		s := redact.NewStream(nil, values...)
		want := through(t, s, text)
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
		var parts []string
		for rest := text; rest != ""; {
			n := min(len(rest), 1+r.IntN(1+r.IntN(40)))
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		if got := through(t, s, parts...); got != want {
			t.Errorf("split %q\n got %q\nwant %q", parts, got, want)
		}
		for _, v := range values {
			// What is left of the text around the masks does not hold the value. With the masks it may look as if.
			if len(v) < 4 {
				continue
			}
			for _, part := range strings.Split(want, redact.LogMask) {
				if strings.Contains(part, v) {
					t.Errorf("%q is in %q", v, want)
				}
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	values := []string{"s3cretvalue", "glcbt-64_abcdefghijklmnop", "p&w/d+longer-password", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	log := bytes.Repeat([]byte("2026-11-21T15:00:00Z compiling package example.com/some/thing (12 of 345): ok, see https://example.com/?page=2&x=1\n"), 1000)
	line := bytes.Repeat([]byte("x"), 1<<20)
	hostile := bytes.Repeat([]byte("s3cretvalu"), 1<<16)
	for _, c := range []struct {
		name   string
		values []string
		data   []byte
	}{{"log", values, log}, {"one line", values, line}, {"no values", nil, log}, {"hostile", values, hostile}} {
		b.Run(c.name, func(b *testing.B) {
			s := redact.NewStream(io.Discard, c.values...)
			b.SetBytes(int64(len(c.data)))
			for b.Loop() {
				_, _ = s.Write(c.data)
			}
		})
	}
	for _, n := range []int{1, 5, 50} {
		b.Run(fmt.Sprintf("new with %d", n), func(b *testing.B) {
			var vs []string
			for i := range n {
				vs = append(vs, fmt.Sprintf("%s-%d", values[i%len(values)], i))
			}
			for b.Loop() {
				redact.NewStream(io.Discard, vs...)
			}
		})
	}
}
