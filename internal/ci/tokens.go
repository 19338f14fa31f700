package ci

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
)

// tokens are those of jobs that run (CI_JOB_TOKEN). They are in memory only, by their hashes, and gone with the job. They are made of a key
// and the job's number: a job that survives this process has the same one in the next.
type tokens struct {
	key  []byte
	mu   sync.Mutex
	jobs map[[sha256.Size]byte]grant
}

// grant is what a job's token opens.
type grant struct {
	project    string // path
	repository string
	job        int64 // its number
}

func newTokens(key []byte) *tokens {
	if len(key) == 0 {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails
	}
	return &tokens{key: key, jobs: map[[sha256.Size]byte]grant{}}
}

// give makes the token of a job; end takes it back.
func (t *tokens) give(job int64, g grant) (token string, end func()) {
	mac := hmac.New(sha256.New, t.key)
	fmt.Fprintf(mac, "keelson job token/%d", job)
	token = "keelson-job-" + hex.EncodeToString(mac.Sum(nil)[:20])
	key := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.jobs[key] = g
	return token, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.jobs, key)
	}
}

// of gives what a token opens; false: nothing.
func (t *tokens) of(token string) (grant, bool) {
	key := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.jobs[key]
	return g, ok
}

// JobOf tells whose a job's token is: the path of its project, and the job's number; false: the token is wrong, or the job is over.
func (s *Server) JobOf(token string) (project string, job int64, ok bool) {
	g, ok := s.tokens.of(token)
	return g.project, g.job, ok
}

// Reads tells whether the pipelines of a project may read another one.
func (p Project) Reads(other Project) bool {
	return p.Path == other.Path || anyMatch(other.ReadableBy, p.Path)
}

// Allow is a Git host's port for the tokens of jobs: they read the job's own repository and those of projects that its project may read, as
// long as the job runs.
func (s *Server) Allow(token, repository string, write bool) error {
	g, ok := s.tokens.of(token)
	switch {
	case !ok:
		return errors.New("the token is wrong, or its job is over")
	case write:
		return errors.New("the token of a job does not push; use a token that may")
	case g.repository == repository:
		return nil
	}
	projects, err := s.o.Projects.Of(s.lifetime(), repository)
	if err != nil && len(projects) == 0 {
		return err
	}
	for _, p := range projects {
		if anyMatch(p.ReadableBy, g.project) {
			return nil
		}
	}
	return errors.New("the token of a job of " + g.project + " does not open this repository: no Project of it names that project in readableBy")
}
