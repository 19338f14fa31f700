package pod

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// helperProgram is where the program is in the helper's image: not where its volume is mounted.
const helperProgram = "bin/keelson"

// Helper makes the image of the helper, which holds a program and nothing else: this one, from os.Executable, linked statically and for
// Linux. The same program makes the same image. The file has to stay as long as the image is used.
func Helper(program string) (v1.Image, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("the image of the helper needs a keelson for Linux; pull one instead")
	}
	info, err := os.Stat(program)
	if err != nil {
		return nil, fmt.Errorf("image of the helper: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeLayer(w, program, info.Size())) }()
		return r, nil
	}, tarball.WithCompressedCaching, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, fmt.Errorf("image of the helper: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("image of the helper: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image of the helper: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/" + helperProgram}
	return mutate.ConfigFile(image, config)
}

// PushHelper sees to it that the image of a program is in a repository ("127.0.0.1:5000/keelson/agent"), and gives its tag there, which is
// made of the program's content: an image that is there is not made again.
func PushHelper(ctx context.Context, repository, program string, options ...remote.Option) (tag string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("image of the helper: %w", err) }
	f, err := os.Open(program)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return fail(err)
	}
	ref, err := name.NewTag(repository + ":" + hex.EncodeToString(hash.Sum(nil))[:tagLength])
	if err != nil {
		return fail(err)
	}
	options = append(options, remote.WithContext(ctx))
	if _, err := remote.Head(ref, options...); err == nil {
		return ref.TagStr(), nil
	}
	image, err := Helper(program)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, image, options...); err != nil {
		return fail(err)
	}
	return ref.TagStr(), nil
}

// tagLength is how much of a program's hash its image is called by.
const tagLength = 20

func writeLayer(w io.Writer, program string, size int64) error {
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: helperProgram, Mode: 0o755, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.Copy(archive, f); err != nil {
		return err
	}
	return archive.Close()
}
