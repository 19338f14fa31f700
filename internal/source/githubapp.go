package source

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

const (
	gitHubAPI = "https://api.github.com"
	// maxAnswer bounds an answer of GitHub's API in bytes.
	maxAnswer = 1 << 20
	// tokenMargin is how long before its end a token is not used any more.
	tokenMargin = 5 * time.Minute
	// maxTokens bounds the tokens kept.
	maxTokens = 1024
)

// tokens keeps the installation tokens of GitHub Apps until they end (an hour, says GitHub), in memory.
type tokens struct {
	mu   sync.Mutex
	kept map[[32]byte]installationToken
}

type installationToken struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// get gives a token for an app's installation. The way to GitHub's API is the remote's own: its authorities and proxy.
func (t *tokens) get(ctx context.Context, app delivery.GitHubApp, way git.Auth) (string, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q", app.ID, app.InstallationID, app.Owner, app.PrivateKey, app.BaseURL))
	t.mu.Lock()
	kept, ok := t.kept[key]
	t.mu.Unlock()
	if ok && time.Until(kept.ExpiresAt) > tokenMargin {
		return kept.Token, nil
	}
	fresh, err := installation(ctx, app, way)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil || len(t.kept) >= maxTokens {
		t.kept = map[[32]byte]installationToken{}
	}
	t.kept[key] = fresh
	return fresh.Token, nil
}

// installation asks GitHub for a token, as the app (a JWT signed with its key).
func installation(ctx context.Context, app delivery.GitHubApp, way git.Auth) (installationToken, error) {
	var fresh installationToken
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(app.PrivateKey))
	if err != nil {
		return fresh, fmt.Errorf("%w: githubAppPrivateKey is no RSA key in PEM form", git.ErrAuth)
	}
	now := time.Now()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer:    app.ID,
		IssuedAt:  jwt.NewNumericDate(now.Add(-time.Minute)), // clocks differ
		ExpiresAt: jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}).SignedString(key)
	if err != nil {
		return fresh, fmt.Errorf("%w: sign with githubAppPrivateKey: %w", git.ErrAuth, err)
	}
	client, err := way.Client()
	if err != nil {
		return fresh, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("it redirects") }
	base := strings.TrimRight(app.BaseURL, "/")
	if base == "" {
		base = gitHubAPI
	}
	if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fresh, fmt.Errorf("%w: githubAppBaseURL is not a URL as https://github.example.com/api/v3", git.ErrAuth)
	}
	id := app.InstallationID
	if id == "" {
		var found struct {
			ID int64 `json:"id"`
		}
		err := ask(ctx, client, http.MethodGet, base+"/orgs/"+url.PathEscape(app.Owner)+"/installation", signed, &found)
		if errors.Is(err, git.ErrRepoNotFound) {
			err = ask(ctx, client, http.MethodGet, base+"/users/"+url.PathEscape(app.Owner)+"/installation", signed, &found)
		}
		if errors.Is(err, git.ErrRepoNotFound) {
			return fresh, fmt.Errorf("%w: the GitHub App %s is not installed for %s", git.ErrAuth, app.ID, app.Owner)
		}
		if err != nil {
			return fresh, err
		}
		id = fmt.Sprint(found.ID)
	}
	err = ask(ctx, client, http.MethodPost, base+"/app/installations/"+url.PathEscape(id)+"/access_tokens", signed, &fresh)
	if errors.Is(err, git.ErrRepoNotFound) {
		return fresh, fmt.Errorf("%w: the GitHub App %s has no installation %s", git.ErrAuth, app.ID, id)
	}
	if err == nil && fresh.Token == "" {
		err = fmt.Errorf("%w: GitHub's answer holds no token", git.ErrAuth)
	}
	return fresh, err
}

// ask asks GitHub's API. Its answer is not repeated in an error: it may hold a token.
func ask(ctx context.Context, client *http.Client, method, address, signed string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return fmt.Errorf("%w: ask GitHub's API: the address is malformed", git.ErrAuth)
	}
	req.Header.Set("Authorization", "Bearer "+signed)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: ask GitHub's API: %w", git.ErrUnreachable, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: GitHub's API answers %s", git.ErrRepoNotFound, resp.Status)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w: GitHub's API answers %s", git.ErrUnreachable, resp.Status)
	case resp.StatusCode >= 300:
		return fmt.Errorf("%w: GitHub's API answers %s to the app: check githubAppID and githubAppPrivateKey", git.ErrAuth, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("%w: GitHub's API answers with something else than JSON", git.ErrUnreachable)
	}
	return nil
}
