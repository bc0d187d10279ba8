//! Any bytes as a record of a stream's files: whatever is read of them is no panic, and what is taken is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| broker::fuzzing::records(record));
