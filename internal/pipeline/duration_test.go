package pipeline

import (
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30":                   30 * time.Second,
		"1.5":                  1500 * time.Millisecond,
		"1:20":                 80 * time.Second,
		"1:20.5":               80*time.Second + 500*time.Millisecond,
		"4:01:01":              4*time.Hour + 61*time.Second,
		"2:00:00:00":           2 * day,
		"3 mins 4 sec":         3*time.Minute + 4*time.Second,
		"3 Mins 4 Sec":         3*time.Minute + 4*time.Second,
		"2 hrs 20 min":         2*time.Hour + 20*time.Minute,
		"2h20min":              2*time.Hour + 20*time.Minute,
		"1h 30m 12s":           90*time.Minute + 12*time.Second,
		"90 minutes":           90 * time.Minute,
		"2.5 hrs":              150 * time.Minute,
		".5h":                  30 * time.Minute,
		"1 week":               7 * day,
		"3 weeks and 2 days":   23 * day,
		"3 weeks and, 2 days":  23 * day,
		"3 weeks, plus 2 days": 23 * day,
		"3 weeks with 2 days":  23 * day,
		"1 month 1 day":        31 * day,
		"6 mos 1 day":          181 * day,
		"47 yrs 6 mos and 4d":  47*year + 6*month + 4*day,
		"1 year":               31557600 * time.Second,
		"day":                  day,
		"minute 30s":           90 * time.Second,
		"two hours":            2 * time.Hour,
		"twenty-five minutes":  25 * time.Minute,
		"one hundred seconds":  100 * time.Second,
		"5 minutes 30":         5*time.Minute + 30*time.Second,
		" 1\tday ":             day,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestParseDurationErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                          `"" is not a duration`,
		"   ":                       `"   " is not a duration`,
		"and":                       `"and" is not a duration`,
		"0":                         `"0" is not a duration: it is zero`,
		"0 days":                    `"0 days" is not a duration: it is zero`,
		"never":                     `"never" is not a duration: "never" is not a unit of time`,
		"23 gobblygoos":             `"23 gobblygoos" is not a duration: "gobblygoos" is not a unit of time`,
		"-5 min":                    `"-5 min" is not a duration: "-" is not a unit of time`,
		"$DAYS days":                `"$DAYS days" is not a duration: "$days" is not a unit of time`,
		"3 4 min":                   `"3 4 min" is not a duration: 3 has no unit`,
		"1 hour minutes":            `"1 hour minutes" is not a duration: "minutes" has no number before it`,
		"1.2.3 h":                   `"1.2.3 h" is not a duration: "1.2.3" is not a unit of time`,
		"1:x":                       `"1:x" is not a duration: "x" is not a number`,
		"1:":                        `"1:" is not a duration: "" is not a number`,
		"1:2:3:4:5:6:7":             `"1:2:3:4:5:6:7" is not a duration: it has more than six parts`,
		"291 years":                 `"291 years" is not a duration: it is longer than 290 years`,
		"200 years 200 years":       `"200 years 200 years" is not a duration: it is longer than 290 years`,
		strings.Repeat("1 day", 99): `a duration has at most 255 characters`,
	} {
		got, err := ParseDuration(text)
		if err == nil || err.Error() != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want error %s", text, got, err, want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"3 mins 4 sec", "1:20:30", "47 yrs 6 mos and 4.5d", "twenty-five m", "9999999999999999 years", "1e9", "thousand thousand thousand s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := ParseDuration(text); (err == nil) != (d > 0) || d > maxDuration {
			t.Errorf("ParseDuration(%q) = %v, %v", text, d, err)
		}
	})
}
