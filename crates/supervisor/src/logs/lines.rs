//! Splits a stream of bytes into lines of a bounded length. Pure.

use std::mem::take;

/// Holds at most one unfinished line.
#[derive(Debug)]
pub(crate) struct Splitter {
    unfinished: Vec<u8>,
    bytes_max: usize,
}

/// A line, and whether the next one goes on with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) split: bool,
}

impl Splitter {
    /// Limit: no piece is longer than `bytes_max` bytes of the input, at least 4 (the longest UTF-8 sequence).
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { unfinished: Vec::new(), bytes_max: bytes_max.max(4) }
    }

    /// Takes in `bytes` and hands out every line that is finished by them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut out: impl FnMut(Piece)) {
        while !bytes.is_empty() {
            let room = self.bytes_max - self.unfinished.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            if let Some(end) = end {
                self.unfinished.extend_from_slice(&bytes[..end]);
                bytes = &bytes[end + 1..];
                out(self.piece());
            } else if bytes.len() > room {
                self.unfinished.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                let rest = self.unfinished.split_off(whole_characters(&self.unfinished));
                let text = text(&self.unfinished);
                self.unfinished = rest;
                out(Piece { text, split: true });
            } else {
                self.unfinished.extend_from_slice(bytes);
                break;
            }
        }
    }

    /// The line without an end that the stream ended with.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        (!self.unfinished.is_empty()).then(|| self.piece())
    }

    fn piece(&mut self) -> Piece {
        let mut line = take(&mut self.unfinished);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Piece { text: text(&line), split: false }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where to cut so that a character at the very end is not torn; the whole length where that end is no UTF-8.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let last = (tail..bytes.len()).rev().find(|at| bytes[*at] >= 0xc0);
    match last {
        Some(at) if at > 0 => match std::str::from_utf8(&bytes[at..]) {
            Err(error) if error.error_len().is_none() => at,
            _ => bytes.len(),
        },
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]], bytes_max: usize) -> Vec<String> {
        let mut splitter = Splitter::new(bytes_max);
        let mut seen = Vec::new();
        let mut keep = |piece: Piece| seen.push(format!("{}{}", piece.text, if piece.split { "…" } else { "" }));
        for chunk in chunks {
            splitter.feed(chunk, &mut keep);
        }
        if let Some(piece) = splitter.finish() {
            keep(piece);
        }
        seen
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        for (input, expected) in [
            (&b"one\ntwo\n"[..], &["one", "two"][..]),
            (b"one\r\n\r\nlast", &["one", "", "last"]),
            (b"12345678\n", &["12345678"]),
            (b"123456789\n", &["12345678…", "9"]),
            (b"1234567812345678x", &["12345678…", "12345678…", "x"]),
            ("1234567é9\n".as_bytes(), &["1234567…", "é9"]),
            (b"bad \xff\xfe\n", &["bad \u{fffd}\u{fffd}"]),
            (b"1234567\xff9\n", &["1234567\u{fffd}…", "9"]),
            (b"", &[]),
        ] {
            for at in 0..=input.len() {
                let (first, second) = input.split_at(at);
                assert_eq!(split(&[first, second], 8), expected, "{input:?} split at {at}");
            }
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(split(&bytes, 8), expected, "{input:?} byte by byte");
        }
    }

    #[test]
    fn a_line_without_end_is_held_only_up_to_the_limit() {
        let mut splitter = Splitter::new(64);
        let mut pieces = 0;
        for _ in 0..1000 {
            splitter.feed(&[b'x'; 1000], |_| pieces += 1);
            assert!(splitter.unfinished.len() <= 64);
        }
        assert!(pieces >= 1_000_000 / 64 - 1);
    }
}
