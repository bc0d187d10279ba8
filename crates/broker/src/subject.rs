//! Subjects and patterns, as pure functions of bytes: what is valid, what matches, what covers or touches what.
//! The words are NATS's: tokens between dots, `*` for one token, `>` for one or more at the end.
//! <https://docs.nats.io/nats-concepts/subjects>

/// Between tokens.
pub(crate) const SEPARATOR: u8 = b'.';

/// What a subscription's subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Matches exactly one subject.
    Literal,
    /// Has a token `*` or ends in `>`.
    Wildcard,
    /// Has an empty token, a `>` that is not the last, or is empty.
    Invalid,
}

/// The tokens of a subject or a pattern.
pub fn tokens(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|byte| *byte == SEPARATOR)
}

/// How a subscription's subject is to be read. A wildcard is a token of its own: `foo*` is a literal.
#[must_use]
pub fn kind(pattern: &[u8]) -> Kind {
    let mut kind = Kind::Literal;
    let mut is_ended = false;
    for token in tokens(pattern) {
        if token.is_empty() || is_ended {
            return Kind::Invalid;
        }
        is_ended = token == b">";
        if is_ended || token == b"*" {
            kind = Kind::Wildcard;
        }
    }
    kind
}

/// Whether a message may have this subject: no empty token, no wildcard, no white space.
#[must_use]
pub fn is_publishable(subject: &[u8]) -> bool {
    kind(subject) == Kind::Literal && !subject.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// Whether a message with this subject belongs to a subscription with this pattern. What has an empty token belongs to
/// none.
#[must_use]
pub fn matches(pattern: &[u8], subject: &[u8]) -> bool {
    tokens(subject).all(|token| !token.is_empty()) && covers(pattern, subject)
}

/// Whether everything that `narrow` matches is matched by `wide`, too.
#[must_use]
pub fn covers(wide: &[u8], narrow: &[u8]) -> bool {
    let mut wide = tokens(wide);
    let mut narrow = tokens(narrow);
    loop {
        match (wide.next(), narrow.next()) {
            (None, None) => return true,
            (Some(b">"), Some(_)) => return true,
            // More than one token is more than `*` covers.
            (Some(b"*"), Some(token)) if token != b">" => {}
            (Some(own), Some(token)) if own == token && token != b">" => {}
            _ => return false,
        }
    }
}

/// Whether some subject is matched by both.
#[must_use]
pub fn overlaps(one: &[u8], other: &[u8]) -> bool {
    let mut one = tokens(one);
    let mut other = tokens(other);
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(b">"), Some(_)) | (Some(_), Some(b">")) => return true,
            (Some(a), Some(b)) if a == b || a == b"*" || b == b"*" => {}
            _ => return false,
        }
    }
}

/// A subject as NATS repeats it in errors.
pub(crate) fn quoted(subject: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(subject))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_are_those_of_nats() {
        for literal in ["a", "a.b", "a*", "a.x>", "*a", ">a.b", "$JS.API"] {
            assert_eq!(kind(literal.as_bytes()), Kind::Literal, "{literal}");
        }
        for wildcard in ["*", ">", "a.*", "*.a", "a.>", "*.*", "*.>"] {
            assert_eq!(kind(wildcard.as_bytes()), Kind::Wildcard, "{wildcard}");
        }
        for invalid in ["", ".", "a.", ".a", "a..b", ">.a", "a.>.b", ">.>"] {
            assert_eq!(kind(invalid.as_bytes()), Kind::Invalid, "{invalid}");
        }
        assert!(is_publishable(b"a.b") && !is_publishable(b"a b") && !is_publishable(b"a.*") && !is_publishable(b"a."));
    }

    #[test]
    fn wildcards_match_tokens() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.*", "a.", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            (">", "a..b", false),
            ("*.b", "a.b", true),
        ];
        for (pattern, subject, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), subject.as_bytes()), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_wider_pattern_is_not_covered() {
        let cases = [
            ("a.*", "a.>", false),
            ("a.>", "a.*", true),
            ("a.>", "a.>", true),
            ("a.>", "a", false),
            ("*", ">", false),
            (">", "*.a.>", true),
            ("a.*", "a.*", true),
            ("a.b", "a.*", false),
        ];
        for (wide, narrow, expected) in cases {
            assert_eq!(covers(wide.as_bytes(), narrow.as_bytes()), expected, "{wide} {narrow}");
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        (proptest::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, is_open)| {
            if is_open {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn covering_and_touching_agree_with_matching(
            one in pattern(), other in pattern(), subject in proptest::collection::vec("[abc]", 1..5),
        ) {
            let (one, other, subject) = (one.as_bytes(), other.as_bytes(), subject.join("."));
            let by_both = matches(one, subject.as_bytes()) && matches(other, subject.as_bytes());
            prop_assert!(!by_both || overlaps(one, other));
            prop_assert!(!(covers(one, other) && matches(other, subject.as_bytes())) || matches(one, subject.as_bytes()));
            prop_assert!(!covers(one, other) || overlaps(one, other));
        }
    }
}
