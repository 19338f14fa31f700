package config

import "strings"

func hasBlock(s string) bool { return strings.Contains(s, "$[[") }
