//! What a subscriber writes down of each delivery: a line before it begins and a line before it answers, each with one
//! write(2), so that they survive the death of the process. The chore reads them when all is over.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::wire::now;

/// Of a file with records, behind the process' id and a time, as ids come again.
const SUFFIX: &str = ".deliveries";

/// What became of a delivery, as the subscriber sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A success was about to be answered.
    Done,
    /// Something else was, or nothing.
    Failed,
}

/// A delivery to one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) key: u32,
    /// From 1 within its key.
    pub(crate) number: u32,
    pub(crate) process: u32,
    /// By [`now`].
    pub(crate) begin: u64,
    /// How long it was to take at most, in milliseconds.
    pub(crate) deadline_ms: u64,
    pub(crate) attempt: u32,
    /// Whether it said that it was replayed, redriven or out of order.
    pub(crate) is_marked: bool,
    pub(crate) end: Option<(u64, Outcome)>,
}

/// A process' own file.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    next: u64,
}

impl Recorder {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("{}-{}{SUFFIX}", std::process::id(), now()));
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("cannot open {}", path.display()))?, next: 0 })
    }

    /// Gives the number by which its end is told.
    pub(crate) fn begin(&mut self, of: &Delivery) -> Result<u64> {
        let id = self.next;
        self.next += 1;
        let Delivery { key, number, begin, deadline_ms, attempt, is_marked, .. } = of;
        let line = format!("b {id} {key} {number} {begin} {deadline_ms} {attempt} {}\n", u8::from(*is_marked));
        self.file.write_all(line.as_bytes())?;
        Ok(id)
    }

    pub(crate) fn end(&mut self, id: u64, outcome: Outcome) -> Result<()> {
        let outcome = if outcome == Outcome::Done { "done" } else { "failed" };
        Ok(self.file.write_all(format!("e {id} {} {outcome}\n", now()).as_bytes())?)
    }
}

/// All deliveries to all instances, in the order in which they began.
pub(crate) fn read(folder: &Path) -> Result<Vec<Delivery>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let process = name.strip_suffix(SUFFIX).and_then(|name| name.split_once('-')?.0.parse().ok());
        if let Some(process) = process {
            let text = std::fs::read_to_string(&path)?;
            all.extend(parse(process, &text).with_context(|| path.display().to_string())?);
        }
    }
    all.sort_by_key(|delivery| delivery.begin);
    Ok(all)
}

/// A last line that was not written to its end does not count.
fn parse(process: u32, text: &str) -> Result<Vec<Delivery>> {
    let mut deliveries: Vec<Delivery> = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        parse_line(process, line, &mut deliveries).with_context(|| line.to_owned())?;
    }
    Ok(deliveries)
}

fn parse_line(process: u32, line: &str, deliveries: &mut Vec<Delivery>) -> Option<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["b", _, key, number, begin, deadline, attempt, marked] => deliveries.push(Delivery {
            key: key.parse().ok()?,
            number: number.parse().ok()?,
            process,
            begin: begin.parse().ok()?,
            deadline_ms: deadline.parse().ok()?,
            attempt: attempt.parse().ok()?,
            is_marked: *marked == "1",
            end: None,
        }),
        ["e", id, at, outcome] => {
            let outcome = if *outcome == "done" { Outcome::Done } else { Outcome::Failed };
            deliveries.get_mut(id.parse::<usize>().ok()?)?.end = Some((at.parse().ok()?, outcome));
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::open(folder.path()).unwrap();
        let process = std::process::id();
        let of = |number, begin| Delivery {
            key: 7,
            number,
            process,
            begin,
            deadline_ms: 900,
            attempt: 2,
            is_marked: number == 2,
            end: None,
        };
        let (second, first) = (recorder.begin(&of(2, 20)).unwrap(), recorder.begin(&of(1, 10)).unwrap());
        recorder.end(first, Outcome::Done).unwrap();
        recorder.end(second, Outcome::Failed).unwrap();
        recorder.begin(&of(3, 30)).unwrap();
        recorder.file.write_all(b"e 2 1").unwrap();
        let read = read(folder.path()).unwrap();
        let ends: Vec<_> = read.iter().map(|delivery| delivery.end.map(|(_, outcome)| outcome)).collect();
        assert_eq!(ends, [Some(Outcome::Done), Some(Outcome::Failed), None]);
        assert_eq!(Delivery { end: None, ..read[1].clone() }, of(2, 20));
    }

    #[test]
    fn a_line_of_something_else_is_an_error() {
        assert!(parse(1, "x\n").is_err() && parse(1, "e 0 1 done\n").is_err());
    }
}
