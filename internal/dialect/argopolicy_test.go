package dialect_test

import (
	"testing"

	"keelson.dev/keelson/internal/dialect"
)

// TestHeld: why nothing is synced by itself, with each of the revisions named once.
func TestHeld(t *testing.T) {
	const first, second = "7d461da0123456789abcdef0123456789abcdef0", "19e8be10123456789abcdef0123456789abcdef0"
	for annotation, want := range map[string]string{
		`{"reason":"rolled back to 7d461da","revisions":["` + first + `"],"by":"ada"}`:                           "rolled back to 7d461da, by ada",
		`{"reason":"rolled back to 7d461da, 19e8be1","revisions":["` + first + `","` + second + `"]}`:            "rolled back to 7d461da, 19e8be1",
		`{"reason":"rolled back to 7d461da and another","revisions":["` + first + `","` + second + `","1.2.3"]}`: "rolled back to 7d461da and another (19e8be1, 1.2.3)",
		`{"reason":"incident","revisions":["` + first + `"]}`:                                                    "incident (7d461da)",
		`{"reason":"suspended","by":"ada"}`:                                                                      "suspended, by ada",
		"do not touch":                                                                                           "do not touch",
	} {
		a := readApplication(t, guestbook)
		a.Annotations = map[string]string{"keelson.dev/hold": annotation}
		held := dialect.Application(a, dialect.Argo{Namespace: "argocd", Now: noon}).App.Sync.Held
		if held == nil || held.Reason != want {
			t.Errorf("%s:\n%+v, want %s", annotation, held, want)
		}
	}
}
