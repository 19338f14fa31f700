package source

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"keelson.dev/keelson/internal/git"
)

// A sparse checkout shows the named folders and files, and the folders that lead there. What is not checked out is not
// there at all: its ignore files have no say, and links to it lead nowhere.

// within tells whether name is dir or something below it.
func within(name, dir string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

// checkedOut tells whether a path is one of the named ones or below it.
func (v *view) checkedOut(name string) bool {
	return len(v.only) == 0 || slices.ContainsFunc(v.only, func(dir string) bool { return within(name, dir) })
}

// leadsToSparse tells whether a folder holds a named path further down.
func (v *view) leadsToSparse(dir string) bool {
	return slices.ContainsFunc(v.only, func(only string) bool { return within(only, dir) })
}

// checkSparse makes sure that all that is named is there, as upstream does.
func checkSparse(tree *git.Tree, sparse []string) error {
	for _, name := range sparse {
		if _, _, err := tree.Identify(name); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: '%s' is not in the repository", git.ErrUnknownRef, name)
		} else if err != nil {
			return err
		}
	}
	return nil
}
