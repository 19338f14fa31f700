package health

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// fluxGroups is how the groups of Flux's kinds end.
const fluxGroups = ".toolkit.fluxcd.io"

// flux says of an object of Flux's why it is not as it is to be: in its own words, where kstatus says only that its generation has
// not been observed. Flux observes one when it is ready or stalled, so what fails and is tried again never says more to kstatus.
// The status stays kstatus's.
func flux(u *unstructured.Unstructured, h delivery.Health) delivery.Health {
	if h.Status == delivery.Healthy || !strings.HasSuffix(u.GroupVersionKind().Group, fluxGroups) {
		return h
	}
	var err error // of fields that are not what they ought to be: kstatus has said so
	f := fields{object: u.Object, err: &err}
	list := f.objects("status", "conditions")
	of := func(kind string) (fields, bool) {
		i := slices.IndexFunc(list, func(c fields) bool { return c.text("type") == kind })
		if i < 0 {
			return fields{err: &err}, false
		}
		return list[i], true
	}
	ready, ok := of("Ready")
	if !ok || ready.text("status") == "True" || words(ready) == "" || !f.now(ready) || err != nil {
		return h
	}
	stalled, isStalled := of("Stalled")
	switch {
	case u.GetDeletionTimestamp() != nil:
		h.Message += ": " + words(ready)
	case isStalled && stalled.text("status") == "True" && words(stalled) != words(ready):
		h.Message = words(ready) + " (" + words(stalled) + ")"
	default:
		h.Message = words(ready)
	}
	return h
}

// words are what a condition says, with its reason where that says more than that work is under way.
func words(c fields) string {
	reason, message := c.text("reason"), c.text("message")
	switch {
	case message == "":
		return reason
	case reason == "" || reason == "Progressing":
		return message
	}
	return reason + ": " + message
}

// now tells whether a condition is about the object as it is declared now. One that does not tell counts where the status is of now, or
// where there has been no other declaration.
func (f fields) now(c fields) bool {
	generation := f.number(0, "metadata", "generation")
	return generation <= 1 || c.number(f.number(0, "status", "observedGeneration"), "observedGeneration") == generation
}
