//! What a process finds in its environment, and the expansion of `${NAME}` in words. Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// The variables of a process.
pub type Environment = BTreeMap<OsString, OsString>;

/// What every instance is given of Atoll's own environment; besides these only what is declared. A service must not
/// work here because of a variable in someone's shell and fail on the next machine, and no token of that shell may
/// leak into every service.
pub const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER"];

/// The locale: `LC_ALL`, `LC_CTYPE` and the rest are passed by their prefix.
pub const PASSED_PREFIX: &str = "LC_";

/// Given to every instance, exec probe and build besides [`PASSED`] and what is declared: the absolute path of the
/// supervisor's folder ([`crate::Config::run_dir`]). By it the next daemon finds what a killed one has left, even what
/// was never written down.
pub const RUN: &str = "ATOLL_RUN";

/// Given to every instance and its exec probes: which life it is. Where a shim was killed, what it looked after is found
/// by this.
pub const LIFE: &str = "ATOLL_LIFE";

/// The service that a process belongs to; of instances declared, of builds given.
pub(crate) const SERVICE: &str = "ATOLL_SERVICE";

/// Declared for instances: `service.index`.
pub(crate) const INSTANCE: &str = "ATOLL_INSTANCE";

/// Keeps what is passed on to every instance.
#[must_use]
pub fn passed(all: impl Iterator<Item = (OsString, OsString)>) -> Environment {
    let is_passed = |name: &str| PASSED.contains(&name) || name.starts_with(PASSED_PREFIX);
    all.filter(|(name, _)| name.to_str().is_some_and(is_passed)).collect()
}

/// Lays the declared variables over the passed ones; the last one wins.
#[must_use]
pub fn complete(passed: &Environment, declared: &[&BTreeMap<String, String>]) -> Environment {
    let mut environment = passed.clone();
    for (name, value) in declared.iter().flat_map(|map| map.iter()) {
        environment.insert(name.into(), value.into());
    }
    environment
}

/// Expands every `${NAME}` that the environment has; any other `$` stays as it is.
#[must_use]
pub fn expand(word: &str, environment: &Environment) -> String {
    let mut expanded = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        expanded.push_str(before);
        let name = from[2..].split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
        match name.and_then(|name| Some((name, environment.get(OsStr::new(name))?))) {
            Some((name, value)) => {
                expanded.push_str(&value.to_string_lossy());
                rest = &from[name.len() + 3..];
            }
            None => {
                expanded.push_str("${");
                rest = &from[2..];
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

/// A name as POSIX has it (XBD 8.1), in either case.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn words_expand_names_and_leave_everything_else() {
        let given = environment(&[("PORT", "20001"), ("HOST", "127.0.0.1"), ("ODD", "${PORT}")]);
        for (word, expanded) in [
            ("${PORT}", "20001"),
            ("--listen=${HOST}:${PORT}", "--listen=127.0.0.1:20001"),
            ("$PORT", "$PORT"),
            ("${PORT", "${PORT"),
            ("${}", "${}"),
            ("${a b}${PORT}", "${a b}20001"),
            ("${${PORT}", "${20001"),
            ("é${PORT}é", "é20001é"),
            // A name that is not given was written for a shell: the compiler lets no other pass.
            ("a${MISSING}${PORT}", "a${MISSING}20001"),
            // An expanded value is not read again.
            ("${ODD}", "${PORT}"),
        ] {
            assert_eq!(expand(word, &given), expanded, "{word}");
        }
    }

    #[test]
    fn only_what_is_listed_is_passed_and_the_declared_wins() {
        let all = [("PATH", "/bin"), ("LC_ALL", "C"), ("AWS_SECRET", "x"), ("TERM", "xterm"), ("HOME", "/root")];
        let passed = passed(all.iter().map(|(name, value)| (name.into(), value.into())));
        let service = BTreeMap::from([("HOME".to_owned(), "/srv".to_owned()), ("PORT".to_owned(), "1".to_owned())]);
        let instance = BTreeMap::from([("PORT".to_owned(), "2".to_owned())]);
        let expected = environment(&[("HOME", "/srv"), ("LC_ALL", "C"), ("PATH", "/bin"), ("PORT", "2")]);
        assert_eq!(complete(&passed, &[&service, &instance]), expected);
    }
}
