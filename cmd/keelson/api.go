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
	"strings"
	"time"

	"keelson.dev/keelson/internal/identity"
)

// The environment variables that name a keelson server and its token, where the API is not that of an instance.
const serverVariable, tokenVariable = "KEELSON_SERVER", "KEELSON_TOKEN"

// apiOf gives whose API is asked, and at which URL: the server that the environment names, else the instance.
func (g *global) apiOf() (instance, string, error) {
	if server := os.Getenv(serverVariable); server != "" {
		token := os.Getenv(tokenVariable)
		if token == "" {
			return instance{}, "", hintf(fmt.Errorf("%s is set, and %s is not", serverVariable, tokenVariable), "the token is in ci/token of the server's data directory")
		}
		return instance{Token: token}, strings.TrimSuffix(server, "/"), nil
	}
	inst, err := readInstance(g.data)
	if errors.Is(err, fs.ErrNotExist) {
		return inst, "", hintf(fmt.Errorf("there is no instance in %s", g.data), "keelson up --data %s starts one, %s names a keelson server", g.data, serverVariable)
	}
	return inst, inst.base(), err
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
	res, err := (&http.Client{Transport: &http.Transport{}}).Do(req) // no proxy: the host is on this machine
	if err != nil {
		return inst, nil, hintf(err, "keelson up --data %s starts the instance", g.data)
	}
	if res.StatusCode < http.StatusBadRequest {
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
