package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/git"
)

// Reasons of faults about signatures, as Flux's source-controller sets them.
const (
	ReasonVerifyMode   = "InvalidVerificationMode"
	ReasonVerifyObject = "InvalidGitObject"
	ReasonVerifyTag    = "InvalidTagSignature"
	ReasonVerifyCommit = "InvalidCommitSignature"
)

// maxSignature bounds an armored signature in bytes.
const maxSignature = 1 << 20

// signatureFault says that a commit is not handed out, and why.
func signatureFault(t target, reason, hint string, format string, args ...any) error {
	return &delivery.Fault{Reason: reason, Where: t.url, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// verify checks the signatures that the source wants, and tells whose they are, in upstream's words.
func (f *Fetcher) verify(ctx context.Context, t target, r *repository, src delivery.Source, rev delivery.Revision) (string, error) {
	if !src.Verify.Wanted() {
		return "", nil
	}
	said := "verified signature of"
	if src.Verify.Tag {
		who, err := verifyTag(t, r, src, rev)
		if err != nil && t.local == "" && tagRef(src.Ref, rev) != "" {
			// The tag here may be an older one: it can be signed anew, and another one can name the same commit.
			if err := f.refreshTag(ctx, t, r, src, rev); err != nil {
				return "", fault(t, "fetch tag "+rev.Name, "", err)
			}
			who, err = verifyTag(t, r, src, rev)
		}
		if err != nil {
			return "", err
		}
		said += "\n\t- " + who
	}
	if src.Verify.Head {
		commit, err := r.repo.SignedCommit(rev.Commit)
		if err == nil {
			var who string
			if who, err = signer(src.Verify, commit); err == nil {
				return said + fmt.Sprintf("\n\t- commit '%s' with key '%s'", rev.Commit, who), nil
			}
		}
		return "", signatureFault(t, ReasonVerifyCommit, "sign the commit with a key in the Secret that spec.verify.secretRef names; nothing else is applied until then",
			"signature verification of commit '%s' failed: %w", rev.Commit, err)
	}
	return said, nil
}

// tagHere is the ref in a repository of ours that holds the tag which names a source's commit.
func tagHere(t target, src delivery.Source, rev delivery.Revision) string {
	if t.local != "" {
		return tagRef(src.Ref, rev)
	}
	return ownRef(src) + "-tag"
}

func verifyTag(t target, r *repository, src delivery.Source, rev delivery.Revision) (string, error) {
	ref := tagRef(src.Ref, rev)
	if ref == "" {
		return "", &delivery.Fault{Reason: ReasonVerifyMode, Where: t.url, Retry: delivery.OnChange,
			Err: errors.New("cannot verify tag object's signature if a tag reference is not specified"), Hint: "set spec.ref.tag or spec.ref.semver, or spec.verify.mode HEAD"}
	}
	name := strings.TrimPrefix(ref, tagPrefix)
	here := tagHere(t, src, rev)
	at, err := r.repo.Resolve(here)
	if err == nil && at != rev.Commit {
		err = fmt.Errorf("it names %s now", at)
	}
	var tag git.Signed
	if err == nil {
		tag, err = r.repo.SignedTag(here)
	}
	switch {
	case err != nil:
		return "", signatureFault(t, ReasonVerifyObject, "", "read tag '%s': %w", name, err)
	case tag.Signature == "":
		return "", signatureFault(t, ReasonVerifyObject, "sign the tag: git tag -s", "cannot verify signature of tag '%s' since it is not signed", name)
	case tag.Tag != name:
		return "", signatureFault(t, ReasonVerifyTag, "a signed tag counts under its own name only", "the tag '%s' was signed as '%s'", name, tag.Tag)
	}
	who, err := signer(src.Verify, tag)
	if err != nil {
		return "", signatureFault(t, ReasonVerifyTag, "sign the tag with a key in the Secret that spec.verify.secretRef names",
			"signature verification of tag '%s@%s' failed: %w", name, tag.ID, err)
	}
	return fmt.Sprintf("tag '%s@%s' with key '%s'", name, tag.ID, who), nil
}

// signer gives the trusted key that signed an object: a PGP key's id, or an SSH key's fingerprint.
func signer(v delivery.Verification, s git.Signed) (string, error) {
	signature := strings.TrimSpace(s.Signature)
	switch {
	case signature == "":
		return "", errors.New("it is not signed")
	case len(signature) > maxSignature:
		return "", fmt.Errorf("its signature is longer than %d bytes", maxSignature)
	case strings.HasPrefix(signature, "-----BEGIN PGP SIGNATURE-----"):
		return pgpSigner(v.PGP, signature, s.Payload)
	case strings.HasPrefix(signature, "-----BEGIN SSH SIGNATURE-----"):
		return sshSigner(v.SSH, signature, s.Payload)
	}
	return "", errors.New("its signature is neither of PGP nor of SSH")
}

func pgpSigner(rings []string, signature string, payload []byte) (string, error) {
	if len(rings) == 0 {
		return "", errors.New("it is signed with PGP, and no PGP key is trusted")
	}
	var bad error
	for _, ring := range rings {
		keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(ring))
		if err != nil {
			bad = fmt.Errorf("a trusted PGP key ring cannot be read: %w", err)
			continue
		}
		entity, err := openpgp.CheckArmoredDetachedSignature(keys, bytes.NewReader(payload), strings.NewReader(signature), nil)
		if err == nil {
			return entity.PrimaryKey.KeyIdString(), nil
		}
	}
	if bad != nil {
		return "", bad
	}
	return "", errors.New("no trusted PGP key made its signature")
}

// namespace of the signatures that git makes with SSH keys.
const namespace = "git"

func sshSigner(trusted []string, signature string, payload []byte) (string, error) {
	if len(trusted) == 0 {
		return "", errors.New("it is signed with an SSH key, and no SSH key is trusted")
	}
	sig, err := sshsig.Unarmor([]byte(signature))
	if err != nil {
		return "", fmt.Errorf("its signature cannot be read: %w", err)
	}
	var bad error
	for _, lines := range trusted {
		for rest := []byte(lines); len(bytes.TrimSpace(rest)) > 0; {
			var key ssh.PublicKey
			if key, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
				bad = errors.New("the trusted SSH keys cannot be read: they are lines as of authorized_keys")
				break
			}
			if sshsig.Verify(bytes.NewReader(payload), sig, key, sig.HashAlgorithm, namespace) == nil {
				return ssh.FingerprintSHA256(key), nil
			}
		}
	}
	if bad != nil {
		return "", bad
	}
	return "", errors.New("no trusted SSH key made its signature")
}

// fetchTag brings the tag that names a source's commit into its mirror. The caller holds the mirror's lock.
func fetchTag(ctx context.Context, repo *git.Repository, t target, src delivery.Source, rev delivery.Revision) error {
	return repo.Fetch(ctx, t.remote(), git.FetchOptions{Refspecs: []string{"+" + tagRef(src.Ref, rev) + ":" + tagHere(t, src, rev)}, Depth: 1})
}

func (f *Fetcher) refreshTag(ctx context.Context, t target, r *repository, src delivery.Source, rev delivery.Revision) error {
	own := f.entry(r.dir)
	if err := own.acquire(ctx); err != nil {
		return err
	}
	defer own.release()
	return fetchTag(ctx, r.repo, t, src, rev)
}
