package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	"keelson.dev/keelson/internal/identity"
)

// The environment variables that name a keelson server, where the API is not that of an instance, and the token for it.
const serverVariable, tokenVariable = "KEELSON_SERVER", "KEELSON_TOKEN"

// apiOf gives whose API is asked, and at which URL: the server of --server or the environment, else the instance, else, where there is none, the
// server of the last login.
func (g *global) apiOf() (instance, string, error) {
	server, err := g.named()
	if err != nil {
		return instance{}, "", err
	}
	if server != "" {
		return apiAt(server)
	}
	inst, err := readInstance(g.data)
	if errors.Is(err, fs.ErrNotExist) {
		if all, lerr := readLogins(); lerr == nil && all.Last != "" && !g.dataGiven {
			return apiAt(all.Last)
		}
		return inst, "", hintf(fmt.Errorf("there is no instance in %s", g.data), "keelson up --data %s starts one; keelson login SERVER asks a keelson server", g.data)
	}
	return inst, inst.base(), err
}

// apiAt is apiOf for a server: its token is that of the environment, else that of a login.
func apiAt(server string) (instance, string, error) {
	if token := os.Getenv(tokenVariable); token != "" {
		return instance{Token: token}, server, nil
	}
	all, err := readLogins()
	if err != nil {
		return instance{}, "", err
	}
	l, ok := all.Servers[server]
	if !ok {
		return instance{}, "", hintf(fmt.Errorf("not logged in at %s", server), "keelson login %s, or the token in %s", server, tokenVariable)
	}
	return instance{Token: l.Token}, server, nil
}

// openAPI sends a request to the instance, with its token. The answer's body is the caller's to close; an answer that says no is an error.
func (g *global) openAPI(ctx context.Context, method, path string, body []byte) (instance, *http.Response, error) {
	return g.sendAPI(ctx, method, path, body, nil)
}

// errRefused is wrapped by an answer that says no: asking again does not help.
var errRefused = errors.New("refused")

// refusedError is what the instance has said.
type refusedError string

func (e refusedError) Error() string        { return string(e) }
func (e refusedError) Is(target error) bool { return target == errRefused }

// sendAPI is openAPI with some headers.
func (g *global) sendAPI(ctx context.Context, method, path string, body []byte, headers map[string]string) (instance, *http.Response, error) {
	inst, base, err := g.apiOf()
	if err != nil {
		return inst, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return inst, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+inst.Token)
	req.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	req.Header.Set(identity.UserHeader, thisUser())
	way := &http.Transport{} // no proxy to what is on this machine
	if inst.Port == 0 {
		way.Proxy = http.ProxyFromEnvironment
	}
	client := &http.Client{Transport: way, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil && inst.Port == 0 {
		return inst, nil, hintf(err, "%s has to be the address of a keelson server that runs", base)
	}
	if err != nil {
		return inst, nil, hintf(err, "keelson up --data %s starts the instance", g.data)
	}
	if res.StatusCode < http.StatusMultipleChoices {
		return inst, res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return inst, nil, err
	}
	var refused struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(b, &refused) != nil || refused.Error == "" {
		refused.Error = res.Status
	}
	if res.StatusCode >= http.StatusInternalServerError {
		return inst, nil, errors.New(refused.Error)
	}
	if res.StatusCode == http.StatusUnauthorized && inst.Port == 0 {
		return inst, nil, hintf(refusedError("the token is missing, wrong or over"), "keelson login %s", base)
	}
	return inst, nil, refusedError(refused.Error)
}

// callAPI asks the instance and decodes the answer into out; nil: there is none.
func (g *global) callAPI(ctx context.Context, method, path string, body []byte, out any) (instance, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	inst, res, err := g.openAPI(ctx, method, path, body)
	if err != nil {
		return inst, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil || out == nil {
		return inst, err
	}
	return inst, json.Unmarshal(b, out)
}
