//! Durations as Go writes and reads them (`1m30s`, `1.5h`, `250ms`): clients send them with `-NAK` and as the time to live
//! of a message, and are shown them in refusals. Nanoseconds.

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Digits behind a point that count.
const FRACTION_DIGITS: usize = 18;

/// Reads what Go's `time.ParseDuration` reads.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum: i64 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit) = rest.split_at(number_len);
        let unit_len = unit.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, next) = unit.split_at(unit_len);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(scaled(number, *unit)?)?;
        rest = next;
    }
    (text.len() > 1 || !text.starts_with(['-', '+'])).then_some(sum * sign)
}

/// A decimal number of units.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // What lies behind so many digits is less than a nanosecond of any unit.
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let digits: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = digits * i128::from(unit) / 10_i128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(i64::try_from(part).ok()?)
}

/// Writes what Go's `Duration.String` writes, for durations that are not negative.
pub(super) fn display(nanoseconds: i64) -> String {
    let [.., (_, second), (_, minute), (_, hour)] = UNITS;
    if nanoseconds < second {
        let (unit, scale) = match nanoseconds {
            0 => return "0s".into(),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return decimal(nanoseconds, scale) + unit;
    }
    let seconds = decimal(nanoseconds % minute, second) + "s";
    match (nanoseconds / hour, nanoseconds % hour / minute) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn decimal(value: i64, scale: i64) -> String {
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("10s", Some(10_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("0.3333333333333333333333h", Some(1_200_000_000_000 - 1)),
            ("0.999999999999h", Some(3_600_000_000_000 - 4)),
            ("2μs", Some(2_000)),
            ("1.s", Some(1_000_000_000)),
            ("100ms", Some(100_000_000)),
            ("2us", Some(2_000)),
            ("2µs", Some(2_000)),
            ("0", Some(0)),
            ("-1s", Some(-1_000_000_000)),
            ("+1s", Some(1_000_000_000)),
            ("", None),
            ("-", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1s2", None),
            ("1..s", None),
            ("9999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
        ];
        for (nanoseconds, expected) in cases {
            assert_eq!(display(nanoseconds), expected);
        }
    }
}
