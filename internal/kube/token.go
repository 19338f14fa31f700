package kube

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/typed/core/v1"
)

// tokens is a transport that sends each request with a token of a service account of our own cluster. A token is used for four
// fifths of its life, or until it is refused.
type tokens struct {
	next    http.RoundTripper
	home    *Cluster
	account Account

	mu    sync.Mutex
	token string
	until time.Time
}

// RoundTrip implements [http.RoundTripper].
func (t *tokens) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.current(req.Context())
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.drop(token) // the next request asks for another one
	}
	return resp, err
}

// current gives a token that is good for a while. One request at a time asks for a new one.
func (t *tokens) current(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && time.Now().Before(t.until) {
		return t.token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	token, expires, err := t.home.Token(ctx, t.account)
	if err != nil {
		return "", err
	}
	now := time.Now()
	t.token, t.until = token, now.Add(expires.Sub(now)*4/5)
	return t.token, nil
}

// drop has a token used no more.
func (t *tokens) drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token = ""
	}
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *tokens) WrappedRoundTripper() http.RoundTripper { return t.next }

// Token has the cluster issue a token of a service account, and tells when it expires.
func (c *Cluster) Token(ctx context.Context, account Account) (string, time.Time, error) {
	client, err := v1.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("make client for tokens: %w", err)
	}
	request := &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{Audiences: account.Audiences}}
	made, err := client.ServiceAccounts(account.Namespace).CreateToken(ctx, account.Name, request, metav1.CreateOptions{})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("create a token of ServiceAccount/%s/%s: %w", account.Namespace, account.Name, err)
	}
	return made.Status.Token, made.Status.ExpirationTimestamp.Time, nil
}
