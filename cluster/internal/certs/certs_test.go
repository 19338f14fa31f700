package certs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// serials tells which certificates are which, to see what a second run replaced.
func serials(t *testing.T, set Set) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range []string{CA, EtcdCA, FrontProxyCA, APIServer, Etcd, EtcdClient, FrontProxyClient, Admin, ControllerManager, Scheduler, Kwok} {
		cert, _, err := set.load(name)
		if err != nil {
			t.Fatalf("load %s: %v", name, err)
		}
		found[name] = cert.SerialNumber.String()
	}
	return found
}

func replaced(before, after map[string]string) map[string]bool {
	changed := map[string]bool{}
	for name := range before {
		if before[name] != after[name] {
			changed[name] = true
		}
	}
	return changed
}

func TestEnsureReplacesOnlyWhatIsNoLongerGood(t *testing.T) {
	hosts := []string{"127.0.0.1", "localhost"}
	underCA := map[string]bool{CA: true, APIServer: true, Admin: true, ControllerManager: true, Scheduler: true, Kwok: true}
	all := map[string]bool{EtcdCA: true, FrontProxyCA: true, Etcd: true, EtcdClient: true, FrontProxyClient: true}
	for name := range underCA {
		all[name] = true
	}
	everyLeaf := map[string]bool{}
	for name := range all {
		if name != CA && name != EtcdCA && name != FrontProxyCA {
			everyLeaf[name] = true
		}
	}
	tests := map[string]struct {
		damage func(t *testing.T, set Set)
		hosts  []string
		later  time.Duration
		want   map[string]bool
	}{
		"nothing changed":         {want: map[string]bool{}},
		"a year later":            {later: 365 * 24 * time.Hour, want: map[string]bool{}},
		"leaves near their end":   {later: leafLife * 3 / 4, want: everyLeaf},
		"authorities near theirs": {later: authorityLife * 3 / 4, want: all},
		"a new name to serve":     {hosts: []string{"127.0.0.1", "localhost", "192.0.2.1"}, want: map[string]bool{APIServer: true}},
		"certificate lost":        {damage: remove("admin.crt"), want: map[string]bool{Admin: true}},
		"key of another one":      {damage: swapKey(Admin, Scheduler), want: map[string]bool{Admin: true}},
		"authority lost":          {damage: remove("ca.key"), want: underCA},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			set, err := Ensure(dir, Names{APIServer: hosts}, born)
			if err != nil {
				t.Fatal(err)
			}
			before := serials(t, set)
			tokenKey, err := os.ReadFile(set.ServiceAccountKey())
			if err != nil {
				t.Fatal(err)
			}
			if test.damage != nil {
				test.damage(t, set)
			}
			if test.hosts == nil {
				test.hosts = hosts
			}
			if set, err = Ensure(dir, Names{APIServer: test.hosts}, born.Add(test.later)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, replaced(before, serials(t, set))); diff != "" {
				t.Errorf("replaced certificates (-want +got):\n%s", diff)
			}
			if now, _ := os.ReadFile(set.ServiceAccountKey()); string(now) != string(tokenKey) {
				t.Error("the service account key was replaced: tokens that are out are void")
			}
		})
	}
}

func TestEnsureLeavesNothingReadableByOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Ensure(dir, Names{APIServer: []string{"localhost"}}, born); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func remove(file string) func(*testing.T, Set) {
	return func(t *testing.T, set Set) {
		if err := os.Remove(filepath.Join(set.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

func swapKey(name, other string) func(*testing.T, Set) {
	return func(t *testing.T, set Set) {
		key, err := os.ReadFile(set.Key(other))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(set.Key(name), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
