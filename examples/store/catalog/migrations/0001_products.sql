-- The tree of categories (two levels) and the products in its leaves.
CREATE TABLE categories (
    slug        TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    parent      TEXT REFERENCES categories (slug),
    position    INTEGER NOT NULL UNIQUE
) STRICT;

CREATE TABLE products (
    id          TEXT PRIMARY KEY,
    slug        TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    category    TEXT NOT NULL REFERENCES categories (slug),
    brand       TEXT NOT NULL,
    -- An object whose members are all text.
    attributes  TEXT NOT NULL CHECK (json_valid(attributes)),
    -- Minor units: 1990 is 19.90.
    price       INTEGER NOT NULL CHECK (price >= 0),
    currency    TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    -- Grows by one with every change; the entity tag.
    version     INTEGER NOT NULL DEFAULT 1,
    -- Everything that a search looks at, in lower case.
    search      TEXT NOT NULL
) STRICT;

CREATE INDEX products_by_category ON products (category, created_at);
CREATE INDEX products_by_brand ON products (brand, created_at);
CREATE INDEX products_by_age ON products (created_at, id);
CREATE INDEX products_by_price ON products (price, id);
CREATE INDEX products_by_name ON products (name, id);

-- Data that was put in once, so that what an administrator deletes does not come back.
CREATE TABLE seeds (
    name       TEXT PRIMARY KEY,
    applied_at TEXT NOT NULL
) STRICT;
