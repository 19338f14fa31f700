package realnode

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// pauseProgram is what holds the namespaces of a pod: catatonit, linked
// statically, which also buries the orphans of pods that share processes.
const pauseProgram = "catatonit"

// importPause builds the image of the pods' first container and gives it to containerd.
func importPause(ctx context.Context, spec Spec) error {
	program, err := exec.LookPath(pauseProgram)
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	image, err := pause(text)
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	tag, err := name.NewTag(pauseImage)
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	file := spec.file("pause.tar")
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	out, err := exec.CommandContext(ctx, "ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("import the pause image: %w: %s", err, out)
	}
	return nil
}

// pause is an image of one layer with one program.
func pause(program []byte) (v1.Image, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	if err := archive.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := archive.Write(program); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/pause", "-P"}
	return mutate.ConfigFile(image, config)
}
