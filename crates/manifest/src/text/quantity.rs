//! Sizes as they are written, `"128MiB"`, and amounts of CPU, `"500m"` or `"0.5"`, as in Kubernetes.

use serde::Serializer;

/// Bytes of each unit, the greatest binary one first.
const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads a whole number with a unit. `None` for anything else, and for more than 2⁶⁴ bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Prints what [`parse_size`] reads, in the greatest binary unit that leaves no rest.
pub fn format_size(size: u64) -> String {
    let binary = UNITS.iter().take(4).find(|(_, bytes)| size > 0 && size.is_multiple_of(*bytes));
    let (unit, bytes) = binary.copied().unwrap_or(("B", 1));
    format!("{}{unit}", size / bytes)
}

/// The form in a printed plan.
pub(crate) fn serialize_size<S: Serializer>(size: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_size(*size))
}

/// Reads thousandths of a core: `500m`, or cores with at most three decimals, `0.5`. `None` for anything else.
pub(crate) fn parse_cpu(text: &str) -> Option<u32> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    if let Some(millis) = text.strip_suffix('m') {
        return number(millis);
    }
    let (cores, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let scale = 10u32.checked_pow(3u32.checked_sub(u32::try_from(decimals.len()).ok()?)?)?;
    number(cores)?.checked_mul(1_000)?.checked_add(number(decimals)? * scale)
}

/// Prints what [`parse_cpu`] reads.
pub(crate) fn format_cpu(millis: u32) -> String {
    match millis % 1_000 {
        0 => (millis / 1_000).to_string(),
        _ => format!("{millis}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_the_round_trip() {
        for (text, bytes) in [("0B", 0), ("1B", 1), ("128MiB", 128 << 20), ("3TiB", 3 << 40), ("1025B", 1025)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(parse_size("2kB"), Some(2_000));
        assert_eq!(parse_size("2048KiB").map(format_size).as_deref(), Some("2MiB"));
    }

    #[test]
    fn amounts_of_cpu_are_thousandths_of_a_core() {
        for (text, millis) in [("500m", 500), ("0.5", 500), ("0.050", 50), ("2", 2_000), ("1.25", 1_250), ("0", 0)] {
            assert_eq!(parse_cpu(text), Some(millis), "{text}");
            assert_eq!(parse_cpu(&format_cpu(millis)), Some(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "5", "B", "5 MiB", "-5B", "1.5GiB", "5mib", "5M", "5Mi", "99999999999TiB", "ä"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for text in ["", "m", ".", "1.", ".5", "-1", "+1", "1e3", "0.5m", "0.0005", "inf", "nan", "9999999", "1_0", "ä"]
        {
            assert_eq!(parse_cpu(text), None, "{text}");
        }
    }
}
