package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v4"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

const (
	// maxChartFile bounds Chart.yaml, Chart.lock and what they replace, in bytes.
	maxChartFile = 1 << 20
	// maxDependencies bounds the dependencies of one chart.
	maxDependencies = 200
)

// dependency is one that a chart names, or one that its lock names.
type dependency struct {
	Name       string `yaml:"name"`
	Version    string `yaml:"version"`
	Repository string `yaml:"repository"`
}

// Repository gives the address of a repository and the credentials for it. It is asked for what a chart names: an address, or as
// "@name" or "alias:name" the name of a repository that is declared elsewhere. Its error says why that must not be used.
type Repository func(named string) (url string, c delivery.Credentials, err error)

// chartFolder is a chart's folder in a snapshot.
type chartFolder struct {
	*view
	path string // with links resolved
	lack []dependency
	lock map[string]dependency // by name and repository; nil: there is no lock
	file string                // that names the dependencies
}

// Missing names the dependencies of the chart in a folder of a snapshot, below the folder root, that are not in its folder charts.
// Nothing is fetched. Where there is no chart, none are missing.
func Missing(snap delivery.Snapshot, root, path string) ([]string, error) {
	c, err := openChart(snap, root, path)
	if err != nil || c == nil {
		return nil, err
	}
	var names []string
	for _, d := range c.lack {
		names = append(names, strings.TrimSpace(d.Name+" "+d.Version))
	}
	return names, nil
}

// Dependencies gives a snapshot in which all dependencies of the chart in a folder (below the folder root, which is "." or
// that of a composed snapshot's source) are in its folder charts, as after "helm dependency build": those that are missing
// are fetched, in the versions of its lock if it has one. What is here already is not fetched again; with nothing missing the
// snapshot is given back. Fetched charts carry their own dependencies.
func (f *Fetcher) Dependencies(ctx context.Context, snap delivery.Snapshot, root, path string, repository Repository) (_ delivery.Snapshot, err error) {
	defer caught(&err)
	c, err := openChart(snap, root, path)
	if err != nil || c == nil || len(c.lack) == 0 {
		return snap, err
	}
	tree := c.tree
	done := map[string]bool{}
	for _, d := range c.lack {
		graft, folder, err := f.dependency(ctx, c, d, repository)
		if err != nil {
			return snap, c.fault(d, err)
		}
		if done[folder] {
			continue // the same chart under two aliases
		}
		done[folder] = true
		graft.At = pathIn(c.path, "charts/"+folder)
		if tree, err = git.Compose(ctx, tree, []git.Graft{graft}); err != nil {
			return snap, c.fault(d, err)
		}
	}
	own := snap
	m, composed := snap.FS.(*mounted)
	if composed {
		own = m.of[root]
	}
	v := &view{tree: tree, src: c.src, known: c.known, spec: c.spec, only: c.only, rules: map[string][]rule{}, shown: map[string]bool{}}
	if err := v.show(&own); err != nil {
		return snap, err
	}
	if !composed {
		return own, nil
	}
	var mounts []Mounted
	for at, s := range m.of {
		if at == root {
			s = own
		}
		mounts = append(mounts, Mounted{at, s})
	}
	return Compose(mounts)
}

// pathIn is a path in a folder.
func pathIn(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// openChart reads what the chart in a folder depends on; nil: there is no chart.
func openChart(snap delivery.Snapshot, root, dir string) (*chartFolder, error) {
	tree := snap.FS
	if m, ok := tree.(*mounted); ok && root != "." {
		tree = m.at[root]
	}
	v, ok := tree.(*view)
	if !ok {
		return nil, nil
	}
	real, isDir, err := v.tree.Real(dir)
	if err != nil || !isDir {
		return nil, nil // for who renders it to say
	}
	c := &chartFolder{view: v, path: real, file: pathIn(real, "Chart.yaml")}
	var chart struct {
		APIVersion   string       `yaml:"apiVersion"`
		Dependencies []dependency `yaml:"dependencies"`
	}
	if ok, err := c.read(c.file, &chart); err != nil || !ok {
		return nil, err
	}
	wanted, lock := chart.Dependencies, "Chart.lock"
	if chart.APIVersion == "v1" || len(wanted) == 0 {
		old := chart
		if ok, err := c.read(pathIn(real, "requirements.yaml"), &old); err != nil {
			return nil, err
		} else if ok {
			wanted, lock, c.file = old.Dependencies, "requirements.lock", pathIn(real, "requirements.yaml")
		}
	}
	if len(wanted) > maxDependencies {
		return nil, c.fault(dependency{}, fmt.Errorf("it names more than %d dependencies", maxDependencies))
	}
	if len(wanted) == 0 {
		return c, nil
	}
	there, err := c.present()
	if err != nil {
		return nil, err
	}
	for _, d := range wanted {
		if !there[d.Name] {
			c.lack = append(c.lack, d)
		}
	}
	var locked struct {
		Dependencies []dependency `yaml:"dependencies"`
	}
	if ok, err := c.read(pathIn(real, lock), &locked); err != nil {
		return nil, err
	} else if ok {
		c.lock = map[string]dependency{}
		for _, d := range locked.Dependencies {
			c.lock[d.Name+" "+strings.TrimSuffix(d.Repository, "/")] = d
		}
	}
	return c, nil
}

// read reads a YAML file; false: there is none.
func (c *chartFolder) read(name string, into any) (bool, error) {
	data, err := c.ReadAtMost(name, maxChartFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = yaml.Unmarshal(data, into)
	}
	if err != nil {
		return false, &delivery.Fault{Reason: ReasonChart, Where: name, Retry: delivery.OnChange, Err: fmt.Errorf("read it: %w", err)}
	}
	return true, nil
}

// archiveFile is the name of a chart's archive: the chart's name and its version.
var archiveFile = regexp.MustCompile(`^(.+?)-(v?[0-9]+\.[0-9]+\.[0-9]+.*)\.tgz$`)

// present are the names of the charts in the folder charts.
func (c *chartFolder) present() (map[string]bool, error) {
	dir := pathIn(c.path, "charts")
	entries, err := c.ReadDir(dir)
	if err != nil {
		return nil, nil
	}
	there := map[string]bool{}
	for _, e := range entries {
		name := pathIn(dir, e.Name())
		switch m := archiveFile.FindStringSubmatch(e.Name()); {
		case strings.HasPrefix(e.Name(), "_") || strings.HasPrefix(e.Name(), "."):
		case m != nil:
			there[m[1]] = true
		case strings.HasSuffix(e.Name(), ".tgz"):
			if data, err := c.ReadAtMost(name, maxArchive); err == nil {
				if tree, err := unpack(data, true); err == nil {
					there[nameOf(tree, ".")] = true
				}
			}
		default:
			there[nameOf(c.view, name)] = true
		}
	}
	delete(there, "")
	return there, nil
}

// nameOf is the name of the chart in a folder; empty: there is none.
func nameOf(files interface {
	ReadAtMost(name string, limit int64) ([]byte, error)
}, dir string) string {
	return metadataOf(files, dir).Name
}

func metadataOf(files interface {
	ReadAtMost(name string, limit int64) ([]byte, error)
}, dir string) (d dependency) {
	data, err := files.ReadAtMost(pathIn(dir, "Chart.yaml"), maxChartFile)
	if err != nil || yaml.Unmarshal(data, &d) != nil {
		return dependency{}
	}
	return d
}

// fault says where a dependency is named, and what to do.
func (c *chartFolder) fault(d dependency, err error) error {
	f := &delivery.Fault{
		Reason: ReasonChart, Where: c.file, Retry: delivery.OnChange, Err: err,
		Hint: "commit what 'helm dependency update' puts into charts, or mend the dependency",
	}
	if inner := (*delivery.Fault)(nil); errors.As(err, &inner) {
		f.Reason, f.Hint, f.Retry = inner.Reason, inner.Hint, inner.Retry
		f.Err = fmt.Errorf("%s: %w", inner.Where, inner.Err)
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		f.Retry, f.Hint = delivery.Backoff, ""
	}
	if d.Name != "" {
		f.Err = fmt.Errorf("dependency %s: %w", strings.TrimSpace(d.Name+" "+d.Version), f.Err)
	}
	return f
}

// dependency finds a missing dependency: what is to be put into the folder charts, and the name that it gets there.
func (f *Fetcher) dependency(ctx context.Context, c *chartFolder, d dependency, repository Repository) (git.Graft, string, error) {
	if d.Name == "" || path.Base(d.Name) != d.Name || !fs.ValidPath(d.Name) || strings.HasPrefix(d.Name, ".") || strings.HasPrefix(d.Name, "_") {
		return git.Graft{}, "", fmt.Errorf("'%s' is no name of a chart", d.Name)
	}
	switch {
	case d.Repository == "":
		return git.Graft{}, "", errors.New("it names no repository, and is not in the folder charts")
	case strings.HasPrefix(d.Repository, "file://"):
		return c.local(d)
	}
	if c.lock != nil {
		locked, ok := c.lock[d.Name+" "+strings.TrimSuffix(d.Repository, "/")]
		if !ok || !fits(d.Version, locked.Version) {
			return git.Graft{}, "", errors.New("the lock beside the file is out of sync with it: run 'helm dependency update' and commit the lock")
		}
		d.Version = locked.Version
	}
	address, credentials, err := repository(d.Repository)
	if err != nil {
		return git.Graft{}, "", err
	}
	rev, tree, err := f.bring(ctx, c, delivery.Source{
		ID: c.src.ID, Tenant: c.src.Tenant, URL: address, Chart: d.Name, Ref: delivery.GitRef{SemVer: d.Version}, Credentials: credentials, Timeout: c.src.Timeout,
	})
	if err != nil {
		return git.Graft{}, "", err
	}
	return git.Graft{Tree: tree, From: "."}, folderName(d.Name, rev.Name), nil
}

// folderName is where a chart is put.
func folderName(name, version string) string {
	folder := name + "-" + version
	if !fs.ValidPath(folder) || strings.ContainsAny(folder, `/\`) {
		return name
	}
	return folder
}

// fits tells whether a version is in a range; what is no range fits nothing but itself.
func fits(want, version string) bool {
	if want == version || want == "" {
		return true
	}
	r, err := semver.NewConstraint(want)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(version)
	return err == nil && r.Check(v)
}

// local finds a dependency in another folder of the same source.
func (c *chartFolder) local(d dependency) (git.Graft, string, error) {
	rest := strings.TrimPrefix(d.Repository, "file://")
	from := path.Join(c.path, rest)
	if path.IsAbs(rest) || !fs.ValidPath(from) {
		return git.Graft{}, "", fmt.Errorf("repository '%s': %w", d.Repository, delivery.ErrEscapes)
	}
	real, isDir, err := c.tree.Real(from)
	if err != nil || !isDir {
		return git.Graft{}, "", fmt.Errorf("repository '%s': there is no folder %s", d.Repository, from)
	}
	about := metadataOf(c.view, real)
	switch {
	case about.Name == "":
		return git.Graft{}, "", fmt.Errorf("repository '%s': there is no chart in %s", d.Repository, from)
	case about.Name != d.Name:
		return git.Graft{}, "", fmt.Errorf("repository '%s': the chart in %s is called %s", d.Repository, from, about.Name)
	case !fits(d.Version, about.Version):
		return git.Graft{}, "", fmt.Errorf("repository '%s': the chart in %s has the version %s", d.Repository, from, about.Version)
	}
	g := git.Graft{Tree: c.tree, From: real, Max: maxVisited}
	if !c.src.Whole {
		g.Keep = c.visible
	}
	return g, folderName(d.Name, about.Version), nil
}

// bring gives a chart of another repository. It is kept with the archives of the source that depends on it: a version that was
// brought before, with credentials or without as now, is not asked for again, and the last one in a range is good enough where the repository cannot be reached.
func (f *Fetcher) bring(ctx context.Context, c *chartFolder, src delivery.Source) (delivery.Revision, *git.Tree, error) {
	ctx, cancel := withTimeout(ctx, src)
	defer cancel()
	t, err := f.archiveTarget(src)
	if err != nil {
		return delivery.Revision{}, nil, err
	}
	holder, err := addressOf(c.src.URL)
	if err != nil {
		return delivery.Revision{}, nil, err
	}
	dir := f.archivesDir(target{url: holder, salt: c.src.ID.Namespace, tenant: c.src.Tenant})
	name := link("dependency", t.url, t.query, src.Chart, src.Ref.SemVer, fmt.Sprint(t.anonymous()))
	known := delivery.ParseRevision(linked(dir, name))
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(src.Ref.SemVer, "v")); err == nil && known.Archive() {
		if tree, err := f.archive(ctx, t, dir, src.Chart, known); err == nil {
			return known, tree, nil
		}
	}
	rev, err := f.resolveChart(ctx, src)
	if errors.Is(err, git.ErrUnreachable) && known.Archive() {
		rev, err = known, nil
	}
	if err != nil {
		return rev, nil, err
	}
	tree, err := f.archive(ctx, t, dir, src.Chart, rev)
	if err != nil {
		return rev, nil, chartFault(t, fmt.Sprintf("fetch chart %s %s", src.Chart, rev.Name), "", err)
	}
	if rev != known {
		err = f.keep(dir, name, []byte(rev.String()))
	}
	return rev, tree, err
}

// anonymous tells whether a remote is shown no credentials.
func (t target) anonymous() bool {
	return t.auth.Username == "" && t.auth.Password == "" && t.auth.BearerToken == "" && t.auth.ClientCert == ""
}

// archive gives the files of a chart, from wherever it is.
func (f *Fetcher) archive(ctx context.Context, t target, dir, chart string, rev delivery.Revision) (*git.Tree, error) {
	if !t.oci {
		return f.fetchChart(ctx, t, dir, chart, rev)
	}
	tree, _, err := f.pull(ctx, t.at(chart), dir, rev.Commit, content{chart: true})
	return tree, err
}
