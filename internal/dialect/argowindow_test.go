package dialect_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argocdv1 "keelson.dev/keelson/api/argocd/v1alpha1"
	"keelson.dev/keelson/internal/dialect"
)

// TestSyncWindows: what windows say of guestbook, an Application for namespace dev of the cluster it is in, at noon of Saturday,
// 14 March 2026 (UTC).
func TestSyncWindows(t *testing.T) {
	const all = `applications: ["*"]`
	for name, c := range map[string]struct {
		windows           string
		started           time.Duration // before noon; an automated operation that runs since then; 0: none does
		automated, manual bool
		overrun           bool
		next              string // "15:04"
		why               string
	}{
		"none":                 {"", 0, true, true, true, "", ""},
		"of others":            {`{kind: deny, schedule: "0 * * * *", duration: 1h, applications: [other-*]}`, 0, true, true, true, "", ""},
		"deny":                 {`{kind: deny, schedule: "0 11 * * *", duration: 2h, ` + all + `}`, 0, false, false, false, "13:00", `deny window "0 11 * * *" for 2h, until 2026-03-14 13:00 UTC`},
		"deny, twice in a row": {`{kind: deny, schedule: "0 11,13 * * *", duration: 2h, ` + all + `}`, 0, false, false, false, "15:00", `deny window "0 11,13 * * *" for 2h, until 2026-03-14 15:00 UTC`},
		"deny for ever":        {`{kind: deny, schedule: "* * * * *", duration: 1h, ` + all + `}`, 0, false, false, false, "14:00", `deny window "* * * * *" for 1h`},
		"deny, over":           {`{kind: deny, schedule: "0 9 * * *", duration: 2h, ` + all + `}`, 0, true, true, true, "09:00", ""},
		"deny, but manually":   {`{kind: deny, schedule: "0 11 * * *", duration: 2h, manualSync: true, ` + all + `}`, 0, false, true, false, "13:00", "deny window"},
		"two deny":             {`{kind: deny, schedule: "0 11 * * *", duration: 2h, manualSync: true, ` + all + `}, {kind: deny, schedule: "0 10 * * *", duration: 3h, ` + all + `}`, 0, false, false, false, "13:00", "deny window"},
		"allow":                {`{kind: allow, schedule: "30 11 * * *", duration: 1h, ` + all + `}`, 0, true, true, true, "12:30", ""},
		"allow, not now":       {`{kind: allow, schedule: "0 22 * * *", duration: 1h, ` + all + `}`, 0, false, false, false, "22:00", `allow window "0 22 * * *" for 1h, again at 2026-03-14 22:00 UTC`},
		"allow, manually":      {`{kind: allow, schedule: "0 22 * * *", duration: 1h, manualSync: true, ` + all + `}`, 0, false, true, false, "22:00", "allow window"},
		"one of two allow":     {`{kind: allow, schedule: "0 22 * * *", duration: 1h, ` + all + `}, {kind: allow, schedule: "0 12 * * *", duration: 10m, ` + all + `}`, 0, true, true, true, "12:10", ""},
		"deny beats allow":     {`{kind: allow, schedule: "0 0 * * *", duration: 24h, ` + all + `}, {kind: deny, schedule: "0 12 * * *", duration: 10m, ` + all + `}`, 0, false, false, false, "12:10", "deny window"},
		"weekday":              {`{kind: deny, schedule: "0 0 * * SAT,SUN", duration: 24h, ` + all + `}`, 0, false, false, false, "00:00", "deny window"},
		"day or weekday":       {`{kind: deny, schedule: "0 0 1 * 6", duration: 24h, ` + all + `}`, 0, false, false, false, "00:00", "deny window"},
		"zone":                 {`{kind: deny, schedule: "0 21 * * *", duration: 30m, timeZone: Asia/Tokyo, ` + all + `}`, 0, false, false, false, "12:30", "deny window"},
		"zone, other":          {`{kind: deny, schedule: "0 12 * * *", duration: 30m, timeZone: Asia/Tokyo, ` + all + `}`, 0, true, true, true, "03:00", ""},
		"unknown zone is UTC":  {`{kind: deny, schedule: "0 12 * * *", duration: 30m, timeZone: Mars/Base, ` + all + `}`, 0, false, false, false, "12:30", "deny window"},
		"by namespace":         {`{kind: deny, schedule: "0 12 * * *", duration: 1h, applications: [x], namespaces: [d*]}`, 0, false, false, false, "13:00", "deny window"},
		"by cluster":           {`{kind: deny, schedule: "0 12 * * *", duration: 1h, clusters: ["https://kubernetes.*"]}`, 0, false, false, false, "13:00", "deny window"},
		"and":                  {`{kind: deny, schedule: "0 12 * * *", duration: 1h, applications: [guest*], namespaces: [prod], andOperator: true}`, 0, true, true, true, "", ""},
		"and, both":            {`{kind: deny, schedule: "0 12 * * *", duration: 1h, applications: [guest*], namespaces: [dev], andOperator: true}`, 0, false, false, false, "13:00", "deny window"},
		"about nothing":        {`{kind: deny, schedule: "0 12 * * *", duration: 1h, andOperator: true}`, 0, true, true, true, "", ""},
		"overrun":              {`{kind: deny, schedule: "0 11 * * *", duration: 2h, syncOverrun: true, ` + all + `}`, 90 * time.Minute, false, false, true, "13:00", "deny window"},
		"overrun, began in it": {`{kind: deny, schedule: "0 11 * * *", duration: 2h, syncOverrun: true, ` + all + `}`, 30 * time.Minute, false, false, false, "13:00", "deny window"},
		"overrun of allow":     {`{kind: allow, schedule: "0 11 * * *", duration: 30m, syncOverrun: true, ` + all + `}`, 45 * time.Minute, false, false, true, "11:00", "allow window"},
		"no overrun":           {`{kind: allow, schedule: "0 11 * * *", duration: 30m, ` + all + `}`, 45 * time.Minute, false, false, false, "11:00", "allow window"},
		"bad schedule":         {`{kind: allow, schedule: "0 25 * * *", duration: 1h, ` + all + `}`, 0, false, false, false, "", "which cannot be read"},
		"schedule with a zone": {`{kind: allow, schedule: "TZ=0 0 12 * * *", duration: 1h, ` + all + `}`, 0, false, false, false, "", "which cannot be read"},
		"bad duration":         {`{kind: allow, schedule: "0 12 * * *", duration: long, ` + all + `}`, 0, false, false, false, "", "which cannot be read"},
		"bad kind":             {`{kind: maybe, schedule: "0 12 * * *", duration: 1h, ` + all + `}`, 0, false, false, false, "", "which cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialect.DefaultArgoProject("argocd")
			decode(t, "["+c.windows+"]", &p.Spec.SyncWindows)
			a := readApplication(t, guestbook)
			if c.started > 0 {
				a.Status.OperationState = &argocdv1.OperationState{Phase: argocdv1.OperationRunning, StartedAt: metav1.NewTime(noon.Add(-c.started))}
				a.Status.OperationState.Operation.InitiatedBy.Automated = true
			}
			got := dialect.Application(a, dialect.Argo{Namespace: "argocd", Project: p, Now: noon})
			w := got.App.Sync.Windows
			next := ""
			if !w.Next.IsZero() {
				next = w.Next.UTC().Format("15:04")
			}
			if w.Automated != c.automated || w.Manual != c.manual || w.Overrun != c.overrun || next != c.next || !strings.Contains(w.Why, c.why) || (w.Why == "") != c.automated {
				t.Errorf("automated %v manual %v overrun %v next %q why %q", w.Automated, w.Manual, w.Overrun, next, w.Why)
			}
			if strings.Contains(c.why, "cannot be read") && (len(got.Conditions) != 1 || got.Conditions[0].Type != argocdv1.ConditionSyncError) {
				t.Errorf("conditions: %v", got.Conditions)
			}
		})
	}
}
