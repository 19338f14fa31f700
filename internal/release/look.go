package release

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
}

// EntryOf reads the metadata of a Secret; false: it is no release's.
func EntryOf(m metav1.Object) (Entry, bool) {
	at, rec, ok := recordOf(m)
	return Entry{Name: at.name, Version: rec.version, Status: rec.status, Writer: rec.writer}, ok
}

// Stored reads the version of a release that a Secret keeps.
func Stored(secret *corev1.Secret) (delivery.StoredRelease, error) {
	rel, err := decodeSecret(secret)
	if err != nil {
		return delivery.StoredRelease{}, err
	}
	return storedOf(rel, ""), nil
}
