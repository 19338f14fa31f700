package main

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/internal/store"
)

// How long records stay where nobody says.
const (
	usualAuditAge                      = 2 * 366 * 24 * time.Hour
	usualHistoryAge, usualHistoryCount = 366 * 24 * time.Hour, 100_000 // … and however old they are so many of the newest
)

// forever is an age at which nothing is removed.
const forever = "forever"

// leastAge is the least that can be asked for: less would be a slip.
const leastAge = 24 * time.Hour

// retention says how long what is kept in the database stays, as people write it: 90d, 12w, 2y, 36h or forever. Empty: as usual.
type retention struct {
	Audit   string `json:"audit,omitempty"`   // records of the audit
	History string `json:"history,omitempty"` // deliveries and repairs
}

func (r *retention) flags(f *pflag.FlagSet, otherwise string) {
	f.StringVar(&r.Audit, "keep-audit", "", "remove records of the audit that are older than this `age`, as 90d, 12w, 2y or forever (default: "+otherwise+"2 years)")
	f.StringVar(&r.History, "keep-history", "", "remove deliveries and repairs that are older than this `age`; the last delivery of an app stays (default: "+otherwise+
		"a year, and however old the newest 100,000)")
}

// args are the flags again.
func (r *retention) args() (out []string) {
	if r.Audit != "" {
		out = append(out, "--keep-audit", r.Audit)
	}
	if r.History != "" {
		out = append(out, "--keep-history", r.History)
	}
	return out
}

// or gives what is said here, else there.
func (r *retention) or(o retention) retention {
	return retention{cmp.Or(r.Audit, o.Audit), cmp.Or(r.History, o.History)}
}

// check says which age cannot be read.
func (r *retention) check() error {
	for flag, text := range map[string]string{"keep-audit": r.Audit, "keep-history": r.History} {
		if text == "" || text == forever {
			continue
		}
		if age, ok := parseAge(text); !ok || age < leastAge {
			return usagef("--%s %q: it takes an age of at least a day, as 90d, 12w, 2y or 36h, or forever", flag, text)
		}
	}
	return nil
}

// parseAge reads an age in hours, days, weeks or years.
func parseAge(text string) (time.Duration, bool) {
	const day = 24 * time.Hour
	for unit, of := range map[string]time.Duration{"d": day, "w": 7 * day, "y": 366 * day} {
		number, has := strings.CutSuffix(text, unit)
		n, err := strconv.ParseInt(number, 10, 32)
		if has && err == nil && n > 0 && n <= int64(290*366*day/of) { // as long as a duration can be
			return time.Duration(n) * of, true
		}
	}
	age, err := time.ParseDuration(text)
	return age, err == nil && age > 0
}

// auditAge is how long records of the audit stay; 0: for good.
func (r *retention) auditAge() time.Duration {
	if r.Audit == forever {
		return 0
	}
	if age, ok := parseAge(r.Audit); ok {
		return age
	}
	return usualAuditAge
}

// historyOf is what stays of the history now; false: everything.
func (r *retention) historyOf(now time.Time) (store.HistoryRetention, bool) {
	if r.History == forever {
		return store.HistoryRetention{}, false
	}
	if age, ok := parseAge(r.History); ok { // whoever says it means it: no old ones stay because they are few
		return store.HistoryRetention{Since: now.Add(-age)}, true
	}
	return store.HistoryRetention{Keep: usualHistoryCount, Since: now.Add(-usualHistoryAge)}, true
}
