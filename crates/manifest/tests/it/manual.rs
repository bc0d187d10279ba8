//! The manual is held to what the compiler does: each code has a page, whose first example has that mistake and whose
//! second has none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use manifest::Code;

use crate::fixture::Compiled;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn examples(page: &str) -> Vec<&str> {
    page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_page_shows_its_mistake_and_how_to_mend_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/errors");
    for code in Code::all() {
        let (name, page) = (code.as_str(), code.explanation());
        assert!(page.starts_with(&format!("# {name}: {}\n", code.title())), "the title of {name}");
        let examples = examples(page);
        assert_eq!(examples.len(), 2, "the examples of {name}");
        let wrong = Compiled::of(examples[0]);
        assert!(wrong.codes().iter().all(|code| *code == name), "{name}:\n{}", wrong.rendered());
        assert!(!wrong.codes().is_empty(), "{name} has a first example without its mistake");
        assert_eq!(wrong.plan.is_none(), name.starts_with('E'), "{name}");
        expect_file![golden.join(format!("{name}.diag"))].assert_eq(&wrong.rendered());
        let mended = Compiled::of(examples[1]);
        assert!(mended.diagnostics.is_empty() && mended.plan.is_some(), "{name}:\n{}", mended.rendered());
    }
}

#[test]
fn the_examples_of_the_reference_compile() {
    let page = fs::read_to_string(repository().join("docs/manifest.md")).unwrap();
    let around = "#- folder migrations\n#- file order-placed.schema.json\n{ \"type\": \"object\" }\n";
    for example in examples(&page).into_iter().filter(|example| example.contains("[[subscriptions]]")) {
        let compiled = Compiled::of(&format!("name = \"store\"\n{example}{around}"));
        assert!(compiled.diagnostics.is_empty(), "{}", compiled.rendered());
    }
}

#[test]
fn every_page_and_every_golden_has_its_code() {
    let codes: BTreeSet<&str> = Code::all().iter().map(|code| code.as_str()).collect();
    assert_eq!(codes.len(), Code::all().len(), "a code is used twice");
    for folder in [repository().join("docs/errors"), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/errors")]
    {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            assert!(codes.contains(stem), "{} belongs to no code", path.display());
        }
    }
}

#[test]
fn the_schema_in_the_manual_is_the_one_that_is_printed() {
    let schema = serde_json::to_string_pretty(&manifest::schema()).unwrap() + "\n";
    expect_file![repository().join("docs/manifest.schema.json")].assert_eq(&schema);
}
