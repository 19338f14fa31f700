package dialect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/delivery"
)

// An Application is one object in etcd, which takes 1.5 MiB (its request limit). The bounds of the lists in its status, in bytes of
// JSON, leave room for the spec, which a status repeats, and for the intent.
const (
	maxResources  = 704 << 10 // status.resources with the messages of their health; above, they have none
	maxOwned      = 896 << 10 // … without; above, what is not there is left out, and an operation that would own as much is refused
	maxResults    = 256 << 10 // of an operation; less beside many resources
	minResults    = 64 << 10
	maxLists      = 960 << 10 // resources and results together
	maxSummary    = 32 << 10  // images; as much for URLs
	maxResultText = 256       // of a result, where there is no room for all
)

// maxSame is how many conditions of one type are listed: the rest is counted.
const maxSame = 20

// infoResults in an operation's info says how many results are left out of its state.
const infoResults = "keelson.dev/results-left-out"

// ArgoFits tells whether the status of an Application can list all that is to be its own.
func ArgoFits(owned delivery.Inventory) bool {
	if len(owned) < 1000 { // a name has 253 bytes at most, and so have a namespace and a group
		return true
	}
	size := 0
	for ref, version := range owned {
		size += jsonSize(argocdv1.ResourceStatus{
			Group: ref.Group, Version: version, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name,
			Status: argocdv1.OutOfSync, Health: &argocdv1.HealthStatus{Status: string(delivery.Progressing)},
		})
	}
	return size <= maxOwned
}

// boundResources keeps status.resources small enough to be stored; it tells how many it leaves out. Those are never the app's own:
// the list is its inventory ([ArgoInventory]).
func boundResources(list []argocdv1.ResourceStatus) (out []argocdv1.ResourceStatus, left int) {
	size := sizes(list)
	if size <= maxResources {
		return list, 0
	}
	for i := range list {
		if list[i].Health != nil {
			list[i].Health.Message = ""
		}
	}
	if size = sizes(list); size <= maxOwned {
		return list, 0
	}
	for _, r := range list {
		if n := jsonSize(r); !owns(r) && size > maxOwned {
			size -= n
			left++
			continue
		}
		out = append(out, r)
	}
	return out, left
}

// boundResults keeps the results of an operation small enough to be stored beside the resources: messages of what went well go
// first, then long ones, then what went well itself, which is in status.resources too. It counts what it leaves out.
func boundResults(s *argocdv1.OperationState, resources []argocdv1.ResourceStatus) {
	if s == nil || s.SyncResult == nil {
		return
	}
	room := min(max(maxLists-sizes(resources), minResults), maxResults)
	list := s.SyncResult.Resources
	for _, shorten := range []func(*argocdv1.ResourceResult){
		func(r *argocdv1.ResourceResult) {
			if wentWell(*r) {
				r.Message = ""
			}
		},
		func(r *argocdv1.ResourceResult) { r.Message = cut(r.Message, maxResultText) },
	} {
		if sizes(list) <= room {
			return
		}
		for i := range list {
			shorten(&list[i])
		}
	}
	before := len(list)
	list = dropUntil(list, room, wentWell)
	list = dropUntil(list, room, func(r argocdv1.ResourceResult) bool { return r.HookType == "" })
	list = dropUntil(list, room, func(argocdv1.ResourceResult) bool { return true })
	s.SyncResult.Resources = list
	if left := before - len(list); left > 0 {
		earlier, _ := strconv.Atoi(info(s.Operation, infoResults))
		s.Operation.Info = slices.DeleteFunc(s.Operation.Info, func(i argocdv1.Info) bool { return i.Name == infoResults })
		s.Operation.Info = append(s.Operation.Info, argocdv1.Info{Name: infoResults, Value: strconv.Itoa(earlier + left)})
	}
}

// wentWell tells whether a result is that of an object, no hook, that is as Git wants it.
func wentWell(r argocdv1.ResourceResult) bool {
	return r.HookType == "" && (r.Status == argocdv1.ResultSynced || r.Status == argocdv1.ResultPruned)
}

// dropUntil takes out of a list's end what may go until the rest fits.
func dropUntil(list []argocdv1.ResourceResult, room int, may func(argocdv1.ResourceResult) bool) []argocdv1.ResourceResult {
	size := sizes(list)
	var kept []argocdv1.ResourceResult
	for _, r := range slices.Backward(list) {
		if size > room && may(r) {
			size -= jsonSize(r)
			continue
		}
		kept = append(kept, r)
	}
	slices.Reverse(kept)
	return kept
}

// boundConditions keeps the first conditions of each type, which are sorted, and counts the others in one more.
func boundConditions(list []argocdv1.ApplicationCondition) (out []argocdv1.ApplicationCondition) {
	for len(list) > 0 {
		kind := list[0].Type
		n, size, more := 0, 0, 0
		for len(list) > 0 && list[0].Type == kind {
			c := list[0]
			list = list[1:]
			size += len(c.Message)
			if told, ok := countOf(c.Message); ok { // a message of ours that came back
				more += told
				continue
			}
			if n == maxSame || n > 0 && size > maxCondition {
				more++
				continue
			}
			n++
			out = append(out, c)
		}
		if more > 0 {
			out = append(out, argocdv1.ApplicationCondition{Type: kind, Message: fmt.Sprintf(moreConditions, more)})
		}
	}
	return out
}

// moreConditions is said in place of those that are counted only.
const moreConditions = "and %d more"

func countOf(message string) (int, bool) {
	text, ours := strings.CutPrefix(message, "and ")
	text, more := strings.CutSuffix(text, " more")
	n, err := strconv.Atoi(text)
	return n, ours && more && err == nil
}

// boundTexts keeps the first of them that fit.
func boundTexts(texts []string) []string {
	size := 0
	for i, t := range texts {
		if size += len(t) + 3; size > maxSummary {
			return texts[:i]
		}
	}
	return texts
}

// cut shortens a text to n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-3], "") + "..."
}

func sizes[T any](list []T) (n int) {
	for _, v := range list {
		n += jsonSize(v)
	}
	return n
}

// jsonSize is what one of a list's entries takes, in bytes.
func jsonSize(v any) int {
	b, err := json.Marshal(v)
	if err != nil { // these are plain structs
		return 0
	}
	return len(b) + 1
}
