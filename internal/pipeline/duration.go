package pipeline

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	day = 24 * time.Hour
	// A month is 30 days and a year 365.25, as in GitLab's chronic_duration.
	month = 30 * day
	year  = 8766 * time.Hour

	maxDuration     = 290 * year // what fits
	maxDurationText = 255        // bytes
)

// ParseDuration reads GitLab's durations: "3 mins 4 sec", "2h20min", "1 week", "6 mos 1 day", "47 yrs 6 mos and 4d", "1:30:00", "two
// hours". A number without a unit counts seconds, and a unit at the beginning counts once ("day"). Nothing and zero are errors, as
// are a number between others without a unit and a later unit without a number, which GitLab skips.
func ParseDuration(text string) (time.Duration, error) {
	if len(text) > maxDurationText {
		return 0, fmt.Errorf("a duration has at most %d characters", maxDurationText)
	}
	lower := strings.ToLower(text)
	var total time.Duration
	var err error
	if strings.Contains(lower, ":") {
		total, err = clockDuration(lower)
	} else {
		total, err = wordsDuration(lower)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a duration: %w", text, err)
	case total == 0 && strings.ContainsAny(text, "0123456789"):
		return 0, fmt.Errorf("%q is not a duration: it is zero", text)
	case total == 0:
		return 0, fmt.Errorf("%q is not a duration", text)
	}
	return total, nil
}

// clockDuration reads 3:14 as minutes and seconds, and so on up to years.
func clockDuration(text string) (time.Duration, error) {
	parts := strings.Split(strings.Join(strings.Fields(text), ""), ":")
	units := []time.Duration{time.Second, time.Minute, time.Hour, day, month, year}
	if len(parts) > len(units) {
		return 0, errors.New("it has more than six parts")
	}
	var total time.Duration
	for i, part := range parts {
		number, ok := parseNumber(part)
		if !ok {
			return 0, fmt.Errorf("%q is not a number", part)
		}
		var err error
		if total, err = addDuration(total, number, units[len(parts)-1-i]); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func wordsDuration(text string) (time.Duration, error) {
	var total time.Duration
	number, pending := 0.0, false // a number that waits for its unit
	for first := true; ; first = false {
		var word string
		word, text = nextWord(text)
		if word == "" {
			break
		}
		if n, ok := parseNumber(word); ok {
			if pending {
				return 0, fmt.Errorf("%v has no unit", number)
			}
			number, pending = n, true
			continue
		}
		if n, ok := numberWords[word]; ok {
			switch {
			case pending && n >= 100:
				number *= n
			case pending:
				number += n
			default:
				number, pending = n, true
			}
			continue
		}
		unit, ok := durationUnits[word]
		switch {
		case !ok && (word == "and" || word == "with" || word == "plus"):
			continue
		case !ok:
			return 0, fmt.Errorf("%q is not a unit of time", word)
		case !pending && !first:
			return 0, fmt.Errorf("%q has no number before it", word)
		case !pending:
			number = 1
		}
		var err error
		if total, err = addDuration(total, number, unit); err != nil {
			return 0, err
		}
		number, pending = 0, false
	}
	if pending {
		return addDuration(total, number, time.Second)
	}
	return total, nil
}

// nextWord cuts the first number or word off; spaces, commas and the hyphen of "twenty-five" part them.
func nextWord(text string) (word, rest string) {
	text = strings.TrimLeft(text, " \t\n\r,")
	if text == "" {
		return "", ""
	}
	digits := isNumeric(text[0])
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch {
		case c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r' || isNumeric(c) != digits:
			return text[:i], text[i:]
		case c == '-' && !digits:
			return text[:i], text[i+1:]
		}
	}
	return text, ""
}

func isNumeric(c byte) bool { return '0' <= c && c <= '9' || c == '.' }

func parseNumber(word string) (float64, bool) {
	for i := range len(word) {
		if !isNumeric(word[i]) {
			return 0, false
		}
	}
	if strings.HasSuffix(word, ".") {
		return 0, false
	}
	n, err := strconv.ParseFloat(word, 64)
	return n, err == nil
}

func addDuration(total time.Duration, number float64, unit time.Duration) (time.Duration, error) {
	if number*unit.Seconds() > maxDuration.Seconds() {
		return 0, errors.New("it is longer than 290 years")
	}
	added := time.Duration(math.Round(number * float64(unit)))
	if whole := math.Trunc(number); whole == number {
		added = time.Duration(whole) * unit
	}
	if added > maxDuration-total {
		return 0, errors.New("it is longer than 290 years")
	}
	return total + added, nil
}

var durationUnits = map[string]time.Duration{
	"seconds": time.Second, "second": time.Second, "secs": time.Second, "sec": time.Second, "s": time.Second,
	"minutes": time.Minute, "minute": time.Minute, "mins": time.Minute, "min": time.Minute, "m": time.Minute,
	"hours": time.Hour, "hour": time.Hour, "hrs": time.Hour, "hr": time.Hour, "h": time.Hour,
	"days": day, "day": day, "dy": day, "d": day,
	"weeks": 7 * day, "week": 7 * day, "wks": 7 * day, "wk": 7 * day, "w": 7 * day,
	"months": month, "month": month, "mos": month, "mo": month,
	"years": year, "year": year, "yrs": year, "yr": year, "y": year,
}

var numberWords = map[string]float64{
	"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
	"twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
	"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
	"hundred": 100, "thousand": 1000,
}
