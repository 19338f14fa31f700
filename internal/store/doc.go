// Package store keeps what pipelines are and were: an SQL database (SQLite or PostgreSQL), and a file for each job's log beside it.
//
//	key, err := store.OpenKey(filepath.Join(dir, "store.key"))
//	db, err := store.Open(filepath.Join(dir, "store.db"), store.Options{Key: key})
//
//	project, err := db.EnsureProject(ctx, "group/app")      // its number (CI_PROJECT_ID), for good
//	id, iid, err := db.Reserve(ctx, project.ID)             // CI_PIPELINE_ID and CI_PIPELINE_IID, before there is a graph
//	p, err := db.CreatePipeline(ctx, store.Pipeline{…}, store.Inputs{Graph: …, Event: …})
//	end, err = db.Advance(ctx, id, end, store.Step{…})      // events, statuses and jobs, in one transaction
//	log, err := db.LogWriter(job)                           // Follow(ctx, job, offset) wakes with every write
//
//	open, err := db.Unfinished(ctx)                         // after a restart: what is to be driven on …
//	saved, err := db.Saved(ctx, id)                         // … from the graph, the last state and the journal since
//
//	command, err := db.Take(ctx)                            // what a person has asked for: play, retry, cancel
//	changes, err := db.Changes(ctx, after)                  // what a page has to read again
//
// An exported method that takes a context is one transaction; what belongs together is one method. Every call ends after its time
// limit at the latest. The store does not read graphs, events and states: they are bytes, and statuses are strings.
//
// # What a crash leaves
//
// What a method has returned without an error survives the end of the process, however it ends. When the machine loses power the
// last steps of pipelines may be missing, in their order: after a restart such a step happens again, as the Pod or process that
// it is about is still found by its job's number. A method that gives something out waits for the disk: numbers, new pipelines,
// commands that a person was told are taken, deployments before the first object is written; and an [Step] that says so. Such a
// commit takes everything before it along.
//
// # Numbers
//
// Pipelines and jobs are numbered by one counter, of which the process takes [idBlock] at a time; after a crash the rest of a block
// is left out. No number is given twice.
//
// # Secrets
//
// Graphs, events, states, journals, variables, arguments of commands and test reports are sealed with AES-256-GCM, each for its
// row and column. The key is not in the database. Logs are written as they come: who writes them has masked them.
//
// # One process
//
// A file lock holds the database for one process, or an advisory lock that the writing connection to PostgreSQL has: the ids of a block,
// the feed of changes and those who follow a log are in its memory.
package store
