package realnode

import (
	"errors"
	"os"
)

// Sweep removes what a node with that state directory left on the machine when it
// was killed, for a run that has none.
func Sweep(dir string) error {
	if _, err := os.Stat(dir); err != nil || os.Geteuid() != 0 {
		return nil //nolint:nilerr // there was no node, or it is not ours to remove
	}
	link, err := Choose(dir)
	if err != nil {
		return err
	}
	return errors.Join(removeCgroup(Spec{Link: link}.cgroup()), NoOutbound(dir, link))
}
