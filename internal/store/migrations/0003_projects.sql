-- The job of another project that has started a pipeline; 0: none has.
ALTER TABLE pipelines ADD COLUMN upstream INTEGER NOT NULL DEFAULT 0;
CREATE INDEX pipelines_upstream ON pipelines (upstream, id) WHERE upstream <> 0;

CREATE TABLE schedules (
    project  INTEGER NOT NULL REFERENCES projects (id),
    name     TEXT NOT NULL,
    spec     TEXT NOT NULL, -- when it is due, as it was at seen
    seen     INTEGER NOT NULL, -- what was due until then is done
    pipeline INTEGER NOT NULL DEFAULT 0, -- the last one
    PRIMARY KEY (project, name)
) STRICT;

-- What is known of the refs of a repository that comes from elsewhere: pipelines of their changes are made, or on their way.
CREATE TABLE mirrors (
    repository TEXT PRIMARY KEY,
    refs       TEXT NOT NULL -- JSON: the ref -> the commit
) STRICT;
