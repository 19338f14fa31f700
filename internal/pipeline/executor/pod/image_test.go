package pod

import (
	"archive/tar"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The image of a program holds that program, and is pushed once.
func TestPushHelper(t *testing.T) {
	var written atomic.Int32
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			written.Add(1)
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/keelson/agent"
	program := filepath.Join(t.TempDir(), "anything")
	tags := map[string]bool{}
	for _, content := range []string{"one", "one", "two"} {
		if err := os.WriteFile(program, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		tag, err := PushHelper(t.Context(), repository, program)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = true
		ref, err := name.ParseReference(repository + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil || config.OS != "linux" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/bin/keelson" {
			t.Errorf("%+v, %v", config, err)
		}
		files := tar.NewReader(mutate.Extract(image))
		h, err := files.Next()
		if err != nil || h.Name != "bin/keelson" || h.Mode != 0o755 {
			t.Fatalf("%+v, %v", h, err)
		}
		if got, err := io.ReadAll(files); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if len(tags) != 2 || written.Load() != 2 {
		t.Errorf("%d tags, %d pushes", len(tags), written.Load())
	}
	if _, err := PushHelper(t.Context(), repository, "/nonexistent"); err == nil {
		t.Error("a program that is not there has an image")
	}
}
