package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/keelson/internal/pipeline/artifact"
	"keelson.dev/keelson/internal/pipeline/show"
	"keelson.dev/keelson/internal/store"
	"keelson.dev/keelson/internal/web"
)

type ciArtifactsOptions struct {
	download    bool
	to          string
	path        string
	report      string
	keep, erase bool
}

func ciArtifactsCommand(g *global) *cobra.Command {
	var opts ciArtifactsOptions
	cmd := &cobra.Command{
		Use: "artifacts PIPELINE [JOB]", Short: "List or download what jobs of the instance have left",
		Long: `Artifacts lists what the jobs of a pipeline have left, or with JOB the files of one of them: of its last attempt, where JOB is a name.

--download puts the files of JOB into a directory: a new one of the job's name, or what --to names. All of them are put there, or none; archives with
names or links that lead out of the directory are refused. --to FILE.zip keeps the archive as it is. --path FILE prints one file.`,
		Example: `  keelson ci artifacts 12
  keelson ci artifacts 12 build --download --to out
  keelson ci artifacts 12 build --path dist/version.txt`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			chosen := 0
			for _, is := range []bool{opts.download, opts.path != "", opts.keep, opts.erase} {
				if is {
					chosen++
				}
			}
			switch {
			case chosen > 1:
				return usagef("--download, --path, --keep and --erase do not go together")
			case chosen == 1 && len(a) == 1:
				return usagef("of which job? keelson ci artifacts %s lists them", a[0])
			case opts.to != "" && !opts.download:
				return usagef("--to goes with --download")
			case opts.report != "" && opts.path == "":
				return usagef("--report goes with --path")
			}
			return runCIArtifacts(cmd.Context(), g, opts, a)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opts.download, "download", false, "put the files of the job into a directory")
	f.StringVar(&opts.to, "to", "", "the `directory` for them, or a file that ends with .zip")
	f.StringVar(&opts.path, "path", "", "print this `file`")
	f.StringVar(&opts.report, "report", "", "the file is one of this `kind` of report: junit, dotenv, …")
	f.BoolVar(&opts.keep, "keep", false, "the artifacts of the job do not expire any more")
	f.BoolVar(&opts.erase, "erase", false, "erase the artifacts of the job: jobs that depend on them fail from now on")
	return cmd
}

func runCIArtifacts(ctx context.Context, g *global, opts ciArtifactsOptions, a []string) error {
	p, err := g.pipelineOf(ctx, a[0])
	if err != nil {
		return err
	}
	if len(a) == 1 {
		return listArtifacts(ctx, g, p.ID)
	}
	j, err := jobOf(p, a[1])
	if err != nil {
		return err
	}
	at := fmt.Sprintf("%sjobs/%d/artifacts", web.PipelinesPath, j.ID)
	switch {
	case opts.download:
		err = downloadArtifacts(ctx, g, j, at+"/archive", opts.to)
	case opts.path != "":
		err = printArtifact(ctx, g, at+"/file?"+url.Values{"path": {opts.path}, "report": {opts.report}}.Encode())
	case opts.keep:
		_, err = g.callAPI(ctx, http.MethodPost, at+"/keep", nil, nil)
	case opts.erase:
		_, err = g.callAPI(ctx, http.MethodDelete, at, nil, nil)
	default:
		err = showArtifacts(ctx, g, at)
	}
	if err != nil {
		return fmt.Errorf("artifacts of job %s: %w", show.Plain(j.Name), err)
	}
	return nil
}

func listArtifacts(ctx context.Context, g *global, id int64) error {
	var list web.ArtifactList
	if _, err := g.callAPI(ctx, http.MethodGet, fmt.Sprintf("%spipelines/%d/artifacts", web.PipelinesPath, id), nil, &list); err != nil {
		return fmt.Errorf("artifacts of pipeline %d: %w", id, err)
	}
	return g.print(list, func(w io.Writer) error {
		t := newTable(w, false, "JOB", "NAME", "FILES", "BYTES", "REPORTS", "SAVED", "EXPIRES")
		for _, of := range list.Artifacts {
			var reports []string
			for _, r := range of.Reports {
				reports = append(reports, r.Kind)
			}
			t.row(strconv.FormatInt(of.Job, 10), show.Plain(of.Name), strconv.Itoa(of.Count), strconv.FormatInt(of.Size, 10),
				show.Plain(strings.Join(reports, ", ")), ageOf(of.Saved), expiry(of))
		}
		return t.flush()
	})
}

// expiry says how long artifacts are kept.
func expiry(of web.JobArtifacts) string {
	switch {
	case of.Gone != "":
		return of.Gone
	case of.Expires.IsZero():
		return "never"
	default:
		return "in " + ageAt(time.Now(), of.Expires)
	}
}

func showArtifacts(ctx context.Context, g *global, at string) error {
	var of web.JobArtifacts
	if _, err := g.callAPI(ctx, http.MethodGet, at, nil, &of); err != nil {
		return err
	}
	return g.print(of, func(w io.Writer) error {
		fmt.Fprintf(w, "Saved:  \t%s ago\n", ageOf(of.Saved))
		fmt.Fprintf(w, "Expires:\t%s\n\n", expiry(of))
		t := newTable(w, false, "MODE", "BYTES", "REPORT", "FILE")
		row := func(report string, f artifact.File) {
			name := f.Path
			if f.Link != "" {
				name += " -> " + f.Link
			}
			t.row(f.Mode, strconv.FormatInt(f.Size, 10), show.Plain(report), show.Plain(name))
		}
		for _, f := range of.Files {
			row("-", f)
		}
		for _, r := range of.Reports {
			for _, f := range r.Files {
				row(r.Kind, f)
			}
		}
		return t.flush()
	})
}

func printArtifact(ctx context.Context, g *global, at string) error {
	_, res, err := g.openAPI(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(g.out, res.Body)
	return err
}

// downloadArtifacts puts a job's files into a directory, or its archive into a file.
func downloadArtifacts(ctx context.Context, g *global, j store.Job, at, to string) (err error) {
	asZip := strings.HasSuffix(to, ".zip")
	if to == "" {
		to = strings.Map(func(r rune) rune {
			if r == '/' || r == '\\' || r < ' ' || r == ':' {
				return '-'
			}
			return r
		}, j.Name)
		if strings.HasPrefix(to, ".") {
			to = "artifacts" + to
		}
		if _, err := os.Lstat(to); err == nil {
			return hintf(fmt.Errorf("%s is there already", to), "--to names another directory")
		}
	}
	dir := ""
	if asZip {
		dir = filepath.Dir(to) // to be renamed
	}
	f, err := os.CreateTemp(dir, ".keelson-artifacts-*")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close() // what counts was synced or extracted
		if err != nil || !asZip {
			_ = os.Remove(f.Name())
		}
	}()
	size, err := g.fetch(ctx, at, f)
	if err != nil {
		return err
	}
	if asZip {
		if err := errors.Join(f.Chmod(0o644), f.Sync(), os.Rename(f.Name(), to)); err != nil {
			return err
		}
		fmt.Fprintf(g.err, "%s: %d bytes\n", to, size)
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := artifact.Unzip(ctx, f, size, artifact.Work{Dir: to, Log: g.err, InPlace: true}, artifact.Limits{}); err != nil {
		return err
	}
	fmt.Fprintf(g.err, "the artifacts of %s are in %s\n", show.Plain(j.Name), to)
	return nil
}

// fetchTries is how often a download whose connection was lost goes on.
const fetchTries = 5

// fetch reads something of the instance into a file, going on where a lost connection has ended.
func (g *global) fetch(ctx context.Context, at string, into *os.File) (size int64, err error) {
	tag := ""
	for try := 0; ; try++ {
		headers := map[string]string{}
		if size > 0 && tag != "" {
			headers["Range"], headers["If-Range"] = fmt.Sprintf("bytes=%d-", size), tag
		}
		_, res, err := g.sendAPI(ctx, http.MethodGet, at, nil, headers)
		if err != nil {
			return size, err
		}
		if res.StatusCode != http.StatusPartialContent {
			size = 0
			if err := into.Truncate(0); err != nil {
				return 0, errors.Join(err, res.Body.Close())
			}
		}
		tag = res.Header.Get("ETag")
		n, err := io.Copy(io.NewOffsetWriter(into, size), res.Body)
		size += n
		if err = errors.Join(err, res.Body.Close()); err == nil || ctx.Err() != nil || try == fetchTries {
			return size, err
		}
	}
}
