//! "Did you mean": the known word nearest to one that is not known.

/// Longer words are not compared: the work grows with the square of the length.
const LENGTH_MAX: usize = 64;

/// Finds the candidate that was probably meant, if one is near enough.
///
/// Near enough is one slip of the fingers per three letters: an inserted, missing, wrong or swapped
/// letter. Case and `-` for `_` do not count. Of equally near candidates the first wins.
pub(super) fn nearest(
    word: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let word = letters(word);
    if word.len() > LENGTH_MAX {
        return None;
    }
    let slips_max = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &letters(candidate)), candidate))
        .filter(|&(slips, _)| slips <= slips_max)
        .min_by_key(|&(slips, _)| slips)
        .map(|(_, candidate)| candidate)
}

fn letters(word: &str) -> Vec<char> {
    let letter = |c: char| {
        if c == '-' { '_' } else { c.to_ascii_lowercase() }
    };
    word.chars().take(LENGTH_MAX + 1).map(letter).collect()
}

/// Counts the slips between two words: optimal string alignment, one row of the matrix at a time.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (i, &letter_a) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        let mut left = i + 1;
        row.push(left);
        let mut last_b = None;
        // `last.windows(2)` yields (diagonal, above) for each letter of `b`.
        for (j, (&letter_b, pair)) in b.iter().zip(last.windows(2)).enumerate() {
            let &[diagonal, above] = pair else { break };
            let mut cell =
                (diagonal + usize::from(letter_a != letter_b)).min(above + 1).min(left + 1);
            let is_swap = last_a == Some(letter_b) && last_b == Some(letter_a);
            if let Some(two_back) = j.checked_sub(1).and_then(|k| before_last.get(k))
                && is_swap
            {
                cell = cell.min(two_back + 1);
            }
            row.push(cell);
            left = cell;
            last_b = Some(letter_b);
        }
        before_last = std::mem::replace(&mut last, row);
        last_a = Some(letter_a);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_slips() {
        let check = |a: &str, b: &str, expected: usize| {
            assert_eq!(distance(&letters(a), &letters(b)), expected, "{a} {b}");
            assert_eq!(distance(&letters(b), &letters(a)), expected, "{b} {a}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("port", "port", 0);
        check("Port", "pORT", 0);
        check("port", "prot", 1);
        check("port", "pot", 1);
        check("port", "ports", 1);
        check("port", "part", 1);
        check("kitten", "sitting", 3);
        check("pool-mode", "pool_mode", 0);
        check("ca", "abc", 3);
    }

    #[test]
    fn nearest_is_near_enough_or_nothing() {
        let words = || ["host", "port", "pool_mode", "pool_size"];
        let check = |word: &str, expected| assert_eq!(nearest(word, words()), expected, "{word}");
        check("prot", Some("port"));
        check("pool_mdoe", Some("pool_mode"));
        check("poolsize", Some("pool_size"));
        check("POOL-SIZE", Some("pool_size"));
        check("colour", None);
        check("", None);
        check(&"p".repeat(100_000), None);
    }
}
