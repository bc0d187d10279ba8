-- Events, written with the change that they tell of; the platform publishes and deletes them.
CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    topic       TEXT NOT NULL,
    subject     TEXT NOT NULL,
    time        TEXT NOT NULL,
    traceparent TEXT,
    data        TEXT NOT NULL
) STRICT;
