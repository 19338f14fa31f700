package notify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
)

// Request is one HTTP request to a service.
type Request struct {
	Method, URL string
	Headers     map[string]string
	Body        []byte
	rejects     func(status int, body []byte) (why string, fine bool) // a service that says in the body how it went; nil: the status says it
}

// Result is what a request has come to.
type Result struct {
	Err   error         // nil: it was taken
	Retry bool          // it may go better another time
	After time.Duration // the service wants nothing before; zero: it does not say
	Pause bool          // and nothing else either
}

// MaxAnswer is the most bytes of an answer that are looked at.
const MaxAnswer = 64 << 10

// maxPause bounds how long a service may ask to be left alone.
const maxPause = 10 * time.Minute

// Judge reads an answer: its status, its header Retry-After and its body, of which at most MaxAnswer bytes are given. now is
// for a Retry-After that is a date.
func (r Request) Judge(status int, retryAfter string, body []byte, now time.Time) Result {
	if r.rejects != nil {
		if why, fine := r.rejects(status, body); fine {
			return Result{}
		} else if why != "" {
			return Result{Err: fmt.Errorf("refused: %s", cut(why, maxWhy))}
		}
	}
	switch {
	case status >= 200 && status < 300:
		return Result{}
	case status >= 300 && status < 400:
		return Result{Err: fmt.Errorf("it answers %d: the address has moved, and what is sent is not sent elsewhere (hint: set the new address)", status)}
	}
	res := Result{Err: fmt.Errorf("it answers %d%s", status, because(body))}
	switch {
	case status == 429 || status == 503:
		res.Retry, res.Pause, res.After = true, true, min(wait(retryAfter, now), maxPause)
	case status >= 500 || status == 408 || status == 425:
		res.Retry = true
	}
	return res
}

const maxWhy = 200

// because gives the beginning of a body in one line.
func because(body []byte) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body[:min(len(body), 4*maxWhy)]), "")), " ")
	if text == "" {
		return ""
	}
	return ": " + cut(text, maxWhy)
}

func wait(retryAfter string, now time.Time) time.Duration {
	if n, err := strconv.ParseFloat(strings.TrimSpace(retryAfter), 64); err == nil && n > 0 && n < 1e6 {
		return time.Duration(n * float64(time.Second))
	}
	for _, layout := range []string{time.RFC1123, "Mon, 02 Jan 2006 15:04:05 GMT"} {
		if at, err := time.Parse(layout, retryAfter); err == nil {
			return max(at.Sub(now), 0)
		}
	}
	return 0
}

// post makes a request with a JSON body.
func post(address string, payload any) (Request, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if err := enc.Encode(payload); err != nil {
		return Request{}, fmt.Errorf("encode the message: %w", err)
	}
	return Request{
		Method: "POST", URL: address, Body: bytes.TrimRight(b.Bytes(), "\n"), Headers: map[string]string{"Content-Type": "application/json"},
	}, nil
}

// one is what a format with a single JSON payload gives.
func one(address string, payload any) ([]Request, error) {
	r, err := post(address, payload)
	return []Request{r}, err
}

func (r *Request) header(key, value string) *Request {
	r.Headers[key] = value
	return r
}

func (r *Request) bearer(token string) {
	if token != "" {
		r.header("Authorization", "Bearer "+token)
	}
}

// signature is the value of X-Signature: the HMAC of the body.
func signature(token string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// repository is the place of a Git repository at a forge.
type repository struct {
	base string // https://HOST
	host string
	path string // OWNER/NAME, or more parts
}

// repositoryOf reads the address of a repository: a URL of https, http or ssh, or user@host:path.
func repositoryOf(address string) (repository, error) {
	unusable := fmt.Errorf("the address is not that of a repository, as https://HOST/OWNER/NAME")
	if !strings.Contains(address, "://") {
		if host, path, ok := strings.Cut(address, ":"); ok {
			address = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
		}
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return repository{}, unusable
	}
	r := repository{host: u.Host, path: strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")}
	switch u.Scheme {
	case "http", "https":
		r.base = u.Scheme + "://" + u.Host
	case "ssh":
		r.host = u.Hostname()
		r.base = "https://" + r.host
	default:
		return repository{}, unusable
	}
	if r.path == "" {
		return repository{}, unusable
	}
	return r, nil
}

// ownerName splits a path that has two parts.
func (r repository) ownerName() (string, error) {
	owner, name, ok := strings.Cut(r.path, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("the address is not that of a repository: %q is not OWNER/NAME", cut(r.path, 100))
	}
	return url.PathEscape(owner) + "/" + url.PathEscape(name), nil
}

// commitOf gives the Git commit that an event is about; empty: it is about none. An annotation of the object goes before the
// revision of what an OCI artifact was made from, and that before the revision.
func commitOf(e eventv1.Event) string {
	if c := e.Metadata[eventv1.MetaCommitKey]; c != "" {
		return hashOf(c, true)
	}
	if rev, ok := e.Metadata[eventv1.MetaOriginRevisionKey]; ok {
		return hashOf(rev, true)
	}
	return hashOf(e.Metadata[eventv1.MetaRevisionKey], false)
}

// hashOf gives the commit id at the end of a revision; one of 64 digits is the digest of an artifact unless long ones are wanted.
func hashOf(revision string, long bool) string {
	hash := revision[strings.LastIndexAny(revision, "/@:")+1:]
	if len(hash) != 40 && (!long || len(hash) != 64) || strings.Trim(hash, "0123456789abcdef") != "" {
		return ""
	}
	return hash
}
