//! The list of what is not right yet: lines of `rule subject`. One that is no longer needed is itself a violation.

use std::collections::BTreeSet;

use super::{EXCEPTIONS, Violation};

/// Takes the listed violations out of `found` and adds one for every line that took nothing out.
pub(super) fn apply(listed: &str, mut found: Vec<Violation>) -> Vec<Violation> {
    let mut used = BTreeSet::new();
    let lines: Vec<(usize, &str)> =
        (1..).zip(listed.lines().map(str::trim)).filter(|(_, line)| is_entry(line)).collect();
    found.retain(|violation| {
        let entry = format!("{} {}", violation.rule, violation.subject);
        let excepted = lines.iter().any(|(_, line)| *line == entry);
        if excepted {
            used.insert(entry);
        }
        !excepted
    });
    let unused = lines.into_iter().filter(|(_, line)| !used.contains(*line)).map(|(number, line)| Violation {
        subject: EXCEPTIONS.to_owned(),
        line: number,
        rule: "exception",
        message: format!("`{line}` excepts nothing any more: remove it"),
    });
    found.extend(unused);
    found
}

fn is_entry(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_that_is_not_needed_is_a_violation() {
        let violation =
            Violation { subject: "a.rs::long".to_owned(), line: 3, rule: "function-size", message: String::new() };
        let other = Violation { line: 9, ..violation.clone() };
        let left = apply("# comment\n\nfunction-size a.rs::long\nfile-size a.rs\n", vec![violation.clone(), other]);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].rule, left[0].line), ("exception", 4));
        assert_eq!(apply("", vec![violation.clone()]), [violation]);
    }
}
