package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"keelson.dev/keelson/internal/pipeline"
)

var update = flag.Bool("update", false, "write what decoding comes to into testdata/decode")

// decodeText decodes a file without includes.
func decodeText(text string) (*pipeline.Config, pipeline.Problems) {
	nodes, problems := parse("ci.yml", []byte(text))
	if len(nodes) == 0 {
		return &pipeline.Config{}, problems
	}
	c, more := Decode(&Document{Root: nodes[len(nodes)-1], Files: []pipeline.File{{Name: "ci.yml"}}})
	return c, append(problems, more...)
}

// TestDecode holds testdata/decode/*.txtar: each has pairs of a configuration NAME and what it comes to, NAME.out: its problems, and
// if the name ends in .job what its jobs are.
func TestDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, f := range archive.Files {
				if in, ok := strings.CutSuffix(f.Name, ".out"); ok {
					want[in] = string(f.Data)
				}
			}
			written := &txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ".out") {
					continue
				}
				c, problems := decodeText(string(f.Data))
				got := problemLines(problems)
				if strings.HasSuffix(f.Name, ".job") {
					got += jobLines(t, c)
				}
				if diff := cmp.Diff(want[f.Name], got); diff != "" && !*update {
					t.Errorf("%s: (-want +got)\n%s", f.Name, diff)
				}
				written.Files = append(written.Files, f, txtar.File{Name: f.Name + ".out", Data: []byte(got)})
			}
			if *update {
				if err := os.WriteFile(name, txtar.Format(written), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func problemLines(ps pipeline.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%d:%d %s %s: %s", p.At.Line, p.At.Column, p.Severity, p.Code, p.Message)
		if p.Hint != "" {
			fmt.Fprintf(&b, " (%s)", p.Hint)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// jobLines writes the jobs as JSON, without what is empty and without positions.
func jobLines(t *testing.T, c *pipeline.Config) string {
	t.Helper()
	var b strings.Builder
	for _, j := range c.Jobs {
		raw, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]any
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		delete(all, "Where")
		delete(all, "base")
		lines, err := json.MarshalIndent(trimmed(all), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(lines)
		b.WriteString("\n")
	}
	return b.String()
}

// trimmed drops what is empty, and positions.
func trimmed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			e = trimmed(e)
			if key == "at" || key == "At" || e == nil {
				delete(v, key)
				continue
			}
			if m, ok := e.(map[string]any); ok && len(m) == 0 {
				delete(v, key)
				continue
			}
			v[key] = e
		}
		return v
	case []any:
		for i := range v {
			v[i] = trimmed(v[i])
		}
		return v
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}
