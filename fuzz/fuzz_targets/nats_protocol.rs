//! Any bytes as a client's operations: it does not matter in which pieces they come, nothing beyond the bounds is asked for,
//! and what is taken is within the bytes.
#![no_main]

use broker::{Bounds, Parsed, parse};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { control_line_max: 128, payload_max: 64 };

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(at).min(bytes.len()));
    let whole = read(&[bytes]);
    assert_eq!(read(&[first, second]), whole);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single), whole);
});

fn read(pieces: &[&[u8]]) -> Vec<String> {
    let (mut buffer, mut said) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parse(&buffer, &BOUNDS) {
                Ok(Parsed::Complete { operation, len }) => {
                    said.push(format!("{operation:?}"));
                    buffer.drain(..len);
                }
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > buffer.len());
                    break;
                }
                Err(violation) => {
                    said.push(format!("{violation:?}"));
                    return said;
                }
            }
        }
    }
    said
}
