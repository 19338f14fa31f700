package e2e

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// screenshotsVariable names the environment variable with the directory that pictures of the dashboard are written to.
const screenshotsVariable = "KEELSON_SCREENSHOTS"

// TestDashboard follows a person through the dashboard in a real browser: web/tests/tour.mjs. What happens outside of the browser is done here
// when the tour asks for it.
func TestDashboard(t *testing.T) {
	for what, there := range map[string]func() bool{
		"node":     func() bool { _, err := exec.LookPath("node"); return err == nil },
		"chromium": func() bool { _, err := exec.LookPath("chromium"); return err == nil },
		"web/node_modules (make build)": func() bool {
			_, err := os.Stat(filepath.Join(root(), "web/node_modules/playwright-core"))
			return err == nil
		},
	} {
		if !there() {
			t.Skipf("%s is missing", what)
		}
	}
	sample := cloneOf(t, shared.Git+"/sample.git")
	shared.must(t, "git", "create", "shop")
	shop := cloneOf(t, shared.Git+"/shop.git")
	does := map[string]func(){
		"push the sample": func() {
			sample.replace("overlays/dev/patch.yaml", "Hello from dev", "Welcome to dev")
			sample.push("Say welcome in dev")
		},
		"change the backend of dev": func() {
			shared.kubectl(t, "-n", "dev", "patch", "configmap", "backend", "--type", "merge", "-p", `{"data":{"PODINFO_UI_MESSAGE":"Somebody was here"}}`)
		},
		"push the shop": func() {
			if err := os.CopyFS(shop.dir, os.DirFS("testdata/shop")); err != nil {
				t.Fatal(err)
			}
			shop.push("Sell tea")
		},
	}
	tour(t, does, strings.TrimSuffix(shared.Dashboard, "/"), shared.Token, os.Getenv(screenshotsVariable))
}

// tour runs web/tests/tour.mjs and does what it asks for.
func tour(t *testing.T, does map[string]func(), args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join(root(), "web/tests/tour.mjs")}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = 10 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		t.Log(lines.Text())
		what, asked := strings.CutPrefix(lines.Text(), "do: ")
		if !asked {
			continue
		}
		do, known := does[what]
		if !known {
			t.Errorf("the tour asks for %q", what)
			break
		}
		do()
		if _, err := io.WriteString(in, "done\n"); err != nil {
			t.Error(err)
			break
		}
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the tour: %v\n%s", err, said.String())
	}
}
