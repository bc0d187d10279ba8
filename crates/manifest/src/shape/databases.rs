//! The keys of databases.

use super::keys::{ALLOW, DECLARATIONS_MAX, key};
use super::{Kind, Map, OneOf, Table};

pub(super) static DATABASES: Map = Map { key: "database", value: Kind::Table(&DATABASE), max: DECLARATIONS_MAX };

static DATABASE: Table = Table {
    name: "database",
    doc: "A database of its services' own.",
    keys: &[
        key("engine", Kind::Choice { known: &["sqlite"], later: &["postgres"] }, "What keeps the data.")
            .default("sqlite"),
        key(
            "migrations",
            Kind::Text,
            "A folder of `NNNN_name.sql` files that are applied in order before a service that uses it starts.",
        ),
        key(
            "outbox",
            Kind::Text,
            "A table of it, which its service writes in the same transaction as what it tells of. Each row is published as an event and then deleted, in the order of `id`; what a service of this database `publishes` may stand in it.",
        ),
        ALLOW,
    ],
    later: &[],
    one_of: OneOf::Nothing,
};
