//! Files of fewer than 600 lines of code, functions of fewer than 70. Blank lines, comments and the insides of literals
//! do not count, and neither do a file's own tests.

use super::Violation;
use super::source::{Source, close_of, head_end, is_name};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let in_tests_folder = source.is_test(0);
    let whole = source.code_lines(0..source.code.len());
    let lines = whole.filter(|line| in_tests_folder || !source.is_test(line.start)).count();
    let mut found = Vec::new();
    if lines >= FILE_LINES_MAX {
        found.push(Violation {
            subject: source.path.to_owned(),
            line: 0,
            rule: "file-size",
            message: format!("{lines} lines of code, {} are allowed: split it", FILE_LINES_MAX - 1),
        });
    }
    found.extend(source.find_all("fn ").filter_map(|at| check_function(source, at)));
    found
}

fn check_function(source: &Source<'_>, at: usize) -> Option<Violation> {
    let name: String = source.code[at + "fn ".len()..].trim_start().chars().take_while(|c| is_name(*c)).collect();
    let open = head_end(&source.code, at)?;
    if name.is_empty() || source.code.as_bytes()[open] != b'{' {
        return None;
    }
    let lines = source.code_lines(at..close_of(&source.code, open)).count();
    (lines >= FUNCTION_LINES_MAX).then(|| Violation {
        subject: format!("{}::{name}", source.path),
        line: source.line(at),
        rule: "function-size",
        message: format!("`{name}` has {lines} lines of code, {} are allowed", FUNCTION_LINES_MAX - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        check(&Source::parse(path, text)).into_iter().map(|violation| (violation.rule, violation.line)).collect()
    }

    #[test]
    fn a_file_may_have_599_lines_of_code() {
        let full = "const A: u8 = 0;\n".repeat(599);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 0;\n".repeat(900));
        let fine = format!("//! Head.\n\n// why\n{full}/* long\n\nlong */\n{tests}");
        assert_eq!(check_text("src/a.rs", &fine), []);
        assert_eq!(check_text("src/a.rs", &format!("{fine}fn a() {{}}\n")), [("file-size", 0)]);
        assert_eq!(check_text("tests/it/a.rs", &fine), [("file-size", 0)]);
        let data = format!("const A: &str = \"\n{}\";\n", "data\n".repeat(900));
        assert_eq!(check_text("src/a.rs", &data), []);
    }

    #[test]
    fn a_function_may_have_69_lines_of_code() {
        let function = |lines: usize| {
            format!("trait T {{ fn f(&self); }}\nfn g(\n  x: [u8; 2],\n) {{\n // why\n\n{}}}\n", "a();\n".repeat(lines))
        };
        assert_eq!(check_text("src/a.rs", &function(65)), []);
        assert_eq!(check_text("src/a.rs", &function(66)), [("function-size", 2)]);
        assert_eq!(check_text("tests/a.rs", &function(66)), [("function-size", 2)]);
    }
}
