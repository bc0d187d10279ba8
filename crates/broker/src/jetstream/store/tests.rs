//! The store against a model that is too simple to be wrong: live, after it was opened again, and after crashes.

mod crash;
mod damage;
mod expiry;
mod model;
mod random;
