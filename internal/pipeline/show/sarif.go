package show

import (
	"cmp"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
)

// The parts of SARIF 2.1.0 that we write (https://docs.oasis-open.org/sarif/sarif/v2.1.0/).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool            `json:"tool"`
		ColumnKind string               `json:"columnKind"`
		Bases      map[string]sarifBase `json:"originalUriBaseIds"`
		Results    []sarifResult        `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		URI     string      `json:"informationUri"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string       `json:"id"`
		Name    string       `json:"name"`
		Short   sarifText    `json:"shortDescription"`
		Default sarifDefault `json:"defaultConfiguration"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifBase struct {
		Description sarifText `json:"description"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
		Related   []sarifLocation `json:"relatedLocations,omitempty"`
	}
	sarifLocation struct {
		ID       int           `json:"id,omitempty"`
		Message  *sarifText    `json:"message,omitempty"`
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI  string `json:"uri"`
		Base string `json:"uriBaseId,omitempty"`
	}
	sarifRegion struct {
		Line   int `json:"startLine"`
		Column int `json:"startColumn,omitempty"`
	}
)

// sourceRoot is the base of paths in the repository; forges know it by this name.
const sourceRoot = "%SRCROOT%"

// SARIF writes problems as a SARIF 2.1.0 log, which code hosts and editors read. A problem without a position is shown at the
// beginning of the file main.
func SARIF(w io.Writer, problems pipeline.Problems, main, version string) error {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "keelson", Version: version, URI: "https://keelson.dev", Rules: []sarifRule{}}},
		ColumnKind: "unicodeCodePoints",
		Bases:      map[string]sarifBase{sourceRoot: {sarifText{"The root of the repository."}}},
		Results:    []sarifResult{},
	}
	rules := map[string]int{}
	codes := map[string]pipeline.Severity{}
	for _, p := range problems {
		codes[p.Code] = cmp.Or(codes[p.Code], p.Severity)
	}
	for code, severity := range codes {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: code, Name: camel(code), Short: sarifText{Describe(code)}, Default: sarifDefault{string(severity)},
		})
	}
	slices.SortFunc(run.Tool.Driver.Rules, func(a, b sarifRule) int { return cmp.Compare(a.ID, b.ID) })
	for i, r := range run.Tool.Driver.Rules {
		rules[r.ID] = i
	}
	for _, p := range problems {
		text := p.Message
		if p.Job != "" && !strings.Contains(text, p.Job) {
			text = "job " + p.Job + ": " + text
		}
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
		at := p.At
		at.File = cmp.Or(at.File, main)
		result := sarifResult{
			RuleID: p.Code, RuleIndex: rules[p.Code], Level: string(p.Severity), Message: sarifText{text},
			Locations: []sarifLocation{{Physical: physical(at)}},
		}
		for i, v := range p.Via {
			if v.At.File == "" {
				continue
			}
			result.Related = append(result.Related, sarifLocation{ID: i + 1, Message: &sarifText{strings.TrimSpace(v.How + " " + v.Name)}, Physical: physical(v.At)})
		}
		run.Results = append(run.Results, result)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}})
}

// physical is a position as SARIF has it: a path from the root, or the address of a file elsewhere.
func physical(at pipeline.Position) sarifPhysical {
	p := sarifPhysical{Artifact: sarifArtifact{URI: (&url.URL{Path: at.File}).String(), Base: sourceRoot}}
	if u, err := url.Parse(at.File); err == nil && u.Scheme != "" && u.Host != "" {
		p.Artifact = sarifArtifact{URI: u.String()}
	}
	if at.Line > 0 {
		p.Region = &sarifRegion{Line: at.Line, Column: at.Column}
	}
	return p
}

// camel makes a rule's name of a code: "unknown-keyword" is "UnknownKeyword".
func camel(code string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(code, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
