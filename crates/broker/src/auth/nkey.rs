//! Nkeys: Ed25519 public keys in NATS's written form, and signatures of the nonce.
//! <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth>

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Bytes of a public key.
pub(super) const LEN: usize = 32;
/// The first byte of a user's key: the letter `U`.
const USER_PREFIX: u8 = 20 << 3;
/// Prefix, key, CRC-16.
const RAW_LEN: usize = 1 + LEN + 2;
/// Characters of a written key.
const TEXT_LEN: usize = (RAW_LEN * 8).div_ceil(5);

/// The key behind `U…`; `None` if it is none, or its checksum is wrong.
pub(super) fn decode_user(text: &str) -> Option<[u8; LEN]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let raw = decode(text.as_bytes(), 5, |byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'2'..=b'7' => Some(byte - b'2' + 26),
        _ => None,
    })?;
    let (body, checksum) = raw.split_at_checked(RAW_LEN - 2)?;
    let is_whole = crc16(body).to_le_bytes() == checksum;
    let (prefix, key) = body.split_first()?;
    if !is_whole || *prefix != USER_PREFIX {
        return None;
    }
    key.try_into().ok()
}

/// Whether the owner of the key has signed the nonce. The signature is base64, of either alphabet.
pub(super) fn is_signed(key: &[u8; LEN], nonce: &str, signature: &str) -> bool {
    let digits = signature.trim_end_matches('=').as_bytes();
    let signature = decode(digits, 6, |byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' | b'+' => Some(62),
        b'_' | b'/' => Some(63),
        _ => None,
    });
    signature
        .is_some_and(|signature| UnparsedPublicKey::new(&ED25519, key).verify(nonce.as_bytes(), &signature).is_ok())
}

/// Base64 with the alphabet of URLs, without padding.
pub(super) fn encode_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |chunk: &[u8], at: usize| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63])
    };
    bytes.chunks(3).flat_map(|chunk| (0..=chunk.len()).map(move |at| digit(chunk, at))).collect()
}

/// Digits of `width` bits each, put together to bytes; bits that make no byte are dropped.
fn decode(digits: &[u8], width: u32, value: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len());
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        bits = bits << width | u32::from(value(*digit)?);
        count += width;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    let step = |crc: u16, _: u8| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ u16::from(*byte) << 8, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_users_are_read_and_others_are_not() {
        let pair = nkeys::KeyPair::new_user();
        let text = pair.public_key();
        assert!(decode_user(&text).is_some());
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'B' { b'C' } else { b'B' };
            assert_eq!(decode_user(std::str::from_utf8(&damaged).unwrap()), None, "{at}");
        }
        assert_eq!(decode_user(&nkeys::KeyPair::new_account().public_key()), None);
        assert_eq!(decode_user(&pair.seed().unwrap()), None);
        assert_eq!(decode_user("Ü"), None);
    }

    #[test]
    fn base64_goes_there_and_back() {
        assert_eq!(encode_base64(b"\xff\xfe\xfd\xfc"), "__79_A");
        assert_eq!(encode_base64(b"ab"), "YWI");
        assert_eq!(encode_base64(b""), "");
    }
}
