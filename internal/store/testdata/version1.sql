-- A database as the first version of the schema has left it, with one pipeline under way. Its key is that of the tests.

CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied INTEGER NOT NULL) STRICT;
INSERT INTO schema_migrations VALUES (1, '0001_pipelines', 1772366400000000);
CREATE TABLE sealing (id INTEGER PRIMARY KEY, sealed_check BLOB NOT NULL) STRICT;
INSERT INTO sealing VALUES (1, x'0122a792daedc464f5c574bc5cd6b3f068dd6bedda81ab38774c07670a59e5be12c10f13fe15e0b1c4b2fbfe9e18d7b8deddb977781558');

-- Times are microseconds since 1970 in UTC, 0 where there is none. Columns that are called sealed are encrypted.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT;
INSERT INTO counters (name, next) VALUES ('id', 1), ('project', 1), ('command', 1), ('start', 1);

-- A project keeps its number for good, so rows are never deleted.
CREATE TABLE projects (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    created  INTEGER NOT NULL,
    next_iid INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE pipelines (
    id           INTEGER PRIMARY KEY,
    project      INTEGER NOT NULL REFERENCES projects (id),
    iid          INTEGER NOT NULL,
    parent       INTEGER NOT NULL DEFAULT 0, -- the job that has started a child pipeline
    source       TEXT NOT NULL,
    ref          TEXT NOT NULL,
    tag          INTEGER NOT NULL,
    sha          TEXT NOT NULL,
    before       TEXT NOT NULL,
    title        TEXT NOT NULL,
    author       TEXT NOT NULL,
    started_by   TEXT NOT NULL,
    status       TEXT NOT NULL,
    why          TEXT NOT NULL DEFAULT '',
    created      INTEGER NOT NULL,
    started      INTEGER NOT NULL DEFAULT 0,
    finished     INTEGER NOT NULL DEFAULT 0,
    resting      INTEGER NOT NULL DEFAULT 0, -- nothing happens any more unless a person asks
    journal_end  INTEGER NOT NULL DEFAULT 0, -- the number of the last entry that there ever was
    UNIQUE (project, iid)
) STRICT;
CREATE INDEX pipelines_project ON pipelines (project, id);
CREATE INDEX pipelines_ref ON pipelines (project, ref, id);
CREATE INDEX pipelines_project_status ON pipelines (project, status, id);
CREATE INDEX pipelines_project_source ON pipelines (project, source, id);
CREATE INDEX pipelines_status ON pipelines (status, id);
CREATE INDEX pipelines_sha ON pipelines (sha, id);
CREATE INDEX pipelines_parent ON pipelines (parent, id) WHERE parent <> 0;
CREATE INDEX pipelines_unfinished ON pipelines (id) WHERE resting = 0;

-- In tables of their own, as a row is written anew as a whole when one of its columns changes.
CREATE TABLE pipeline_inputs (
    pipeline     INTEGER PRIMARY KEY REFERENCES pipelines (id) ON DELETE CASCADE,
    sealed_graph BLOB,
    sealed_event BLOB
) STRICT;
CREATE TABLE pipeline_states (
    pipeline     INTEGER PRIMARY KEY REFERENCES pipelines (id) ON DELETE CASCADE,
    sealed_state BLOB NOT NULL -- as it is before the entries of the journal
) STRICT;

CREATE TABLE journal (
    pipeline     INTEGER NOT NULL REFERENCES pipelines (id) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    sealed_entry BLOB NOT NULL,
    PRIMARY KEY (pipeline, number)
) STRICT;

-- One row per attempt.
CREATE TABLE jobs (
    id               INTEGER PRIMARY KEY,
    pipeline         INTEGER NOT NULL REFERENCES pipelines (id) ON DELETE CASCADE,
    name             TEXT NOT NULL,
    stage            TEXT NOT NULL,
    attempt          INTEGER NOT NULL,
    status           TEXT NOT NULL,
    why              TEXT NOT NULL,
    reason           TEXT NOT NULL,
    exit_code        INTEGER NOT NULL,
    message          TEXT NOT NULL,
    allowed          INTEGER NOT NULL,
    created          INTEGER NOT NULL,
    started          INTEGER NOT NULL,
    finished         INTEGER NOT NULL,
    environment      TEXT NOT NULL,
    coverage         REAL,
    runner           TEXT NOT NULL,
    played_by        TEXT NOT NULL,
    sealed_tests     BLOB,
    sealed_variables BLOB,
    UNIQUE (pipeline, name, attempt)
) STRICT;

-- Logs of jobs that are gone, to be deleted: a row is written with what deletes the job, and goes when the file is gone.
CREATE TABLE dead_logs (
    job INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE commands (
    id          INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    project     INTEGER NOT NULL,
    pipeline    INTEGER NOT NULL,
    jobs        TEXT NOT NULL, -- a JSON list of names
    asked_by    TEXT NOT NULL,
    created     INTEGER NOT NULL,
    answered    INTEGER NOT NULL DEFAULT 0,
    answer      TEXT NOT NULL DEFAULT '',
    sealed_args BLOB
) STRICT;
CREATE INDEX commands_open ON commands (id) WHERE answered = 0;
CREATE INDEX commands_answered ON commands (answered) WHERE answered <> 0;

UPDATE counters SET next = 257 WHERE name = 'id';
INSERT INTO projects (id, name, created, next_iid) VALUES (2, 'group/app', 1772366400000000, 4);
INSERT INTO pipelines (id, project, iid, source, ref, tag, sha, before, title, author, started_by, status, why, created, started, journal_end)
VALUES (7, 2, 3, 'push', 'main', 0, 'c0ffee', '', 'from version 1', 'Ann', 'ann', 'running', 'job build runs', 1772366400000000, 1772366400000000, 1);
INSERT INTO pipeline_inputs VALUES (7,
    x'01f2f005e3656ebeeea2f0a860058514bc77af7189d3141dd2b159cbca03d46bfcdae6b6e8156c17822636b03b27ca',
    x'012c2c384bd1ea58b1a7440da6c9c8ce02be4926c8ceba4378faa21f80d67ede7130b1ffbd1e248d3b8cb18e054c');
INSERT INTO journal VALUES (7, 1, x'01ece8ec6ad42f243d361318ddab860e2a0c8b2ad0337cb06641ef02f05555d125f4dd445fc7475cce8007');
