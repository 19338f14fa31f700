package worktree

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/config"
	"keelson.dev/keelson/internal/pipeline/outside"
	"keelson.dev/keelson/internal/redact"
)

const maxRedirects = 5

// remote reads include:remote, a file on the web.
func (f *Files) remote(include pipeline.Include) ([]config.Source, error) {
	name := redact.URL(include.Remote)
	u, err := url.Parse(include.Remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("remote file %s: it is no http or https address", name)
	}
	text, ok := f.web[include.Remote]
	if !ok {
		ctx, end := f.fetching()
		text, err = fetchURL(ctx, u, f.opts.Hosted != nil)
		end()
		if err != nil {
			return nil, fmt.Errorf("remote file %s: %w", name, err)
		}
		f.web[include.Remote] = text
	}
	if err := verify(include.Integrity, text); err != nil {
		return nil, fmt.Errorf("remote file %s: %w", name, err)
	}
	return []config.Source{{Name: name, Text: text}}, nil
}

// fetchURL reads what is at an address; only with public, no address of this network is asked.
func fetchURL(ctx context.Context, u *url.URL, public bool) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if public { // a proxy would reach that network for whoever asks
		transport.Proxy, transport.DialContext = nil, (&net.Dialer{Control: outside.Control}).DialContext
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("it redirects from https to " + req.URL.Scheme)
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) { // its text has the URL with all that is in it
			err = wrapped.Err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("the server answers %s: %w", res.Status, fs.ErrNotExist)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	return readAtMost(res.Body, "it")
}

// verify compares a text with "sha256-" and the hash in base64.
func verify(integrity string, text []byte) error {
	if integrity == "" {
		return nil
	}
	want, ok := strings.CutPrefix(integrity, "sha256-")
	if !ok {
		return errors.New("integrity has to be sha256- and the hash in base64")
	}
	sum := sha256.Sum256(text)
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("its hash is sha256-%s and not the %s that integrity wants", got, integrity)
	}
	return nil
}
