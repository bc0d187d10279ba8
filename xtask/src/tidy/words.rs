//! Words that must not stand in code: what is unfinished, what hides a failure, and what waits by sleeping.

use super::Violation;
use super::source::Source;

/// Nowhere but in tests. Clippy refuses them too, but can be silenced beside the code.
const OUTSIDE_TESTS: &[&str] = &["todo!", "unimplemented!", "dbg!", ".unwrap()"];

/// Nowhere.
const EVERYWHERE: &[&str] = &["#[ignore"];

pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |rule, at, message| {
        found.push(Violation { subject: source.path.to_owned(), line: source.line(at), rule, message });
    };
    for word in OUTSIDE_TESTS {
        for at in source.find_all(word).filter(|at| !source.is_test(*at)) {
            report("word", at, format!("`{word}` outside tests"));
        }
    }
    for word in EVERYWHERE {
        for at in source.find_all(word) {
            report("word", at, format!("`{word}]`: a test runs or does not exist"));
        }
    }
    for at in source.find_all("sleep(").filter(|at| source.is_test(*at)) {
        report("sleep", at, "a test waits on state, with a bound: `testkit::wait::until`".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        check(&Source::parse(path, text)).into_iter().map(|violation| (violation.rule, violation.line)).collect()
    }

    #[test]
    fn unfinished_code_is_found_outside_tests_only() {
        let bad = "fn a() {\n todo!();\n unimplemented!();\n dbg!(1);\n b\n  .unwrap();\n}\n";
        let found = [("word", 2), ("word", 3), ("word", 4), ("word", 6)];
        assert_eq!(check_text("crates/kit/src/a.rs", bad), found);
        assert_eq!(check_text("crates/kit/tests/a.rs", bad), []);
        assert_eq!(check_text("crates/testkit/src/a.rs", bad), []);
        assert_eq!(check_text("crates/kit/src/a.rs", &format!("#[cfg(test)]\nmod tests {{ {bad} }}")), []);
        assert_eq!(
            check_text("crates/kit/src/a.rs", "// todo!()\nconst A: &str = \"dbg! .unwrap()\"; x.unwrap_or(1);"),
            []
        );
    }

    #[test]
    fn tests_are_neither_ignored_nor_asleep() {
        let bad =
            "#[test]\n#[ignore = \"slow\"]\nfn a() {\n std::thread::sleep(x);\n tokio::time::sleep(x).await;\n}\n";
        assert_eq!(check_text("crates/kit/tests/a.rs", bad), [("word", 2), ("sleep", 4), ("sleep", 5)]);
        assert_eq!(check_text("crates/kit/src/a.rs", "fn a() { sleep(x); }"), []);
    }
}
