package dialect_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/dialect"
)

// A first sync of as many objects as a status can list is recorded ahead of making them, whatever they are called.
func TestLargeArgoIntent(t *testing.T) {
	a := readApplication(t, guestbook)
	a.Status.OperationState = dialect.ArgoBegun(a, delivery.Operation{Phase: delivery.OperationRunning, Started: noon})
	all := delivery.Inventory{}
	for i := range 5000 {
		hash := sha256.Sum256([]byte{byte(i >> 8), byte(i)})
		all[delivery.Ref{Kind: "ConfigMap", Namespace: "a-rather-long-namespace", Name: fmt.Sprintf("a-rather-long-name-%x", hash[:5])}] = "v1"
	}
	if !dialect.ArgoFits(all) {
		t.Fatal("the status cannot list them")
	}
	text, fits := dialect.ArgoIntent(a, all)
	if !fits {
		t.Fatalf("%d objects do not fit into an annotation", len(all))
	}
	a.Annotations = map[string]string{dialect.IntentAnnotation: text}
	if got := dialect.ArgoInventory(a); !got.Equal(all) {
		t.Errorf("%d of %d objects are read back", len(got), len(all))
	}
	a.Annotations["kubectl.kubernetes.io/last-applied-configuration"] = strings.Repeat("x", 230<<10)
	if _, fits := dialect.ArgoIntent(a, all); fits {
		t.Error("all annotations together have no room for it")
	}
}

// An intent that is no intent is none, however large it becomes.
func TestBrokenArgoIntent(t *testing.T) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	fmt.Fprint(w, `{"base": "`+strings.Repeat(" ", 8<<20)+`"}`)
	w.Close()
	for _, text := range []string{"gzip:", "gzip:???", "gzip:AAAA", "gzip:" + base64.StdEncoding.EncodeToString(bomb.Bytes())} {
		a := readApplication(t, guestbook)
		a.Annotations = map[string]string{dialect.IntentAnnotation: text}
		if got := dialect.ArgoInventory(a); len(got) != 0 {
			t.Errorf("%.20s: %v", text, got)
		}
	}
}
