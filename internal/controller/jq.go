package controller

import (
	"context"
	"fmt"

	"github.com/itchyny/gojq"

	"keelson.dev/keelson/internal/plan"
)

// runJQ runs a jq program that deletes fields ("del(…)") over a document, for a second at most. It knows no environment and no files. One that fails on this
// document leaves it as it is: what is not there is no error to Argo CD.
func runJQ(program string, document any) (any, error) {
	query, err := gojq.Parse(program)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if err := plan.CheckDeletion(query); err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query, gojq.WithEnvironLoader(func() []string { return nil }))
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), jqTime)
	defer cancel()
	out, ok := code.RunWithContext(ctx, document).Next()
	if !ok {
		return nil, fmt.Errorf("it gives nothing")
	}
	if _, failed := out.(error); failed {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("it takes longer than %s", jqTime)
		}
		return document, nil
	}
	return out, nil
}
