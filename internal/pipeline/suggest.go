package pipeline

import "strings"

// Nearest gives the word that was most likely meant by whoever wrote another one; empty: none is near.
func Nearest(got string, words []string) string {
	if len(got) > 64 {
		return ""
	}
	got = underscored(strings.ToLower(got))
	best, bestDistance := "", max(1, len(got)/3)+1
	for _, w := range words {
		if d := distance(got, underscored(strings.ToLower(w)), bestDistance); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	if best == "" && len(got) >= 3 {
		for _, w := range words {
			if strings.HasPrefix(w, got) || len(w) >= 3 && strings.HasPrefix(got, w) {
				return w
			}
		}
	}
	return best
}

// underscored makes one of the ways to write a word of two.
func underscored(word string) string {
	return strings.ReplaceAll(strings.ReplaceAll(word, "-", "_"), " ", "_")
}

// DidYouMean is a hint at the nearest word; empty: none is near.
func DidYouMean(got string, words []string) string {
	if s := Nearest(got, words); s != "" {
		return "did you mean `" + s + "`?"
	}
	return ""
}

// distance is the number of letters to add, drop, change or swap with their neighbour that makes b of a; limit or more counts as
// limit.
func distance(a, b string, limit int) int {
	if diff := len(a) - len(b); diff >= limit || -diff >= limit {
		return limit
	}
	previous, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], previous[j-2]+1)
			}
			least = min(least, next[j])
		}
		if least >= limit {
			return limit
		}
		previous, row, next = row, next, previous
	}
	return min(row[len(b)], limit)
}
