package show

import "strings"

// Nearest picks the name that somebody meant who wrote another one; empty: none is near.
func Nearest(name string, names []string) string {
	best, least := "", min(3, len(name)/2)+1
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return n
		}
		if d := edits(strings.ToLower(name), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	if best == "" && len(name) > 2 {
		for _, n := range names {
			if strings.HasPrefix(n, name) {
				return n
			}
		}
	}
	return best
}

// edits counts the letters to change, add or leave out; names are short.
func edits(a, b string) int {
	const longest = 255
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
