package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"keelson.dev/keelson/internal/cel"
)

// scope is what filters may name.
var scope = cel.NewScope("res", "req")

// Filter is a compiled CEL expression over a resource (res: its metadata) and a request (req: its JSON body).
type Filter struct {
	text string
	expr *cel.Expression
}

// Compile compiles an expression; an error says what is wrong with it, and where. [cel] bounds it.
func Compile(text string) (*Filter, error) {
	expr, err := scope.Compile(text)
	if err != nil {
		return nil, err
	}
	return &Filter{text: text, expr: expr}, nil
}

// Accepts evaluates the filter. resource is a resource's metadata as JSON has it, body what [Request.JSON] gave.
func (f *Filter) Accepts(resource, body map[string]any) (bool, error) {
	yes, err := f.expr.True(map[string]any{"res": resource, "req": body})
	if err != nil {
		return false, fmt.Errorf("evaluate %q: %w", f.text, err)
	}
	return yes, nil
}

// JSON gives the body as filters read it. It is empty where the sender does not say that it is JSON, as in Flux.
func (r Request) JSON() (map[string]any, error) {
	isJSON := false
	for v := range strings.SplitSeq(r.Header.Get("Content-Type"), ",") {
		t, _, err := mime.ParseMediaType(v)
		if err != nil {
			break
		}
		isJSON = isJSON || t == "application/json"
	}
	body := map[string]any{}
	if !isJSON {
		return body, nil
	}
	if err := json.Unmarshal(r.Body, &body); err != nil || body == nil {
		return nil, errors.New("the body is no JSON object, and a filter wants to read it")
	}
	return body, nil
}
