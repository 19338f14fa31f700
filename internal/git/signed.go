package git

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Signed is a commit or an annotated tag, apart from its signature.
type Signed struct {
	ID        string
	Tag       string // what a tag says it is called; of a commit empty
	Signature string // armored; empty: it is not signed
	Payload   []byte // what the signature is about
}

// armors are the first lines of signatures, as git knows them.
var armors = []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----", "-----BEGIN SSH SIGNATURE-----", "-----BEGIN SIGNED MESSAGE-----"}

// SignedCommit reads a commit apart from its signature. An id that the repository does not have fails with [ErrUnknownRef].
func (r *Repository) SignedCommit(id string) (Signed, error) {
	oid, err := ParseObjectID(id)
	if err != nil {
		return Signed{}, fmt.Errorf("%w: %w", ErrUnknownRef, err)
	}
	_, data, err := r.read(commitKind, oid, maxObject)
	if errors.Is(err, errMissing) {
		return Signed{}, fmt.Errorf("%w: commit %s is not in the repository", ErrUnknownRef, id)
	}
	if err != nil {
		return Signed{}, fmt.Errorf("read commit: %w", err)
	}
	s, err := cutSignature(data)
	s.ID = id
	return s, err
}

// cutSignature takes the gpgsig header out of a commit: what is left, byte for byte, is what was signed. The signature
// that the same commit would have in a SHA-256 repository is left out as well (as in git).
func cutSignature(data []byte) (Signed, error) {
	var s Signed
	head, message, found := bytes.Cut(data, []byte("\n\n"))
	in, signatures := "", 0
	for line := range bytes.SplitAfterSeq(head, []byte("\n")) {
		key, value, _ := bytes.Cut(line, []byte(" "))
		switch {
		case bytes.HasPrefix(line, []byte(" ")) && in != "":
			if in == "gpgsig" {
				s.Signature += string(line[1:])
			}
			continue
		case string(key) == "gpgsig":
			in = "gpgsig"
			signatures++
			s.Signature = string(value)
			continue
		case string(key) == "gpgsig-sha256":
			in = "gpgsig-sha256"
			continue
		}
		in = ""
		s.Payload = append(s.Payload, line...)
	}
	if signatures > 1 {
		return Signed{}, errors.New("the commit has several signatures")
	}
	if found {
		s.Payload = append(bytes.TrimSuffix(s.Payload, []byte("\n")), "\n\n"...)
		s.Payload = append(s.Payload, message...)
	}
	return s, nil
}

// SignedTag reads the annotated tag that a ref here names, apart from its signature. A ref that names a commit gives a
// Signed without one.
func (r *Repository) SignedTag(ref string) (Signed, error) {
	id, err := r.ref(ref)
	if err != nil {
		return Signed{}, err
	}
	k, data, err := r.read(anyObject, id, maxObject)
	if err != nil {
		return Signed{}, fmt.Errorf("read tag: %w", err)
	}
	s := Signed{ID: id.String()}
	if k != tagKind {
		return s, nil
	}
	cut := -1
	for at := 0; at < len(data); {
		for _, armor := range armors {
			if bytes.HasPrefix(data[at:], []byte(armor)) {
				cut = at // the last one counts
			}
		}
		next := bytes.IndexByte(data[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	s.Payload = data
	if cut >= 0 {
		s.Payload, s.Signature = data[:cut], string(data[cut:])
	}
	head, _, _ := bytes.Cut(data, []byte("\n\n"))
	for line := range strings.Lines(string(head)) {
		if name, ok := strings.CutPrefix(line, "tag "); ok {
			s.Tag = strings.TrimSuffix(name, "\n")
			break
		}
	}
	return s, nil
}
