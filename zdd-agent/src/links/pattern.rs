//! Names of interfaces by pattern.

/// Whether `name` matches `pattern` as a whole: `*` stands for any run of characters, also none, `?` for exactly one,
/// everything else for itself. Takes time in the product of the lengths at the most.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit: only the last one can need to take more.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                retry = Some((after_star, taken + 1));
                (p, n) = (after_star, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, as slow as it likes.
    fn defined(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|taken| defined(rest, &name[taken..])),
            ['?', rest @ ..] => !name.is_empty() && defined(rest, &name[1..]),
            [c, rest @ ..] => name.first() == Some(c) && defined(rest, &name[1..]),
        }
    }

    #[test]
    fn names_as_operators_write_them() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("veth*", "veth", true),
            ("veth*", "veth12ab", true),
            ("*", "", true),
            ("", "eth0", false),
            ("*0", "eth0.101", false),
            ("e*.1?0", "eth0.100", true),
            ("v*h", "vethh", true),
            ("[a-z]*", "eth0", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    proptest! {
        #[test]
        fn equals_its_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(matches(&pattern, &name), defined(&p, &n));
        }

        #[test]
        fn a_name_matches_itself_and_every_masking_of_it(name in "[a-z0-9@._-]{1,15}", from in 0usize..15, to in 0usize..15) {
            prop_assert!(matches(&name, &name));
            let (from, to) = (from.min(name.len()), to.min(name.len()).max(from.min(name.len())));
            let starred = format!("{}*{}", &name[..from], &name[to..]);
            prop_assert!(matches(&starred, &name));
            let marked = format!("{}{}{}", &name[..from], "?".repeat(to - from), &name[to..]);
            prop_assert!(matches(&marked, &name));
        }

        #[test]
        fn never_panics(pattern: String, name: String) {
            matches(&pattern, &name);
        }
    }
}
