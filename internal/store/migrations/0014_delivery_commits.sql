-- The commits that came with a delivery, where they were several, and what each of them has changed.
CREATE TABLE delivery_commits (
    id            INTEGER PRIMARY KEY, -- 100 times the delivery's, and its place among them
    delivery      INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    sha           TEXT NOT NULL,
    title         TEXT NOT NULL,
    author        TEXT NOT NULL,
    email         TEXT NOT NULL,
    authored      INTEGER NOT NULL,
    merge_request TEXT NOT NULL,
    approvers     TEXT NOT NULL, -- a JSON list of names
    changed       TEXT NOT NULL  -- JSON
) STRICT;
CREATE INDEX delivery_commits_delivery ON delivery_commits (delivery, id);
