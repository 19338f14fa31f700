package release

import "testing"

// What post-renderers and common metadata make of a chart is released once, though no status has it yet.
func TestDressedOnce(t *testing.T) {
	w := newWorld(t)
	r := w.release("web", files("1.0.0", simple()))
	r.app.Release.PostRenderersDigest, r.app.Release.CommonMetadataDigest = "sha256:p", "sha256:m"
	r.settle()
	r.went("Absent: install", "InSync: none")
	r.app.Generation++
	r.app.Release.CommonMetadataDigest = "sha256:n"
	r.settle()
	r.went("OutOfSync: upgrade", "InSync: none")
}
