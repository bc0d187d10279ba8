//! "Did you mean": the nearest known word by edits (optimal string alignment distance).

/// Limit: longer words are not compared.
const WORD_CHARS_MAX: usize = 64;

/// The known word that `word` is most likely a slip of, if there is one.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(WORD_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
    if word.len() > WORD_CHARS_MAX {
        return None;
    }
    let near = known.into_iter().filter_map(|candidate| {
        let letters: Vec<char> = candidate.chars().take(WORD_CHARS_MAX).flat_map(char::to_lowercase).collect();
        let allowed = (word.len().max(letters.len()) / 3).max(1);
        let distance = distance(&word, &letters);
        (distance <= allowed && distance < letters.len()).then_some((distance, candidate))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that make one of the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut least = (last[j] + usize::from(from != to)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && b[j - 1] == *from {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["command", "replicas", "upstreams", "env_file", "http", "tcp"];
        for (word, expected) in [
            ("comand", Some("command")),
            ("repilcas", Some("replicas")),
            ("upstream", Some("upstreams")),
            ("ENV_FILE", Some("env_file")),
            ("htpp", Some("http")),
            ("volumes", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1 << 20), known), None);
    }
}
