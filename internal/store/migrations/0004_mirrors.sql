-- The URL that the refs are known of; empty: they were kept before it was noted.
ALTER TABLE mirrors ADD COLUMN source TEXT NOT NULL DEFAULT '';
