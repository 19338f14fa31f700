package render

import (
	"errors"
	"io/fs"
	"path"

	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/internal/delivery"
)

func (t *tree) overrides(p delivery.Part) (delivery.Part, error) { return p, nil }

var _ = errors.New
var _ = fs.ErrNotExist
var _ = path.Join
var _ = yaml.Marshal
