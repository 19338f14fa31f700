package send

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/internal/notify"
)

// at makes a request to a path of a server, and who it is for.
func at(server *httptest.Server, path string) (notify.Target, notify.Request) {
	t := notify.Target{Type: "generic", Address: server.URL + path, Timeout: 10 * time.Second, Token: "t0ken-value"}
	return t, notify.Request{Method: "POST", URL: t.Address, Body: []byte(`{"a":1}`), Headers: map[string]string{"Authorization": "Bearer t0ken-value"}}
}

func TestSend(t *testing.T) {
	var other, landed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other.Add(1) }))
	defer elsewhere.Close()
	release := make(chan struct{})
	var endless atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fine":
			b, _ := io.ReadAll(r.Body)
			if r.Method != http.MethodPost || string(b) != `{"a":1}` || r.Header.Get("Authorization") != "Bearer t0ken-value" || r.UserAgent() != "keelson" {
				t.Errorf("%s %q %v", r.Method, b, r.Header)
			}
			landed.Add(1)
		case "/slow":
			select {
			case <-r.Context().Done():
			case <-release:
			}
		case "/away":
			http.Redirect(w, r, elsewhere.URL+"/fine", http.StatusTemporaryRedirect)
		case "/turned": // a client would make a GET of it
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/fine", http.StatusPermanentRedirect)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusTemporaryRedirect)
		case "/many":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		case "/huge":
			w.WriteHeader(http.StatusBadRequest)
			for chunk := []byte(strings.Repeat("x", 64<<10)); r.Context().Err() == nil; {
				n, err := w.Write(chunk)
				if endless.Add(int64(n)); err != nil {
					return
				}
			}
		case "/header":
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 4<<10))
			}
		case "/echo":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "who is %s at %s?", r.Header.Get("Authorization"), r.URL.Path)
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "ok")
		case "/broken":
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	defer close(release)
	host := strings.TrimPrefix(server.URL, "http://")
	for _, test := range []struct {
		path    string
		timeout time.Duration
		err     string
		want    notify.Result
	}{
		{path: "/fine"},
		{path: "/slow", timeout: 100 * time.Millisecond, err: "send to HOST: no answer within 100ms", want: notify.Result{Retry: true}},
		{path: "/away", err: "send to HOST: it answers 307: the address has moved, and what is sent is not sent elsewhere (hint: set the new address)"},
		{path: "/turned", err: "send to HOST: it answers 302: the address has moved, and what is sent is not sent elsewhere (hint: set the new address)"},
		{path: "/here"},
		{path: "/round", err: "send to HOST: it answers 307: the address has moved, and what is sent is not sent elsewhere (hint: set the new address)"},
		{path: "/many", err: "send to HOST: it answers 429", want: notify.Result{Retry: true, Pause: true, After: 7 * time.Second}},
		{path: "/huge", err: "send to HOST: it answers 400: " + strings.Repeat("x", 200) + "…"},
		{path: "/header", err: "send to HOST: net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 65536 bytes; aborted", want: notify.Result{Retry: true}},
		{path: "/echo", err: "send to HOST: it answers 403: who is Bearer **REDACTED** at **REDACTED**?"},
		{path: "/cut"},
		{path: "/broken", err: "send to HOST: EOF", want: notify.Result{Retry: true}},
	} {
		t.Run(test.path[1:], func(t *testing.T) {
			target, req := at(server, test.path)
			if test.timeout > 0 {
				target.Timeout = test.timeout
			}
			got := (&Sender{}).Send(context.Background(), target, req)
			text := ""
			if got.Err != nil {
				text = strings.ReplaceAll(got.Err.Error(), host, "HOST")
			}
			got.Err = nil
			if text != test.err || got != test.want {
				t.Errorf("got %+v %q", got, text)
			}
		})
	}
	if other.Load() != 0 {
		t.Error("a redirect was followed to another host")
	}
	if landed.Load() != 2 {
		t.Errorf("%d arrived where they should", landed.Load())
	}
	if n := endless.Load(); n > 64<<20 {
		t.Errorf("%d bytes of an endless answer were taken", n)
	}
}

func TestNobodyThere(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	target, req := at(server, "/services/T0/s3cret-path")
	server.Close()
	got := (&Sender{}).Send(context.Background(), target, req)
	if got.Err == nil || !got.Retry || strings.Contains(got.Err.Error(), "s3cret") || !strings.Contains(got.Err.Error(), "connection refused") {
		t.Errorf("got %+v", got)
	}
}

func TestProxy(t *testing.T) {
	var seen []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pw, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		seen = append(seen, r.Method+" "+r.URL.String()+" "+user+":"+pw)
	}))
	defer proxy.Close()
	u, _ := url.Parse(proxy.URL)
	u.User = url.UserPassword("u", "pass-word")
	target := notify.Target{Timeout: time.Second * 10, Proxy: u.String(), Address: "http://hooks.example.invalid/x"}
	got := (&Sender{}).Send(context.Background(), target, notify.Request{Method: "POST", URL: target.Address})
	if want := []string{"POST http://hooks.example.invalid/x u:pass-word"}; got.Err != nil || !slices.Equal(seen, want) {
		t.Errorf("got %v %q", got.Err, seen)
	}
	proxy.Close()
	if got = (&Sender{}).Send(context.Background(), target, notify.Request{Method: "POST", URL: target.Address}); got.Err == nil || strings.Contains(got.Err.Error(), "pass-word") {
		t.Errorf("without the proxy: %v", got.Err)
	}
}

// authority makes a CA, and pairs that it has signed.
func authority(t *testing.T) (ca []byte, pair func(name string) (cert, key []byte)) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	top := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, top, top, caKey.Public(), caKey)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), func(name string) (cert, key []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		d, err := x509.CreateCertificate(rand.Reader, leaf, top, k.Public(), caKey)
		must(err)
		b, err := x509.MarshalPKCS8PrivateKey(k)
		must(err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
	}
}

func TestCertificates(t *testing.T) {
	ca, pair := authority(t)
	cert, key := pair("server")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "keelson" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	own, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "https://"), ":")
	mine, mineKey := pair("keelson")
	for name, test := range map[string]struct {
		ca, cert, key []byte
		err           string
	}{
		"both":                      {ca, mine, mineKey, ""},
		"the CA only":               {ca, nil, nil, "it answers 401"},
		"a CA that nobody knows":    {nil, nil, nil, "certificate signed by unknown authority"},
		"no certificate":            {[]byte("x"), nil, nil, "ca.crt holds no certificate in PEM"},
		"another certificate's key": {ca, mine, key, "tls.crt and tls.key are not a certificate and its key in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			target := notify.Target{Timeout: 10 * time.Second, CA: test.ca, Cert: test.cert, Key: test.key}
			got := (&Sender{}).Send(context.Background(), target, notify.Request{Method: "POST", URL: "https://localhost:" + port})
			if (got.Err == nil) != (test.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), test.err) {
				t.Errorf("got %v, want %q", got.Err, test.err)
			}
		})
	}
}
