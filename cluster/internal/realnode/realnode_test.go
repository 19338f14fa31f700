package realnode

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for name, test := range map[string]struct {
		start uint32
		taken []string
		want  string // machine and node, or the error
	}{
		"nothing is taken":              {0, nil, "10.213.0.1 10.213.0.2"},
		"by the hash":                   {5, nil, "10.213.0.21 10.213.0.22"},
		"the hash is larger":            {1<<14 + 5, nil, "10.213.0.21 10.213.0.22"},
		"the next one":                  {5, []string{"10.213.0.20/30"}, "10.213.0.25 10.213.0.26"},
		"around the end":                {1<<14 - 1, []string{"10.213.255.252/30"}, "10.213.0.1 10.213.0.2"},
		"a private network has it all":  {5, []string{"10.0.0.0/8"}, "172.29.0.21 172.29.0.22"},
		"a smaller route inside of it":  {5, []string{"10.213.0.21/32", "10.213.0.24/29"}, "10.213.0.33 10.213.0.34"},
		"the last pool is a small one":  {64 + 5, []string{"10.0.0.0/8", "172.16.0.0/12"}, "192.168.213.21 192.168.213.22"},
		"all private networks are used": {5, []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, "no free addresses for the node"},
	} {
		t.Run(name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, prefix := range test.taken {
				taken = append(taken, netip.MustParsePrefix(prefix))
			}
			link, err := choose("keel-00000000", test.start, taken)
			got := link.Machine.String() + " " + link.Node.String()
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	got := reachable("search example.com\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\noptions edns0\n")
	if want := "search example.com\nnameserver 192.0.2.53\noptions edns0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMissing(t *testing.T) {
	err := Missing([]Finding{
		{What: "root", OK: true},
		{What: "runc", Detail: "no such program", Hint: "apt-get install runc"},
		{What: "overlayfs", Detail: "images are unpacked in layers", OK: true},
		{What: "cgroups", Detail: "no controller memory"},
	})
	const want = `this machine cannot run a real node:
  missing  runc: no such program; apt-get install runc
  missing  cgroups: no controller memory`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := Missing([]Finding{{What: "root", OK: true}}); err != nil {
		t.Error(err)
	}
}

func TestMissingControllers(t *testing.T) {
	for name, test := range map[string]struct {
		all  []hierarchy
		want string
	}{
		"v1":         {[]hierarchy{{controllers: []string{"rw", "cpu"}}, {controllers: []string{"cpuset"}}, {controllers: []string{"memory"}}, {controllers: []string{"pids"}}}, ""},
		"v2":         {[]hierarchy{{unified: true, controllers: []string{"cpuset", "cpu", "io", "memory", "pids"}}}, ""},
		"none is on": {[]hierarchy{{unified: true}}, "cpu cpuset memory pids"},
		"no memory":  {[]hierarchy{{unified: true, controllers: []string{"cpuset", "cpu", "pids"}}}, "memory"},
	} {
		if got := strings.Join(missingControllers(test.all), " "); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestAllowPlainHTTP(t *testing.T) {
	const plain = `server = "http://10.213.0.2:5000"

[host."http://10.213.0.2:5000"]
  capabilities = ["pull", "resolve"]
`
	for login, want := range map[string]string{
		"": plain,
		"node:s3cret": plain + `  [host."http://10.213.0.2:5000".header]
    Authorization = "Basic bm9kZTpzM2NyZXQ="
`,
	} {
		dir := t.TempDir()
		if err := AllowPlainHTTP(dir, "10.213.0.2:5000", login); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "registries", "10.213.0.2:5000", "hosts.toml"))
		if err != nil || string(text) != want {
			t.Errorf("got %s, %v\nwant %s", text, err, want)
		}
	}
	if err := AllowPlainHTTP(t.TempDir(), "../../etc:80", ""); err == nil {
		t.Error("a path is no address")
	}
}
