package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/delivery"
)

func TestPolicyFlags(t *testing.T) {
	tests := map[string]struct {
		want delivery.Policy
		err  string
	}{
		"":                            {},
		"--strict-substitution=false": {want: delivery.Policy{LenientSubstitution: true}},
		"--no-cross-namespace-refs --default-service-account tenant": {
			want: delivery.Policy{NoCrossNamespaceRefs: true, DefaultServiceAccount: "tenant"},
		},
		"--default-service-account a/b": {err: `--default-service-account "a/b": it is no name of a service account`},
	}
	parse := func(args []string) (delivery.Policy, []string, error) {
		var p policyFlags
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		p.bind(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		policy, err := p.policy()
		return policy, p.args(), err
	}
	for args, tt := range tests {
		got, passed, err := parse(strings.Fields(args))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %s", args, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, tt.want)
		}
		if again, _, err := parse(slices.Clone(passed)); err != nil || again != got {
			t.Errorf("%s: passed on as %q it is %+v, %v; want %+v", args, passed, again, err, got)
		}
	}
}
