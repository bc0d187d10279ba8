//! Any bytes as a chunked body: it does not matter in which pieces they come, and what is taken is what a simple reading
//! of RFC 9112 §7.1 gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::decode_chunked;

fuzz_target!(|input: (u8, &[u8])| {
    let (at, bytes) = input;
    let whole = decode_chunked(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(at).min(bytes.len()));
    assert_eq!(decode_chunked(&[first, second]), whole);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode_chunked(&single), whole);
    if let Ok(Some(decoded)) = whole {
        assert_eq!(Some(decoded.content), content(bytes));
        assert!(bytes.ends_with(&decoded.rest));
    }
});

/// The content, by the shortest way. Lenient: only asked about what was taken.
fn content(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(bytes[..end].split(|byte| *byte == b';').next()?).ok()?;
        let size = usize::from_str_radix(line, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(content);
        }
        content.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
