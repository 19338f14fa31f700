package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/deliver"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/web"
)

// byServer tells whether a command about an app asks the keelson server of --server. Without it the cluster is asked: that of KEELSON_SERVER may be
// another one than the one that keelson get apps tells of.
func (g *global) byServer() bool { return g.server != "" }

// askServer asks the server of --server for something to be done with an app, as whoever has logged in there, and tells what it answers. It is not
// waited for.
func askServer(ctx context.Context, g *global, arg, action string, ask web.AskApp) error {
	if g.kubeconfig != "" {
		return usagef("--kubeconfig names a cluster, --server who asks its own: take one of them")
	}
	id, err := g.remoteApp(ctx, arg)
	if err != nil {
		return err
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	var out web.AppAsked
	path := "/api/v1/apps/" + id + "/" + action
	if _, err := g.callAPI(ctx, http.MethodPost, path, body, &out); err != nil {
		return fmt.Errorf("%s %s: %w", action, id, err)
	}
	return g.print(out, func(w io.Writer) error {
		if out.Diff != nil {
			printRemoteDiff(w, *out.Diff)
		}
		_, err := fmt.Fprintln(w, out.Message)
		return err
	})
}

// printRemoteDiff prints what a server has compared.
func printRemoteDiff(w io.Writer, d web.AppDiff) {
	for _, o := range d.Objects {
		ref := delivery.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
		if o.Hidden {
			fmt.Fprintf(w, "%s differs; you may not read it\n", ref)
			continue
		}
		fmt.Fprint(w, unified(deliver.Difference{Ref: ref, Before: o.Before, After: o.After}))
	}
	for _, text := range append(d.Blocked, d.Notes...) {
		fmt.Fprintln(w, text)
	}
	fmt.Fprintf(w, "%d of %d objects differ\n", len(d.Objects), d.Total)
}

// remoteApp finds an app that a server knows, as [findApp] does in a cluster, and gives its id.
func (g *global) remoteApp(ctx context.Context, arg string) (string, error) {
	parts := strings.Split(arg, "/")
	kind, namespace, name := "", g.namespace, parts[len(parts)-1]
	if len(parts) > 1 {
		namespace = parts[len(parts)-2]
	}
	if len(parts) > 2 {
		kind = parts[0]
	}
	switch {
	case name == "" || len(parts) > 3:
		return "", usagef("%q names no app: it is NAME, NAMESPACE/NAME or KIND/NAMESPACE/NAME", arg)
	case g.namespace != "" && g.namespace != namespace:
		return "", usagef("%s names another namespace than -n %s", arg, g.namespace)
	}
	q := url.Values{"q": {name}, "limit": {"1000"}}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	var found []string
	for {
		var list web.AppList
		if _, err := g.callAPI(ctx, http.MethodGet, "/api/v1/apps?"+q.Encode(), nil, &list); err != nil {
			return "", fmt.Errorf("look for app %s: %w", arg, err)
		}
		for _, app := range list.Apps {
			if app.Name == name && (kind == "" || strings.EqualFold(kind, app.Kind)) {
				found = append(found, app.ID)
			}
		}
		if list.Next == "" {
			break
		}
		q.Set("after", list.Next)
	}
	switch len(found) {
	case 0:
		return "", hintf(fmt.Errorf("there is no app %s that you may see", arg), "a name alone is looked for in all namespaces; else it is NAMESPACE/NAME or KIND/NAMESPACE/NAME")
	case 1:
		return found[0], nil
	}
	return "", withCode(exitUsage, hintf(fmt.Errorf("there is more than one app %s", arg), "name one of %s", strings.Join(found, ", ")))
}

// onlyFlags refuses flags of a command that a server is not asked with.
func onlyFlags(cmd *cobra.Command, not ...string) error {
	for _, name := range not {
		if cmd.Flags().Changed(name) {
			return usagef("--%s is not for --server: it needs the cluster itself", name)
		}
	}
	return nil
}
