//! Damages to the files of a broker that does not run: each in a copy of its own, which is then opened and read as a whole.
//! A message may be served as it was or be missing; what is missing must be said with file and place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::broker::{Broker, Program};
use super::client::{Client, lock};
use super::load;
use super::verify::read_range;

/// How long the files are written that are damaged then.
const LOAD: Duration = Duration::from_millis(1000);
/// Of a segment: there are many then, and what lives longer than most is moved.
const SEGMENT_BYTES: u64 = 32 << 10;
/// Of all damages, one in so many is done to files that a killed process has left.
const KILLED_ONE_IN: u64 = 4;
const BLOCK: usize = 4096;
/// The two places of a mark that count: the rest of the file is free.
const SLOTS: [std::ops::Range<usize>; 2] = [0..64, 512..576];
const SHOWN_MAX: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Flip,
    Zero,
    Cut,
    Swap,
}

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Said with file and place; all else is served as it was.
    Reported,
    /// Said as a torn end, of files that were not closed.
    Torn,
    /// Nothing is said, nothing is missing, and nothing that counts was hit.
    Free,
    /// Nothing is said and nothing is missing: only messages were hit that had been removed, and nobody reads them.
    Dead,
    /// Nothing is said and nothing is missing, and the place is read.
    Unnoticed,
    /// Something is missing and the place is not said.
    Silent,
    /// Something is served that is not as it was.
    Altered,
}

impl Outcome {
    const ALL: [Self; 7] =
        [Self::Reported, Self::Torn, Self::Free, Self::Dead, Self::Unnoticed, Self::Silent, Self::Altered];
}

/// Everything that a broker says it has.
#[derive(Clone, Debug, Default, PartialEq)]
struct Truth {
    streams: BTreeMap<String, Stream>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Stream {
    config: Value,
    last: u64,
    /// Subject, headers, payload.
    messages: BTreeMap<u64, (String, Vec<u8>)>,
    consumers: BTreeMap<String, Value>,
}

impl Truth {
    async fn read(client: &Client, known: Option<&Self>) -> Result<Self> {
        let names = client.expect("STREAM.NAMES", &Value::Null).await?;
        let names = names["streams"].as_array().cloned().unwrap_or_default();
        let mut truth = Self::default();
        for name in names.iter().filter_map(Value::as_str) {
            let Ok(info) = client.expect(&format!("STREAM.INFO.{name}"), &Value::Null).await else { continue };
            let last = info["state"]["last_seq"].as_u64().unwrap_or(0);
            // What is known to have been there is asked for, too.
            let until = known.and_then(|known| known.streams.get(name)).map_or(last, |stream| stream.last.max(last));
            let mut stream = Stream { config: info["config"].clone(), last, ..Stream::default() };
            for (sequence, message) in read_message_range(client, name, until).await? {
                stream.messages.insert(sequence, message);
            }
            let list = client.expect(&format!("CONSUMER.LIST.{name}"), &Value::Null).await?;
            for consumer in list["consumers"].as_array().into_iter().flatten() {
                let of = |key: &str| consumer[key].clone();
                let state = json!([
                    of("config"),
                    consumer["delivered"]["consumer_seq"],
                    consumer["delivered"]["stream_seq"],
                    consumer["ack_floor"]["consumer_seq"],
                    consumer["ack_floor"]["stream_seq"],
                    of("num_ack_pending"),
                    of("num_redelivered"),
                    of("num_pending"),
                ]);
                stream.consumers.insert(consumer["name"].as_str().unwrap_or_default().to_owned(), state);
            }
            truth.streams.insert(name.to_owned(), stream);
        }
        Ok(truth)
    }
}

async fn read_message_range(client: &Client, stream: &str, last: u64) -> Result<Vec<(u64, (String, Vec<u8>))>> {
    let found = read_range(client, stream, 1, last).await?;
    let present = found.into_iter().filter_map(|(sequence, message)| Some((sequence, message?)));
    let content = |message: super::client::Message| {
        let headers = String::from_utf8_lossy(&message.headers).into_owned();
        (headers, message.payload.to_vec())
    };
    Ok(present.map(|(sequence, message)| (sequence, content(message))).collect())
}

/// Differences of what is there to what was.
#[derive(Debug, Default)]
struct Difference {
    altered: Vec<String>,
    missing: Vec<String>,
    /// There again: what replaced it is damaged.
    revived: Vec<String>,
}

impl Difference {
    fn of(was: &Truth, is: &Truth) -> Self {
        let mut difference = Self::default();
        for (name, was) in &was.streams {
            let Some(is) = is.streams.get(name) else {
                difference.missing.push(name.clone());
                continue;
            };
            if was.config != is.config {
                difference.altered.push(format!("{name}: its configuration"));
            }
            for (sequence, message) in &was.messages {
                match is.messages.get(sequence) {
                    None => difference.missing.push(format!("{name} {sequence}")),
                    Some(other) if other != message => difference.altered.push(format!("{name} {sequence}")),
                    Some(_) => {}
                }
            }
            let known: BTreeSet<&u64> = was.messages.keys().collect();
            let others = is.messages.keys().filter(|sequence| !known.contains(sequence));
            difference.revived.extend(others.map(|sequence| format!("{name} {sequence}")));
            for (consumer, state) in &was.consumers {
                match is.consumers.get(consumer) {
                    None => difference.missing.push(format!("{name} {consumer}")),
                    Some(other) if other != state => {
                        difference.missing.push(format!("{name} {consumer}: {state} became {other}"));
                    }
                    Some(_) => {}
                }
            }
        }
        difference
    }

    fn is_empty(&self) -> bool {
        self.altered.is_empty() && self.missing.is_empty() && self.revived.is_empty()
    }
}

/// A harmed file and what was done.
#[derive(Debug)]
struct Harm {
    kind: Kind,
    /// Relative to the folder.
    file: PathBuf,
    /// Bytes that changed, or the new end.
    range: std::ops::Range<usize>,
}

impl Harm {
    /// Changes one file at random.
    fn cause(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list(folder, &mut files)?;
        let mut areas: BTreeMap<&'static str, Vec<&PathBuf>> = BTreeMap::new();
        for file in &files {
            areas.entry(area(file)).or_default().push(file);
        }
        let areas: Vec<_> = areas.into_values().collect();
        loop {
            let area = &areas[fastrand::usize(..areas.len())];
            let path = area[fastrand::usize(..area.len())];
            let before = std::fs::read(path)?;
            if before.is_empty() {
                continue;
            }
            let kind = [Kind::Flip, Kind::Zero, Kind::Cut, Kind::Swap][fastrand::usize(..4)];
            let after = changed(kind, &before);
            let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
            if before == after {
                continue;
            }
            let last = before.iter().zip(&after).rposition(|(before, after)| before != after);
            let end = last.map_or(before.len(), |last| last + 1).max(same + 1);
            std::fs::write(path, &after)?;
            let file = path.strip_prefix(folder)?.to_owned();
            return Ok(Self { kind, file, range: same..end });
        }
    }

    /// Whether only bytes were hit that nobody needs: also those of a stream that was not yet or no longer there.
    fn is_free(&self, truth: &Truth) -> bool {
        let stream = self.file.iter().nth(1).map(|name| name.to_string_lossy().into_owned());
        if stream.is_some_and(|name| !truth.streams.contains_key(&name)) {
            return true;
        }
        let is_mark = self.file.file_name().is_some_and(|name| name == "mark");
        is_mark && SLOTS.iter().all(|slot| self.range.end <= slot.start || self.range.start >= slot.end)
    }
}

fn changed(kind: Kind, before: &[u8]) -> Vec<u8> {
    let mut after = before.to_vec();
    let at = fastrand::usize(..before.len());
    match kind {
        Kind::Flip => after[at] ^= 1 << fastrand::u8(..8),
        Kind::Zero => {
            let at = at / BLOCK * BLOCK;
            let end = (at + BLOCK).min(after.len());
            after[at..end].fill(0);
        }
        Kind::Cut => after.truncate(at),
        Kind::Swap => {
            let size = [512, BLOCK][fastrand::usize(..2)];
            let (first, second) = (at / size * size, fastrand::usize(..before.len()) / size * size);
            if first.max(second) + size <= before.len() {
                (0..size).for_each(|byte| after.swap(first + byte, second + byte));
            }
        }
    }
    after
}

/// What a file is for, by its path.
fn area(path: &Path) -> &'static str {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    match () {
        () if path.file_name().is_some_and(|name| name == "mark") => "mark",
        () if has("ledger") => "ledger",
        () if has("index") => "index",
        () if has("kept") => "kept",
        () if has("messages") => "messages",
        () => "other",
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        if entry.file_type()?.is_dir() { list(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to).map(|_| ())?;
        }
    }
    Ok(())
}

/// Places that a log names in a file: where each begins, and its length.
fn places(log: &str, file: &str) -> Vec<(usize, usize)> {
    let number = |text: &str, before: &str| {
        let rest = text.split_once(before)?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    let mentions = log.match_indices(file).map(|(at, _)| &log[at..(at + 300).min(log.len())]);
    let place = |text: &str| {
        let text = &text[..text.get(file.len()..)?.find("/streams/").map_or(text.len(), |next| next + file.len())];
        match number(text, "damaged from ") {
            Some(at) => Some((at, number(text, " on for ").unwrap_or(0))),
            None => match number(text, "ends at ") {
                Some(at) => Some((at, 0)),
                None => Some((number(text, "offset: ")?, number(text, "bytes: ").unwrap_or(0))),
            },
        }
    };
    mentions.filter_map(place).collect()
}

/// How many of each kind, in each area, had which outcome.
#[derive(Debug, Default)]
pub(crate) struct Table {
    counts: BTreeMap<(&'static str, Kind, Outcome), u64>,
    /// Reports that name the file and not the place.
    vague: u64,
    /// Reported damages after which messages were there again that those which are damaged had replaced.
    reviving: u64,
}

impl Table {
    fn count(&self, area: &str, kind: Option<Kind>, outcome: Outcome) -> u64 {
        let wanted =
            |key: &(&str, Kind, Outcome)| key.0 == area && kind.is_none_or(|kind| kind == key.1) && key.2 == outcome;
        self.counts.iter().filter(|(key, _)| wanted(key)).map(|(_, count)| count).sum()
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.counts.keys().any(|(_, _, outcome)| *outcome >= Outcome::Unnoticed)
    }

    fn areas(&self) -> BTreeSet<&'static str> {
        self.counts.keys().map(|(area, _, _)| *area).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let mut rows = json!({ "reported_without_place": self.vague, "reviving": self.reviving });
        for ((area, kind, outcome), count) in &self.counts {
            rows[*area][format!("{kind:?}").to_lowercase()][format!("{outcome:?}").to_lowercase()] = json!(count);
        }
        rows
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "damages: {}, of which {} are reported without their place; {} revived what had been replaced",
            self.counts.values().sum::<u64>(),
            self.vague,
            self.reviving
        )?;
        write!(f, "  {:<10} {:<6}", "", "")?;
        Outcome::ALL.iter().try_for_each(|outcome| write!(f, "{:>10}", format!("{outcome:?}").to_lowercase()))?;
        for area in self.areas() {
            for kind in [Kind::Flip, Kind::Zero, Kind::Cut, Kind::Swap] {
                write!(f, "\n  {area:<10} {:<6}", format!("{kind:?}").to_lowercase())?;
                let mut counts = Outcome::ALL.iter().map(|outcome| self.count(area, Some(kind), *outcome));
                counts.try_for_each(|count| write!(f, "{count:>10}"))?;
            }
        }
        Ok(())
    }
}

/// Files to be damaged, and what is in them.
struct Sample {
    folder: PathBuf,
    truth: Truth,
    is_closed: bool,
}

impl Sample {
    async fn make(program: &Program, work: &Path, name: &str) -> Result<Self> {
        let (folder, is_closed) = (work.join(name), name == "closed");
        let mut broker = Broker::start(program, &folder, &work.join("log"))?;
        let client = std::sync::Arc::new(broker.client().await?);
        load::prepare(&client).await?;
        let known = load::Shared::default();
        let loading = tokio::spawn(load::run(client, std::sync::Arc::clone(&known)));
        sleep(LOAD).await;
        if is_closed {
            broker.end().await?;
        } else {
            broker.kill();
        }
        loading.await?;
        ensure!(lock(&known).logs.iter().all(|log| !log.acked.is_empty()), "nothing was written");
        let mut truths = Vec::new();
        for _ in 0..2 {
            let (truth, _) = read(program, &folder, work, None).await?;
            truths.push(truth.context("an undamaged broker cannot be read")?);
        }
        let truth = truths.remove(0);
        ensure!(
            Difference::of(&truth, &truths[0]).is_empty(),
            "reading changes: {:?}",
            Difference::of(&truth, &truths[0])
        );
        Ok(Self { folder, truth, is_closed })
    }
}

/// What a copy of a folder has after something was done to it, and what was logged.
async fn read(
    program: &Program,
    folder: &Path,
    work: &Path,
    harmed: Option<(&mut Option<Harm>, &Truth)>,
) -> Result<(Option<Truth>, String)> {
    let place = tempfile::tempdir_in(work)?;
    let (copied, log) = (place.path().join("broker"), place.path().join("log"));
    copy(folder, &copied)?;
    let mut known = None;
    if let Some((harm, truth)) = harmed {
        *harm = Some(Harm::cause(&copied)?);
        known = Some(truth);
    }
    let mut broker = Broker::start(program, &copied, &log)?;
    let truth = match broker.client().await {
        Ok(client) => Some(Truth::read(&client, known).await?),
        // It refuses to start, which is then in its log.
        Err(_) => None,
    };
    broker.kill();
    Ok((truth, std::fs::read_to_string(&log)?))
}

pub(crate) async fn run(program: &Path, work: &Path, damages: u64) -> Result<Table> {
    let program = &Program::Atoll(program.to_owned(), SEGMENT_BYTES);
    let closed = Sample::make(program, work, "closed").await?;
    let killed = Sample::make(program, work, "killed-once").await?;
    let (mut table, mut shown) = (Table::default(), 0);
    for number in 0..damages {
        let sample = if number % KILLED_ONE_IN == 0 { &killed } else { &closed };
        let mut harm = None;
        let (truth, log) = read(program, &sample.folder, work, Some((&mut harm, &sample.truth))).await?;
        let harm = harm.context("something was harmed")?;
        let (outcome, why) = judge(sample, &harm, truth.as_ref(), &log, &mut table);
        if outcome >= Outcome::Unnoticed && shown < SHOWN_MAX {
            shown += 1;
            eprintln!("bench: crash: {harm:?} (closed: {}): {outcome:?}: {why}\n{log}", sample.is_closed);
        }
        *table.counts.entry((area(&harm.file), harm.kind, outcome)).or_default() += 1;
    }
    Ok(table)
}

fn judge(sample: &Sample, harm: &Harm, truth: Option<&Truth>, log: &str, table: &mut Table) -> (Outcome, String) {
    let empty = Truth::default();
    let difference = Difference::of(&sample.truth, truth.unwrap_or(&empty));
    let what = format!("{difference:.200?}");
    let file = harm.file.to_string_lossy();
    let places = places(log, &file);
    let is_named = log.contains(&*file);
    let is_revived = !difference.revived.is_empty();
    table.reviving += u64::from(is_revived && is_named);
    if !difference.altered.is_empty() || is_revived && !is_named {
        return (Outcome::Altered, what);
    }
    let is_torn = log.contains("torn: Some") || log.contains("torn: [Torn");
    match (is_named, difference.missing.is_empty()) {
        (true, _) => {
            let hits =
                |(at, bytes): &(usize, usize)| *at <= harm.range.end && (*bytes == 0 || harm.range.start <= at + bytes);
            table.vague += u64::from(!places.iter().any(hits));
            let is_tear = is_torn && !log.contains("Damage {");
            if is_tear && sample.is_closed {
                (Outcome::Silent, format!("torn: {what}"))
            } else if is_tear {
                (Outcome::Torn, what)
            } else {
                (Outcome::Reported, what)
            }
        }
        (false, false) => (Outcome::Silent, what),
        (false, true) if harm.is_free(&sample.truth) => (Outcome::Free, what),
        (false, true) if matches!(area(&harm.file), "messages" | "kept") => (Outcome::Dead, what),
        (false, true) => (Outcome::Unnoticed, what),
    }
}
