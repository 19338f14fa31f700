package store

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestNoTableIsReadWhole asks what people ask of the history, the audit and the pipelines, and looks at how SQLite goes about each query: by an index, or from
// the newest row on until a page is full. A row that has to be sorted has been read before.
func TestNoTableIsReadWhole(t *testing.T) {
	aboutSQLite(t)
	db := newDB(t)
	ctx := t.Context()
	app, at := "Kustomization/flux-system/shop", day
	object := ObjectFilter{Kinds: []string{"deployment"}, Namespace: "dev", Name: "web"}
	until := object
	until.At = at
	for _, err := range []error{
		second(db.Deliveries(ctx, DeliveryFilter{})),
		second(db.Deliveries(ctx, DeliveryFilter{Before: 7})),
		second(db.Deliveries(ctx, DeliveryFilter{App: app})),
		second(db.Deliveries(ctx, DeliveryFilter{Environment: "prod"})),
		second(db.Deliveries(ctx, DeliveryFilter{Author: "Ann"})),
		second(db.Deliveries(ctx, DeliveryFilter{SHA: "c0ffee"})),
		second(db.Deliveries(ctx, DeliveryFilter{Kinds: object.Kinds, Name: "web"})),
		second(db.Deliveries(ctx, DeliveryFilter{From: at, To: at})),
		second(db.Deliveries(ctx, DeliveryFilter{From: at, Query: "words", Environment: "prod"})),
		second(db.Deliveries(ctx, DeliveryFilter{Query: "two words"})),
		second(db.Deliveries(ctx, DeliveryFilter{Query: "words", Before: 7, Status: "failed"})),
		second(db.Deliveries(ctx, DeliveryFilter{Query: "words", App: app})),
		second(db.Repairs(ctx, RepairFilter{})),
		second(db.Repairs(ctx, RepairFilter{App: app})),
		second(db.Repairs(ctx, RepairFilter{Manager: "kubectl-edit"})),
		second(db.Repairs(ctx, RepairFilter{Kinds: object.Kinds, Name: "web"})),
		second(db.ObjectsOf(ctx, object)),
		db.ChangesOf(ctx, object, func(ObjectChange) bool { return true }),
		second(db.HistoryBegins(ctx)),
		second(db.Plays(ctx, "c0ffee")),
		second(db.WrittenBy(ctx, object)),
		second(db.PushedBy(ctx, "c0ffee")),
		third(db.Audit(ctx, AuditFilter{})),
		third(db.Audit(ctx, AuditFilter{Before: 7})),
		third(db.Audit(ctx, AuditFilter{Actor: "ann"})),
		third(db.Audit(ctx, AuditFilter{Action: "job.play"})),
		third(db.Audit(ctx, AuditFilter{Action: "job.*"})),
		third(db.Audit(ctx, AuditFilter{Object: "app/dev/web"})),
		third(db.Audit(ctx, AuditFilter{Project: "group/shop"})),
		third(db.Audit(ctx, AuditFilter{From: at, To: at})),
		third(db.Audit(ctx, AuditFilter{Query: "word"})),
		second(db.Pipelines(ctx, PipelineFilter{})),
		second(db.Pipelines(ctx, PipelineFilter{Project: 1, Ref: "main"})),
		db.ChangesOf(ctx, until, func(ObjectChange) bool { return true }),
	} {
		ok(t, err)
	}
	if _, err := db.Delivery(ctx, 1); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	looked := 0
	db.reader.statements.Range(func(query, _ any) bool {
		looked++
		plan := strings.Join(must(planOf(ctx, db.reader, query.(string)))(t), "\n\t")
		newest := strings.HasSuffix(query.(string), " DESC LIMIT ?") && !strings.Contains(plan, "TEMP B-TREE")
		if strings.Contains("\n\t"+plan, "\n\tSCAN ") && !newest && !strings.Contains(plan, "SCAN dead_logs") {
			t.Errorf("all rows are read by\n%s\n\t%s", query, plan)
		}
		return true
	})
	if looked < 30 {
		t.Errorf("%d queries were looked at", looked)
	}
}

// planOf gives the steps in which SQLite runs a query.
func planOf(ctx context.Context, from *pool, query string) (steps []string, err error) {
	rows, err := from.QueryContext(ctx, "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, rows.Err()
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }
