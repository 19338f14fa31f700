// Package artifact keeps what jobs leave behind: artifacts, caches and reports, in a content-addressed store.
//
//	store, err := artifact.Open(dir, artifact.Options{})
//
//	release, err := store.Hold(ctx)                            // as long as the pipeline runs nothing of it expires
//	sources := artifact.Sources(graph, job)                    // PURE: whose artifacts a job takes
//	vars, err := store.Dotenv(ctx, keys)                       // their dotenv variables, for the job's own variables
//	store.RestoreCaches(ctx, scope, job.Caches, work)          // before the script; a miss is no error
//	err = store.Restore(ctx, keys, work)                       // a [*MissingError] is a missing_dependency_failure
//	                                                           // … the script runs …
//	store.SaveCaches(ctx, scope, job.Caches, work, succeeded)  // after after_script
//	saved, err := store.Save(ctx, key, job.Artifacts, work, succeeded)
//	store.Sweep(ctx, artifact.SweepOptions{Every: time.Hour})  // at the end, when it is time
//
// # What is on disk
//
// The store is a bucket of gocloud.dev/blob; [Open] puts it into a directory. Files are kept once, by the BLAKE3 hash of their
// content: large ones alone, small ones many to a bundle. A bundle ends where the name of a file says so, thus a change makes
// one bundle new and not all that follow.
//
//	blobs/3f/3fa4…            the content of a large file, of a bundle, or a tree (the list of files of an artifact or a cache)
//	artifacts/P/L/J.json      the record of a job's artifacts: its tree, when it expires, its reports
//	caches/P/K.json           the record of a cache
//	used/P/K                  when the cache was used last
//	seen/P/D.json             which caches were saved from a person's working tree or restored to it last
//	swept                     when the store was swept last
//
// Every write is a temporary file and a rename; a record is written after what it names. So a process that is killed leaves the
// old state, and who reads sees all of a cache or nothing of it. Content is checked against its hash when it is read. Nothing in
// the store is ever linked into a working directory: a job that changes a file changes its copy.
//
// # What leaves the store
//
// Files are written to a staging directory in the project directory and moved into place when all of them are there, so
// nothing is ever half-extracted. In a person's working tree a file is replaced only if the store knows what is in it; what else
// differs stays, and the log says so. Nothing is written through a link that leads out of the project directory, or into the repository in
// its .git, by whatever way; what an archive has of a repository there is left out. Only [Unpack], which takes all of a directory from the
// server, writes it. Names with `..`, absolute names, duplicates, devices, names below links and archives beyond the [Limits] are
// refused as a whole. Symbolic links that a job made are kept as they were, as the runner does (a Python environment has links to /usr/bin); [Unzip], which takes
// archives of strangers, refuses those that lead out of the directory.
package artifact
