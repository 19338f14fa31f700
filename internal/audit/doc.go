// Package audit is the chain of records of who did what, and how it is shown later that nobody has changed it.
//
//	record := audit.Record{Seq: 1, Time: now, Actor: "p_…", Action: "pipeline.play", Object: "pipeline/12/deploy", …}
//	hash, err := audit.Next(audit.Hash{}, record)   // SHA-256 over the hash before it and the record in canonical JSON
//	signed, err := audit.Sign(key, audit.Checkpoint{Seq: 1, Hash: hash, Time: now})
//
//	v := audit.NewVerifier(accepted, checkpoints)   // offline: a database, an export, a witness
//	problem := v.Record(record, hash)               // in the order of their numbers; the first that is wrong
//	report, problem := v.End()
//
// A record is canonical JSON (RFC 8785) with all its fields, and its hash covers the hash before it: who changes, removes or moves one
// record has to hash everything after it again. Checkpoints are signed with a key that is not in the database, and are kept in a
// second place as well (the room witness): who hashes everything again is found by the first checkpoint after the change, and who cuts
// the end off is found by a checkpoint of what is not there any more. What came after the last checkpoint is proven by nothing yet.
//
// A checkpoint may say more than "so it was": one of the kind [Cut] closes what retention removes, and one of the kind [Restored] says
// that the database was put back from a backup, so that what checkpoints before it say of later records does not count.
//
// People and addresses stand in records as random ids. Whose they are is kept apart and may be erased; the chain stays as it is.
//
// The package is pure: times, ids and keys are given.
package audit
