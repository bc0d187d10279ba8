//! A small language for sources in one file: `#- file PATH` begins a file, and further `#-` lines set the scene
//! (`env NAME=value`, `busy PORT`, `ports FIRST-LAST`, `ledger KEY=PORT`, `unreadable PATH: reason`, `folder PATH`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use manifest::{Color, Diagnostic, Plan, Ports, Sources, Want, compile, render, wanted};

const FOLDER: &str = "/app";
const ROUNDS_MAX: usize = 4;

/// What there is to read.
#[derive(Debug)]
pub(crate) struct Fixture {
    sources: Sources,
    disk: BTreeMap<PathBuf, Result<String, String>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) sources: Sources,
    pub(crate) plan: Option<Plan>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Fixture {
    pub(crate) fn parse(text: &str) -> Self {
        let root = Path::new(FOLDER).join("atoll.toml");
        let ports = Ports { range: 20000..=20999, first: 20000, ledger: BTreeMap::new(), busy: BTreeSet::new() };
        let mut fixture = Self {
            sources: Sources {
                root: root.clone(),
                files: BTreeMap::new(),
                globs: BTreeMap::new(),
                environment: BTreeMap::new(),
                ports,
                scale: BTreeMap::new(),
            },
            disk: BTreeMap::from([(root.clone(), Ok(String::new()))]),
        };
        let mut current = root;
        for line in text.split_inclusive('\n') {
            if let Some(directive) = line.strip_prefix("#- ") {
                fixture.direct(directive.trim(), &mut current);
            } else if let Some(Ok(content)) = fixture.disk.get_mut(&current) {
                content.push_str(line);
            }
        }
        fixture
    }

    fn direct(&mut self, directive: &str, current: &mut PathBuf) {
        let (verb, rest) = directive.split_once(' ').expect("a verb and its object");
        let path = || Path::new(FOLDER).join(rest);
        let pair = |separator| rest.split_once(separator).expect("two parts");
        let port = |text: &str| text.parse::<u16>().expect("a port");
        match verb {
            "file" => {
                *current = path();
                self.disk.insert(current.clone(), Ok(String::new()));
            }
            "unreadable" => {
                let (path, reason) = pair(": ");
                self.disk.insert(Path::new(FOLDER).join(path), Err(reason.to_owned()));
            }
            "folder" => {
                self.disk.insert(path().join("any"), Ok(String::new()));
            }
            "env" => {
                let (name, value) = pair("=");
                self.sources.environment.insert(name.to_owned(), value.to_owned());
            }
            "busy" => {
                self.sources.ports.busy.insert(port(rest));
            }
            "ports" => {
                let (first, last) = pair("-");
                self.sources.ports.range = port(first)..=port(last);
            }
            "ledger" => {
                let (key, value) = pair("=");
                self.sources.ports.ledger.insert(key.to_owned(), port(value));
            }
            _ => panic!("unknown directive {verb}"),
        }
    }

    pub(crate) fn sources(self) -> Sources {
        self.sources
    }

    /// Reads what is wanted, as the loader does, and compiles.
    pub(crate) fn compile(mut self) -> Compiled {
        for round in 0.. {
            assert!(round <= ROUNDS_MAX, "the loader does not come to an end");
            let wants = wanted(&self.sources);
            if wants.is_empty() {
                break;
            }
            wants.into_iter().for_each(|want| self.read(want));
        }
        let (plan, diagnostics) = compile(&self.sources);
        Compiled { sources: self.sources, plan, diagnostics }
    }

    fn read(&mut self, want: Want) {
        match want {
            Want::File(path) => {
                let content = self.disk.get(&path).cloned().unwrap_or_else(|| Err("no such file".to_owned()));
                assert!(self.sources.files.insert(path, content).is_none(), "wanted twice");
            }
            Want::Glob(pattern) => {
                let written = pattern.to_string_lossy();
                let (written, is_folder) = match written.strip_suffix('/') {
                    Some(folder) if !folder.is_empty() => (folder, true),
                    _ => (&*written, written == "/"),
                };
                let compiled = glob::Pattern::new(written).expect("a valid pattern");
                let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
                let present: BTreeSet<&Path> = match is_folder {
                    true => self.disk.keys().flat_map(|path| path.ancestors().skip(1)).collect(),
                    false => self.disk.keys().map(PathBuf::as_path).collect(),
                };
                let matches = present.into_iter().filter(|path| compiled.matches_path_with(path, options));
                let matches = matches.map(Path::to_path_buf).collect();
                assert!(self.sources.globs.insert(pattern, matches).is_none(), "wanted twice");
            }
        }
    }
}

impl Compiled {
    pub(crate) fn of(text: &str) -> Self {
        Fixture::parse(text).compile()
    }

    /// All diagnostics as a person sees them.
    pub(crate) fn rendered(&self) -> String {
        let all = self.diagnostics.iter().map(|diagnostic| render(diagnostic, &self.sources, Color::Never));
        all.map(|text| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n")
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect()
    }
}
