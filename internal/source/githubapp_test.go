package source_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/githost"
	"keelson.dev/keelson/internal/source"
)

// A token is asked for as the app, shown to the Git host, and kept until shortly before it ends.
func TestGitHubApp(t *testing.T) {
	w := newWorld(t, func(o *githost.Options) { o.GuardReads = true })
	id := w.commit("r", fstest.MapFS{"a.txt": file("x")})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	var asked atomic.Int64
	var life atomic.Int64
	life.Store(int64(time.Hour))
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		claims := &jwt.RegisteredClaims{}
		_, err := jwt.ParseWithClaims(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), claims, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }, jwt.WithValidMethods([]string{"RS256"}))
		switch {
		case err != nil || claims.Issuer != "12345":
			rw.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodGet && r.URL.Path == "/api/v3/users/ada/installation":
			fmt.Fprint(rw, `{"id": 77}`)
		case r.Method == http.MethodPost && r.URL.Path == "/api/v3/app/installations/77/access_tokens":
			asked.Add(1)
			rw.WriteHeader(http.StatusCreated)
			fmt.Fprintf(rw, `{"token": %q, "expires_at": %q}`, token, time.Now().Add(time.Duration(life.Load())).UTC().Format(time.RFC3339))
		default:
			rw.WriteHeader(http.StatusNotFound)
		}
	}))
	defer api.Close()
	app := delivery.GitHubApp{ID: "12345", InstallationID: "77", PrivateKey: private, BaseURL: api.URL + "/api/v3/"}
	src := w.source("r")
	src.Credentials.App = app
	for range 2 {
		if got := snapshotOf(t, w.remote, src).Revision.Commit; got != id {
			t.Errorf("commit %s", got)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked for a token %d times", asked.Load())
	}
	life.Store(int64(time.Minute))
	src.Credentials.App.InstallationID, src.Credentials.App.Owner = "", "ada"
	snapshotOf(t, w.remote, src)
	if asked.Load() != 3 { // one for Resolve and one for Fetch: it ends too soon to be kept
		t.Errorf("asked for a token %d times", asked.Load())
	}
	for name, change := range map[string]func(*delivery.GitHubApp){
		"no such app":     func(a *delivery.GitHubApp) { a.ID = "1" },
		"no installation": func(a *delivery.GitHubApp) { a.InstallationID = "1" },
		"not installed":   func(a *delivery.GitHubApp) { a.InstallationID, a.Owner = "", "bob" },
		"no key":          func(a *delivery.GitHubApp) { a.PrivateKey = "hush-hush" },
		"no API":          func(a *delivery.GitHubApp) { a.BaseURL = "file:///etc" },
		"somewhere else":  func(a *delivery.GitHubApp) { a.BaseURL = api.URL },
	} {
		src.Credentials.App = app
		change(&src.Credentials.App)
		_, err := w.remote.Resolve(t.Context(), src)
		if f := (*delivery.Fault)(nil); !errors.As(err, &f) || f.Reason != source.ReasonAuth || strings.Contains(err.Error(), "hush-hush") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
