package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// How many logins may fail before the next one has to wait: of an address, and of a user wherever the requests come from. Then each
// failure doubles the time, up to a bound that does not lock the user's owner out for long.
const (
	freeOfAddress, freeOfUser = 20, 5
	firstWait, longestWait    = time.Second, time.Minute
	forgotten                 = 15 * time.Minute // after the last failure
	maxCounted                = 10_000
)

// limiter counts failed logins. A success does not forget those of its address, or who has an account could try others without end.
type limiter struct {
	now func() time.Time

	mu sync.Mutex
	of map[string]failures
}

type failures struct {
	n     int
	last  time.Time
	until time.Time // no login before
}

// wait tells how long a login has to wait; 0: it may be tried.
func (l *limiter) wait(keys ...string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var most time.Duration
	for _, key := range keys {
		most = max(most, l.of[key].until.Sub(l.now()))
	}
	return most
}

// fail counts a failed login; free is how many may fail. It is counted before the password is looked at, so that many at a time count too.
func (l *limiter) fail(key string, free int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	f := l.of[key]
	if now.Sub(f.last) > forgotten {
		f = failures{}
	}
	f.n, f.last = f.n+1, now
	if over := f.n - free; over >= 0 {
		f.until = now.Add(min(firstWait<<min(over, 10), longestWait))
	}
	if l.of == nil {
		l.of = map[string]failures{}
	}
	if _, known := l.of[key]; !known && len(l.of) >= maxCounted {
		l.drop(now)
	}
	l.of[key] = f
}

// undo takes back what fail has counted: the login was right.
func (l *limiter) undo(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.of[key]
	if f.n--; f.n <= 0 {
		delete(l.of, key)
		return
	}
	f.until = time.Time{}
	l.of[key] = f
}

// drop makes room: whatever is forgotten anyway goes, else the one that failed longest ago.
func (l *limiter) drop(now time.Time) {
	oldest, at := "", now
	for key, f := range l.of {
		if now.Sub(f.last) > forgotten {
			delete(l.of, key)
		} else if !f.last.After(at) {
			oldest, at = key, f.last
		}
	}
	if len(l.of) >= maxCounted {
		delete(l.of, oldest)
	}
}

// addressOf is where a request comes from, without the port; of IPv6 the network that one customer has.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() && !ip.IsLoopback() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// equal compares secrets in a time that says nothing about them, nor about their lengths.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
