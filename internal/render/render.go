// Package render turns a folder of a snapshot into the objects that it wants in a cluster.
//
// # What is rendered
//
// A folder with a kustomization file (kustomization.yaml, kustomization.yml or Kustomization) is built
// with kustomize. Any other folder is taken as plain manifests: every *.yaml and *.yml file below it, where
// a subfolder that has its own kustomization file counts as one resource. In both cases the build's target
// namespace, patches, images and components are added to the kustomization first, in memory, and variables
// are substituted last, object by object. This is what Flux's kustomize-controller does with a Kustomization.
//
// A build of parts is rendered as Argo CD's repo server does it: each part is a chart, a kustomization or a directory of
// manifests (see parts.go), and of objects that come more than once the last one counts.
//
// # What a render may touch
//
// The snapshot's file system and nothing else: no disk, no program but this one, no network. Paths may use ".." inside
// the repository; one that leaves it is an error that wraps [delivery.ErrEscapes]. Symbolic links are
// followed here where the file system can tell them (fs.ReadLinkFS), so that an fs.FS that would follow them
// anywhere, like os.DirFS, is safe too. Remote bases and resources, Helm charts and plugins are refused by
// name: the whole kustomization tree is read ahead of the build to find them (see inspect.go). Templates of charts and
// jsonnet are programs; they run in a process of their own, which is ended where it takes too long or too much (see child.go).
//
// # What a render depends on
//
// The build, the variables, the files of the snapshot that it looked at, and the program. [Track] tells which files those
// were, so that a commit that touches none of them needs no render. The revision itself is not among them: nothing in a
// result or in an error names it.
//
// # Errors
//
// Whatever a user can mend is a [*delivery.Fault] with the reason that kustomize-controller would set
// ("ArtifactFailed" for a path that does not exist, else "BuildFailed"), the place as file:line, and
// delivery.OnChange. Contents of files are not quoted, since they may be secret. Bad input never panics:
// a panic inside kustomize becomes a fault.
//
// # Concurrency
//
// Renders run concurrently, without a lock. kustomize keeps one OpenAPI schema per process; a kustomization that sets
// "openapi" changes it, so such a build runs in a process of its own, too. A program that renders calls [ServeChild] when it
// is started with [ChildCommand].
package render

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"

	"keelson.dev/keelson/internal/delivery"
)

// The bounds of one render. They keep a hostile or mistaken repository from taking the process's memory.
const (
	maxFileBytes    = 10 << 20  // one file
	maxInputBytes   = 32 << 20  // all files that one render loads, each as often as it is used
	maxWork         = 512 << 20 // bytes of kustomizations and patches times the objects that they may apply to
	maxLoads        = 5_000     // folders built, each as often as it is used
	maxNodes        = 2_000_000 // YAML nodes of one file after aliases are expanded
	maxObjects      = 5_000     // objects, since kustomize takes time that is quadratic in them (2,000: 3 s)
	maxPlainObjects = 20_000    // objects of plain manifests
	maxRendered     = 64 << 20  // bytes of the result
	maxDepth        = 500       // nesting of one object
)

// Renderer makes the objects of one folder. Implementations differ in the format that they read; all of
// them follow the package's contract about what may be touched, errors and bounds, which one conformance
// suite checks (testdata).
type Renderer interface {
	// Render gives the objects in the order in which they are meant to be listed, each with its origin.
	// Variables are not substituted yet.
	Render(in Input) ([]delivery.Object, error)
}

// Input is what a Renderer works on.
type Input struct {
	Build delivery.Build // with a Path that exists
	tree  *tree
}

// Build renders b from a snapshot and substitutes vars, if b asks for substitution and there are any
// (kustomize-controller's default strategy). An existing folder without any manifest gives no objects
// and no error; that is for the caller to judge.
func Build(ctx context.Context, snap delivery.Snapshot, b delivery.Build, vars map[string]string) ([]delivery.Object, error) {
	return render(newTree(ctx, snap.FS), b, vars)
}

func render(t *tree, b delivery.Build, vars map[string]string) ([]delivery.Object, error) {
	objects, err := attempt(t, b, vars)
	return settled(t, objects, err)
}

// settled is the outcome of an attempt, unless it was given up, or concluded from what could not be read.
func settled(t *tree, objects []delivery.Object, err error) ([]delivery.Object, error) {
	switch {
	case t.ctx.Err() != nil:
		return nil, t.ctx.Err()
	case t.failed != nil:
		return nil, t.failed
	}
	return objects, err
}

func attempt(t *tree, b delivery.Build, vars map[string]string) ([]delivery.Object, error) {
	if len(b.Parts) > 0 {
		return t.parts(b)
	}
	if err := t.checkPath(b.Path); err != nil {
		return nil, err
	}
	objects, err := rendererFor(t, b.Path).Render(Input{Build: b, tree: t})
	if err != nil {
		return nil, err
	}
	if b.Substitute {
		if err := substitute(objects, vars, b.Strict); err != nil {
			return nil, err
		}
	}
	return objects, checkObjects(objects)
}

// Warm parses kustomize's built-in schema, which takes about a tenth of a second and is otherwise done by
// the first Build. A server calls it at start so that the first commit is not late.
func Warm() { loadSchema() }

func rendererFor(t *tree, dir string) Renderer {
	if len(t.kustomizationFiles(dir)) > 0 {
		return Kustomize{}
	}
	return YAML{}
}

// fault is an error about the repository's content: only a new commit or a new spec can help.
func fault(where, hint, format string, args ...any) *delivery.Fault {
	return &delivery.Fault{
		Reason: meta.BuildFailedReason, Where: where, Hint: hint, Retry: delivery.OnChange,
		Err: fmt.Errorf(format, args...),
	}
}

// checkPath makes sure that the folder to render exists.
func (t *tree) checkPath(dir string) error {
	missing := func(hint, format string, args ...any) error {
		f := fault("", hint, format, args...)
		f.Reason = meta.ArtifactFailedReason
		return f
	}
	if !fs.ValidPath(dir) {
		return missing("give a path inside the repository, as apps/dev", "path '%s': %w", dir, delivery.ErrEscapes)
	}
	mode, err := t.stat(dir)
	switch {
	case err == nil && !mode.IsDir():
		return missing("name the folder that holds it", "path '%s' is a file, not a folder", dir)
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return missing("", "path '%s' does not exist%s", dir, t.siblings(dir))
	case errors.Is(err, delivery.ErrEscapes):
		return missing("", "path '%s': %w", dir, err)
	case unusable(err):
		return missing("", "read path '%s': %w", dir, err)
	default:
		return fmt.Errorf("read path '%s': %w", dir, err)
	}
}

// siblings lists the folders in the nearest folder above dir that exists.
func (t *tree) siblings(dir string) string {
	const most = 12
	for dir != "." {
		dir = path.Dir(dir)
		entries, err := t.readDir(dir)
		if err != nil {
			continue
		}
		var names []string
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, path.Join(dir, e.Name()))
			}
		}
		if len(names) == 0 {
			continue
		}
		more := ""
		if len(names) > most {
			names, more = names[:most], ", …"
		}
		return "; folders there: " + strings.Join(names, ", ") + more
	}
	return ""
}

// checkObjects holds the result to what every later stage relies on: objects are named and unique.
func checkObjects(objects []delivery.Object) error {
	seen := make(map[delivery.Ref]string, len(objects))
	for _, o := range objects {
		missing := ""
		switch {
		case o.GetAPIVersion() == "":
			missing = "apiVersion"
		case o.GetKind() == "":
			missing = "kind"
		case o.GetName() == "":
			missing = "metadata.name"
		}
		if missing != "" {
			return fault(o.Origin, "", "an object has no %s", missing)
		}
		ref := o.Ref()
		if first, ok := seen[ref]; ok {
			return duplicate(ref.String(), first, o.Origin)
		}
		seen[ref] = o.Origin
	}
	return nil
}

func duplicate(what, first, second string) error {
	if first == "" {
		return fault(second, "remove or rename one of them", "%s is defined twice", what)
	}
	return fault(second, "remove or rename one of them", "%s is defined twice, the other time in %s", what, first)
}
