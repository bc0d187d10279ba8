-- Events, written with the change that they tell of; the platform publishes and deletes them.
CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    topic       TEXT NOT NULL,
    subject     TEXT NOT NULL,
    time        TEXT NOT NULL,
    traceparent TEXT,
    data        TEXT NOT NULL
) STRICT;

-- Products of before are told of as well.
INSERT INTO outbox (topic, subject, time, data)
SELECT 'catalog.product.created', id, strftime('%Y-%m-%dT%H:%M:%fZ'),
       json_object('id', id, 'slug', slug, 'name', name, 'description', description, 'category', category,
                   'brand', brand, 'attributes', json(attributes), 'price', price, 'currency', currency,
                   'image', '/images/' || slug || '.svg?v=' || version, 'created_at', created_at,
                   'updated_at', updated_at, 'version', version)
FROM products ORDER BY created_at, id;
