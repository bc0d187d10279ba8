//! What goes to stdout: a table for people, JSON for programs.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Prints one JSON value, indented.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints one line, without colours where nobody would see them.
pub fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(anstream::stdout().lock(), "{text}")?)
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(bytes)?)
}

/// Prints rows under headings, in columns and without frames, so that `cut` and `awk` can read them.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    table_lines(headings, rows).iter().try_for_each(|row| line(row))
}

/// The same as lines.
pub fn table_lines(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|row| row.trim_end().to_owned()).collect()
}

/// "198 B", "812 KiB", "22.3 MiB", "1.2 GiB".
pub fn bytes_shown(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    const KIB: f64 = 1024.0;
    match bytes as f64 / KIB {
        kib if kib < KIB => format!("{kib:.0} KiB"),
        kib if kib < KIB * KIB => format!("{:.1} MiB", kib / KIB),
        kib => format!("{:.1} GiB", kib / KIB / KIB),
    }
}

/// "0.31 ms", "73.7 ms", "2.4 s": three digits are more than is known.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// "3 s", "2 min", "5 h", "4 d": one unit is enough to judge an age.
pub fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// Text of a service, with control characters made visible, so that it cannot drive the terminal. Colours stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = colour_length(rest);
        if colour > 0 {
            shown.push_str(&rest[..colour]);
            rest = &rest[colour..];
            continue;
        }
        match character {
            '\t' => shown.push(character),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
        rest = &rest[character.len_utf8()..];
    }
    shown
}

/// The same for lines of our own that hold such text.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Bytes of the SGR sequence (ECMA-48 §8.3.117) that `text` begins with, or 0.
fn colour_length(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\x1b[") else {
        return 0;
    };
    let digits = parameters.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    if parameters.as_bytes().get(digits) == Some(&b'm') { 2 + digits + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        assert_eq!([3.2, 100.0, 7200.0, 400_000.0, -1.0].map(age), ["3 s", "2 min", "2 h", "5 d", "0 s"]);
    }

    #[test]
    fn a_short_time_has_three_digits() {
        assert_eq!([0.314, 73.71, 512.4, 2400.0].map(milliseconds), ["0.31 ms", "73.7 ms", "512 ms", "2.4 s"]);
    }

    #[test]
    fn sizes_have_the_unit_that_suits_them() {
        assert_eq!([198, 2048, 23_383_245, 3 << 30].map(bytes_shown), ["198 B", "2 KiB", "22.3 MiB", "3.0 GiB"]);
    }

    #[test]
    fn colours_stay_and_other_controls_are_shown() {
        let shown = printable("a\x1b[1;31mred\x1b[0m\tb\x1b[2Jc\u{7}\rd");
        assert_eq!(shown, "a\x1b[1;31mred\x1b[0m\tb\\u{1b}[2Jc\\u{7}\\u{d}d");
    }
}
