//! What somebody typed, as an expression for SQLite's full-text index. A word stands for its singular and plural; the last
//! one, which may not be whole yet, for all that begin with it; one that is nowhere for what it was probably meant to be.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use crate::terms::{distance, forms, grams, tolerance, words};

/// Words that are looked at.
const WORDS_MAX: usize = 8;
/// Spellings that one misspelt word may stand for.
const SPELLINGS_MAX: usize = 3;
/// Words of the vocabulary that are compared with a misspelt one, those that share the most runs of letters.
const CANDIDATES_MAX: usize = 200;
/// They say little, unless there is nothing else.
const FILLERS: [&str; 14] = ["a", "an", "and", "at", "by", "for", "from", "in", "my", "of", "on", "the", "to", "with"];

/// Expressions in the syntax of FTS5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// Every word must be found.
    pub(crate) all: String,
    /// One is enough.
    pub(crate) any: String,
    /// What it was taken for, where a word was misspelt.
    pub(crate) corrected: Option<String>,
    /// Words that mean nothing here.
    pub(crate) ignored: Vec<String>,
}

/// A word, with what it may stand for.
#[derive(Debug, Default)]
struct Group {
    alternatives: BTreeSet<String>,
    /// The spelling it was taken for.
    corrected: Option<String>,
}

impl Question {
    /// Reads what was typed; an expression is empty when no word of it is known.
    ///
    /// # Errors
    /// When a statement fails.
    pub(crate) fn parse(connection: &Connection, text: &str) -> rusqlite::Result<Self> {
        let mut words: Vec<String> = words(text).take(WORDS_MAX).collect();
        let is_whole = text.ends_with(|c: char| !c.is_alphanumeric());
        if words.iter().any(|word| !FILLERS.contains(&word.as_str())) {
            words.retain(|word| !FILLERS.contains(&word.as_str()));
        }
        let mut question = Self::default();
        let (mut groups, mut said) = (Vec::new(), Vec::new());
        for (at, word) in words.iter().enumerate() {
            let may_go_on = at + 1 == words.len() && !is_whole;
            let mut group = Group::of(connection, word, may_go_on)?;
            // `tea pot` is a teapot: the two words together are one more alternative to each.
            for (first, second) in [(at.checked_sub(1), Some(at)), (Some(at), Some(at + 1))] {
                let of = |at: Option<usize>| at.and_then(|at| words.get(at));
                if let (Some(first), Some(second)) = (of(first), of(second)) {
                    group.join(connection, &format!("{first}{second}"))?;
                }
            }
            if group.alternatives.is_empty() {
                question.ignored.push(word.clone());
            } else {
                said.push(group.corrected.clone().unwrap_or_else(|| word.clone()));
                groups.push(group);
            }
        }
        if groups.iter().any(|group| group.corrected.is_some()) {
            question.corrected = Some(said.join(" "));
        }
        let groups: Vec<String> = groups.iter().map(Group::expression).collect();
        (question.all, question.any) = (groups.join(" AND "), groups.join(" OR "));
        Ok(question)
    }
}

impl Group {
    fn of(connection: &Connection, word: &str, may_go_on: bool) -> rusqlite::Result<Self> {
        let mut group = Self::default();
        for form in forms(word) {
            if is_known(connection, &form)? {
                group.alternatives.insert(quote(&form));
            }
        }
        if may_go_on && word.chars().count() > 1 && begins_some(connection, word)? {
            group.alternatives.insert(format!("{}*", quote(word)));
        }
        if group.alternatives.is_empty() {
            group.correct(connection, word)?;
        }
        Ok(group)
    }

    /// A word that is nowhere: one mistake, two words written as one, or two mistakes, in this order.
    fn correct(&mut self, connection: &Connection, word: &str) -> rusqlite::Result<()> {
        let spellings = spellings(connection, word)?;
        let least = spellings.first().map(|(distance, _)| *distance);
        if least != Some(1)
            && let Some((first, second)) = split(connection, word)?
        {
            self.alternatives.insert(format!("({} AND {})", quote(&first), quote(&second)));
            self.corrected = Some(format!("{first} {second}"));
            return Ok(());
        }
        for (_, spelling) in spellings.iter().filter(|(distance, _)| Some(*distance) == least).take(SPELLINGS_MAX) {
            self.corrected.get_or_insert_with(|| spelling.clone());
            for form in forms(spelling) {
                if is_known(connection, &form)? {
                    self.alternatives.insert(quote(&form));
                }
            }
        }
        Ok(())
    }

    fn join(&mut self, connection: &Connection, joined: &str) -> rusqlite::Result<()> {
        for form in forms(joined) {
            if is_known(connection, &form)? {
                self.alternatives.insert(quote(&form));
            }
        }
        Ok(())
    }

    fn expression(&self) -> String {
        let alternatives: Vec<&str> = self.alternatives.iter().map(String::as_str).collect();
        format!("({})", alternatives.join(" OR "))
    }
}

/// Words of the vocabulary within the tolerance, the nearest first and of those the most frequent.
fn spellings(connection: &Connection, word: &str) -> rusqlite::Result<Vec<(usize, String)>> {
    let tolerance = tolerance(word);
    if tolerance == 0 {
        return Ok(Vec::new());
    }
    let grams = grams(word);
    let marks = vec!["?"; grams.len()].join(", ");
    let sql = format!(
        "SELECT term FROM grams WHERE gram IN ({marks}) GROUP BY term ORDER BY count(*) DESC, term LIMIT {CANDIDATES_MAX}"
    );
    let mut candidates = connection.prepare_cached(&sql)?;
    let candidates = candidates.query_map(rusqlite::params_from_iter(&grams), |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for candidate in candidates {
        let candidate = candidate?;
        let Some(distance) = distance(word, &candidate, tolerance) else { continue };
        let documents = documents(connection, &candidate)?;
        // A word that has gone with its last product leads nowhere.
        if documents > 0 {
            found.push((distance, std::cmp::Reverse(documents), candidate));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(distance, _, term)| (distance, term)).collect())
}

/// Two words of the vocabulary that were written as one; the pair whose rarer word is the most frequent.
fn split(connection: &Connection, word: &str) -> rusqlite::Result<Option<(String, String)>> {
    let mut best = None;
    for (at, _) in word.char_indices().skip(3) {
        let (first, second) = word.split_at(at);
        if second.chars().count() < 3 {
            break;
        }
        let count = documents(connection, first)?.min(documents(connection, second)?);
        if count > best.as_ref().map_or(0, |(best, _)| *best) {
            best = Some((count, (first.to_owned(), second.to_owned())));
        }
    }
    Ok(best.map(|(_, pair)| pair))
}

fn is_known(connection: &Connection, word: &str) -> rusqlite::Result<bool> {
    documents(connection, word).map(|documents| documents > 0)
}

/// In how many products a word is.
fn documents(connection: &Connection, word: &str) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("SELECT doc FROM vocabulary WHERE term = ?1")?;
    statement.query_row([word], |row| row.get(0)).optional().map(Option::unwrap_or_default)
}

fn begins_some(connection: &Connection, word: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM vocabulary WHERE term >= ?1 AND term < ?1 || char(0x10ffff) LIMIT 1";
    connection.prepare_cached(sql)?.query_row([word], |_| Ok(())).optional().map(|found| found.is_some())
}

/// Words have letters and digits only; between quotes none of them is an operator.
fn quote(word: &str) -> String {
    format!("\"{}\"", word.replace('"', "\"\""))
}
