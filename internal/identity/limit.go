package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
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

// undo takes back one failure of an address: the login was right. The others stay.
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

// forget forgets the failures of a user who has logged in.
func (l *limiter) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, key)
}

// drop makes room for an eighth: whatever is forgotten anyway goes, then some of the users, whose names whoever tries makes up, then others.
func (l *limiter) drop(now time.Time) {
	const most = maxCounted - maxCounted/8
	for _, goes := range []func(key string, f failures) bool{
		func(_ string, f failures) bool { return now.Sub(f.last) > forgotten },
		func(key string, _ failures) bool { return strings.HasPrefix(key, "user ") },
		func(string, failures) bool { return true },
	} {
		for key, f := range l.of {
			if len(l.of) <= most {
				return
			}
			if goes(key, f) {
				delete(l.of, key)
			}
		}
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
