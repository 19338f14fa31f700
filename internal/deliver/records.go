package deliver

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"keelson.dev/keelson/internal/delivery"
	"keelson.dev/keelson/internal/render"
	"keelson.dev/keelson/internal/telemetry"
)

// Records keep on disk what a [Memory] knows of deliveries that are done, so that a controller that starts again need
// neither render nor send anything to know that all is well. They hold object ids and hashes under a key, never what was
// rendered. They are a memory aid and not a truth: what is missing or damaged costs its app one render and one apply of its
// objects, which changes nothing where nothing differs. One that is out of date might be believed: so a record is dropped
// before anything else than what it says is applied ([Begins]), and written anew at the end.
//
//	DIR/key      the key of the hashes
//	DIR/apps/    one file for each app
//
// One process at a time uses a folder. The methods are safe for concurrent use with different apps.
type Records struct {
	key      delivery.Key
	dir      string
	renderer string
}

// recordFormat changes whenever an old record would be misread, or a hash be made otherwise.
const recordFormat = 4

// record is the content of a file.
type record struct {
	Format   int             `json:"format"`
	Renderer string          `json:"renderer"` // the version of the program that rendered
	App      string          `json:"app"`
	Cluster  string          `json:"cluster"`
	Spec     string          `json:"spec"`
	Vars     string          `json:"vars"`
	Inputs   render.Inputs   `json:"inputs"`
	Ignored  []string        `json:"ignored,omitempty"`
	Skipped  []string        `json:"skipped,omitempty"`
	Objects  []appliedObject `json:"objects"`
	Hooks    []appliedObject `json:"hooks,omitempty"`
	Waves    map[string]int  `json:"waves,omitempty"` // by id, those that are not 0
}

// appliedObject is one entry of an inventory and what its last apply left.
type appliedObject struct {
	ID         string        `json:"id"` // as in Flux's inventories
	Version    string        `json:"v"`
	Desired    delivery.Hash `json:"desired,omitzero"`
	Owned      delivery.Hash `json:"owned,omitzero"`
	Replicas   int64         `json:"replicas"`
	Autoscaled bool          `json:"autoscaled,omitempty"`
	Left       bool          `json:"left,omitempty"`
	Kept       delivery.Hash `json:"kept,omitzero"`
	Fleeting   bool          `json:"fleeting,omitempty"`
}

// OpenRecords opens or makes the folder. renderer is the version of the program: another version may render otherwise, so
// its records are not believed.
func OpenRecords(dir, renderer string) (*Records, error) {
	r := &Records{dir: filepath.Join(dir, "apps"), renderer: renderer}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of records: %w", err)
	}
	name := filepath.Join(dir, "key")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		r.key = make([]byte, 32)
		if _, err := rand.Read(r.key); err != nil {
			return nil, fmt.Errorf("make key of records: %w", err)
		}
		if err := replaceFile(name, []byte(hex.EncodeToString(r.key)+"\n")); err != nil {
			return nil, fmt.Errorf("write key of records: %w", err)
		}
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key of records: %w", err)
	}
	r.key, err = hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(r.key) != 32 {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("remove damaged key of records: %w", err)
		}
		return OpenRecords(dir, renderer)
	}
	return r, nil
}

// Key is the key of all hashes in the records.
func (r *Records) Key() delivery.Key {
	if r == nil {
		return nil
	}
	return r.key
}

// file is where an app's record is: names of objects are no names of files.
func (r *Records) file(app delivery.ID) string {
	return filepath.Join(r.dir, r.key.Hash([]byte(app.String())).String()+".json")
}

// Load takes an app's record into a memory that knows nothing but its inventory. A record that cannot be used, or that is about
// another declaration of the same name, is passed over.
func (r *Records) Load(app delivery.App, mem *Memory) {
	if r != nil {
		telemetry.Records.WithLabelValues(r.load(app, mem)).Inc()
	}
}

// load does so and tells what became of the record.
func (r *Records) load(app delivery.App, mem *Memory) string {
	b, err := os.ReadFile(r.file(app.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return telemetry.Missing
	}
	var rec record
	if err != nil || json.Unmarshal(b, &rec) != nil || rec.Format != recordFormat || rec.Renderer != r.renderer || rec.App != app.ID.String() ||
		!strings.HasPrefix(rec.Spec, app.UID+"/") {
		return telemetry.Unusable
	}
	desired := make(delivery.Inventory, len(rec.Objects))
	left := map[delivery.Ref]bool{}
	applied := make(map[delivery.Ref]delivery.Applied, len(rec.Objects))
	for _, o := range rec.Objects {
		ref, ok := delivery.ParseInventoryID(o.ID)
		if !ok {
			return telemetry.Unusable
		}
		desired[ref] = o.Version
		if o.Left {
			left[ref] = true
		}
		if o.Desired != (delivery.Hash{}) {
			applied[ref] = delivery.Applied{Desired: o.Desired, Owned: o.Owned, Replicas: o.Replicas, Autoscaled: o.Autoscaled, Fleeting: o.Fleeting, Kept: o.Kept}
		}
	}
	if desired.Equal(mem.Inventory) {
		desired = mem.Inventory // one map, not two
	}
	for _, o := range rec.Hooks {
		if ref, ok := delivery.ParseInventoryID(o.ID); ok {
			if mem.hooks == nil {
				mem.hooks = delivery.Inventory{}
			}
			mem.hooks[ref] = o.Version
		}
	}
	for id, wave := range rec.Waves {
		if ref, ok := delivery.ParseInventoryID(id); ok {
			if mem.waves == nil {
				mem.waves = map[delivery.Ref]int{}
			}
			mem.waves[ref] = wave
		}
	}
	mem.cluster = rec.Cluster
	mem.made = origin{spec: rec.Spec, vars: rec.Vars, inputs: rec.Inputs}
	mem.desired, mem.applied, mem.left, mem.Ignored, mem.Skipped = desired, applied, left, rec.Ignored, rec.Skipped
	return telemetry.Loaded
}

// Save writes an app's record, if it says anything new.
func (r *Records) Save(app delivery.ID, mem *Memory) error {
	if r == nil || !mem.unsaved || !mem.made.inputs.Known() {
		return nil
	}
	rec := record{
		Format: recordFormat, Renderer: r.renderer, App: app.String(), Cluster: mem.cluster,
		Spec: mem.made.spec, Vars: mem.made.vars, Inputs: mem.made.inputs, Ignored: mem.Ignored, Skipped: mem.Skipped,
		Objects: make([]appliedObject, 0, len(mem.desired)),
	}
	for _, ref := range mem.desired.Refs() {
		o := appliedObject{ID: ref.InventoryID(), Version: mem.desired[ref], Left: mem.left[ref]}
		if a, ok := mem.applied[ref]; ok {
			o.Desired, o.Owned, o.Replicas, o.Autoscaled, o.Fleeting, o.Kept = a.Desired, a.Owned, a.Replicas, a.Autoscaled, a.Fleeting, a.Kept
		}
		rec.Objects = append(rec.Objects, o)
	}
	for _, ref := range mem.hooks.Refs() {
		rec.Hooks = append(rec.Hooks, appliedObject{ID: ref.InventoryID(), Version: mem.hooks[ref], Replicas: -1})
	}
	for ref, wave := range mem.waves {
		if wave != 0 {
			if rec.Waves == nil {
				rec.Waves = map[string]int{}
			}
			rec.Waves[ref.InventoryID()] = wave
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", app, err)
	}
	if err := os.WriteFile(r.file(app), b, 0o600); err != nil { // half a record is none: it does not parse
		return fmt.Errorf("write record of %s: %w", app, err)
	}
	mem.unsaved = false
	return nil
}

// Drop removes an app's record.
func (r *Records) Drop(app delivery.ID) error {
	if r == nil {
		return nil
	}
	if err := os.Remove(r.file(app)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of %s: %w", app, err)
	}
	return nil
}

// Retain removes the records of all other apps.
func (r *Records) Retain(apps []delivery.ID) error {
	if r == nil {
		return nil
	}
	keep := make(map[string]bool, len(apps))
	for _, app := range apps {
		keep[filepath.Base(r.file(app))] = true
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, os.Remove(filepath.Join(r.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// replaceFile writes a file whole or not at all, as far as processes are concerned; a machine that loses power may lose it.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
