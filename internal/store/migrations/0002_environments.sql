INSERT INTO counters (name, next) VALUES ('environment', 1), ('deployment', 1);

CREATE TABLE environments (
    id               INTEGER PRIMARY KEY,
    project          INTEGER NOT NULL REFERENCES projects (id),
    name             TEXT NOT NULL,
    slug             TEXT NOT NULL,
    tier             TEXT NOT NULL,
    url              TEXT NOT NULL,
    state            TEXT NOT NULL,
    ref              TEXT NOT NULL, -- of the last deployment
    tag              INTEGER NOT NULL,
    on_stop          TEXT NOT NULL, -- a job of on_stop_pipeline
    on_stop_pipeline INTEGER NOT NULL,
    auto_stop        INTEGER NOT NULL,
    created          INTEGER NOT NULL,
    next_iid         INTEGER NOT NULL DEFAULT 1,
    UNIQUE (project, name)
) STRICT;
CREATE INDEX environments_ref ON environments (project, ref);
CREATE INDEX environments_auto_stop ON environments (auto_stop) WHERE auto_stop <> 0;
CREATE INDEX environments_on_stop ON environments (on_stop_pipeline) WHERE on_stop_pipeline <> 0;

-- Deployments outlive their pipelines and jobs: they are the history of what was where.
CREATE TABLE deployments (
    id          INTEGER PRIMARY KEY,
    project     INTEGER NOT NULL REFERENCES projects (id),
    environment INTEGER NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    iid         INTEGER NOT NULL,
    pipeline    INTEGER NOT NULL,
    job         INTEGER NOT NULL UNIQUE,
    ref         TEXT NOT NULL,
    tag         INTEGER NOT NULL,
    sha         TEXT NOT NULL,
    status      TEXT NOT NULL,
    deployed_by TEXT NOT NULL,
    created     INTEGER NOT NULL,
    started     INTEGER NOT NULL,
    finished    INTEGER NOT NULL,
    wrote       TEXT NOT NULL, -- JSON
    UNIQUE (environment, iid)
) STRICT;
CREATE INDEX deployments_project ON deployments (project, id);
CREATE INDEX deployments_environment ON deployments (environment, id);
CREATE INDEX deployments_status ON deployments (environment, status, id);
CREATE INDEX deployments_pipeline ON deployments (pipeline, id);
