package git

import (
	"os"
	"slices"
	"strings"
)

// local are the variables that say which repository git works on, or on which part of it: those of
// "git rev-parse --local-env-vars", and what hooks see besides. Configuration (GIT_CONFIG_COUNT, GIT_CONFIG_PARAMETERS) is not
// among them: it holds for other repositories too, as git has it for submodules.
var local = []string{
	"GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
	"GIT_QUARANTINE_PATH", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_INTERNAL_SUPER_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_CONFIG",
	"GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE",
}

// UserEnviron is the environment for a git process that works as its user would, on the repository of its directory. A hook
// has variables that lead git to the repository that the hook belongs to, wherever it runs; they are not in it.
func UserEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(local, name)
	})
}
