package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// streams are a command's standard input and outputs.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func stdStreams() streams { return streams{os.Stdin, os.Stdout, os.Stderr} }

// global are the flags that every command has.
type global struct {
	streams
	data       string // the instance's data directory; always set
	dataGiven  bool   // by flag or environment, so a missing instance is an error
	kubeconfig string
	namespace  string // empty: all of them
	output     string
	server     string // URL of the keelson server that is asked; empty: the instance
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, std streams) int {
	g := &global{streams: std}
	root := newRoot(g)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errSilent) {
		return exitCode(err)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if unknown := err.Error(); strings.HasPrefix(unknown, "unknown command") && hintsOf(err) == nil {
		err = withCode(exitUsage, hintf(errors.New(firstLine(unknown)), "keelson help lists the commands"))
	}
	printError(std.err, err)
	return exitCode(err)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func newRoot(g *global) *cobra.Command {
	root := &cobra.Command{
		Use:   "keelson",
		Short: "Carries a Git commit to a healthy workload on Kubernetes and keeps it there",
		Long: `Keelson carries a Git commit to a healthy workload on Kubernetes and keeps it there.

  keelson up           start a cluster, a Git host, the controllers and a dashboard, with a sample
  keelson get apps     what is reconciled, and how it is doing
  keelson down         stop it all`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return g.complete(cmd.Annotations[formatsOf]) },
	}
	f := root.PersistentFlags()
	f.StringVar(&g.data, "data", "", "the data `directory` of the instance (env KEELSON_DATA; default: keelson in the user's state directory)")
	f.StringVar(&g.kubeconfig, "kubeconfig", "", "the kubeconfig `file` of the cluster (default: that of the instance, else as kubectl does)")
	f.StringVarP(&g.namespace, "namespace", "n", "", "only this `namespace` (default: all)")
	f.StringVarP(&g.output, "output", "o", "", "output `format`: json, yaml, and wide or text where there is a table")
	f.StringVar(&g.server, "server", "", "the `URL` of the keelson server to ask, where somebody has logged in (env KEELSON_SERVER; default: the instance)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return withCode(exitUsage, hintf(err, "%s --help lists the flags", cmd.CommandPath()))
	})
	root.AddCommand(
		upCommand(g), downCommand(g), serverCommand(g),
		getCommand(g), statusCommand(g), reconcileCommand(g), syncCommand(g), rollbackCommand(g), historyCommand(g), whyCommand(g), logCommand(g), suspendCommand(g), resumeCommand(g), confirmCommand(g), eventsCommand(g), statsCommand(g),
		takeoverCommand(g), handbackCommand(g),
		renderCommand(g), healthCommand(g), gitCommand(g), ciCommand(g), auditCommand(g), storeCommand(g), loginCommand(g), logoutCommand(g), userCommand(g), versionCommand(g), exitCodesTopic(), renderChildCommand(), luaChildCommand(), sandboxChildCommand(),
	)
	root.AddCommand(engineCommands(g)...)
	return root
}

// formatsOf is the annotation of a command that has more output formats than others.
const formatsOf = "formats"

// complete fills in the defaults and checks the values once flags are parsed. The formats are the command's own, besides those of all.
func (g *global) complete(formats string) error {
	if err := g.completeData(); err != nil {
		return err
	}
	if g.output == "text" {
		g.output = ""
	}
	own := strings.Fields(formats)
	if !slices.Contains(append([]string{"", "wide", "json", "yaml"}, own...), g.output) {
		return usagef("unknown output format %q: it is %s", g.output, strings.Join(append([]string{"json", "yaml", "wide"}, own...), ", ")+" or text")
	}
	return nil
}

// args makes a check of positional arguments a usage error with the command's own usage line as the hint.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return withCode(exitUsage, hintf(err, "usage: %s", cmd.UseLine()))
		}
		return nil
	}
}

// print writes v as JSON or YAML where that was asked for, else calls text.
func (g *global) print(v any, text func(w io.Writer) error) error {
	switch g.output {
	case "json":
		e := json.NewEncoder(g.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		_, err = g.out.Write(b)
		return err
	default:
		return text(g.out)
	}
}

// printf writes one line for people.
func printf(format string, a ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", a...)
		return err
	}
}
