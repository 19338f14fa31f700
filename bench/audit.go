package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// auditEvent is what is needed of an audit.k8s.io/v1 Event. The policy leaves the stage RequestReceived out; a watch
// still has two events, which one id joins.
type auditEvent struct {
	AuditID   string    `json:"auditID"`
	Verb      string    `json:"verb"`
	UserAgent string    `json:"userAgent"`
	URI       string    `json:"requestURI"`
	Received  time.Time `json:"requestReceivedTimestamp"`
	ObjectRef *objectOf `json:"objectRef"`
}

type objectOf struct {
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	APIGroup    string `json:"apiGroup"`
}

// traffic is Keelson's requests in a window of time, each counted under "verb resource".
type traffic struct {
	byApps map[string]int // what may not be there: neither a watch nor the lease
	other  map[string]int // watches that were opened again, and the lease
}

func (t traffic) total() int {
	n := 0
	for _, c := range t.byApps {
		n += c
	}
	return n
}

// readTraffic reads an audit log, one event a line, and counts Keelson's requests that were received in the window.
// A last line that is not complete yet is left out.
func readTraffic(log io.Reader, from, to time.Time) (traffic, error) {
	t := traffic{map[string]int{}, map[string]int{}}
	seen := map[string]bool{}
	r := bufio.NewReaderSize(log, 1<<20)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return t, fmt.Errorf("audit log, line %d: %w", n, err)
		}
		if seen[e.AuditID] || !isKeelson(e.UserAgent) || e.Received.Before(from) || !e.Received.Before(to) {
			continue
		}
		seen[e.AuditID] = true
		if e.excused() {
			t.other[e.String()]++
		} else {
			t.byApps[e.String()]++
		}
	}
}

// isKeelson tells the controllers ("keelson") and the commands ("keelson/version") from all others.
func isKeelson(userAgent string) bool {
	return userAgent == "keelson" || strings.HasPrefix(userAgent, "keelson/")
}

// excused tells which requests no app causes: the lease, and a watch that the server had ended.
func (e auditEvent) excused() bool {
	return e.Verb == "watch" || e.ObjectRef != nil && e.ObjectRef.APIGroup == "coordination.k8s.io" && e.ObjectRef.Resource == "leases"
}

func (e auditEvent) String() string {
	if e.ObjectRef == nil {
		return e.Verb + " " + e.URI
	}
	s := e.Verb + " " + e.ObjectRef.Resource
	if e.ObjectRef.APIGroup != "" {
		s += "." + e.ObjectRef.APIGroup
	}
	if e.ObjectRef.Subresource != "" {
		s += "/" + e.ObjectRef.Subresource
	}
	return s
}
