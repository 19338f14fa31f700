package delivery

import "time"

// HealthScript tells in Lua how the objects of some kinds are doing (Argo CD: operator-manual/health, "Custom Health Checks").
type HealthScript struct {
	Kinds    string // "group/Kind", or "Kind" of the core group; * stands for any text, / included
	Lua      string
	OpenLibs bool // besides tables and times it may use strings, numbers and coroutines
}

// HealthVerdict is what a [HealthScript] says of an object.
type HealthVerdict struct {
	Health   Health        // without a status: nothing
	Deletion string        // instead of the message, where the object is being deleted; empty: it has nothing to say about that
	Again    time.Duration // the script was stopped, and is asked again after this long; zero: what it says holds for the object as it is
}
