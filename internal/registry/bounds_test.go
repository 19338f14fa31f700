package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// TestManifestsAreBounded holds that one owner's manifests do not fill the memory, and leave room for others.
func TestManifestsAreBounded(t *testing.T) {
	for _, bounds := range []struct {
		what string
		Options
	}{
		{"references", Options{MaxReferences: 40}}, // 4 for each: two images with a tag
		{"bytes", Options{MaxManifests: 50 * int64(len(manifestOf(t)))}},
	} {
		t.Run(bounds.what, func(t *testing.T) {
			options := bounds.Options
			options.Dir = t.TempDir()
			r, address := serve(t, options)
			first := randomImage(t, 100)
			for _, name := range []string{"/a/x:1", "/a/x:1"} { // the same again takes no room
				if err := crane.Push(first, address+name); err != nil {
					t.Fatal(err)
				}
			}
			if err := crane.Push(randomImage(t, 100), address+"/a/y:2"); err != nil {
				t.Fatal(err)
			}
			full := func(address string) {
				t.Helper()
				err := crane.Push(randomImage(t, 100), address+"/a/z:3")
				var refused *transport.Error
				if !errors.As(err, &refused) || refused.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(err.Error(), "the images of a have reached their limit") {
					t.Errorf("%v", err)
				}
			}
			full(address)
			if err := crane.Push(first, address+"/b/x:1"); err != nil {
				t.Errorf("another owner: %v", err)
			}
			before := r.index.all
			r, address = serve(t, options)
			if r.index.all != before || len(r.index.owners) != 2 {
				t.Errorf("after a restart there are %+v of %d owners, want %+v of 2", r.index.all, len(r.index.owners), before)
			}
			full(address)
			if err := crane.Delete(address + "/a/x:1"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Collect(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := crane.Push(randomImage(t, 100), address+"/a/z:3"); err != nil {
				t.Errorf("what was deleted makes no room: %v", err)
			}
			for repository, entries := range r.index.repositories {
				for reference, e := range entries {
					if e.Body != nil || e.size == 0 {
						t.Errorf("%s %s: %d bytes of it are in the index, of %d", repository, reference, len(e.Body), e.size)
					}
				}
			}
		})
	}
}

// manifestOf is a manifest like those of randomImage.
func manifestOf(t *testing.T) []byte {
	t.Helper()
	text, err := randomImage(t, 100).RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// open starts an upload and gives its address.
func open(t *testing.T, address, repository string) string {
	t.Helper()
	response, err := http.Post("http://"+address+"/v2/"+repository+"/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatal(response.Status)
	}
	return response.Header.Get("Location")
}

// TestUploadsOfOthersStay: who opens too many uploads loses their own.
func TestUploadsOfOthersStay(t *testing.T) {
	r, address := serve(t, Options{Dir: t.TempDir()})
	other := open(t, address, "b/x")
	for n := range maxUploads + 10 {
		open(t, address, fmt.Sprintf("a/x%d", n))
	}
	response, err := http.Get("http://" + address + other)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Errorf("the other's upload: %s", response.Status)
	}
	if r.uploads.mu.Lock(); len(r.uploads.open) != maxUploadsEach+1 {
		t.Errorf("%d uploads are open, want %d", len(r.uploads.open), maxUploadsEach+1)
	}
	r.uploads.mu.Unlock()
}

// TestSilentPieceIsEnded: an upload is cancelled though its client is in the middle of a piece and says nothing.
func TestSilentPieceIsEnded(t *testing.T) {
	r, address := serve(t, Options{Dir: t.TempDir()})
	at := open(t, address, "a")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfirst", at)
	for deadline := time.Now().Add(20 * time.Second); r.used.Load() != 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the piece does not begin")
		}
	}
	req, err := http.NewRequest(http.MethodPatch, "http://"+address+at, strings.NewReader("second"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusConflict {
		t.Errorf("a second piece at the same time: %s", response.Status)
	}
	req.Method, req.Body, req.ContentLength = http.MethodDelete, nil, 0
	if response, err = client.Do(req); err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent || r.used.Load() != 0 {
		t.Errorf("%s, %d bytes are still counted", response.Status, r.used.Load())
	}
	text, _ := io.ReadAll(conn) // ends when the server gives the client up
	if !strings.Contains(string(text), "the piece broke off") {
		t.Errorf("%s", text)
	}
}

// TestAuthorizeAgain: a token that ends while a blob or a manifest comes in does not finish it.
func TestAuthorizeAgain(t *testing.T) {
	asked := 0
	_, address := serve(t, Options{Dir: t.TempDir(), Authorize: func(context.Context, string, string, string, bool) error {
		if asked++; asked%2 == 0 {
			return errors.New("the job is over")
		}
		return nil
	}})
	const digest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	for _, c := range []struct{ method, path, kind, body string }{
		{"POST", "/v2/a/blobs/uploads/?digest=" + digest, "", "x"},
		{"PUT", "/v2/a/manifests/1", "application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[]}`},
	} {
		req, err := http.NewRequest(c.method, "http://"+address+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.kind)
		response, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s: %s", c.method, c.path, response.Status)
		}
	}
}

func TestPatience(t *testing.T) {
	begin := time.Unix(1000, 0)
	for _, c := range []struct {
		what  string
		after time.Duration
		read  int64
		want  time.Duration // from begin
	}{
		{what: "at the beginning", want: patience},
		{what: "a drip", after: 50 * time.Second, read: 50, want: patience},
		{what: "fast, then silent", after: 10 * time.Second, read: 1 << 30, want: 10*time.Second + patience},
		{what: "as slow as it may be", after: time.Hour, read: 3600 * minRate, want: time.Hour + patience},
	} {
		if got := until(begin, begin.Add(c.after), c.read).Sub(begin); got != c.want {
			t.Errorf("%s: given up after %s, want %s", c.what, got, c.want)
		}
	}
}

// TestBlobsAreBounded holds that one owner's blobs and uploads, with or without a tag, leave room for others and on the disk.
func TestBlobsAreBounded(t *testing.T) {
	dir := t.TempDir()
	var full error
	options := Options{Dir: dir, MaxBlob: 1000, MaxTotal: 1600, Room: func(int64) error { return full }} // 1200 for each
	r, address := serve(t, options)
	put := func(repository, text string) (int, string) {
		t.Helper()
		at := fmt.Sprintf("http://%s/v2/%s/blobs/uploads/?digest=sha256:%x", address, repository, sha256.Sum256([]byte(text)))
		response, err := http.Post(at, "", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body)
	}
	for _, step := range []struct {
		what, repository, text string
		full                   error
		status                 int
		want                   string
	}{
		{"the first", "a/x", strings.Repeat("1", 500), nil, 201, ""},
		{"the same again", "a/y", strings.Repeat("1", 500), nil, 201, ""},
		{"too much", "a/y", strings.Repeat("2", 800), nil, 413, "the images of a have reached their limit of 1200 bytes"},
		{"another owner", "b/x", strings.Repeat("2", 600), nil, 201, ""},
		{"too much for all", "a/x", strings.Repeat("3", 550), nil, 413, "the registry is full"},
		{"a full disk", "c/x", "3", errors.New("only little is left"), 507, "make room there"},
		{"room again", "c/x", "3", nil, 201, ""},
	} {
		full = step.full
		if status, body := put(step.repository, step.text); status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s: %d %s; want %d with %q", step.what, status, body, step.status, step.want)
		}
	}
	want := map[string]int64{"a": 500, "b": 600, "c": 1}
	if !maps.Equal(r.blobs.shares.bytes, want) {
		t.Errorf("the shares are %v, want %v", r.blobs.shares.bytes, want)
	}
	if _, err := r.Collect(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if len(r.blobs.shares.bytes)+len(r.blobs.shares.whose) != 0 {
		t.Errorf("nothing is left, and it counts %v of %v", r.blobs.shares.bytes, r.blobs.shares.whose)
	}
}

// TestSharesSurviveARestart: what has a manifest counts for whose it is.
func TestSharesSurviveARestart(t *testing.T) {
	options := Options{Dir: t.TempDir()}
	r, address := serve(t, options)
	if err := crane.Push(randomImage(t, 1000), address+"/a/x:1"); err != nil {
		t.Fatal(err)
	}
	before := maps.Clone(r.blobs.shares.bytes)
	r, _ = serve(t, options)
	if len(before) != 1 || !maps.Equal(r.blobs.shares.bytes, before) {
		t.Errorf("before: %v, after: %v", before, r.blobs.shares.bytes)
	}
}

// TestReadersDoNotKeepBlobs: who only reads does not make a blob young, who may push a manifest with it does.
func TestReadersDoNotKeepBlobs(t *testing.T) {
	r, address := serve(t, Options{Dir: t.TempDir(), Authorize: func(_ context.Context, user, _, _ string, push bool) error {
		if push && user == "reader" {
			return errors.New("only reads")
		}
		return nil
	}})
	const digest = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	ask := func(method, user, path, body string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, "secret")
		response, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, response.Status)
		}
	}
	ask("POST", "writer", "/v2/a/blobs/uploads/?digest="+digest, "x")
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, c := range []struct {
		method, user string
		young        bool
	}{{"HEAD", "reader", false}, {"GET", "reader", false}, {"HEAD", "writer", true}} {
		if err := os.Chtimes(r.blobs.path(h), old, old); err != nil {
			t.Fatal(err)
		}
		ask(c.method, c.user, "/v2/a/blobs/"+digest, "")
		info, err := os.Stat(r.blobs.path(h))
		if err != nil {
			t.Fatal(err)
		}
		if young := time.Since(info.ModTime()) < time.Hour; young != c.young {
			t.Errorf("%s by the %s: young %v, want %v", c.method, c.user, young, c.young)
		}
	}
}
