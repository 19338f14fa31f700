package controller

import (
	"reflect"
	"testing"

	"keelson.dev/keelson/internal/delivery"
)

func TestGatheredEvents(t *testing.T) {
	at := delivery.Revision{Commit: "93837fba24bb29720c839f235993b83af71f9c6f"}
	begun := event{reason: operationStarted, message: "Initiated automated sync to '93837fb'"}
	made := event{reason: appliedReason, message: "ConfigMap/shop/web created", revision: at}
	over := event{reason: operationCompleted, message: "Sync operation to 93837fb succeeded"}
	synced := event{reason: resourceUpdated, message: "Updated sync status: Synced"}
	mended := event{reason: "DriftRepaired", message: "ConfigMap/shop/web repaired: it was changed", revision: at}
	failed := event{warning: true, reason: operationCompleted, message: "Sync operation to 93837fb failed: no"}
	for _, tc := range []struct {
		name       string
		told, want []event
	}{
		{"nothing", nil, nil},
		{"one", []event{made}, []event{made}},
		{"a whole operation", []event{begun, made, over, synced}, []event{{
			reason: operationCompleted, revision: at,
			message: "Sync operation to 93837fb succeeded\nInitiated automated sync to '93837fb'\nUpdated sync status: Synced\nConfigMap/shop/web created",
		}}},
		{"one that begins", []event{begun, made}, []event{{reason: operationStarted, revision: at, message: "Initiated automated sync to '93837fb'\nConfigMap/shop/web created"}}},
		{"a repair", []event{begun, mended, over, synced}, []event{{
			reason: "DriftRepaired", revision: at,
			message: "ConfigMap/shop/web repaired: it was changed\nSync operation to 93837fb succeeded\nInitiated automated sync to '93837fb'\nUpdated sync status: Synced",
		}}},
		{"warnings too", []event{begun, failed, synced}, []event{failed, {
			reason: operationStarted, message: "Initiated automated sync to '93837fb'\nUpdated sync status: Synced",
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := gathered(tc.told); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v\ngive %v\nwant %v", tc.told, got, tc.want)
			}
		})
	}
}
