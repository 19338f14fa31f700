package deliver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Digest identifies what the app of a state is made of, as "sha256:…": the same objects come of the same digest, here and
// after a restart. It is made of what goes into a render (how it is built, the versions of the variables' ConfigMaps and
// Secrets, the ids of the files that were read) and of nothing that comes out of it: a digest of rendered values would tell
// short ones to who can guess. Empty: nothing was rendered.
func (s State) Digest(req Request) string {
	if s.origin.spec == "" {
		return ""
	}
	inputs := s.origin.inputs.Content()
	if inputs == "" {
		inputs = req.Snapshot.Digest
	}
	b, err := json.Marshal([]any{req.App.Build, req.App.Vars, req.App.VarsAlways, s.origin.vars, []byte(inputs)})
	if err != nil { // cannot happen: these are texts
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
