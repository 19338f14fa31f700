package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// What a hash costs: what OWASP advises for Argon2id. Stored hashes say their own cost, so these may change.
const (
	hashMemory, hashTime, hashThreads = 19 << 10, 2, 1 // KiB, passes, threads
	saltSize, keySize                 = 16, 32         // bytes
	maxHashMemory, maxHashTime        = 256 << 10, 16  // of a stored hash that is believed
)

// The lengths of a password, the least in characters, the most in bytes.
const minPassword, maxPassword = 8, 1024

// checkPassword says what is wrong with a new password.
func checkPassword(password string) error {
	switch {
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8")
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("the password has fewer than %d characters", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("the password has more than %d bytes", maxPassword)
	}
	return nil
}

// hasher bounds how many hashes are computed at a time: each takes memory.
type hasher chan struct{}

func newHasher() hasher { return make(hasher, 2) }

func (h hasher) take(ctx context.Context) error {
	select {
	case h <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash makes the hash of a password, in the usual form: $argon2id$v=19$m=…,t=…,p=…$salt$key.
func (h hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.take(ctx); err != nil {
		return "", err
	}
	defer func() { <-h }()
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, hashTime, hashMemory, hashThreads, keySize)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashTime, hashThreads, b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// same tells whether a password is that of a hash. It takes as long for a hash that is none: who is no user looks like who is one.
func (h hasher) same(ctx context.Context, stored, password string) (bool, error) {
	p, ok := parseHash(stored)
	if !ok {
		p = hashed{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, saltSize), key: make([]byte, keySize)}
	}
	if err := h.take(ctx); err != nil {
		return false, err
	}
	defer func() { <-h }()
	key := argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1 && ok, nil
}

type hashed struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func parseHash(text string) (hashed, bool) {
	var h hashed
	var version int
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return h, false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return h, false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil {
		return h, false
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	sane := h.memory >= 8 && h.memory <= maxHashMemory && h.time >= 1 && h.time <= maxHashTime && h.threads >= 1 &&
		len(h.salt) >= 8 && len(h.salt) <= 64 && len(h.key) >= 16 && len(h.key) <= 64
	return h, err1 == nil && err2 == nil && sane
}
