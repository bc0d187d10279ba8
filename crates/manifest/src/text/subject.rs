//! Subjects of NATS: tokens with dots between them, `*` for any one token, `>` for all that follow.

/// Limit: bytes of a subject. The name of a stream is as long, and NATS takes 255 of that.
pub(crate) const SUBJECT_BYTES_MAX: usize = 200;

/// What is wrong with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Long,
    EmptyToken,
    /// Neither a letter nor a digit, `-` or `_`.
    Character(char),
    /// Begins as NATS's own subjects do.
    Reserved,
    /// `*` or `>` is a part of a token, or `>` is not the last one.
    Misplaced,
    /// A pattern of everything.
    AnyFirst,
}

/// What is wrong with a subject, or with a pattern of subjects, if anything is.
pub(crate) fn flaw(text: &str) -> Option<Flaw> {
    if text.len() > SUBJECT_BYTES_MAX {
        return Some(Flaw::Long);
    }
    let count = text.split('.').count();
    for (at, token) in text.split('.').enumerate() {
        match token {
            "" => return Some(Flaw::EmptyToken),
            "*" | ">" if at == 0 => return Some(Flaw::AnyFirst),
            "*" => {}
            ">" if at + 1 == count => {}
            _ if token.contains(['*', '>']) => return Some(Flaw::Misplaced),
            _ if at == 0 && token.starts_with(['$', '_']) => return Some(Flaw::Reserved),
            _ => {}
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '>');
        if let Some(odd) = token.chars().find(|c| !is_plain(*c)) {
            return Some(Flaw::Character(odd));
        }
    }
    None
}

/// The part of a pattern before its first `*` or `>`, with the dot at its end; all of what is no pattern.
pub(crate) fn literal(pattern: &str) -> &str {
    &pattern[..pattern.find(['*', '>']).unwrap_or(pattern.len())]
}

/// Whether it is a pattern, and not one subject.
pub(crate) fn is_pattern(subject: &str) -> bool {
    literal(subject).len() < subject.len()
}

/// Whether some subject fits both.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (mut left, mut right) = (one.split('.'), other.split('.'));
    loop {
        match (left.next(), right.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// The families that have the whole of a subject or pattern in them, the widest first: `a.>` and `a.b.>` of `a.b.c`.
pub(crate) fn families(subject: &str) -> impl Iterator<Item = String> + '_ {
    let literal = literal(subject);
    let dots = literal.match_indices('.').map(|(at, _)| at);
    dots.map(|at| format!("{}.>", &subject[..at])).filter(move |family| *family != *subject)
}

/// The stream of a topic: upper case, `_` for dots; that of a family has no last token.
pub(crate) fn stream(topic: &str) -> String {
    topic.strip_suffix(".>").unwrap_or(topic).to_ascii_uppercase().replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_subjects_are_told_from_good_ones() {
        for good in ["a", "orders.placed", "a.*.c", "orders.>", "A-1.b_2", &"a".repeat(200)] {
            assert_eq!(flaw(good), None, "{good}");
        }
        for (bad, expected) in [
            ("", Flaw::EmptyToken),
            ("a..b", Flaw::EmptyToken),
            (".a", Flaw::EmptyToken),
            ("a.", Flaw::EmptyToken),
            (">", Flaw::AnyFirst),
            ("*.a", Flaw::AnyFirst),
            ("a.>.b", Flaw::Misplaced),
            ("a.b*", Flaw::Misplaced),
            ("a b", Flaw::Character(' ')),
            ("ä", Flaw::Character('ä')),
            ("a.\r\n", Flaw::Character('\r')),
            ("$JS.API.INFO", Flaw::Reserved),
            ("_INBOX.a", Flaw::Reserved),
            (&"a".repeat(201), Flaw::Long),
        ] {
            assert_eq!(flaw(bad), Some(expected), "{bad}");
        }
    }

    #[test]
    fn patterns_overlap_where_one_subject_fits_both() {
        for (a, b, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.b.c", false),
            ("a.*.c", "a.b.*", true),
            ("a.*.c", "a.>", true),
            ("a.b.>", "a.*", false),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{a} {b}");
        }
        assert_eq!(families("a.b.c").collect::<Vec<_>>(), ["a.>", "a.b.>"]);
        assert_eq!(families("a.b.>").collect::<Vec<_>>(), ["a.>"]);
        assert_eq!(families("a.*.c").collect::<Vec<_>>(), ["a.>"]);
        assert_eq!(families("a").count(), 0);
        assert_eq!((stream("orders.placed"), stream("orders.>")), ("ORDERS_PLACED".into(), "ORDERS".into()));
    }
}
