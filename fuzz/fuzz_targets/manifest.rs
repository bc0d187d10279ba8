//! Any bytes as a manifest: the first line that reads `#---` begins an included file, and the next one an `env_file`.
//! Nothing may panic, and every diagnostic must point into its file.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use manifest::{Color, Ports, Sources, Want, compile, render, wanted};

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, "\n#---\n").map(str::to_owned);
    let root = PathBuf::from("/app/atoll.toml");
    let manifest = parts.next().unwrap_or_default();
    let included = parts.next().unwrap_or_default();
    let variables = parts.next().unwrap_or_default();
    let mut sources = Sources {
        root: root.clone(),
        files: BTreeMap::from([(root, Ok(manifest))]),
        globs: BTreeMap::new(),
        environment: BTreeMap::from([("HOME".to_owned(), "/home".to_owned())]),
        ports: Ports { range: 20_000..=20_999, first: 20_500, ledger: BTreeMap::new(), busy: BTreeSet::new() },
        scale: BTreeMap::new(),
    };
    for _ in 0..4 {
        for want in wanted(&sources) {
            match want {
                Want::File(path) => {
                    let is_manifest = path.extension().is_some_and(|extension| extension == "toml");
                    let content = if is_manifest { &included } else { &variables };
                    sources.files.insert(path, Ok(content.clone()));
                }
                Want::Glob(pattern) => {
                    sources.globs.insert(pattern, vec![PathBuf::from("/app/included.toml")]);
                }
            }
        }
    }
    assert!(wanted(&sources).is_empty());
    let (plan, diagnostics) = compile(&sources);
    for diagnostic in &diagnostics {
        if let Some(Ok(text)) = sources.files.get(&diagnostic.file) {
            assert!(text.get(diagnostic.span.clone()).is_some());
        }
        let _ = render(diagnostic, &sources, Color::Always);
        let _ = diagnostic.to_json(&sources);
    }
    if let Some(plan) = plan {
        let _ = plan.to_toml();
    }
});
