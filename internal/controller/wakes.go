package controller

import "keelson.dev/keelson/internal/delivery"

// wakes ask for a step of a source or an app, whatever its kind. It is complete before anything runs.
type wakes map[string]func(delivery.ID)

func (w wakes) wake(id delivery.ID) {
	if wake := w[id.Kind]; wake != nil {
		wake(id)
	}
}
