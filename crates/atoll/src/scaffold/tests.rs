//! Whatever a Compose file, a Procfile or a package says: the manifest made from it compiles, or there is none.

use std::fs;

use manifest::Severity;
use tempfile::TempDir;

use super::folder::Folder;
use crate::project::Project;

const COMPOSE: &str = include_str!("../../tests/it/scaffold/compose.yaml");
/// What is put into places where it does not belong.
const ODDITIES: [&str; 24] = [
    "",
    "~",
    "'",
    "\"\\0\"",
    "${",
    "${X",
    "$$",
    "${X:-${Y}}",
    "&a",
    "*a",
    "<<",
    "[",
    "{",
    "\t",
    "0",
    "99999",
    "-1",
    "PORT",
    "HOST",
    "web",
    "users:1",
    "http://users",
    "é\u{202e}",
    "!reset null",
];

fn check(file: &str, text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    for below in ["web", "users", "orders", "mailer"] {
        fs::create_dir(folder.path().join(below)).expect("a folder");
    }
    fs::write(folder.path().join("users.env"), "PORT=1\n").expect("a file");
    fs::write(folder.path().join("orders/Dockerfile"), "CMD orders --port $PORT").expect("a file");
    fs::write(folder.path().join(file), text).expect("a file");
    check_folder(&folder, text);
}

fn check_folder(folder: &TempDir, input: &str) {
    let Ok(draft) = super::draft(&Folder::new(folder.path())) else { return };
    let path = folder.path().join("atoll.toml");
    fs::write(&path, draft.to_toml()).expect("a file");
    let loaded = Project::find(Some(&path), None).expect("it is there").load();
    let errors: Vec<String> = loaded
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| manifest::render(diagnostic, &loaded.sources, manifest::Color::Never))
        .collect();
    assert!(errors.is_empty(), "{}\nfrom\n{input}", errors.concat());
}

#[test]
fn every_mutation_of_a_compose_file_gives_a_manifest_that_compiles_or_none() {
    let seed = 0x5eed;
    let mut random = fastrand::Rng::with_seed(seed);
    let lines: Vec<&str> = COMPOSE.lines().collect();
    for _ in 0..120 {
        let mut lines = lines.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..lines.len());
            let other = random.usize(..lines.len());
            match random.u8(..3) {
                0 => drop(lines.remove(at)),
                1 => lines.swap(at, other),
                _ => lines[at] = lines[other],
            }
        }
        let mut text = lines.join("\n");
        for _ in 0..random.usize(..3) {
            let words: Vec<(usize, usize)> = text
                .match_indices(|c: char| c.is_alphanumeric())
                .map(|(at, _)| at)
                .filter(|at| *at % 7 == 0)
                .map(|at| (at, text[at..].find([' ', '\n', ':', ',', '"']).map_or(text.len(), |end| at + end)))
                .collect();
            let (start, end) = words[random.usize(..words.len())];
            text.replace_range(start..end, ODDITIES[random.usize(..ODDITIES.len())]);
        }
        check("compose.yaml", &text);
    }
}

#[test]
fn truncated_files_and_hostile_values_do_no_harm() {
    for end in (0..COMPOSE.len()).step_by(41) {
        check("compose.yaml", COMPOSE.get(..end).unwrap_or_default());
    }
    for odd in ODDITIES {
        for key in
            ["command", "entrypoint", "working_dir", "env_file", "depends_on", "stop_signal", "build", "scale", "ports"]
        {
            check("compose.yaml", &format!("services:\n  a:\n    command: x\n    {key}: {odd}\n  b: {{command: y}}\n"));
            check("compose.yaml", &format!("services:\n  a:\n    {key}: [{odd}, {odd}]\n    entrypoint: [z]\n"));
        }
        check(
            "compose.yaml",
            &format!("services:\n  a:\n    command: x\n    environment: {{A: {odd}, B: '{odd}', '{odd}': c}}\n"),
        );
        check(
            "compose.yaml",
            &format!(
                "services:\n  '{odd}': {{command: x {odd}}}\n  a: {{command: x, healthcheck: {{test: '{odd}'}}}}\n"
            ),
        );
        check("Procfile", &format!("web: {odd}\n{odd}: x\na: x {odd} $PORT\nA: y\na: z\n"));
    }
    let cycle = "services:\n  a: {command: x, depends_on: [b]}\n  b: {command: x, depends_on: {a: {condition: service_completed_successfully}}}\n  c: {command: x, scale: 0, depends_on: [c]}\n  d: {command: x, depends_on: [c]}\n";
    check("compose.yaml", cycle);
    let many: String = (0..300)
        .map(|i| {
            format!("  s{i}: {{command: x, depends_on: [{}]}}\n", (0..i).map(|j| format!("s{j}, ")).collect::<String>())
        })
        .collect();
    check("compose.yaml", &format!("services:\n{many}"));
}
