package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// writes counts what changes something, or tries whether it would.
func (t traffic) writes() int {
	n := 0
	for what, c := range t.byApps {
		switch verb, _, _ := strings.Cut(what, " "); verb {
		case "get", "list", "watch":
		default:
			n += c
		}
	}
	return n
}

// byVerb counts requests, watches too, by their verbs alone.
func (t traffic) byVerb() map[string]int {
	verbs := map[string]int{}
	for _, m := range []map[string]int{t.byApps, t.other} {
		for what, c := range m {
			verb, resource, _ := strings.Cut(what, " ")
			if resource == leases {
				verb = "lease"
			}
			verbs[verb] += c
		}
	}
	return verbs
}

// trafficIn reads a cluster's audit log, and what of it was put aside when it got large.
func trafficIn(ctx context.Context, auditLog string, from, to time.Time) (traffic, error) {
	if err := pause(ctx, time.Second); err != nil { // it is written a moment after the answer
		return traffic{}, err
	}
	ext := filepath.Ext(auditLog)
	aside, err := filepath.Glob(strings.TrimSuffix(auditLog, ext) + "-*" + ext)
	if err != nil {
		return traffic{}, err
	}
	all := traffic{map[string]int{}, map[string]int{}}
	for _, name := range append(aside, auditLog) {
		f, err := os.Open(name)
		if err != nil {
			return traffic{}, err
		}
		t, err := readTraffic(f, from, to)
		f.Close()
		if err != nil {
			return traffic{}, err
		}
		for what, n := range t.byApps {
			all.byApps[what] += n
		}
		for what, n := range t.other {
			all.other[what] += n
		}
	}
	return all, nil
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
		if !bytes.Contains(line, []byte("keelson")) { // most lines are not worth the parsing
			continue
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
	return e.Verb == "watch" || e.resource() == leases
}

// leases is what the lease's resource is called here.
const leases = "leases.coordination.k8s.io"

// String is the verb and the resource. A write that only tries has a verb of its own: it changes nothing.
func (e auditEvent) String() string {
	if strings.Contains(e.URI, "dryRun=All") {
		return "dry-run " + e.resource()
	}
	return e.Verb + " " + e.resource()
}

func (e auditEvent) resource() string {
	if e.ObjectRef == nil {
		return e.URI
	}
	s := e.ObjectRef.Resource
	if e.ObjectRef.APIGroup != "" {
		s += "." + e.ObjectRef.APIGroup
	}
	if e.ObjectRef.Subresource != "" {
		s += "/" + e.ObjectRef.Subresource
	}
	return s
}
