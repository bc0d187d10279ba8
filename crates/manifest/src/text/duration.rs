//! Durations as they are written, `"500ms"` or `"1m30s"`, and printed: the form of Gateway API's GEP-2257, with days.

use std::time::Duration;

use serde::Serializer;

/// Milliseconds of each unit, the greatest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a sum of whole numbers with units, `d`, `h`, `m`, `s` and `ms`, as durations of a manifest are written. `None` for anything else, and for more than 2⁶⁴ ms.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() || total == 0 && rest.len() == text.len() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = after;
    }
    Some(Duration::from_millis(total))
}

/// Prints what [`parse_duration`] reads.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if rest >= millis {
            text.push_str(&format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `serialize_with`.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

/// The same for many.
pub(crate) fn serialize_all<S: Serializer>(all: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().copied().map(format_duration))
}

/// The same for one that may be missing.
pub(crate) fn serialize_optional<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serialize(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_the_round_trip() {
        for (text, millis) in
            [("500ms", 500), ("1s", 1000), ("1m30s", 90_000), ("2h", 7_200_000), ("1d1ms", 86_400_001), ("0s", 0)]
        {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(format_duration(duration), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5sec",
            "5S",
            "99999999999999999999s",
            "99999999999999999d",
            "5sx",
            "ä",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
