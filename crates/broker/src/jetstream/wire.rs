//! Numbers and byte strings in journal records, for the ledger, the store and consumers: LEB128 varints in their shortest
//! form, strings with their length in front. Reading never panics.

/// Appends a number, in as many bytes as it needs (1 to 10).
pub(super) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a string of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a byte off the front of a record. `None` where it is too short, as with the others.
#[inline]
pub(super) fn take_byte(record: &mut &[u8]) -> Option<u8> {
    let (first, left) = record.split_first()?;
    *record = left;
    Some(*first)
}

/// Takes a number. `None` also where it is too large or not written in its shortest form.
#[inline]
pub(super) fn take_u64(record: &mut &[u8]) -> Option<u64> {
    // Most are short.
    if let [byte @ ..0x80, left @ ..] = *record {
        *record = left;
        return Some(u64::from(*byte));
    }
    let mut value = 0;
    for (at, byte) in record.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if *byte < 0x80 {
            *record = &record[at + 1..];
            return (*byte > 0).then_some(value);
        }
    }
    None
}

/// Takes a string of bytes.
pub(super) fn take_bytes<'a>(record: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u64(record)?).ok()?;
    let (taken, left) = record.split_at_checked(length)?;
    *record = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_come_back_and_cut_ones_do_not() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            for cut in 0..out.len() {
                assert_eq!(take_u64(&mut &out[..cut]), None);
            }
            put_bytes(&mut out, b"text");
            let mut left = &out[..];
            assert_eq!((take_u64(&mut left), take_bytes(&mut left)), (Some(value), Some(b"text".as_slice())));
            assert!(left.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_too_long_or_cut_is_refused() {
        let wrong: [&[u8]; 5] = [&[0xff; 11], &[0xff; 10], &[0x80, 0], &[0x80, 0x80, 0], b""];
        assert_eq!(wrong.map(|mut record| take_u64(&mut record)), [None; 5]);
        assert_eq!(take_bytes(&mut &[5, 1][..]), None);
        assert_eq!(take_byte(&mut &[][..]), None);
    }
}
