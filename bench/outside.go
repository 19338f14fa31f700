package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// serveGit serves an empty repository of a name over HTTP on a free port of this machine, with git's own program, and
// gives its URL. Everybody who can reach it may push.
func (b *bench) serveGit(ctx context.Context, name string) (string, error) {
	root := filepath.Join(b.dir, "outside")
	dir := filepath.Join(root, name+".git")
	program, err := exec.LookPath("git")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=main", dir},
		{"--git-dir", dir, "config", "http.receivepack", "true"},
	} {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = gitEnvironment()
		if _, err := output(ctx, cmd); err != nil {
			return "", err
		}
	}
	log, err := os.Create(filepath.Join(b.dir, "outside.log"))
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Stderr: log,
		Env: append(gitEnvironment(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.stops = append(b.stops, func() error {
		err := server.Close()
		<-served
		return errors.Join(err, log.Close())
	})
	return "http://" + listener.Addr().String() + "/" + name + ".git", nil
}

// measurePushOutside pushes to a Git server that knows nothing of Keelson, and then does what a webhook does: it asks for a
// reconciliation of the source, by the field's own annotation.
func (b *bench) measurePushOutside(ctx context.Context) error {
	in, err := b.instance(ctx)
	if err != nil {
		return err
	}
	const name = "bench-outside"
	url, err := b.serveGit(ctx, name)
	if err != nil {
		return err
	}
	files, err := page(name, "first")
	if err != nil {
		return err
	}
	r, commit, err := begin(ctx, url, filepath.Join(b.dir, "clone-"+name), files)
	if err != nil {
		return err
	}
	if err := in.deliver(ctx, name, url, commit); err != nil {
		return err
	}
	c := pageChange(name, r)
	c.name, c.what = "push-outside", "one ConfigMap in a repository of one app on another Git server; the trigger is sent at the end of git push"
	c.announce = func(ctx context.Context) error {
		return in.patch(ctx, gitRepositories, name, name,
			fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, time.Now().Format(time.RFC3339Nano)))
	}
	return b.pushRounds(ctx, in, c)
}
