package ci

import (
	"fmt"
	"slices"
	"testing"
)

// Who asks is told of each pipeline that is over, also of one that could not be made; a child's end is its parent's.
func TestEnded(t *testing.T) {
	w := newWorld(t, "shop")
	dir := w.clone("shop")
	ends := func(want ...string) {
		t.Helper()
		got := func() (out []string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, e := range w.ended {
				out = append(out, fmt.Sprintf("%s #%d %s %s %v", e.Project, e.Pipeline.IID, e.Pipeline.Ref, e.Pipeline.Status, e.Failed))
			}
			return out
		}
		w.until("the ends that are told", func() bool { return len(got()) >= len(want) })
		if !slices.Equal(got(), want) {
			t.Errorf("told %q, want %q", got(), want)
		}
	}
	w.commit(dir, "Good", map[string]string{".gitlab-ci.yml": "build: {script: [echo]}\nmay: {script: [exit 1], allow_failure: true}\n"})
	first := "group/shop #1 main success []"
	w.push(dir, 1)
	ends(first)
	w.commit(dir, "Bad", map[string]string{".gitlab-ci.yml": "build: {script: [exit 1]}\nmay: {script: [exit 1], allow_failure: true}\n"})
	second := "group/shop #2 main failed [build]"
	w.push(dir, 1)
	ends(first, second)
	w.commit(dir, "Waits", map[string]string{".gitlab-ci.yml": "go: {script: [echo], when: manual, allow_failure: false}\n"})
	w.wants(w.push(dir, 1)[0], "push main manual: go/1=manual")
	w.commit(dir, "Broken", map[string]string{".gitlab-ci.yml": "build: {script: 1, nonsense: [}\n"})
	w.push(dir, 1)
	ends(first, second, "group/shop #4 main failed []") // one that waits for a person is not over
}
