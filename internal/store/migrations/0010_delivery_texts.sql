-- What is searched of a delivery, in lower case: the title, the author, the app, the merge request and the SHA. A search that finds nothing reads all of
-- it, and a row here is a quarter of one there.
CREATE TABLE delivery_texts (
    delivery INTEGER PRIMARY KEY REFERENCES deliveries (id) ON DELETE CASCADE,
    searched TEXT NOT NULL
) STRICT;
