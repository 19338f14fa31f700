package config

import (
	"errors"
	"strings"

	"keelson.dev/keelson/internal/pipeline"
	"keelson.dev/keelson/internal/pipeline/rules"
)

// expression checks the text of a condition, and points at its fault.
func (v value) expression() {
	err, ok := v.d.expressions[v.Text]
	if !ok {
		_, err = rules.Parse(v.Text)
		v.d.expressions[v.Text] = err
	}
	if err == nil {
		return
	}
	at, hint := v.at(), ""
	text := "invalid expression syntax, found " + quoted(v.Text)
	var syntax *rules.SyntaxError
	if errors.As(err, &syntax) {
		text, hint = "invalid expression syntax: "+syntax.Message+", found "+quoted(v.Text), syntax.Hint
		if v.Plain && !strings.Contains(v.Raw, "\n") && syntax.Column > 0 {
			at.Column += syntax.Column - 1
		}
	}
	v.d.report(pipeline.Error, codeExpression, v.place(), text, hint, at, v.via)
}
