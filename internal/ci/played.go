package ci

import (
	"fmt"
	"regexp"

	"keelson.dev/keelson/internal/pipeline"
)

// What a person may play a job with. GitLab has the same rule for names.
const (
	maxPlayed      = 100       // variables
	maxPlayedValue = 256 << 10 // bytes of all values; the journal takes an event of 1 MiB
)

var playedName = regexp.MustCompile(`^[A-Za-z0-9_]{1,255}$`)

// checkPlayed tells what is wrong with the variables that a job is to be played with.
func checkPlayed(variables []pipeline.KV) error {
	if len(variables) > maxPlayed {
		return fmt.Errorf("play: %d variables are given, and a job takes %d", len(variables), maxPlayed)
	}
	size, seen := 0, map[string]bool{}
	for _, kv := range variables {
		switch {
		case !playedName.MatchString(kv.Key):
			return fmt.Errorf("play: %.80q is no name of a variable: it has letters, digits and _, at most 255", kv.Key)
		case seen[kv.Key]:
			return fmt.Errorf("play: variable %s is given twice", kv.Key)
		}
		seen[kv.Key] = true
		size += len(kv.Value)
	}
	if size > maxPlayedValue {
		return fmt.Errorf("play: the values of the variables have %d bytes, and may have %d", size, maxPlayedValue)
	}
	return nil
}
