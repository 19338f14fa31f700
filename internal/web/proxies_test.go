package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProxies(t *testing.T) {
	const proxy, other = "10.0.0.5:4711", "203.0.113.9:4711"
	for name, c := range map[string]struct {
		trusted, from string
		headers       []string
		want          string // address, and https where it is believed
	}{
		"no proxies are known":          {"", proxy, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https"}, "10.0.0.5:4711"},
		"a proxy":                       {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https"}, "198.51.100.1:0 https"},
		"a proxy, by http":              {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: http"}, "198.51.100.1:0"},
		"a proxy that says nothing":     {"10.0.0.0/8", proxy, nil, "10.0.0.5:4711"},
		"somebody else forges":          {"10.0.0.0/8", other, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https"}, "203.0.113.9:4711"},
		"the client forges":             {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 127.0.0.1, 198.51.100.1"}, "198.51.100.1:0"},
		"the client forges a proxy":     {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 10.0.0.7, 198.51.100.1"}, "198.51.100.1:0"},
		"the client forges a header":    {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 198.51.100.1"}, "198.51.100.1:0"},
		"the client forges https":       {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https, http"}, "198.51.100.1:0"},
		"two proxies":                   {"10.0.0.0/8,192.0.2.7", proxy, []string{"X-Forwarded-For: 127.0.0.1, 198.51.100.1, 192.0.2.7"}, "198.51.100.1:0"},
		"a proxy for itself":            {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 10.0.0.6"}, "10.0.0.6:0"},
		"rubbish":                       {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 198.51.100.1, <script>"}, "10.0.0.5:0"},
		"rubbish before":                {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: x,,198.51.100.1"}, "198.51.100.1:0"},
		"an empty one":                  {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: "}, "10.0.0.5:0"},
		"with a port":                   {"10.0.0.0/8", proxy, []string{"X-Forwarded-For: 198.51.100.1:80"}, "198.51.100.1:0"},
		"IPv6":                          {"fd00::/8", "[fd00::1]:80", []string{"X-Forwarded-For: [2001:db8::1]:80"}, "[2001:db8::1]:0"},
		"IPv6, without a port":          {"fd00::/8", "[fd00::1]:80", []string{"X-Forwarded-For: 2001:db8::1"}, "[2001:db8::1]:0"},
		"IPv4 as the listener names it": {"10.0.0.0/8", "[::ffff:10.0.0.5]:80", []string{"X-Forwarded-For: ::ffff:198.51.100.1"}, "198.51.100.1:0"},
	} {
		t.Run(name, func(t *testing.T) {
			proxies, err := ParseProxies(strings.Split(c.trusted, ","))
			if err != nil {
				t.Fatal(err)
			}
			var have string
			h := proxies.Front(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				have = r.RemoteAddr
				if ByHTTPS(r.Context()) {
					have += " https"
				}
				if said := fmt.Sprint(r.Header[forwardedFor], r.Header[forwardedProto]); said != "[] []" {
					t.Errorf("the headers go on: %s", said)
				}
			}))
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = c.from
			for _, header := range c.headers {
				name, value, _ := strings.Cut(header, ": ")
				r.Header.Add(name, value)
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			if have != c.want {
				t.Errorf("%s, and not %s", have, c.want)
			}
		})
	}
}

func TestParseProxies(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3/8, 192.0.2.7": "[10.0.0.0/8 192.0.2.7/32]",
		"fd00::/8,::1":          "[fd00::/8 ::1/128]",
		"":                      "[]",
		"ingress":               `"ingress" is neither an address nor a network`,
		"10.0.0.0/40":           "neither an address nor a network",
		"0.0.0.0/0":             "0.0.0.0/0 is everybody",
		"::/0":                  "::/0 is everybody",
		"::ffff:10.0.0.0/104":   "write it as an IPv4 network",
	} {
		p, err := ParseProxies(strings.Split(text, ","))
		have := fmt.Sprint(p)
		if err != nil {
			have = err.Error()
		}
		if !strings.Contains(have, want) {
			t.Errorf("%q: %s, and not %s", text, have, want)
		}
	}
}
