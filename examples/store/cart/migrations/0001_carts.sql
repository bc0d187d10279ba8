CREATE TABLE carts (
    -- Random, 122 bits: who knows it, owns the cart.
    id         TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX carts_by_age ON carts (updated_at);

-- A product in a cart, as it was when its quantity was last set.
CREATE TABLE lines (
    cart_id    TEXT NOT NULL REFERENCES carts (id) ON DELETE CASCADE,
    product_id TEXT NOT NULL,
    slug       TEXT NOT NULL,
    name       TEXT NOT NULL,
    image      TEXT NOT NULL,
    -- Minor units.
    price      INTEGER NOT NULL CHECK (price >= 0),
    currency   TEXT NOT NULL,
    quantity   INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 99),
    -- Order in which products came into the cart.
    position   INTEGER NOT NULL,
    PRIMARY KEY (cart_id, product_id)
) STRICT;
