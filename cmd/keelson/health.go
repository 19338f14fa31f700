package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/health"
	"keelson.dev/keelson/internal/lua"
	"keelson.dev/keelson/internal/redact"
)

type healthOptions struct {
	file, script, rules string
	openLibs            bool
}

func healthCommand(g *global) *cobra.Command {
	var opts healthOptions
	cmd := &cobra.Command{
		Use:   "health -f OBJECT.yaml",
		Short: "Tell how objects are doing, by what is written of them",
		Long: `Health reads objects from a file, as "kubectl get -o yaml" prints them, and tells how each is doing: Healthy, Progressing, Degraded,
Suspended, Missing or Unknown, and why. It judges as Argo CD does, or as Flux does. No cluster is asked.

With --lua a script judges the objects, as one in Argo CD's settings does (resource.customizations.health.GROUP_KIND in argocd-cm): it
finds the object in obj and returns a table with status and message. It runs within the same limits.`,
		Example: `  kubectl get deployment web -o yaml | keelson health -f -
  keelson health -f certificate.yaml --lua certificate.lua`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case opts.file == "":
				return withCode(exitUsage, hintf(errors.New("name a file with -f, or - for the standard input"), "usage: %s", cmd.UseLine()))
			case opts.rules != "argo" && opts.rules != "flux":
				return usagef("--rules %s: it is argo or flux", opts.rules)
			case opts.rules == "flux" && opts.script != "":
				return usagef("--lua and --rules flux exclude each other: Flux has no scripts")
			case opts.openLibs && opts.script == "":
				return usagef("--open-libs is about a script: name one with --lua")
			}
			return runHealth(g, opts)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opts.file, "file", "f", "", "the `file` with the objects, - for the standard input")
	f.StringVar(&opts.script, "lua", "", "the `file` with a script that judges")
	f.BoolVar(&opts.openLibs, "open-libs", false, "the script may use strings, numbers and coroutines (resource.customizations.useOpenLibs)")
	f.StringVar(&opts.rules, "rules", "argo", "`whose` rules: argo or flux")
	return cmd
}

// doing is what is told of one object.
type doing struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	Status     string `json:"status,omitempty"` // none: it has no health
	Message    string `json:"message,omitempty"`
	ref        delivery.Ref
}

func runHealth(g *global, opts healthOptions) error {
	objects, err := readObjects(g.in, opts.file)
	if err != nil {
		return err
	}
	var rules *health.Rules // Flux's
	if opts.rules == "argo" {
		var scripts []delivery.HealthScript
		if opts.script != "" {
			text, err := os.ReadFile(opts.script)
			if err != nil {
				return fmt.Errorf("read script: %w", err)
			}
			scripts = []delivery.HealthScript{{Kinds: "*", Lua: string(text), OpenLibs: opts.openLibs}}
		}
		pool := lua.NewPool()
		defer pool.Close()
		rules = health.NewArgo(scripts, pool.Judge)
	}
	all := make([]doing, len(objects))
	settled := true
	for i, u := range objects {
		h := rules.Of(u)
		settled = settled && health.Settled(h)
		all[i] = doing{
			APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(),
			Status: string(h.Status), Message: redact.Text(h.Message), ref: delivery.RefOf(u),
		}
	}
	if err := g.print(all, func(w io.Writer) error { return printHealth(w, all) }); err != nil {
		return err
	}
	if !settled {
		return withCode(exitUnhealthy, errSilent)
	}
	return nil
}

func printHealth(w io.Writer, all []doing) error {
	for _, d := range all {
		text := cmp.Or(d.Status, "no health")
		if message := strings.ReplaceAll(d.Message, "\n", "\n  "); message != "" {
			text += " " + message
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", d.ref, text); err != nil {
			return err
		}
	}
	return nil
}

// maxObjectFile is the most bytes of a file with objects.
const maxObjectFile = 64 << 20

// readObjects reads the objects of a file, or of the standard input: documents, and lists of objects in them.
func readObjects(stdin io.Reader, file string) ([]*unstructured.Unstructured, error) {
	from, name := stdin, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read objects: %w", err)
		}
		defer f.Close()
		from, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(from, maxObjectFile+1))
	if err != nil {
		return nil, fmt.Errorf("read objects: %s: %w", name, err)
	}
	if len(text) > maxObjectFile {
		return nil, fmt.Errorf("read objects: %s has more than %d MiB", name, maxObjectFile>>20)
	}
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var found []*unstructured.Unstructured
		if err == nil {
			found, err = readDocument(document)
		}
		if err != nil {
			return nil, fmt.Errorf("read objects: %s, document %d: %w", name, n, err)
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 {
		return nil, hintf(fmt.Errorf("read objects: %s holds none", name), `"kubectl get KIND NAME -o yaml" prints one`)
	}
	return objects, nil
}

// readDocument reads an object, or a list of them; of an empty document nothing.
func readDocument(document []byte) ([]*unstructured.Unstructured, error) {
	text, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, err
	}
	if string(text) == "null" {
		return nil, nil
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if !u.IsList() {
		return []*unstructured.Unstructured{u}, nil
	}
	list, err := u.ToList()
	if err != nil {
		return nil, err
	}
	objects := make([]*unstructured.Unstructured, len(list.Items))
	for i := range list.Items {
		objects[i] = &list.Items[i]
	}
	return objects, nil
}
