package live

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"keelson.dev/keelson/internal/telemetry"
)

// Watched tells which kinds are watched, by how many watches, and how many objects they know of.
func (l *Live) Watched() []telemetry.Watch {
	l.mu.RLock()
	defer l.mu.RUnlock()
	kinds := map[schema.GroupKind]*telemetry.Watch{}
	of := func(gk schema.GroupKind) *telemetry.Watch {
		w, ok := kinds[gk]
		if !ok {
			w = &telemetry.Watch{Group: gk.Group, Kind: gk.Kind, Objects: len(l.records[gk])}
			kinds[gk] = w
		}
		w.Open++
		return w
	}
	for key := range l.watches {
		if key != scalerWatch {
			of(key.GroupKind())
		}
	}
	if _, ok := l.watches[scalerWatch]; ok { // it sees all of them, ours among them
		of(AutoscalerKind.GroupKind()).Objects = len(l.scalers)
	}
	for ref, w := range l.sources {
		kind := of(schema.GroupKind{Kind: ref.Kind})
		if w.version != "" {
			kind.Objects++
		}
	}
	list := make([]telemetry.Watch, 0, len(kinds))
	for _, w := range kinds {
		list = append(list, *w)
	}
	return list
}
