package config

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// setScalar gives a plain scalar its kind and texts as Ruby's Psych 5 reads it and Ruby's to_s writes it. The order of the tests is
// Psych's: YAML 1.1 with deviations, such as 12:30 being seconds (of hours and minutes), 1e3 and 0o17 being texts, and 1,000 a number.
//
// Of a date or a time Psych makes an object, which GitLab does not let in: class is then Date or Time, and the node a text.
func (n *Node) setScalar(raw string) (class string) {
	n.Raw, n.Kind, n.Text = raw, String, raw
	switch {
	case raw == "":
		n.Kind = Null
	case startsAsText(raw) || strings.Contains(raw, "\n"):
		n.setWord(raw)
	case isTime(raw):
		return "Time"
	case isDate(raw):
		return "Date"
	case strings.EqualFold(strings.TrimPrefix(raw, "+"), ".inf"):
		n.setFloat(math.Inf(1))
	case strings.EqualFold(raw, "-.inf"):
		n.setFloat(math.Inf(-1))
	case strings.EqualFold(raw, ".nan"):
		n.setFloat(math.NaN())
	case raw[0] == ':' && len(raw) > 1:
		n.Text = symbol(raw)
	default:
		n.setNumber(raw)
	}
	return ""
}

// setWord knows null, yes and their like.
func (n *Node) setWord(raw string) {
	if len(raw) > 5 {
		return
	}
	switch strings.ToLower(raw) {
	case "~", "null":
		n.Kind, n.Text = Null, ""
	case "yes", "true", "on":
		n.Kind, n.Bool, n.Text = Bool, true, "true"
	case "no", "false", "off":
		n.Kind, n.Text = Bool, "false"
	}
}

func (n *Node) setFloat(f float64) { n.Kind, n.Float, n.Text = Float, f, rubyFloat(f) }

func (n *Node) setSmall(i int64) {
	n.Kind, n.Int, n.Float, n.Text = Int, i, float64(i), strconv.FormatInt(i, 10)
}

func (n *Node) setInt(i *big.Int) {
	n.Kind, n.Text = Int, i.String()
	n.Float, _ = new(big.Float).SetInt(i).Float64()
	switch {
	case i.IsInt64():
		n.Int = i.Int64()
	case i.Sign() < 0:
		n.Int = math.MinInt64
	default:
		n.Int = math.MaxInt64
	}
}

// startsAsText tells what Psych takes for a text, or for one of the words, by its first characters.
func startsAsText(s string) bool {
	r, size := utf8.DecodeRuneInString(s)
	if isTextRune(r) {
		return true
	}
	if r >= '0' && r <= '9' || r == '.' || r == ':' || r == '-' {
		return false
	}
	next, n := utf8.DecodeRuneInString(s[size:])
	return n > 0 && isTextRune(next)
}

func isTextRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("_ \t\n\r\f\v!@#$%^&*(){}<>|/\\~;=", r)
	}
	return unicode.IsLetter(r)
}

func symbol(s string) string {
	if q := s[1]; q == '"' || q == '\'' {
		if end := strings.LastIndexByte(s, q); end > 1 {
			return strings.TrimPrefix(s[2:end], ":")
		}
	}
	return s[1:]
}

// setNumber knows integers, floats and sexagesimal numbers; anything else stays a text.
func (n *Node) setNumber(s string) {
	digits := s
	if s[0] == '+' || s[0] == '-' {
		digits = s[1:]
	}
	if digits == "" || digits[0] != '.' && (digits[0] < '0' || digits[0] > '9') {
		return
	}
	negative := s[0] == '-'
	switch {
	case strings.Contains(digits, ":"):
		n.setSexagesimal(s)
	case strings.Contains(digits, "."):
		if f, ok := parseFloat(digits); ok {
			if negative {
				f = -f
			}
			n.setFloat(f)
		}
	default:
		if len(s) <= 18 && s[0] != '0' && only(s, "0123456789") { // nearly all are so
			i, _ := strconv.ParseInt(s, 10, 64)
			n.setSmall(i)
		} else if i, ok := parseInt(digits); ok {
			if negative {
				i.Neg(i)
			}
			n.setInt(i)
		}
	}
}

// parseFloat takes 1.5, .5, 1., 1_000.5 and 1.5e+3; the exponent needs its sign.
func parseFloat(s string) (float64, bool) {
	whole, rest, _ := strings.Cut(s, ".")
	if whole != "" && (whole[0] < '0' || whole[0] > '9') || !only(whole, "0123456789_,") {
		return 0, false
	}
	fraction, exponent, hasExponent := strings.Cut(strings.ReplaceAll(rest, "E", "e"), "e")
	if !only(fraction, "0123456789") || whole == "" && fraction == "" {
		return 0, false
	}
	if hasExponent && (len(exponent) < 2 || exponent[0] != '+' && exponent[0] != '-' || !only(exponent[1:], "0123456789")) {
		return 0, false
	}
	number := plain(whole) + "." + fraction
	if hasExponent {
		number += "e" + exponent
	}
	f, err := strconv.ParseFloat(number, 64) // out of range is infinite, as in Ruby
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

// parseInt takes 0b, 0x and octal integers with _ and , anywhere, decimal ones with single ones between digits.
func parseInt(s string) (*big.Int, bool) {
	var text string
	base := 10
	switch {
	case s[0] < '0' || s[0] > '9':
		return nil, false
	case strings.HasPrefix(s, "0b"):
		base, text = 2, plain(s[2:])
	case strings.HasPrefix(s, "0x"):
		base, text = 16, plain(s[2:])
	case s[0] == '0' && len(s) > 1:
		base, text = 8, plain(s)
	default:
		for i := 1; i < len(s); i++ {
			if (s[i] == '_' || s[i] == ',') && (i+1 == len(s) || s[i+1] == '_' || s[i+1] == ',') {
				return nil, false
			}
		}
		text = plain(s)
	}
	if len(text) > maxDigits || text == "" || text[0] == '-' || text[0] == '+' {
		return nil, false
	}
	return new(big.Int).SetString(text, base)
}

// maxDigits bounds the conversion of an integer; a longer one stays a text.
const maxDigits = 4096

// setSexagesimal knows 12:30 and 12:30:45, with a fraction too. The first of two parts counts as hours all the same.
func (n *Node) setSexagesimal(s string) {
	parts := strings.Split(s, ":")
	if len(parts) > 3 || !only(strings.TrimLeft(parts[0], "+-"), "0123456789_") || strings.HasPrefix(strings.TrimLeft(parts[0], "+-"), "_") {
		return
	}
	last := parts[len(parts)-1]
	whole, fraction, isFloat := strings.Cut(last, ".")
	if !only(fraction, "0123456789_") {
		return
	}
	for i, part := range parts[1:] {
		if i == len(parts)-2 {
			part = whole
		}
		if len(part) == 0 || len(part) > 2 || !only(part, "0123456789") || len(part) == 2 && part[0] > '5' {
			return
		}
	}
	if first := strings.TrimLeft(parts[0], "+-"); first == "" {
		return
	}
	weights := []int64{3600, 60, 1}
	if isFloat {
		sum := 0.0
		for i, part := range parts {
			f, _ := strconv.ParseFloat(strings.TrimSuffix(strings.ReplaceAll(part, "_", ""), "."), 64)
			sum += f * float64(weights[i])
		}
		n.setFloat(sum)
		return
	}
	sum := new(big.Int)
	for i, part := range parts {
		v, ok := new(big.Int).SetString(strings.TrimPrefix(strings.ReplaceAll(part, "_", ""), "+"), 10)
		if !ok || len(part) > maxDigits {
			return
		}
		sum.Add(sum, v.Mul(v, big.NewInt(weights[i])))
	}
	n.setInt(sum)
}

// isDate tells 2024-01-31, with a month and a day of one or two digits.
func isDate(s string) bool {
	y, rest, _ := strings.Cut(s, "-")
	m, d, ok := strings.Cut(rest, "-")
	return ok && len(y) == 4 && only(y+m+d, "0123456789") && oneOrTwo(m, 12) && oneOrTwo(d, 31)
}

// oneOrTwo tells a number of one or two digits; of two it is at most limit.
func oneOrTwo(s string, limit int) bool {
	v, err := strconv.Atoi(s)
	return err == nil && (len(s) == 1 || len(s) == 2 && v <= limit)
}

// isTime tells 2024-01-31 12:30:00, with an optional fraction and zone.
func isTime(s string) bool {
	s = strings.TrimPrefix(s, "-")
	if len(s) < 14 || s[4] != '-' {
		return false
	}
	at := strings.IndexAny(s, "Tt \t")
	if at < 0 {
		return false
	}
	date := strings.Split(s[:at], "-")
	if len(date) != 3 || len(date[0]) != 4 || !only(strings.Join(date, ""), "0123456789") || !short(date[1]) || !short(date[2]) {
		return false
	}
	clock := s[at+1:]
	if s[at] == ' ' || s[at] == '\t' {
		clock = strings.TrimLeft(clock, " \t")
	}
	end := strings.IndexFunc(clock, func(r rune) bool { return r != ':' && (r < '0' || r > '9') })
	zone := ""
	if end >= 0 {
		clock, zone = clock[:end], clock[end:]
	}
	parts := strings.Split(clock, ":")
	if len(parts) != 3 || !short(parts[0]) || len(parts[1]) != 2 || len(parts[2]) != 2 {
		return false
	}
	if strings.HasPrefix(zone, ".") {
		zone = strings.TrimLeft(zone[1:], "0123456789")
	}
	zone = strings.TrimLeft(zone, " \t")
	if zone == "" || zone == "Z" {
		return true
	}
	if zone[0] != '+' && zone[0] != '-' {
		return false
	}
	hours, minutes, colon := strings.Cut(zone[1:], ":")
	if !colon && len(hours) > 2 {
		hours, minutes = hours[:len(hours)-2], hours[len(hours)-2:]
	}
	return short(hours) && (minutes == "" || len(minutes) == 2) && only(hours+minutes, "0123456789")
}

func short(s string) bool { return len(s) == 1 || len(s) == 2 }

func only(s, characters string) bool { return strings.Trim(s, characters) == "" }

// plain is a number without the marks between its digits.
func plain(s string) string {
	if !strings.ContainsAny(s, "_,") {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "_", ""), ",", "")
}

// rubyFloat writes a float as Ruby's Float#to_s: always with a point, and with an exponent outside of 1e-4 to 1e16.
func rubyFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case math.IsNaN(f):
		return "NaN"
	}
	if a := math.Abs(f); a == 0 || a >= 1e-4 && a < 1e16 {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	return mantissa + "e" + exponent
}
