package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/githost"
)

func gitCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "git", Short: "Create and list repositories on the built-in Git host", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(errors.New("git what?"), "keelson git create NAME, or keelson git list"))
		},
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "create NAME", Short: "Create an empty repository", Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, a []string) error { return runGitCreate(cmd.Context(), g, a[0]) },
		},
		&cobra.Command{
			Use: "list", Short: "List the repositories", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error { return runGitList(cmd.Context(), g) },
		})
	return cmd
}

// hosted is a repository as people use it.
type hosted struct {
	Name string `json:"name"`
	URL  string `json:"url"` // without the token: reading needs none on this machine
}

func runGitCreate(ctx context.Context, g *global, name string) error {
	if err := githost.CheckName(name); err != nil {
		return withCode(exitUsage, err)
	}
	body, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		return fmt.Errorf("create repository %s: %w", name, err)
	}
	var info githost.Info
	inst, err := g.callAPI(ctx, http.MethodPost, githost.APIPath, body, &info)
	if err != nil {
		return fmt.Errorf("create repository %s: %w", name, err)
	}
	repo := hosted{Name: info.Name, URL: inst.base() + info.Path}
	return g.print(repo, printf("%s", repo.URL))
}

func runGitList(ctx context.Context, g *global) error {
	var answer struct {
		Repositories []githost.Info `json:"repositories"`
	}
	inst, err := g.callAPI(ctx, http.MethodGet, githost.APIPath, nil, &answer)
	if err != nil {
		return fmt.Errorf("list repositories: %w", err)
	}
	repos := make([]hosted, len(answer.Repositories))
	for i, r := range answer.Repositories {
		repos[i] = hosted{Name: r.Name, URL: inst.base() + r.Path}
	}
	return g.print(map[string]any{"repositories": repos}, func(w io.Writer) error {
		t := newTable(w, false, "NAME", "URL")
		for _, r := range repos {
			t.row(r.Name, r.URL)
		}
		return t.flush()
	})
}
