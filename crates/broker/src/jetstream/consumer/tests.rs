//! Consumers under scripts (`scripts`, `pushing`), under random use beside a naive model (`random`), and their records.

mod bench;
mod pushing;
mod random;
mod records;
mod scripts;
mod world;
