package dialect_test

import (
	"testing"

	"keelson.dev/keelson/internal/dialect"
)

// TestRequestedBy: who has asked is believed of the very request that it was said of.
func TestRequestedBy(t *testing.T) {
	const request, by = "reconcile.fluxcd.io/requestedAt", "keelson.dev/requested-by"
	for _, test := range []struct {
		name        string
		annotations map[string]string
		want        string
	}{
		{"nothing", nil, ""},
		{"a request by nobody", map[string]string{request: "t1"}, ""},
		{"a request", map[string]string{request: "t1", by: "t1 ann@example.com"}, "ann@example.com"},
		{"a name with spaces", map[string]string{request: "t1", by: "t1 Ann Bee"}, "Ann Bee"},
		{"a later request", map[string]string{request: "t2", by: "t1 ann"}, ""},
		{"no request", map[string]string{by: " ann"}, ""},
		{"the cluster's own", map[string]string{request: "t1", by: "t1 system:admin"}, ""},
		{"the cluster's own, in other letters", map[string]string{request: "t1", by: "t1  System:serviceaccount:kube-system:x"}, ""},
		{"no name", map[string]string{request: "t1", by: "t1"}, ""},
	} {
		if got := dialect.RequestedBy(test.annotations); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
