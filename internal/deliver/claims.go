package deliver

import (
	"sync"

	"keelson.dev/keelson/internal/delivery"
)

// Claims knows which app owns which object, from the inventories of all apps. The first app to claim an object has it
// until its inventory no longer lists it. It is safe for concurrent use.
type Claims struct {
	mu    sync.Mutex
	owner map[delivery.Ref]delivery.ID
	of    map[delivery.ID]delivery.Inventory
}

// NewClaims starts empty: [Claims.Set] brings in the inventories that are in the cluster.
func NewClaims() *Claims {
	return &Claims{owner: map[delivery.Ref]delivery.ID{}, of: map[delivery.ID]delivery.Inventory{}}
}

// Other tells which other app owns an object.
func (c *Claims) Other(app delivery.ID, ref delivery.Ref) (delivery.ID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	owner, ok := c.owner[ref]
	return owner, ok && owner != app
}

// Set makes an app's claims those of its inventory and returns the apps that may have waited for what it let go: those
// that asked for it are told by the caller. Entries that another app owns are left to it and returned as conflicts.
func (c *Claims) Set(app delivery.ID, inv delivery.Inventory) (conflicts []delivery.Ref, released []delivery.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref := range inv {
		if owner, ok := c.owner[ref]; ok && owner != app {
			conflicts = append(conflicts, ref)
			continue
		}
		c.owner[ref] = app
	}
	for ref := range c.of[app] {
		if _, ok := inv[ref]; !ok && c.owner[ref] == app {
			delete(c.owner, ref)
			released = append(released, ref)
		}
	}
	c.of[app] = inv
	return conflicts, released
}

// Drop forgets an app that no longer exists.
func (c *Claims) Drop(app delivery.ID) (released []delivery.Ref) {
	_, released = c.Set(app, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, app)
	return released
}
