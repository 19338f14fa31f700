-- What servers that wait for their turn have to say to the audit, until the one that has the database puts it into the chain.
CREATE TABLE audit_inbox (
    id    TEXT PRIMARY KEY,
    at    INTEGER NOT NULL,
    entry TEXT NOT NULL -- JSON
) STRICT;
CREATE INDEX audit_inbox_at ON audit_inbox (at);
