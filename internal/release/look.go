package release

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// StorageLabels select the Secrets in which releases are kept.
var StorageLabels = map[string]string{"owner": "helm"}

// Entry is what the metadata of a Secret tells of a version of a release.
type Entry struct {
	Name    string // of the release
	Version int
	Status  string // Helm's
	Writer  string // the field manager that wrote last
	Maker   string // the field manager that made it; later versions only change its status
}

// EntryOf reads the metadata of a Secret; false: it is no release's.
func EntryOf(m metav1.Object) (Entry, bool) {
	at, rec, ok := recordOf(m)
	return Entry{Name: at.name, Version: rec.version, Status: rec.status, Writer: rec.writer, Maker: makerOf(m)}, ok
}

// makerOf finds who made a Secret: nobody can change its type later, so that stays the field of its maker. Empty: it is not known.
func makerOf(m metav1.Object) string { return ownerOf(m, "f:type") }

// ownerOf finds the field manager that has given a field its value: of several, who wrote last. Empty: it is not known.
func ownerOf(m metav1.Object, path ...string) (owner string) {
	var last time.Time
	for _, f := range m.GetManagedFields() {
		var fields map[string]any
		if f.FieldsV1 == nil || json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, ok, _ := unstructured.NestedFieldNoCopy(fields, path...); ok && f.Time != nil && !f.Time.Time.Before(last) {
			last, owner = f.Time.Time, f.Manager
		}
	}
	return owner
}

// Stored reads the version of a release that a Secret keeps, and the values that it was made with, those of Secrets among them.
func Stored(secret *corev1.Secret) (delivery.StoredRelease, map[string]any, error) {
	rel, err := decodeSecret(secret)
	if err != nil {
		return delivery.StoredRelease{}, nil, err
	}
	return storedOf(rel, ""), rel.Config, nil
}
