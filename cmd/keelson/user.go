package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/identity"
	"keelson.dev/keelson/internal/store"
)

func userCommand(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "user", Short: "Make, list and remove local users, and their tokens", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return withCode(exitUsage, hintf(errors.New("user what?"), "keelson user add NAME, list, remove NAME, passwd NAME, token NAME, tokens NAME"))
		},
	}
	cmd.AddCommand(userAddCommand(g), userTokenCommand(g), userTokensCommand(g),
		&cobra.Command{
			Use: "list", Short: "List the local users", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error { return runUserList(cmd.Context(), g) },
		},
		&cobra.Command{
			Use: "remove NAME", Short: "Remove a local user, with all tokens and sessions", Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, a []string) error {
				if _, err := g.callAPI(cmd.Context(), http.MethodDelete, userPath(a[0]), nil, nil); err != nil {
					return fmt.Errorf("remove user %s: %w", a[0], err)
				}
				return g.print(map[string]string{"name": a[0]}, printf("%s is removed", a[0]))
			},
		}, userPasswdCommand(g))
	return cmd
}

func userPath(name string) string { return "/api/v1/users/" + url.PathEscape(name) }

func userAddCommand(g *global) *cobra.Command {
	var groups []string
	var admin, stdin, without bool
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make a local user",
		Long: `Add makes a local user. What the user may do is what the cluster's RBAC gives the name and the groups (docs/identity.md);
--admin is the group ` + identity.Admins + `, which may do everything.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			n := identity.NewUser{Name: a[0], Groups: groups}
			if admin {
				n.Groups = append(n.Groups, identity.Admins)
			}
			var err error
			if !without {
				if n.Password, err = g.newPassword(stdin); err != nil {
					return err
				}
			}
			body, err := json.Marshal(n)
			if err != nil {
				return err
			}
			var u store.User
			if _, err := g.callAPI(cmd.Context(), http.MethodPost, "/api/v1/users", body, &u); err != nil {
				return fmt.Errorf("add user %s: %w", a[0], err)
			}
			return g.print(u, printf("%s is added", u.Name))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&groups, "group", nil, "a `group` of the user; may be given several times")
	f.BoolVar(&admin, "admin", false, "the user may do everything")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&without, "no-password", false, "the user has tokens only")
	return cmd
}

// newPassword asks for a new password, twice where a person types it.
func (g *global) newPassword(stdin bool) (string, error) {
	if stdin {
		return readSecret(g.in)
	}
	one, err := g.askSecret("New password: ")
	if err != nil {
		return "", err
	}
	two, err := g.askSecret("Once more: ")
	if err == nil && one != two {
		err = errors.New("these are two passwords; nothing has changed")
	}
	return one, err
}

func runUserList(ctx context.Context, g *global) error {
	var all []store.User
	for after := ""; ; {
		var page struct {
			Users []store.User
			Next  string
		}
		if _, err := g.callAPI(ctx, http.MethodGet, "/api/v1/users?limit=1000&after="+url.QueryEscape(after), nil, &page); err != nil {
			return fmt.Errorf("list users: %w", err)
		}
		if all = append(all, page.Users...); page.Next == "" {
			break
		}
		after = page.Next
	}
	return g.print(map[string][]store.User{"users": append([]store.User{}, all...)}, func(w io.Writer) error {
		t := newTable(w, false, "NAME", "GROUPS", "AGE")
		for _, u := range all {
			t.row(u.Name, strings.Join(u.Groups, ","), ageOf(u.Created))
		}
		return t.flush()
	})
}

func userPasswdCommand(g *global) *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use: "passwd NAME", Short: "Give a local user another password, which ends the user's sessions", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			var me identity.Me
			if _, err := g.callAPI(cmd.Context(), http.MethodGet, "/api/v1/me", nil, &me); err != nil {
				return err
			}
			in := map[string]string{}
			var err error
			if me.Origin == identity.OriginLocal && me.Name == a[0] {
				if stdin {
					return usagef("your own password is changed on a terminal: it asks for the current one")
				}
				if in["current"], err = g.askSecret("Current password: "); err != nil {
					return err
				}
			}
			if in["password"], err = g.newPassword(stdin); err != nil {
				return err
			}
			body, err := json.Marshal(in)
			if err != nil {
				return err
			}
			if _, err := g.callAPI(cmd.Context(), http.MethodPost, userPath(a[0])+"/password", body, nil); err != nil {
				return fmt.Errorf("change the password of %s: %w", a[0], err)
			}
			return g.print(map[string]string{"name": a[0]}, printf("%s has another password", a[0]))
		},
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the new password from standard input")
	return cmd
}

func userTokenCommand(g *global) *cobra.Command {
	var n identity.NewToken
	cmd := &cobra.Command{
		Use: "token NAME", Short: "Make an access token of a local user, and print it this once", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if n.Name == "" {
				n.Name = "token " + time.Now().UTC().Format("2006-01-02 15:04:05")
			}
			body, err := json.Marshal(n)
			if err != nil {
				return err
			}
			var made identity.MadeToken
			if _, err := g.callAPI(cmd.Context(), http.MethodPost, userPath(a[0])+"/tokens", body, &made); err != nil {
				return fmt.Errorf("make a token of %s: %w", a[0], err)
			}
			return g.print(made, printf("%s", made.Token))
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "what the token is called (default: when it was made)")
	cmd.Flags().IntVar(&n.Days, "days", 0, "how many `days` it lasts, up to 366 (default 30)")
	return cmd
}

func userTokensCommand(g *global) *cobra.Command {
	var remove string
	cmd := &cobra.Command{
		Use: "tokens NAME", Short: "List the access tokens of a local user, or remove one", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			path := userPath(a[0]) + "/tokens"
			if remove != "" {
				if _, err := g.callAPI(cmd.Context(), http.MethodDelete, path+"/"+url.PathEscape(remove), nil, nil); err != nil {
					return fmt.Errorf("remove token %s of %s: %w", remove, a[0], err)
				}
				return g.print(map[string]string{"name": remove}, printf("%s is removed", remove))
			}
			var list struct {
				Tokens []store.AccessToken `json:"tokens"`
			}
			if _, err := g.callAPI(cmd.Context(), http.MethodGet, path, nil, &list); err != nil {
				return fmt.Errorf("list the tokens of %s: %w", a[0], err)
			}
			return g.print(list, func(w io.Writer) error {
				t := newTable(w, false, "NAME", "AGE", "EXPIRES", "USED")
				for _, token := range list.Tokens {
					used := "never"
					if !token.Used.IsZero() {
						used = ageOf(token.Used) + " ago"
					}
					t.row(token.Name, ageOf(token.Created), token.Expires.UTC().Format(time.DateOnly), used)
				}
				return t.flush()
			})
		},
	}
	cmd.Flags().StringVar(&remove, "remove", "", "remove the token of this `name`")
	return cmd
}
