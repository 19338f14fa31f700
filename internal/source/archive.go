package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// What an archive may have: a few bytes can be made to unpack to anything.
const (
	maxArchive      = 64 << 20  // bytes, packed
	maxUnpacked     = 128 << 20 // bytes of all files
	maxArchiveFiles = 20_000
)

// errArchive: an archive cannot be used.
var errArchive = errors.New("the archive cannot be used")

// Packaged gives the files of a packaged chart.
func Packaged(archive []byte) (delivery.Snapshot, error) {
	if len(archive) > maxArchive {
		return delivery.Snapshot{}, fmt.Errorf("%w: it is larger than %d MiB", errArchive, maxArchive>>20)
	}
	tree, err := unpack(archive, true)
	if err != nil {
		return delivery.Snapshot{}, err
	}
	return delivery.Snapshot{FS: tree, Digest: tree.ID().String()}, nil
}

// unpack reads a tar archive, compressed by gzip or not, as a tree. A chart's files are all in one folder, which is its root.
// Nothing is written. What leads out of the archive, a link and what is too large are errors that wrap errArchive.
func unpack(archive []byte, chart bool) (*git.Tree, error) {
	var in io.Reader = bytes.NewReader(archive)
	if bytes.HasPrefix(archive, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errArchive, err)
		}
		in = z
	}
	// A tar archive is padded, and its headers take space too.
	r := tar.NewReader(bufio.NewReader(io.LimitReader(in, maxUnpacked+maxArchiveFiles*2048)))
	files := map[string]git.File{}
	var size int64
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errArchive, err)
		}
		name, err := archiveName(h, chart)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		if len(files) >= maxArchiveFiles {
			return nil, fmt.Errorf("%w: it has more than %d files", errArchive, maxArchiveFiles)
		}
		if size += h.Size; h.Size > git.DefaultMaxFileSize || size > maxUnpacked {
			return nil, fmt.Errorf("%w: with '%s' it is larger than %d MiB, or the file is larger than %d MiB", errArchive, name, maxUnpacked>>20, git.DefaultMaxFileSize>>20)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errArchive, name, err)
		}
		files[name] = git.File{Data: data, Executable: h.Mode&0o111 != 0}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: it is empty", errArchive)
	}
	tree, err := git.TreeOf(files, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errArchive, err)
	}
	if chart {
		if _, _, err := tree.Identify("Chart.yaml"); err != nil {
			return nil, fmt.Errorf("%w: it has no Chart.yaml", errArchive)
		}
	}
	return tree, nil
}

// archiveName gives the path of a file in an archive; empty: it is none.
func archiveName(h *tar.Header, chart bool) (string, error) {
	name := h.Name
	if chart {
		name = strings.ReplaceAll(name, `\`, "/") // packed on Windows
	}
	shown := name[:min(len(name), 200)]
	if path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%w: the name %q leads out of it", errArchive, shown)
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%w: the name %q leads out of it", errArchive, shown)
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return "", nil
	case tar.TypeReg:
	case tar.TypeSymlink, tar.TypeLink:
		return "", fmt.Errorf("%w: %q is a link, and links are not followed", errArchive, shown)
	default:
		return "", fmt.Errorf("%w: %q is not a file", errArchive, shown)
	}
	if chart {
		_, inner, ok := strings.Cut(clean, "/")
		if !ok {
			return "", fmt.Errorf("%w: %q is not in the chart's folder", errArchive, shown)
		}
		clean = inner
	}
	if !fs.ValidPath(clean) {
		return "", fmt.Errorf("%w: %q is not a valid name", errArchive, shown)
	}
	return clean, nil
}
