package render

import (
	"context"

	"keelson.dev/keelson/internal/delivery"
)

// Inputs are what a render read, probed or listed of a snapshot: enough to tell whether another snapshot would render the
// same, without rendering it. They survive encoding as text. The zero Inputs are those of nothing known.
type Inputs struct {
	digest string // of the snapshot
}

// Known tells whether the inputs are those of a render, and whether its snapshot could name them.
func (in Inputs) Known() bool { return in.digest != "" }

// Same tells whether everything that was read, probed or listed is the same in snap. It costs a few look-ups where a
// folder as a whole is unchanged. An error means that snap could not be read.
func (in Inputs) Same(snap delivery.Snapshot) (bool, error) {
	return in.digest != "" && in.digest == snap.Digest, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (in Inputs) MarshalText() ([]byte, error) { return []byte(in.digest), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (in *Inputs) UnmarshalText(text []byte) error {
	in.digest = string(text)
	return nil
}

// Track is [Build] that also tells what the result depends on in the snapshot. The inputs come with an error too, if it is
// a [*delivery.Fault] with delivery.OnChange: as long as they are the same, so is the error.
func Track(ctx context.Context, snap delivery.Snapshot, b delivery.Build, vars map[string]string) ([]delivery.Object, Inputs, error) {
	objects, err := Build(ctx, snap, b, vars)
	return objects, Inputs{digest: snap.Digest}, err
}
