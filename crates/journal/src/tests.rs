//! The journal against a disk that fails, and against a model that says what must be there.

mod damage;
mod group;
mod model;
mod simulation;
