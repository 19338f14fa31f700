package run

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// told gives what Lines tells of a log that comes in parts of n bytes.
func told(log string, n int) []string {
	var out []string
	l := NewLines(func(kind Kind, at time.Time, section, text string) {
		switch kind {
		case KindLog:
			out = append(out, text)
		case KindStart:
			out = append(out, fmt.Sprintf("<%s %d %q>", section, at.Unix(), text))
		default:
			out = append(out, fmt.Sprintf("</%s %d>", section, at.Unix()))
		}
	})
	for part := range slices.Chunk([]byte(log), n) {
		l.Write(part)
	}
	l.Flush()
	return out
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		log  string
		want []string
	}{
		{"", nil},
		{"a\nb", []string{"a", "b"}},
		{"a\r\n\nb\n", []string{"a", "", "b"}},
		{"section_start:1700000000:get_sources\r\x1b[0K\x1b[36;1mGetting the sources\x1b[0;m\nx\nsection_end:1700000001:get_sources\r\x1b[0K\n",
			[]string{`<get_sources 1700000000 "Getting the sources">`, "x", "</get_sources 1700000001>"}},
		{"section_start:5:mine[collapsed=true]\r\x1b[0KTitle\n", []string{`<mine 5 "Title">`}},
		{"section_end:5:a\r\x1b[0Ksection_start:6:b\r\x1b[0KNext\n", []string{"</a 5>", `<b 6 "Next">`}},
		{"section_start:6:b\r\x1b[0Ksection_start:7:c\r\x1b[0KInner\n", []string{`<b 6 "">`, `<c 7 "Inner">`}},
		{"before section_end:5:a\r\x1b[0Kafter\n", []string{"before ", "</a 5>", "after"}},
		{"it says section_start:x:y in a text\n", []string{"it says section_start:x:y in a text"}},
		{"\xff\n", []string{"\uFFFD"}},
	} {
		for _, n := range []int{1, 3, 1000} {
			if have := told(c.log, n); !slices.Equal(have, c.want) {
				t.Errorf("%q in parts of %d: have %q, want %q", c.log, n, have, c.want)
			}
		}
	}
}

// TestLongLine holds that a line without an end takes no more memory than a part of it.
func TestLongLine(t *testing.T) {
	lines, bytes := 0, 0
	l := NewLines(func(_ Kind, _ time.Time, _, text string) { lines++; bytes += len(text) })
	part := []byte(strings.Repeat("x", 10_000))
	for range 1000 {
		l.Write(part)
		if cap(l.rest) > 4*maxLine {
			t.Fatalf("it holds %d bytes", cap(l.rest))
		}
	}
	l.Flush()
	if bytes != 10_000_000 || lines != 153 {
		t.Errorf("%d bytes in %d lines", bytes, lines)
	}
}

func FuzzLines(f *testing.F) {
	f.Add("section_start:5:a[x]\r\x1b[0KTitle\nsection_end:6:a\r\x1b[0K", 3)
	f.Fuzz(func(t *testing.T, log string, n int) {
		if n < 1 || n > 1000 {
			n = 1
		}
		if a, b := told(log, n), told(log, len(log)+1); !slices.Equal(a, b) {
			t.Errorf("%q: %q in parts, %q as a whole", log, a, b)
		}
	})
}
