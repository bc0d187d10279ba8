//! Small values of a Compose file: durations and published ports. Pure.

use std::time::Duration;

use crate::scaffold::yaml::Value;

const UNITS: [(&str, f64); 5] = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0), ("h", 3_600_000.0)];

/// Reads `1m30s` or `1.5s`, and writes it as the manifest does, if it lies between the limits.
pub fn duration(text: &str, min: Duration, max: Duration) -> Option<String> {
    let (mut rest, mut millis) = (text.trim(), 0.0f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        millis += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    let fits = (min.as_secs_f64() * 1000.0..=max.as_secs_f64() * 1000.0).contains(&millis);
    fits.then(|| {
        let millis = millis.round();
        if millis % 1000.0 == 0.0 { format!("{}s", millis / 1000.0) } else { format!("{millis}ms") }
    })
}

/// Port in the container and port of the machine, of one entry of `ports`: `80`, `8080:80`, `127.0.0.1:8080:80/tcp`,
/// or the long form. The first of a range stands for it.
pub fn port(entry: &Value) -> Option<(u16, Option<u16>)> {
    let first = |text: &str| text.split('-').next()?.trim().parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(target) = entry.get("target") {
        return Some((first(target.text()?)?, entry.get("published").and_then(Value::text).and_then(first)));
    }
    let text = entry.text()?;
    if text.ends_with("/udp") {
        return None;
    }
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    match text.rsplit_once(':') {
        Some((before, inside)) => Some((first(inside)?, before.rsplit(':').next().and_then(first))),
        None => Some((first(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_ports_are_read_in_all_their_forms() {
        let read = |text| duration(text, Duration::from_millis(10), Duration::from_secs(3600));
        assert_eq!(read("1m30s").as_deref(), Some("90s"));
        assert_eq!(read("1.5s").as_deref(), Some("1500ms"));
        for bad in ["", "5", "s", "2d", "1us", "2h", "-1s", "1..s"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let port = |text: &str| port(&Value::Text(text.to_owned()));
        assert_eq!(port("127.0.0.1:8080:80/tcp"), Some((80, Some(8080))));
        assert_eq!(port("3000-3005"), Some((3000, None)));
        assert_eq!(port("8080:80"), Some((80, Some(8080))));
        assert_eq!([port("53:53/udp"), port("x:y"), port("")], [None; 3]);
    }
}
