package delivery

import (
	"errors"
	"testing"
)

// TestPlaced: where something happened is said once.
func TestPlaced(t *testing.T) {
	cause := errors.New("authentication failed")
	for want, err := range map[string]error{
		"https://a/b: authentication failed":                        cause,
		"https://a/b: authentication failed (hint: give a key)":     &Fault{Where: "https://a/b", Err: cause, Hint: "give a key"},
		"https://a/b: README: authentication failed (hint: delete)": &Fault{Where: "README", Err: cause, Hint: "delete"},
	} {
		got := Placed("https://a/b", err)
		if got.Error() != want || !errors.Is(got, cause) {
			t.Errorf("%v, want %s", got, want)
		}
	}
}
