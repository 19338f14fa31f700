package source

import (
	"context"
	"errors"
	"net/url"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// at is a repository further down in a registry.
func (t target) at(name string) target {
	t.url += "/" + name
	return t
}

func (f *Fetcher) resolveArtifact(ctx context.Context, src delivery.Source) (delivery.Revision, error) {
	return delivery.Revision{}, errors.New("oci")
}

func (f *Fetcher) resolveOCI(ctx context.Context, t target, timeout time.Duration, want string) (delivery.Revision, error) {
	return delivery.Revision{}, errors.New("oci")
}

func (f *Fetcher) pull(ctx context.Context, t target, dir, digest string, chart bool) (*git.Tree, string, error) {
	return nil, "", errors.New("oci")
}

func (f *Fetcher) pullFrom(ctx context.Context, t target, u *url.URL) ([]byte, error) {
	return nil, errors.New("oci")
}
