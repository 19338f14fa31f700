package controller

import (
	"slices"
	"sync"

	"keelson.dev/keelson/internal/apply"
	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/history"
	"keelson.dev/keelson/internal/redact"
)

// masks are what must not be told of an app: the values that its Secrets have and have had lately. What an object is made of now may be what a
// Secret had before it was rotated.
type masks struct {
	known   []mask   // the newest last
	rotated []string // values of Secrets that the delivery under way has changed or deleted, as they were and are
	past    string   // the key of the values that what is there was made with; empty: none
	made    string   // the declaration that it was made of; empty: nobody knows
}

// mask knows the values of Secrets that an app was made with.
type mask struct {
	key     string // identifies them without telling them
	secrets *redact.Redactor
}

// maxMasks is how many different values of its Secrets are known of an app.
const maxMasks = 4

// maxRotated is how many values of Secrets that a delivery has changed are known of it, the last ones.
const maxRotated = 2000

// learn takes in the values of Secrets that an app is made with from now on.
func (m *masks) learn(key string, secrets *redact.Redactor) {
	m.known = slices.DeleteFunc(m.known, func(old mask) bool { return old.key == key })
	m.known = append(m.known, mask{key, secrets})
	if over := len(m.known) - maxMasks; over > 0 {
		m.known = slices.Delete(m.known, 0, over)
	}
}

// blind tells whether what is there may have been made with values of Secrets that are not known any more: a process before this one read them,
// and they are others since.
func (m *masks) blind(app delivery.App, declared string) bool {
	if m.made != "" && m.past == "" || slices.ContainsFunc(m.known, func(k mask) bool { return k.key == m.past }) {
		return false
	}
	return readsSecrets(app) || m.made != "" && m.made != declared
}

// readsSecrets tells whether values of Secrets are put into an app's objects.
func readsSecrets(app delivery.App) bool {
	return slices.ContainsFunc(app.VarsFrom, func(ref delivery.VarsRef) bool { return ref.Kind == "Secret" }) ||
		app.Release != nil && slices.ContainsFunc(app.Release.ValuesFrom, delivery.ValuesRef.Secret)
}

// rotates takes in what a stage has done to Secrets.
func (m *masks) rotates(results []apply.Result) {
	for _, res := range results {
		if res.Err == nil && !res.NoOp && !res.Change.DryRun && res.Before != nil {
			for _, value := range redact.Rotated(res.Before, res.Object) {
				if !slices.Contains(m.rotated, value) { // a delivery that fails is tried again and again
					m.rotated = append(m.rotated, value)
				}
			}
		}
	}
	if over := len(m.rotated) - maxRotated; over > 0 {
		m.rotated = slices.Delete(m.rotated, 0, over)
	}
}

// hiding is what is kept back of the fields of objects.
type hiding struct {
	text  func(string) string
	blind bool // what was there before is not told at all
}

// hiding gives what is kept back; now knows what the app is made with now.
func (m *masks) hiding(now *redact.Redactor, blind bool) hiding {
	all := []*redact.Redactor{redact.New(m.rotated...), now}
	for _, k := range m.known {
		all = append(all, k.secrets)
	}
	joined := sync.OnceValue(func() *redact.Redactor { return redact.Join(all...) })
	return hiding{blind: blind, text: func(s string) string { return joined().Text(s) }}
}

// fieldsOf gives the fields that differ, with the values of Secrets masked.
func fieldsOf(res apply.Result, h hiding) ([]history.Field, int) {
	before, after := redact.SecretPair(res.Before, res.Object)
	fields, more := history.Diff(before.Object, after.Object, redact.IsSecret(res.Object), h.text)
	for i := range fields {
		if h.blind && fields[i].Before != "" {
			fields[i].Before = redact.Mask
		}
	}
	return fields, more
}
