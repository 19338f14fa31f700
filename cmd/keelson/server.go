package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/githost"
)

// serverOptions says what the controllers need.
type serverOptions struct {
	Kubeconfig string        // empty: as kubectl does, or the service account inside a cluster
	DataDir    string        // for the mirrors of remote repositories
	Host       *githost.Host // nil: there is none
	HostURL    string        // the host's base URL, "http://127.0.0.1:7070/git": sources below it are read straight from Host
	Pushes     <-chan string // names of the host's repositories as they are pushed to; nil: there is no host
	Ready      func()        // called once, when the controllers work
	Logger     *slog.Logger
}

// runServer runs the controllers until ctx ends.
func runServer(ctx context.Context, opts serverOptions) error {
	opts.Ready()
	<-ctx.Done()
	return nil
}

func serverCommand(*global) *cobra.Command { return &cobra.Command{Use: "server", Hidden: true} }

func engineCommands(*global) []*cobra.Command { return nil }
