//! Words: how a text falls into them, which forms of one mean the same, and how far two spellings are apart. Pure.

/// Letters of a word that are looked at.
pub(crate) const LETTERS_MAX: usize = 40;

/// The words of a text in lower case, without accents, as SQLite's `unicode61` has them.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().flat_map(char::to_lowercase).map(fold).take(LETTERS_MAX).collect())
}

/// The letter under an accent, for those of Latin-1 and the commonest beyond.
fn fold(letter: char) -> char {
    const FOLDED: [(&str, char); 11] = [
        ("àáâãäåāăą", 'a'),
        ("çćč", 'c'),
        ("ďđ", 'd'),
        ("èéêëēęě", 'e'),
        ("ìíîïī", 'i'),
        ("ñńň", 'n'),
        ("òóôõöøōő", 'o'),
        ("śšş", 's'),
        ("ùúûüūůű", 'u'),
        ("ýÿ", 'y'),
        ("źżž", 'z'),
    ];
    FOLDED.iter().find(|(accented, _)| accented.contains(letter)).map_or(letter, |(_, plain)| *plain)
}

/// The word, and its singular or plural as English mostly makes them. What is no word finds nothing.
pub(crate) fn forms(word: &str) -> Vec<String> {
    let mut forms = vec![word.to_owned()];
    if word.chars().count() < 3 || !word.is_ascii() {
        return forms;
    }
    if let Some(stem) = word.strip_suffix("ies") {
        forms.push(format!("{stem}y"));
    } else if let Some(stem) = word.strip_suffix("es") {
        forms.extend([stem.to_owned(), format!("{stem}e")]);
    } else if let Some(stem) = word.strip_suffix('s').filter(|stem| !stem.ends_with('s')) {
        forms.push(stem.to_owned());
    } else if let Some(stem) = word.strip_suffix('y') {
        forms.extend([format!("{stem}ies"), format!("{word}s")]);
    } else {
        forms.extend([format!("{word}s"), format!("{word}es")]);
    }
    forms
}

/// Runs of three letters, the ends marked, so that short words have several.
pub(crate) fn grams(word: &str) -> Vec<String> {
    let letters: Vec<char> = ['^', '^'].into_iter().chain(word.chars()).chain(['$', '$']).collect();
    let mut grams: Vec<String> = letters.windows(3).map(|window| window.iter().collect()).collect();
    grams.sort();
    grams.dedup();
    grams
}

/// How many mistakes are forgiven in a word.
pub(crate) fn tolerance(word: &str) -> usize {
    match word.chars().count() {
        ..4 => 0,
        4..7 => 1,
        _ => 2,
    }
}

/// How many letters are missing, too many, wrong or exchanged with their neighbour between two spellings (optimal string
/// alignment), if at most `max`.
pub(crate) fn distance(a: &str, b: &str, max: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > max {
        return None;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    Some(rows[a.len()][b.len()]).filter(|distance| *distance <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_falls_into_plain_words() {
        let split = |text: &str| words(text).collect::<Vec<_>>();
        assert_eq!(split("Luma Desk-Lamp, Sage (42 cm)"), ["luma", "desk", "lamp", "sage", "42", "cm"]);
        assert_eq!(split("Café ÉTÉ smørrebrød"), ["cafe", "ete", "smorrebrod"]);
        assert_eq!(split("\" OR * NEAR( -- "), ["or", "near"]);
        assert_eq!(split(&"x".repeat(99))[0].len(), LETTERS_MAX);
    }

    #[test]
    fn singular_and_plural_find_each_other() {
        for (one, other) in [("lamp", "lamps"), ("vase", "vases"), ("glass", "glasses"), ("battery", "batteries")] {
            assert!(forms(one).contains(&other.to_owned()), "{one}");
            assert!(forms(other).contains(&one.to_owned()), "{other}");
        }
        assert_eq!(forms("mm"), ["mm"]);
    }

    #[test]
    fn mistakes_are_counted_up_to_a_bound() {
        for (a, b, expected) in [
            ("lamp", "lamp", Some(0)),
            ("lapm", "lamp", Some(1)),
            ("lam", "lamp", Some(1)),
            ("headfones", "headphones", Some(2)),
            ("kettle", "cattle", Some(2)),
            ("mug", "stool", None),
            ("", "ab", Some(2)),
        ] {
            assert_eq!(distance(a, b, 2), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_mistake_anywhere_leaves_a_run_of_letters() {
        for wrong in ["kamp", "lamo", "lapm", "alamp", "lmp"] {
            let shared = grams(wrong).into_iter().filter(|gram| grams("lamp").contains(gram)).count();
            assert!(shared > 0, "{wrong}");
        }
    }
}
