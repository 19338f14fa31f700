package store

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// OpenKey reads the key in a file, or makes the file with a new key. Only its owner may read it. It belongs beside the database
// and into every backup of it: what is sealed in the database cannot be read without it.
func OpenKey(file string) ([]byte, error) {
	key, err := readKey(file)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("store: make a key: %w", err)
	}
	if err := makeKey(file); err != nil && !errors.Is(err, os.ErrExist) { // another process has been faster
		return nil, fmt.Errorf("store: make a key: %w", err)
	}
	return readKey(file)
}

// makeKey writes a new key aside and links it to its place, so that a file that is there is whole and never replaced.
func makeKey(file string) error {
	key := make([]byte, KeySize)
	rand.Read(key)                                       // never fails
	f, err := os.CreateTemp(filepath.Dir(file), ".key-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}

func readKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("store: read the key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("store: read the key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("store: the key in %s can be read by others (mode %04o): chmod 600 %[1]s", file, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4*KeySize))
	if err != nil {
		return nil, fmt.Errorf("store: read the key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("store: %s is no key: it should have %d bytes in base64; put back the file from a backup", file, KeySize)
	}
	return key, nil
}

// sealer encrypts columns with AES-256-GCM and a random nonce. Where a value stands is authenticated with it: one that was put
// into another row or column is refused.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	if len(key) != KeySize {
		return sealer{}, fmt.Errorf("the key has %d bytes instead of %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

// place is where a sealed value stands: a column, and the numbers of its row.
func place(column string, row ...int64) []byte {
	at := []byte(column)
	for _, n := range row {
		at = strconv.AppendInt(append(at, '/'), n, 10)
	}
	return at
}

// What the first byte of a sealed value says about the rest.
const (
	sealedPlain   = 1 // sealed as it was
	sealedDeflate = 2 // deflated before: graphs become a tenth
)

// deflateFrom is the size from which deflating pays, and openedMax what may come out of it.
const (
	deflateFrom = 1 << 10
	openedMax   = 2 * blobMax
)

// deflaters are kept, as each has buffers of a megabyte.
var deflaters = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // this level exists
	return w
}}

// seal gives nil for nil.
func (s sealer) seal(at, value []byte) []byte {
	if value == nil {
		return nil
	}
	form := byte(sealedPlain)
	if len(value) >= deflateFrom {
		var b bytes.Buffer
		w := deflaters.Get().(*flate.Writer)
		w.Reset(&b)
		_, _ = w.Write(value) // a buffer takes everything
		_ = w.Close()
		deflaters.Put(w)
		if b.Len() < len(value) {
			form, value = sealedDeflate, b.Bytes()
		}
	}
	out := make([]byte, 1, 1+len(value)+s.aead.Overhead())
	out[0] = form
	return s.aead.Seal(out, nil, value, append(at, form))
}

func (s sealer) open(at, sealed []byte) ([]byte, error) {
	if sealed == nil {
		return nil, nil
	}
	if len(sealed) == 0 {
		return nil, fmt.Errorf("open %s: %w: it is empty", at, ErrCorrupt)
	}
	form := sealed[0]
	value, err := s.aead.Open([]byte{}, nil, sealed[1:], append(at, form))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w, or the value was changed", at, ErrWrongKey)
	}
	switch form {
	case sealedPlain:
		return value, nil
	case sealedDeflate:
		value, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value)), openedMax))
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", at, err)
		}
		return value, nil
	}
	return nil, fmt.Errorf("open %s: %w: it is sealed in the way %d", at, ErrTooNew, form)
}
