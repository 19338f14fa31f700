INSERT INTO counters (name, next) VALUES ('delivery', 1), ('repair', 1);

-- What a controller has delivered. Rows are written with the intent, and again with what became of it.
CREATE TABLE deliveries (
    id            INTEGER PRIMARY KEY,
    recorded      TEXT NOT NULL UNIQUE, -- the key of whoever records it
    app           TEXT NOT NULL,        -- Kind/namespace/name
    environment   TEXT NOT NULL,
    cluster       TEXT NOT NULL,
    revision      TEXT NOT NULL,
    sha           TEXT NOT NULL,
    previous      TEXT NOT NULL,
    title         TEXT NOT NULL,
    author        TEXT NOT NULL,
    email         TEXT NOT NULL,
    authored      INTEGER NOT NULL,
    merge_request TEXT NOT NULL,
    approvers     TEXT NOT NULL, -- a JSON list of names
    caused_by     TEXT NOT NULL, -- commit, spec, drift, sync or rollback
    actor         TEXT NOT NULL,
    status        TEXT NOT NULL,
    message       TEXT NOT NULL,
    began         INTEGER NOT NULL,
    applied       INTEGER NOT NULL,
    finished      INTEGER NOT NULL,
    health        TEXT NOT NULL,
    healthy       INTEGER NOT NULL,
    objects       INTEGER NOT NULL
) STRICT;
CREATE INDEX deliveries_app ON deliveries (app, id);
CREATE INDEX deliveries_environment ON deliveries (environment, id) WHERE environment <> '';
CREATE INDEX deliveries_author ON deliveries (author, id);
CREATE INDEX deliveries_status ON deliveries (status, id);
CREATE INDEX deliveries_cause ON deliveries (caused_by, id);
CREATE INDEX deliveries_sha ON deliveries (sha, id);
CREATE INDEX deliveries_began ON deliveries (began);
CREATE INDEX deliveries_running ON deliveries (app) WHERE status = 'running';

-- The objects that a delivery has changed. Kinds are in lower case, as people write them.
CREATE TABLE delivery_objects (
    delivery  INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number    INTEGER NOT NULL,
    name      TEXT NOT NULL,
    kind_key  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    api_group TEXT NOT NULL,
    kind      TEXT NOT NULL,
    verb      TEXT NOT NULL,
    fields    TEXT NOT NULL, -- JSON
    more      INTEGER NOT NULL,
    PRIMARY KEY (delivery, number)
) STRICT;
CREATE INDEX delivery_objects_object ON delivery_objects (name, kind_key, namespace, delivery);

CREATE TABLE repairs (
    id        INTEGER PRIMARY KEY,
    app       TEXT NOT NULL,
    sha       TEXT NOT NULL,
    name      TEXT NOT NULL,
    kind_key  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    api_group TEXT NOT NULL,
    kind      TEXT NOT NULL,
    manager   TEXT NOT NULL,
    reason    TEXT NOT NULL,
    fields    TEXT NOT NULL, -- JSON
    more      INTEGER NOT NULL,
    found     INTEGER NOT NULL,
    repaired  INTEGER NOT NULL,
    times     INTEGER NOT NULL
) STRICT;
CREATE INDEX repairs_app ON repairs (app, id);
CREATE INDEX repairs_manager ON repairs (manager, id);
CREATE INDEX repairs_object ON repairs (name, kind_key, namespace, id);
CREATE INDEX repairs_repaired ON repairs (repaired);
