package dialect_test

import (
	"strings"
	"testing"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// TestArgoFiles: what an ApplicationSet reads to find out what Applications to make, and what it may not read.
func TestArgoFiles(t *testing.T) {
	in := dialect.Argo{
		Namespace: "argocd", Now: noon, KnownHosts: "git.example.com ssh-ed25519 AAAA",
		Certificates: map[string]string{"git.example.com": "its certificate"},
		Keys:         map[string]string{"4AEE18F83AFDEB23": "armored"},
		Repositories: []dialect.ArgoRepository{
			{Secret: "all", URL: "https://git.example.com/fleet"},
			{Secret: "web", URL: "https://git.example.com/fleet", Project: "web"},
			{Secret: "cloud", URL: "https://cloud.example.com/fleet", Refused: []string{"gcpServiceAccountKey"}},
		},
	}
	in.Repositories[0].Credentials.Username, in.Repositories[1].Credentials.Username = "of-all", "of-web"
	const https, ssh = "https://git.example.com/fleet", "git@git.example.com:fleet.git"
	for name, c := range map[string]struct {
		project, spec, namespace, url string
		want                          string // "tenant url@revision user trust keys", or the error
	}{
		"of a project":                      {"web", "{}", "argocd", https, "web/web https://git.example.com/fleet@main of-web CA 0 keys"},
		"of the project that needs no such": {"default", "", "argocd", https, "default/all https://git.example.com/fleet@main of-all CA 0 keys"},
		"of an unknown project":             {"gone", "", "argocd", https, "project gone does not exist"},
		"of a templated project":            {"", "", "argocd", https, "-/all https://git.example.com/fleet@main of-all CA 0 keys"},
		"destinations are restricted":       {"web", `{destinations: [{server: "https://prod", namespace: web}]}`, "argocd", https, "web/web https://git.example.com/fleet@main of-web CA 0 keys"},
		"repositories are restricted":       {"web", `{sourceRepos: ["https://other"]}`, "argocd", https, "web/web https://git.example.com/fleet@main of-web CA 0 keys"},
		"over ssh":                          {"web", "{}", "argocd", ssh, "web/ ssh://git@git.example.com/fleet.git@main  known hosts 0 keys"},
		"signed commits":                    {"web", "{signatureKeys: [{keyID: 4AEE18F83AFDEB23}]}", "argocd", https, "web/web https://git.example.com/fleet@main of-web CA 1 keys"},
		"signed by an unknown key":          {"web", "{signatureKeys: [{keyID: 0123456789ABCDEF}]}", "argocd", https, "the key 0123456789ABCDEF of spec.signatureKeys is not in the ConfigMap argocd/argocd-gpg-keys-cm"},
		"integrity that is not checked":     {"web", "{sourceIntegrity: {git: {}}}", "argocd", https, "AppProject/web spec.sourceIntegrity is not supported"},
		"credentials that cannot be used":   {"web", "{}", "argocd", "https://cloud.example.com/fleet", "Secret argocd/cloud: gcpServiceAccountKey is not supported"},
		"no URL":                            {"web", "{}", "argocd", "", "repoURL is empty"},
		"no Git":                            {"web", "{}", "argocd", "oci://git.example.com/fleet", "no Git repository"},

		"outside, not served":         {"web", "{sourceRepos: ['*']}", "team", https, "project web is not for namespace team"},
		"outside, an unknown one":     {"gone", "", "team", https, "project gone does not exist"},
		"outside, a default":          {"default", "", "team", https, "project default is not for namespace team"},
		"outside, served":             {"web", "{sourceNamespaces: [team], sourceRepos: ['https://git.example.com/*']}", "team", https, "web/web https://git.example.com/fleet@main of-web CA 0 keys"},
		"outside, of the project":     {"web", "{sourceNamespaces: [team]}", "team", https, "web/web https://git.example.com/fleet@main of-web CA 0 keys"},
		"outside, another repo":       {"web", "{sourceNamespaces: [team]}", "team", "https://git.example.com/secret", "project web does not permit it: no entry of spec.sourceRepos matches it"},
		"outside, a templated one":    {"", "", "team", https, "has to name its project"},
		"outside, named as nobody is": {"-", "", "team", https, "project - does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			in := in
			if c.spec != "" {
				in.Project = &argocdv1.AppProject{}
				in.Project.Name = c.project
				decode(t, c.spec, &in.Project.Spec)
			}
			src, err := dialect.ArgoFiles(c.namespace, c.project, c.url, "main", in)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) || src.URL != "" {
					t.Errorf("%v, want %s", err, c.want)
				}
				return
			}
			trust := ""
			if src.Credentials.CA == "its certificate" {
				trust = "CA"
			}
			if src.Credentials.KnownHosts == in.KnownHosts {
				trust = "known hosts"
			}
			keys := "0 keys"
			if src.Verify.Head && len(src.Verify.PGP) == 1 && src.Verify.PGP[0] == "armored" {
				keys = "1 keys"
			}
			if got := strings.Join([]string{src.Tenant, src.URL + "@" + src.Ref.Any, src.Credentials.Username, trust, keys}, " "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if src.ID.Kind != dialect.RepositoryKind || src.ID.Namespace != c.namespace {
				t.Errorf("it is %s", src.ID)
			}
		})
	}
}

// TestArgoFilesAreShared: an Application and the set that makes it follow one source, if they read the same.
func TestArgoFilesAreShared(t *testing.T) {
	a := readApplication(t, guestbook)
	in := dialect.Argo{Namespace: a.Namespace, Now: noon, Certificates: map[string]string{"git.example.com": "pem"}, KnownHosts: "x"}
	app := dialect.Application(a, in)
	if why := app.Invalid(); why != "" {
		t.Fatal(why)
	}
	got, err := dialect.ArgoFiles(a.Namespace, "default", a.Spec.Source.RepoURL, a.Spec.Source.TargetRevision, in)
	if err != nil {
		t.Fatal(err)
	}
	if want := app.Sources[0]; got.ID != want.ID || got.Tenant != want.Tenant || got.URL != want.URL {
		t.Errorf("%+v, want %+v", got, want)
	}
}
