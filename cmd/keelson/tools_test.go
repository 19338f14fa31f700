package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A pipeline with the commands of people's deploy jobs runs on a machine that has none of their programs; where the machine or the
// job has one, that one is taken.
func TestJobsFindTools(t *testing.T) {
	const deploy = `deploy:
  script:
    - cd k8s
    - kustomize edit set image app=registry.example.com/app:$TAG
    - kustomize build . | tee built.yaml
    - kubectl apply --dry-run=client --validate=false -f built.yaml --server=http://127.0.0.1:1 || echo no cluster
    - kubectl kustomize . | cmp - built.yaml && echo the same
    - kubectl version --client
    - helm create web > helm.log
    - helm template shop web | grep -m 1 kind
`
	for name, tt := range map[string]struct {
		pipeline string
		own      string // a program of the machine
		want     []string
	}{
		"a machine without": {deploy, "", []string{
			"image: registry.example.com/app:v7", "no cluster", "the same", "Kustomize Version: v5.", "kind: ",
		}},
		"a machine with its own": {"deploy: {script: [kubectl version, helm version --short]}", "kubectl", []string{"the machine's kubectl version", "| v4."}},
		"a job that brings one along": {`deploy:
  script:
    - mkdir -p $CI_PROJECT_DIR/tools
    - printf '#!/bin/sh\necho brought along' > tools/helm && chmod +x tools/helm
    - export PATH=$CI_PROJECT_DIR/tools:$PATH
    - helm version
    - kustomize version
`, "", []string{"| brought along", "| v5."}},
	} {
		t.Run(name, func(t *testing.T) {
			bin, tmp := machine(t, tt.own), t.TempDir()
			chdir(t, "main")
			files := map[string]string{
				".gitlab-ci.yml":         tt.pipeline,
				"k8s/kustomization.yaml": "resources: [pod.yaml]\n",
				"k8s/pod.yaml":           "apiVersion: v1\nkind: Pod\nmetadata: {name: app}\nspec: {containers: [{name: app, image: app}]}\n",
			}
			for name, text := range files {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), testProgram(t), "ci", "run", "--variable", "TAG=v7", "--store", t.TempDir())
			cmd.Env = []string{"PATH=" + bin, "HOME=" + t.TempDir(), "TMPDIR=" + tmp, "KEELSON_DATA=" + t.TempDir()}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			if left, err := filepath.Glob(filepath.Join(tmp, "keelson-*")); err != nil || len(left) > 0 {
				t.Errorf("left: %v %v", left, err)
			}
		})
	}
}

// machine gives a PATH with all programs of this machine but the tools, and with one of those that says whose it is.
func machine(t *testing.T, own string) string {
	t.Helper()
	bin := t.TempDir()
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/local/bin"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if _, tool := deployTools[e.Name()]; !tool {
				_ = os.Symlink(filepath.Join(dir, e.Name()), filepath.Join(bin, e.Name())) // the first one of a name counts
			}
		}
	}
	if own != "" {
		text := "#!/bin/sh\necho \"the machine's " + own + " $*\"\n"
		if err := os.WriteFile(filepath.Join(bin, own), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name := range deployTools {
		if _, err := os.Stat(filepath.Join(bin, name)); (err == nil) != (name == own) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return bin
}
