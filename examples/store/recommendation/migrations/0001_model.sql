-- Not STRICT: Python brings a SQLite of its own, which may be older than that word.

-- What the catalog says of a product, and how much sessions made of it.
CREATE TABLE products (
    id       TEXT PRIMARY KEY,
    category TEXT,
    -- Minor units.
    price    INTEGER,
    -- Of the catalog; 0 while it has said nothing.
    version  INTEGER NOT NULL DEFAULT 0,
    removed  INTEGER NOT NULL DEFAULT 0,
    -- Sum over the sessions of scale * interest * interest: the square of the length of the product's vector.
    weight   REAL NOT NULL DEFAULT 0
);

CREATE INDEX products_by_category ON products (category);
CREATE INDEX products_by_weight ON products (weight);

CREATE TABLE sessions (
    number  INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    -- What it counts for: the later it began, the more.
    scale   REAL NOT NULL,
    -- Grows by one with every change of any session.
    touched INTEGER NOT NULL
);

CREATE INDEX sessions_by_age ON sessions (touched);

CREATE TABLE interests (
    session  INTEGER NOT NULL,
    product  TEXT NOT NULL,
    -- 1 seen, 3 in the cart, 5 bought.
    interest INTEGER NOT NULL,
    touched  INTEGER NOT NULL,
    PRIMARY KEY (session, product)
) WITHOUT ROWID;

-- Sum over the sessions of scale * interest * interest: the dot product of two products' vectors. Each pair is here
-- twice.
CREATE TABLE pairs (
    product TEXT NOT NULL,
    other   TEXT NOT NULL,
    weight  REAL NOT NULL,
    PRIMARY KEY (product, other)
) WITHOUT ROWID;

-- Events that were taken in, the last ones only.
CREATE TABLE seen (
    number INTEGER PRIMARY KEY,
    -- A hash of source and id.
    event  BLOB NOT NULL UNIQUE
);
