//! What must stand in no committed text at all: where packages come from, and paths of one machine.

use super::{Tree, Violation};

/// Written in two parts each, so that this file may stand in the repository.
const HOSTS: &[&str] = &[
    concat!("registry.npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("deb.debian", ".org"),
    concat!("security.debian", ".org"),
    concat!("proxy.golang", ".org"),
];

const FOLDERS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Written by cargo.
const GENERATED: &str = "Cargo.lock";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let files = tree.files.iter().filter(|(path, _)| path.as_str() != GENERATED);
    files
        .flat_map(|(path, text)| {
            (1..).zip(text.lines()).filter_map(move |(line, content)| {
                let message = check_line(content)?;
                Some(Violation { subject: path.clone(), line, rule: "place", message })
            })
        })
        .collect()
}

fn check_line(line: &str) -> Option<String> {
    if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
        return Some(format!("names the package host `{host}`"));
    }
    let folder =
        FOLDERS.iter().find(|folder| line.match_indices(**folder).any(|(at, _)| is_start_of_path(&line[..at])))?;
    Some(format!("names the machine's own folder `{folder}`"))
}

/// Whether a slash behind `before` begins an absolute path, rather than going on with a relative one or a URL.
fn is_start_of_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || "._-/~*}>)$".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_machine_paths_are_found() {
        for part in HOSTS.iter().chain(FOLDERS) {
            let text = format!("fine\n# see \"{part}x\"\n");
            let found = check(&Tree::of([("docs/a.md", text.as_str()), (GENERATED, text.as_str())]));
            assert_eq!(found.len(), 1, "{part}");
            assert_eq!((found[0].subject.as_str(), found[0].line), ("docs/a.md", 2));
        }
    }

    #[test]
    fn a_folder_within_a_path_is_none_of_a_machine() {
        for folder in FOLDERS {
            for before in ["src", "https://shop.example", "$DIR", "{dir}", ".."] {
                assert_eq!(check_line(&format!("{before}{folder}x")), None);
            }
        }
    }
}
