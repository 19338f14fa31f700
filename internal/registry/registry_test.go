package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// serve opens a registry on dir and returns it with its address.
func serve(t *testing.T, options Options) (*Registry, string) {
	t.Helper()
	if options.MaxBlob == 0 {
		options.MaxBlob, options.MaxTotal = 1<<20, 16<<20
	}
	options.Log = slog.New(slog.DiscardHandler)
	r, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.Listener.Addr().String()
}

func randomImage(t *testing.T, size int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, 2)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func digestOf(t *testing.T, image interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// pull reads the whole image, which checks all digests.
func pull(reference string) error {
	image, err := crane.Pull(reference)
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
	}
	return nil
}

func TestImagesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	_, address := serve(t, Options{Dir: dir})
	image := randomImage(t, 1000)
	list, err := random.Index(500, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, address+"/shop/web:1"); err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(address + "/shop/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference, list); err != nil {
		t.Fatal(err)
	}

	r, address := serve(t, Options{Dir: dir})
	for _, reference := range []string{"/shop/web:1", "/shop/web@" + digestOf(t, image)} {
		if err := pull(address + reference); err != nil {
			t.Errorf("%s: %v", reference, err)
		}
	}
	if got, err := crane.Digest(address + "/shop/multi:1"); err != nil || got != digestOf(t, list) {
		t.Errorf("index %s, %v; want %s", got, err, digestOf(t, list))
	}
	if tags, err := crane.ListTags(address + "/shop/web"); err != nil || fmt.Sprint(tags) != "[1]" {
		t.Errorf("tags %v, %v", tags, err)
	}
	if used, onDisk := r.used.Load(), diskUsage(t, dir); used != onDisk {
		t.Errorf("counts %d bytes, %d are on disk", used, onDisk)
	}
}

func diskUsage(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestCollect: what a tag leads to stays, what is young stays, the rest goes, and
// the count of bytes is that of the disk.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	r, address := serve(t, Options{Dir: dir})
	images := map[string]v1.Image{}
	for _, name := range []string{"old", "deleted", "kept"} {
		images[name] = randomImage(t, 2000)
	}
	for _, step := range []struct{ image, tag string }{{"old", "latest"}, {"deleted", "gone"}, {"kept", "latest"}} {
		if err := crane.Push(images[step.image], address+"/web:"+step.tag); err != nil {
			t.Fatal(err)
		}
	}
	if err := crane.Delete(address + "/web:gone"); err != nil {
		t.Fatal(err)
	}
	if freed, err := r.Collect(time.Now().Add(-time.Hour)); freed != 0 || err != nil {
		t.Errorf("%d bytes that are young were removed, %v", freed, err)
	}
	freed, err := r.Collect(time.Now().Add(time.Second))
	if err != nil || freed < 8000 {
		t.Errorf("freed %d bytes, %v; want two images of 4000", freed, err)
	}
	if used, onDisk := r.used.Load(), diskUsage(t, dir); used != onDisk {
		t.Errorf("counts %d bytes, %d are on disk", used, onDisk)
	}
	for name, want := range map[string]bool{"old": false, "deleted": false, "kept": true} {
		if err := pull(address + "/web@" + digestOf(t, images[name])); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, address = serve(t, Options{Dir: dir})
	if err := pull(address + "/web:latest"); err != nil {
		t.Error(err)
	}
}

func TestAuthorize(t *testing.T) {
	_, address := serve(t, Options{Dir: t.TempDir(), Authorize: func(_ context.Context, user, password, repository string, push bool) error {
		if user != "job" || password != "token" {
			return ErrUnauthenticated
		}
		if repository != "" && !strings.HasPrefix(repository, "shop/") {
			return errors.New("this job may read its own project")
		}
		if push && repository == "shop/base" {
			return errors.New("this job may not push there")
		}
		return nil
	}})
	as := func(user, password string) crane.Option {
		return crane.WithAuth(&authn.Basic{Username: user, Password: password})
	}
	image := randomImage(t, 100)
	for _, test := range []struct {
		name, repository, user, password string
		status                           int
	}{
		{"its own", "shop/web", "job", "token", 0},
		{"read only", "shop/base", "job", "token", http.StatusForbidden},
		{"another project's", "bank/web", "job", "token", http.StatusForbidden},
		{"wrong token", "shop/web", "job", "guess", http.StatusUnauthorized},
		{"nobody", "shop/web", "", "", http.StatusUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			auth := as(test.user, test.password)
			if test.user == "" {
				auth = crane.WithAuth(authn.Anonymous)
			}
			err := crane.Push(image, address+"/"+test.repository+":1", auth)
			var refused *transport.Error
			if errors.As(err, &refused); (test.status == 0) != (err == nil) || refused != nil && refused.StatusCode != test.status {
				t.Errorf("push: %v, want status %d", err, test.status)
			}
		})
	}
	if _, err := crane.Manifest(address+"/shop/web:1", as("job", "token")); err != nil {
		t.Error(err)
	}
	if _, err := crane.Manifest(address+"/shop/web:1", crane.WithAuth(authn.Anonymous)); err == nil {
		t.Error("anybody may pull")
	}
	if _, err := crane.Catalog(address, as("job", "token")); err == nil {
		t.Error("the names of all repositories are told")
	}
}

// TestProtocol sends single requests, each in its place. UPLOAD stands for the
// upload that the last POST opened.
func TestProtocol(t *testing.T) {
	dir := t.TempDir()
	r, address := serve(t, Options{Dir: dir, MaxBlob: 1000, MaxTotal: 1500})
	blob := func(n int) string { return strings.Repeat("x", n) }
	digest := func(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }
	const image = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},"layers":[]}`, image, digest("nowhere"))
	upload := ""
	for _, step := range []struct {
		what, method, path, body string
		header                   http.Header
		status                   int
		want                     string // in the body
	}{
		{"the API is there", "GET", "/v2/", "", nil, 200, ""},
		{"in pieces", "POST", "/v2/a/blobs/uploads/", "", nil, 202, ""},
		{"first piece", "PATCH", "UPLOAD", blob(300), http.Header{"Content-Range": {"0-299"}}, 202, ""},
		{"a piece is missing", "PATCH", "UPLOAD", blob(10), http.Header{"Content-Range": {"500-509"}}, 416, "does not begin where"},
		{"second piece", "PATCH", "UPLOAD", blob(300), http.Header{"Content-Range": {"300-599"}}, 202, ""},
		{"how far", "GET", "UPLOAD", "", nil, 204, ""},
		{"last piece", "PUT", "UPLOAD?digest=" + digest(blob(700)), blob(100), nil, 201, ""},
		{"it is there", "GET", "/v2/a/blobs/" + digest(blob(700)), "", nil, 200, blob(700)},
		{"finished is finished", "PATCH", "UPLOAD", blob(1), nil, 404, "no such upload"},
		{"whole", "POST", "/v2/a/blobs/uploads/?digest=" + digest(blob(20)), blob(20), nil, 201, ""},
		{"not what it says", "POST", "/v2/a/blobs/uploads/?digest=" + digest(blob(21)), blob(20), nil, 400, "the blob's digest is " + digest(blob(20))},
		{"too large", "POST", "/v2/a/blobs/uploads/?digest=" + digest(blob(1001)), blob(1001), nil, 413, "a blob may have 1000 bytes"},
		{"full", "POST", "/v2/a/blobs/uploads/?digest=" + digest(blob(900)), blob(900), nil, 413, "the registry is full"},
		{"another's upload", "POST", "/v2/a/blobs/uploads/", "", nil, 202, ""},
		{"is not found", "PATCH", "/v2/b/blobs/uploads/ID", blob(1), nil, 404, "no such upload"},
		{"cancelled", "DELETE", "UPLOAD", "", nil, 204, ""},
		{"manifest without its blobs", "PUT", "/v2/a/manifests/1", manifest, http.Header{"Content-Type": {image}}, 404, "is not here: push it first"},
		{"manifest under a wrong digest", "PUT", "/v2/a/manifests/" + digest("other"), manifest, http.Header{"Content-Type": {image}}, 400, "the manifest's digest is"},
		{"no manifest", "PUT", "/v2/a/manifests/1", "{", http.Header{"Content-Type": {image}}, 400, "MANIFEST_INVALID"},
		{"of unknown kind", "PUT", "/v2/a/manifests/1", "{}", http.Header{"Content-Type": {"text/plain"}}, 400, "neither an image nor an index"},
		{"blobs stay", "DELETE", "/v2/a/blobs/" + digest(blob(20)), "", nil, 405, "when nothing refers to them"},
		{"out of the directory", "GET", "/v2/../../etc/manifests/1", "", nil, 404, "no such repository"},
		{"out by its tag", "GET", "/v2/a/manifests/..%2f..%2fx", "", nil, 404, "no such repository"},
		{"out by its digest", "GET", "/v2/a/blobs/sha256:..%2f..%2flock", "", nil, 404, "no such repository"},
		{"all names", "GET", "/v2/_catalog", "", nil, 404, "no such repository"},
	} {
		path := strings.ReplaceAll(strings.Replace(step.path, "UPLOAD", upload, 1), "ID", filepath.Base(upload))
		req, err := http.NewRequest(step.method, "http://"+address, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "//" + address + path // as it is, not cleaned
		if step.header != nil {
			req.Header = step.header
		}
		response, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != step.status || !bytes.Contains(body, []byte(step.want)) {
			t.Errorf("%s: %s %s: %d %.200s\nwant %d with %.100q", step.what, step.method, path, response.StatusCode, body, step.status, step.want)
		}
		if location := response.Header.Get("Location"); step.method == "POST" && response.StatusCode == http.StatusAccepted {
			upload = location
		}
	}
	if used, onDisk := r.used.Load(), diskUsage(t, dir); used != onDisk || used != 720 {
		t.Errorf("counts %d bytes, %d are on disk, want 720", used, onDisk)
	}
}

// TestUploadsAreBounded: uploads that nobody finishes make way for others.
func TestUploadsAreBounded(t *testing.T) {
	dir := t.TempDir()
	r, address := serve(t, Options{Dir: dir})
	for range maxUploads + 10 {
		response, err := http.Post("http://"+address+"/v2/a/blobs/uploads/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		files, err := os.ReadDir(filepath.Join(dir, "uploads"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) <= maxUploads {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d uploads are open", len(files))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := crane.Push(randomImage(t, 100), address+"/a:1"); err != nil {
		t.Error(err)
	}
	if _, err := Open(r.options); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(files) > 0 {
		t.Errorf("%d uploads after a restart, %v", len(files), err)
	}
}
