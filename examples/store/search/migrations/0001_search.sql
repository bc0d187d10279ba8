-- What the catalog has told of: each product as of the newest version known.
CREATE TABLE products (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    version      INTEGER NOT NULL,
    slug         TEXT NOT NULL,
    name         TEXT NOT NULL,
    category     TEXT NOT NULL,
    brand        TEXT NOT NULL,
    -- Minor units.
    price        INTEGER NOT NULL,
    currency     TEXT NOT NULL,
    image        TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    is_available INTEGER NOT NULL
) STRICT;

-- Products that are gone, so that an older event that comes late does not bring one back.
CREATE TABLE removed (
    id      TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Their words; the row is the number of the product.
CREATE VIRTUAL TABLE texts USING fts5 (
    name, category, brand, attributes, description, tokenize = "unicode61 remove_diacritics 2", prefix = "2 3"
);

-- Every word there is, and in how many products.
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (texts, row);

-- The runs of three letters of every word that ever was, by which misspelt ones are found.
CREATE TABLE grams (
    gram TEXT NOT NULL,
    term TEXT NOT NULL,
    PRIMARY KEY (gram, term)
) STRICT, WITHOUT ROWID;

CREATE TABLE terms (
    term TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
