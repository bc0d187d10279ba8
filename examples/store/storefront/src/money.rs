//! Prices as people read them.

/// An amount in minor units of a currency with two decimals: `€1,249.00`.
pub(crate) fn format(minor: i64, currency: &str) -> String {
    let symbol = match currency {
        "EUR" => "€".to_owned(),
        "USD" => "$".to_owned(),
        "GBP" => "£".to_owned(),
        // A no-break space keeps code and number on one line.
        other => format!("{other}\u{a0}"),
    };
    let sign = if minor < 0 { "−" } else { "" };
    let whole = (minor.unsigned_abs() / 100).to_string();
    let mut grouped = String::with_capacity(whole.len() + whole.len() / 3);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{symbol}{grouped}.{:02}", minor.unsigned_abs() % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_have_two_decimals_and_groups_of_three() {
        for (minor, currency, text) in [
            (0, "EUR", "€0.00"),
            (5, "EUR", "€0.05"),
            (2490, "GBP", "£24.90"),
            (124_900, "USD", "$1,249.00"),
            (123_456_789, "CHF", "CHF\u{a0}1,234,567.89"),
            (-2490, "EUR", "−€24.90"),
        ] {
            assert_eq!(format(minor, currency), text);
        }
    }
}
