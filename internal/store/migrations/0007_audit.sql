-- The chain of audit records. What is hashed is the record in canonical JSON, which is made of these columns.
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY, -- 1, 2, 3, …
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL, -- an id of audit_names, or system:keelson
    action      TEXT NOT NULL,
    object      TEXT NOT NULL,
    project     TEXT NOT NULL,
    environment TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    detail      TEXT NOT NULL,
    address     TEXT NOT NULL, -- an id of audit_names; empty: none
    hash        BLOB NOT NULL  -- SHA-256 over the hash of the record before and this one
) STRICT;
CREATE INDEX audit_at ON audit (at, seq);
CREATE INDEX audit_actor ON audit (actor, seq);
CREATE INDEX audit_action ON audit (action, seq);
CREATE INDEX audit_object ON audit (object, seq);
CREATE INDEX audit_project ON audit (project, seq) WHERE project <> '';

-- Whose the ids are. What is erased here is not known any more; the chain stays as it is.
CREATE TABLE audit_names (
    id    TEXT PRIMARY KEY,
    kind  TEXT NOT NULL, -- person or address
    owner TEXT NOT NULL, -- of an address: the person's id
    name  TEXT NOT NULL,
    last  INTEGER NOT NULL, -- the last record with it
    UNIQUE (kind, owner, name)
) STRICT;

CREATE TABLE audit_checkpoints (
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL, -- when it was made
    kind      TEXT NOT NULL,
    signed    TEXT NOT NULL, -- the checkpoint with its signature, in JSON
    witnessed INTEGER NOT NULL DEFAULT 0, -- 1: the witness has it
    PRIMARY KEY (seq, at)
) STRICT;

-- The audit record of what was asked for; 0: there is none.
ALTER TABLE commands ADD COLUMN audit INTEGER NOT NULL DEFAULT 0;
