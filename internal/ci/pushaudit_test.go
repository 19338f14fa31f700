package ci

import (
	"testing"

	"keelson.dev/keelson/internal/audit"
	"keelson.dev/keelson/internal/store"
)

// TestPushIsAudited: the record of a push that the database does not take is given to whoever keeps records later.
func TestPushIsAudited(t *testing.T) {
	w := newWorld(t, "app")
	var told []audit.Entry
	w.server.o.Record = func(e audit.Entry) { told = append(told, e) }
	push := func() {
		w.server.Pushed(Push{Repository: "app", User: "ann", Audit: []audit.Entry{{Actor: "ann", Action: "git.push", Object: "repository/app"}}})
	}
	push()
	if records, _, err := w.db.Audit(t.Context(), store.AuditFilter{Action: "git.push"}); err != nil || len(records) != 1 || len(told) != 0 {
		t.Errorf("%+v %v, told %+v", records, err, told)
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	push()
	if len(told) != 1 || told[0].Action != "git.push" || told[0].Actor != "ann" {
		t.Errorf("told %+v", told)
	}
}
