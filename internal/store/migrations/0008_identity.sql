-- Local users. Who comes from elsewhere (OpenID Connect) has no row.
CREATE TABLE users (
    name     TEXT PRIMARY KEY,
    password TEXT NOT NULL, -- a hash; empty: none, so only tokens count
    groups   TEXT NOT NULL, -- JSON
    created  INTEGER NOT NULL
) STRICT;

-- Named access tokens. Only hashes are kept.
CREATE TABLE access_tokens (
    hash    BLOB PRIMARY KEY,
    person  TEXT NOT NULL,
    origin  TEXT NOT NULL, -- local, oidc or link
    groups  TEXT NOT NULL, -- JSON: of who has no row in users, as they were
    name    TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER NOT NULL DEFAULT 0, -- the last time, roughly; 0: never
    UNIQUE (person, origin, name)
) STRICT;
CREATE INDEX access_tokens_expires ON access_tokens (expires);

-- What browsers have as a cookie. Only hashes are kept.
CREATE TABLE sessions (
    hash    BLOB PRIMARY KEY,
    person  TEXT NOT NULL,
    origin  TEXT NOT NULL,
    groups  TEXT NOT NULL,
    created INTEGER NOT NULL,
    seen    INTEGER NOT NULL, -- the last time, roughly
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_expires ON sessions (expires);
CREATE INDEX sessions_person ON sessions (person, origin);
