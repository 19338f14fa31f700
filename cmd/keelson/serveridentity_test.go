package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestServerIdentityFlags(t *testing.T) {
	const issuer = "--oidc-issuer-url=https://id.example.com --oidc-client-id=keelson "
	for _, c := range []struct {
		flags   string
		listens bool
		says    string // empty: it is good
	}{
		{"", false, ""},
		{"--url=https://keelson.example.com/", true, ""},
		{"--url=keelson.example.com", true, `--url "keelson.example.com"`},
		{"--url=https://u:p@keelson.example.com", true, "--url"},
		{"--url=https://keelson.example.com/below", true, "--url"},
		{"--trusted-proxies=10.0.0.0/8,192.0.2.7", true, ""},
		{"--trusted-proxies=ingress", true, "--trusted-proxies (KEELSON_TRUSTED_PROXIES): \"ingress\""},
		{"--trusted-proxies=0.0.0.0/0", true, "is everybody"},
		{issuer + "--url=https://keelson.example.com", true, ""},
		{issuer + "--url=https://keelson.example.com", false, "needs --listen and --url"},
		{issuer, true, "needs --listen and --url"},
		{"--oidc-issuer-url=https://id.example.com --url=https://keelson.example.com", true, "need each other"},
		{"--oidc-client-id=keelson", true, "need each other"},
		{"--oidc-issuer-url=http://id.example.com --oidc-client-id=keelson --url=https://keelson.example.com", true, "it takes https"},
		{"--oidc-issuer-url=http://127.0.0.1:5556 --oidc-client-id=keelson --url=http://127.0.0.1:8080", true, ""},
		{"--oidc-issuer-url=id.example.com --oidc-client-id=keelson --url=https://keelson.example.com", true, "the URL of an OpenID provider"},
	} {
		var o serverIdentity
		f := pflag.NewFlagSet("server", pflag.ContinueOnError)
		o.flags(f)
		if err := f.Parse(strings.Fields(c.flags)); err != nil {
			t.Fatal(err)
		}
		err := o.check(c.listens)
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || exitCode(err) != exitUsage) {
			t.Errorf("%s: %v, want %q", c.flags, err, c.says)
		}
	}

	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("in the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(clientSecretVariable, "in the environment")
	for file, want := range map[string]string{"": "in the environment", secret: "in the file"} {
		p, err := (&serverIdentity{issuer: "https://id.example.com", secretFile: file}).provider()
		if err != nil || p.ClientSecret != want {
			t.Errorf("%+v, %v, want the secret %s", p, err, want)
		}
	}
	if _, err := (&serverIdentity{issuer: "x", secretFile: secret + "nosuch"}).provider(); err == nil {
		t.Error("a file that is not there is good enough")
	}
	if p, err := (&serverIdentity{}).provider(); p != nil || err != nil {
		t.Errorf("%v %v", p, err)
	}
}
