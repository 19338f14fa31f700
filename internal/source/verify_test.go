package source_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/source"
)

// pgpKey gives a new key and its public half, armored.
func pgpKey(t *testing.T) (*openpgp.Entity, string) {
	t.Helper()
	e, err := openpgp.NewEntity("a", "", "a@b", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = e.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return e, b.String()
}

func pgpSign(t *testing.T, e *openpgp.Entity, payload string) string {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, e, strings.NewReader(payload), nil); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

// sshKey makes a key with ssh-keygen and gives its file and its public half.
func sshKey(t *testing.T) (string, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(name + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return name, string(public)
}

// object writes an object as it is.
func (w *world) object(name, kind, content string) string {
	w.t.Helper()
	cmd := exec.Command("git", "hash-object", "-w", "-t", kind, "--stdin")
	cmd.Dir, cmd.Stdin, cmd.Stderr = w.host.Dir(name), strings.NewReader(content), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// raw gives the bytes of an object.
func (w *world) raw(name, id string) string {
	w.t.Helper()
	cmd := exec.Command("git", "cat-file", "commit", id)
	cmd.Dir = w.host.Dir(name)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return string(out)
}

// withSignature puts a signature into a commit as git does.
func withSignature(commit, signature string) string {
	head, message, _ := strings.Cut(commit, "\n\n")
	return head + "\ngpgsig " + strings.ReplaceAll(strings.TrimSuffix(signature, "\n"), "\n", "\n ") + "\n\n" + message
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	key, ring := pgpKey(t)
	_, foreignRing := pgpKey(t)
	sshFile, sshPublic := sshKey(t)
	_, foreignSSH := sshKey(t)

	plain := w.commit("r", fstest.MapFS{"a.txt": file("plain")})
	body := w.raw("r", plain)
	byPGP := w.object("r", "commit", withSignature(body, pgpSign(t, key, body)))
	tampered := w.object("r", "commit", strings.Replace(withSignature(body, pgpSign(t, key, body)), "change", "chance", 1))
	withSSH := []string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + sshFile}
	bySSH := w.git("r", append(withSSH, "commit-tree", "-S", "-m", "by ssh", plain+"^{tree}")...)
	tag := "object " + plain + "\ntype commit\ntag v1.0.0\ntagger a <a@b> 1700000000 +0000\n\nrelease\n"
	signedTag := w.object("r", "tag", tag+pgpSign(t, key, tag))
	for ref, id := range map[string]string{
		"heads/pgp": byPGP, "heads/ssh": bySSH, "heads/tampered": tampered, "heads/plain": plain,
		"tags/v1.0.0": signedTag, "tags/v9.0.0": signedTag, "tags/light": byPGP, "tags/v2.0.0": "",
	} {
		if id == "" {
			w.git("r", append(withSSH, "tag", "-s", "-m", "both", "v2.0.0", bySSH)...)
			continue
		}
		w.git("r", "update-ref", "refs/"+ref, id)
	}
	branch := func(name string) delivery.GitRef { return delivery.GitRef{Branch: name} }
	tagged := func(name string) delivery.GitRef { return delivery.GitRef{Tag: name} }
	pgp, both := []string{foreignRing, ring}, []string{"# authors\n" + foreignSSH + sshPublic}
	tests := map[string]struct {
		ref    delivery.GitRef
		verify delivery.Verification
		reason string // empty: it is verified
		says   string
	}{
		"pgp":                  {branch("pgp"), delivery.Verification{Head: true, PGP: pgp}, "", "commit '" + byPGP + "' with key '" + key.PrimaryKey.KeyIdString() + "'"},
		"ssh":                  {branch("ssh"), delivery.Verification{Head: true, SSH: both}, "", "commit '" + bySSH + "' with key 'SHA256:"},
		"by id":                {delivery.GitRef{Commit: byPGP}, delivery.Verification{Head: true, PGP: pgp}, "", byPGP},
		"not signed":           {branch("plain"), delivery.Verification{Head: true, PGP: pgp, SSH: both}, source.ReasonVerifyCommit, "it is not signed"},
		"tampered":             {branch("tampered"), delivery.Verification{Head: true, PGP: pgp}, source.ReasonVerifyCommit, "no trusted PGP key"},
		"foreign pgp":          {branch("pgp"), delivery.Verification{Head: true, PGP: []string{foreignRing}}, source.ReasonVerifyCommit, "no trusted PGP key"},
		"foreign ssh":          {branch("ssh"), delivery.Verification{Head: true, SSH: []string{foreignSSH}}, source.ReasonVerifyCommit, "no trusted SSH key"},
		"key of another kind":  {branch("ssh"), delivery.Verification{Head: true, PGP: pgp}, source.ReasonVerifyCommit, "no SSH key is trusted"},
		"no keys":              {branch("pgp"), delivery.Verification{Head: true}, source.ReasonVerifyCommit, "no PGP key is trusted"},
		"broken keys":          {branch("pgp"), delivery.Verification{Head: true, PGP: []string{"nonsense"}}, source.ReasonVerifyCommit, "cannot be read"},
		"tag":                  {tagged("v1.0.0"), delivery.Verification{Tag: true, PGP: pgp}, "", "tag 'v1.0.0@" + signedTag + "' with key"},
		"tag by range":         {delivery.GitRef{SemVer: "1.x"}, delivery.Verification{Tag: true, PGP: pgp}, "", "tag 'v1.0.0@"},
		"tag by name":          {delivery.GitRef{Name: "refs/tags/v1.0.0"}, delivery.Verification{Tag: true, PGP: pgp}, "", "tag 'v1.0.0@"},
		"tag, not its commit":  {tagged("v1.0.0"), delivery.Verification{Tag: true, Head: true, PGP: pgp}, source.ReasonVerifyCommit, "it is not signed"},
		"tag and commit":       {tagged("v2.0.0"), delivery.Verification{Tag: true, Head: true, SSH: both}, "", "tag 'v2.0.0@"},
		"under another name":   {tagged("v9.0.0"), delivery.Verification{Tag: true, PGP: pgp}, source.ReasonVerifyTag, "was signed as 'v1.0.0'"},
		"lightweight tag":      {tagged("light"), delivery.Verification{Tag: true, PGP: pgp}, source.ReasonVerifyObject, "not signed"},
		"tag of a branch":      {branch("pgp"), delivery.Verification{Tag: true, PGP: pgp}, source.ReasonVerifyMode, "tag reference is not specified"},
		"tag with foreign key": {tagged("v1.0.0"), delivery.Verification{Tag: true, PGP: []string{foreignRing}}, source.ReasonVerifyTag, "no trusted PGP key"},
	}
	for how, f := range w.both() {
		for name, tt := range tests {
			src := w.source("r")
			src.Ref, src.Verify = tt.ref, tt.verify
			rev, err := f.Resolve(t.Context(), src)
			if err != nil {
				t.Fatal(err)
			}
			snap, err := f.Fetch(t.Context(), src, rev)
			if tt.reason == "" {
				if err != nil || !strings.Contains(snap.Verified, tt.says) {
					t.Errorf("%s, %s: %q, %v", how, name, snap.Verified, err)
				}
				continue
			}
			var fault *delivery.Fault
			if !errors.As(err, &fault) || fault.Reason != tt.reason || !strings.Contains(err.Error(), tt.says) || snap.FS != nil {
				t.Errorf("%s, %s: %v, want %s: %s", how, name, err, tt.reason, tt.says)
			}
		}
	}
}

// A tag that is signed after it was fetched is looked at again, and a commit that is here already is verified like a new one.
func TestVerifyLater(t *testing.T) {
	w := newWorld(t)
	key, ring := pgpKey(t)
	id := w.commit("r", fstest.MapFS{"a.txt": file("x")})
	w.git("r", "tag", "v1.0.0", id)
	src := w.source("r")
	src.Ref = delivery.GitRef{Tag: "v1.0.0"}
	if b, err := fs.ReadFile(snapshotOf(t, w.remote, src).FS, "a.txt"); err != nil || string(b) != "x" {
		t.Fatal(err)
	}
	src.Verify = delivery.Verification{Tag: true, PGP: []string{ring}}
	rev := delivery.Revision{Name: "v1.0.0", Commit: id}
	if _, err := w.remote.Fetch(t.Context(), src, rev); err == nil {
		t.Fatal("a commit without a signature was handed out")
	}
	tag := "object " + id + "\ntype commit\ntag v1.0.0\ntagger a <a@b> 1700000000 +0000\n\nrelease\n"
	w.git("r", "update-ref", "refs/tags/v1.0.0", w.object("r", "tag", tag+pgpSign(t, key, tag)))
	if _, err := w.remote.Fetch(t.Context(), src, rev); err != nil {
		t.Errorf("signed by now: %v", err)
	}
	w.server.Close() // what was verified once can be verified without the remote
	if _, err := w.remote.Fetch(t.Context(), src, rev); err != nil {
		t.Errorf("without the remote: %v", err)
	}
}
