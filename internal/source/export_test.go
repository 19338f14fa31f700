package source

import "testing"

// LimitVisited sets how many files and folders are looked at, for one test.
func LimitVisited(t *testing.T, n int) {
	was := maxVisited
	maxVisited = n
	t.Cleanup(func() { maxVisited = was })
}
