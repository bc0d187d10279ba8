//! Numbers of 1 to 10 bytes (LEB128) for changes and summaries, as pure functions.

pub(super) fn push(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

pub(super) fn push_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    push(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

/// Takes a number off the front; `None` when it is cut short or too large.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    // Most are short.
    if let [byte @ ..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return Some(u64::from(*byte));
    }
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        if at == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_cut_ones_do_not() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
            let mut buffer = Vec::new();
            push(&mut buffer, value);
            assert_eq!(take(&mut &buffer[..]), Some(value));
            for cut in 0..buffer.len() {
                assert_eq!(take(&mut &buffer[..cut]), None);
            }
        }
        assert_eq!(take(&mut &[0xff; 10][..]), None);
        assert_eq!(take_bytes(&mut &[3, 1, 2][..]), None);
    }
}
