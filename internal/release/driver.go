package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	releasei "helm.sh/helm/v4/pkg/release"
	releasecommon "helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"keelson.dev/keelson/internal/delivery"
)

// The Secrets are as Helm writes them (helm.sh/helm/v4/pkg/storage/driver): one of type helm.sh/release.v1 for each version, whose
// key "release" is the base64 of the gzip of the release as JSON, with labels by which they are found.
const (
	secretType = "helm.sh/release.v1"
	secretKey  = "release"
	// writeLimit bounds one exchange with the storage: what has happened is written even where the action was called off.
	writeLimit = 30 * time.Second
	// maxRelease bounds a release that is read, in bytes of its JSON.
	maxRelease = 64 << 20
)

// secrets is Helm's storage in one namespace, as one user, for one action. What it reads it keeps, undecoded, for as long as the watch
// tells nothing new of it. It implements [driver.Driver].
type secrets struct {
	ctx       context.Context //nolint:containedctx // Helm's interface has none; it outlives the action's being called off
	namespace string
	client    corev1client.SecretInterface
	records   *records
	writer    string                                   // the field manager that Secrets are written under; empty: Keelson's own
	wrote     func(rel *releasev1.Release, rec record) // after each write
	deleted   func(version int)
	read      map[string]*corev1.Secret
	created   int // the newest version that this action has made; zero: none
	failed    int // a version that has failed, and stays so; zero: none
}

func (s *secrets) Name() string { return driver.SecretsDriverName }

func (s *secrets) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(s.ctx), writeLimit)
}

// Get implements [driver.Queryor].
func (s *secrets) Get(key string) (releasei.Releaser, error) {
	secret, err := s.get(key)
	if err != nil {
		return nil, err
	}
	return decodeSecret(secret)
}

func (s *secrets) get(key string) (*corev1.Secret, error) {
	ctx, cancel := s.limited()
	defer cancel()
	secret, err := s.client.Get(ctx, key, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, driver.ErrReleaseNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", key, err)
	}
	s.keep(secret)
	return secret, nil
}

func (s *secrets) keep(secret *corev1.Secret) {
	if s.read == nil {
		s.read = map[string]*corev1.Secret{}
	}
	s.read[secret.Name] = secret
}

// List implements [driver.Queryor].
func (s *secrets) List(filter func(releasei.Releaser) bool) ([]releasei.Releaser, error) {
	all, err := s.list(labels.Set{"owner": "helm"})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r releasei.Releaser) bool { return !filter(r) }), nil
}

// Query implements [driver.Queryor]. That there is nothing of a name is known without a request.
func (s *secrets) Query(query map[string]string) ([]releasei.Releaser, error) {
	set := labels.Set(query)
	name := query["name"]
	for key := range query {
		if name == "" || (key != "name" && key != "owner" && key != "status") {
			return s.list(set)
		}
	}
	var found []record
	var unread int
	for _, rec := range s.records.of(place{s.namespace, name}) {
		if status := query["status"]; status != "" && status != rec.status {
			continue
		}
		found = append(found, rec)
		if r := s.read[rec.secret]; r == nil || r.ResourceVersion != rec.resourceVersion {
			unread++
		}
	}
	if len(found) == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	if unread > 1 {
		return s.list(set)
	}
	var out []releasei.Releaser
	for _, rec := range found {
		secret := s.read[rec.secret]
		if secret == nil || secret.ResourceVersion != rec.resourceVersion {
			var err error
			if secret, err = s.get(rec.secret); err != nil {
				return nil, err
			}
		}
		rel, err := decodeSecret(secret)
		if err != nil {
			return nil, err
		}
		out = append(out, rel)
	}
	return out, nil
}

func (s *secrets) list(set labels.Set) ([]releasei.Releaser, error) {
	ctx, cancel := s.limited()
	defer cancel()
	list, err := s.client.List(ctx, metav1.ListOptions{LabelSelector: set.String()})
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	out := make([]releasei.Releaser, 0, len(list.Items))
	for i := range list.Items {
		s.keep(&list.Items[i])
		rel, err := decodeSecret(&list.Items[i])
		if err != nil {
			continue // as Helm: one that cannot be read does not stop what is done to the others
		}
		out = append(out, rel)
	}
	return out, nil
}

// Create implements [driver.Creator].
func (s *secrets) Create(key string, r releasei.Releaser) error {
	rel, err := asRelease(r)
	if err != nil {
		return err
	}
	secret, err := s.encode(key, rel, "createdAt")
	if err != nil {
		return err
	}
	ctx, cancel := s.limited()
	defer cancel()
	written, err := s.client.Create(ctx, secret, metav1.CreateOptions{FieldManager: s.writer})
	if apierrors.IsAlreadyExists(err) {
		return driver.ErrReleaseExists
	}
	if err != nil {
		return fmt.Errorf("write release %s: %w", key, err)
	}
	s.created = rel.Version
	s.noteWrite(rel, written)
	return nil
}

// Update implements [driver.Updator].
func (s *secrets) Update(key string, r releasei.Releaser) error {
	rel, err := asRelease(r)
	if err != nil {
		return err
	}
	s.markCalledOff(rel)
	if rel.Version == s.failed && rel.Info.Status == releasecommon.StatusSuperseded {
		rel.Info.Status = releasecommon.StatusFailed
	}
	secret, err := s.encode(key, rel, "modifiedAt")
	if err != nil {
		return err
	}
	ctx, cancel := s.limited()
	defer cancel()
	written, err := s.client.Update(ctx, secret, metav1.UpdateOptions{FieldManager: s.writer})
	if apierrors.IsNotFound(err) {
		return driver.ErrReleaseNotFound
	}
	if err != nil {
		return fmt.Errorf("write release %s: %w", key, err)
	}
	s.noteWrite(rel, written)
	return nil
}

func (s *secrets) noteWrite(rel *releasev1.Release, written *corev1.Secret) {
	s.keep(written)
	s.records.note(&written.ObjectMeta)
	if _, rec, ok := recordOf(written); ok && s.wrote != nil {
		s.wrote(rel, rec)
	}
}

// Delete implements [driver.Deletor].
func (s *secrets) Delete(key string) (releasei.Releaser, error) {
	secret := s.read[key]
	if secret == nil {
		var err error
		if secret, err = s.get(key); err != nil {
			return nil, err
		}
	}
	rel, err := decodeSecret(secret)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.limited()
	defer cancel()
	if err := s.client.Delete(ctx, key, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("delete release %s: %w", key, err)
	}
	delete(s.read, key)
	s.records.forget(place{s.namespace, rel.Name}, key)
	if s.deleted != nil {
		s.deleted(rel.Version)
	}
	return rel, nil
}

// encode makes the Secret of a release; stamp is the label with the time of the write.
func (s *secrets) encode(key string, rel *releasev1.Release, stamp string) (*corev1.Secret, error) {
	plain, err := json.Marshal(rel)
	if err != nil {
		return nil, fmt.Errorf("write release %s: %w", key, err)
	}
	data, err := compress(plain, gzip.DefaultCompression)
	if err == nil && len(data) > corev1.MaxSecretSize {
		data, err = compress(plain, gzip.BestCompression)
	}
	if err != nil {
		return nil, fmt.Errorf("write release %s: %w", key, err)
	}
	if len(data) > corev1.MaxSecretSize {
		return nil, &delivery.Fault{
			Reason: ReasonTooLarge, Where: "Secret/" + s.namespace + "/" + key, Retry: delivery.OnChange,
			Hint: "take files that no template uses out of the chart with .helmignore, or split it: the chart with all its files, the values and the manifest go into the Secret",
			Err: fmt.Errorf("the release takes %d KiB, compressed, and a Secret holds %d KiB: neither the record nor an object of its templates was written",
				len(data)>>10, corev1.MaxSecretSize>>10),
		}
	}
	set := map[string]string{}
	for k, v := range rel.Labels {
		if !slices.Contains(driver.GetSystemLabels(), k) {
			set[k] = v
		}
	}
	maps.Copy(set, map[string]string{
		"name": rel.Name, "owner": "helm", "status": rel.Info.Status.String(), "version": strconv.Itoa(rel.Version),
		stamp: strconv.FormatInt(time.Now().Unix(), 10),
	})
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: key, Namespace: s.namespace, Labels: set},
		Type:       secretType, Data: map[string][]byte{secretKey: data},
	}, nil
}

func compress(plain []byte, level int) ([]byte, error) {
	var buf bytes.Buffer
	encoder := base64.NewEncoder(base64.StdEncoding, &buf)
	w, err := gzip.NewWriterLevel(encoder, level)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err = encoder.Close()
	return buf.Bytes(), err
}

// decodeSecret reads the release in a Secret.
func decodeSecret(secret *corev1.Secret) (*releasev1.Release, error) {
	where := "Secret/" + secret.Namespace + "/" + secret.Name
	data, err := base64.StdEncoding.DecodeString(string(secret.Data[secretKey]))
	if err != nil {
		return nil, fmt.Errorf("%s is no release: %w", where, err)
	}
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b, 0x08}) { // releases of old versions of Helm are not compressed
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s is no release: %w", where, err)
		}
		if data, err = io.ReadAll(io.LimitReader(r, maxRelease+1)); err != nil {
			return nil, fmt.Errorf("%s is no release: %w", where, err)
		}
		if len(data) > maxRelease {
			return nil, fmt.Errorf("%s is no release: it is larger than %d MiB", where, maxRelease>>20)
		}
	}
	var rel releasev1.Release
	if err := json.Unmarshal(data, &rel); err != nil {
		return nil, fmt.Errorf("%s is no release: %w", where, err)
	}
	if rel.Info == nil {
		rel.Info = &releasev1.Info{}
	}
	rel.Labels = map[string]string{}
	for k, v := range secret.Labels {
		if !slices.Contains(driver.GetSystemLabels(), k) {
			rel.Labels[k] = v
		}
	}
	return &rel, nil
}

func asRelease(r releasei.Releaser) (*releasev1.Release, error) {
	switch rel := r.(type) {
	case *releasev1.Release:
		return rel, nil
	case releasev1.Release:
		return &rel, nil
	}
	return nil, fmt.Errorf("a release of type %T cannot be kept", r)
}
