//! The known word nearest to a misspelt one, for "did you mean".

/// The word of `known` that `given` was probably meant to be: at most a third of its letters differ.
pub(crate) fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Nobody misspells a word into one three times as long; what is longer is not worth the time to compare.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let given: Vec<char> = given.to_lowercase().chars().collect();
    let distances = known.into_iter().map(|word| (distance(&given, &word.chars().collect::<Vec<_>>()), word));
    let (distance, word) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= given.len().max(word.len()).div_ceil(3)).then_some(word)
}

/// `: did you mean ...?` or, where nothing is near, what there is.
pub(crate) fn suggestion(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// How many letters were left out, added, exchanged or swapped with their neighbour (optimal string alignment).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, left) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, right) in to.iter().enumerate() {
            let exchanged = row[j] + usize::from(left != right);
            let mut best = exchanged.min(row[j + 1] + 1).min(next[j] + 1);
            let is_swap = i > 0 && j > 0 && *left == to[j - 1] && from[i - 1] == *right;
            if is_swap {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 3] = ["require_session_mfa", "max_session", "max_session_ttl"];

    #[test]
    fn a_letter_too_few_or_swapped_finds_the_word() {
        assert_eq!(nearest("require_sesion_mfa", WORDS), Some("require_session_mfa"));
        assert_eq!(nearest("max_sessoin", WORDS), Some("max_session"));
        assert_eq!(nearest("Max_Session_TTL", WORDS), Some("max_session_ttl"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("colour", WORDS), None);
        assert_eq!(nearest("", WORDS), None);
        assert_eq!(nearest(&"x".repeat(100_000), WORDS), None);
    }
}
