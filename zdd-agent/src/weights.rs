//! From the weights that somebody names to the weights of all versions. Pure: no service, no maps.

use crate::desired::{BasisPoints, FULL};
use crate::text::percent;

/// Why a set of weights makes no sense for a service. Each message says the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// Nothing was asked for.
    #[error("no weight is given; name at least one, as v2=10%")]
    Nothing,
    /// A version that the service does not have.
    #[error("there is no version `{name}`; the service has {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// One version, two weights.
    #[error("version `{0}` is named twice; give it one weight")]
    Twice(String),
    /// More than there is to give.
    #[error("the weights sum to {}, more than 100%; lower one of them", percent(*.0))]
    Above(BasisPoints),
    /// All versions are named and something is left.
    #[error("the weights sum to {}, and no version is left to take the rest; make them sum to 100%", percent(*.0))]
    Below(BasisPoints),
}

/// Completes a partial set of weights: `asked` is taken as it is, and the remainder goes to the other versions in proportion to
/// what they have now. If they have nothing together, the first of them gets all of it.
///
/// `current` holds every version of the service in its order; the answer has the same order and sums to [`FULL`] exactly. Basis
/// points that do not divide go to the largest remainders, the earlier version first.
///
/// # Errors
/// When a version is unknown or named twice, or the sum cannot be [`FULL`].
pub fn complete(
    current: &[(String, BasisPoints)],
    asked: &[(String, BasisPoints)],
) -> Result<Vec<BasisPoints>, WeightsError> {
    if asked.is_empty() {
        return Err(WeightsError::Nothing);
    }
    let mut weights: Vec<Option<BasisPoints>> = vec![None; current.len()];
    let mut sum: u64 = 0;
    for (name, weight) in asked {
        let Some(at) = current.iter().position(|(known, _)| known == name) else {
            let known = current.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(WeightsError::Unknown { name: name.clone(), known });
        };
        if weights[at].replace(*weight).is_some() {
            return Err(WeightsError::Twice(name.clone()));
        }
        sum += u64::from(*weight);
    }
    if sum > u64::from(FULL) {
        return Err(WeightsError::Above(u32::try_from(sum).unwrap_or(u32::MAX)));
    }
    let rest = FULL - sum as BasisPoints;
    let others: Vec<usize> = (0..current.len()).filter(|&at| weights[at].is_none()).collect();
    if others.is_empty() && rest > 0 {
        return Err(WeightsError::Below(FULL - rest));
    }
    let had: Vec<BasisPoints> = others.iter().map(|&at| current[at].1).collect();
    for (at, weight) in others.into_iter().zip(divide(rest, &had)) {
        weights[at] = Some(weight);
    }
    Ok(weights.into_iter().flatten().collect())
}

/// Divides `whole` in proportion to `parts`, to the unit, by largest remainder; all of it to the first when `parts` sum to 0.
fn divide(whole: BasisPoints, parts: &[BasisPoints]) -> Vec<BasisPoints> {
    let total: u64 = parts.iter().map(|&part| u64::from(part)).sum();
    if total == 0 {
        return parts.iter().enumerate().map(|(at, _)| if at == 0 { whole } else { 0 }).collect();
    }
    let product = |part: BasisPoints| u64::from(whole) * u64::from(part);
    let mut shares: Vec<BasisPoints> =
        parts.iter().map(|&part| (product(part) / total) as BasisPoints).collect();
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&at| std::cmp::Reverse(product(parts[at]) % total));
    let left = whole - shares.iter().sum::<BasisPoints>();
    for &at in by_remainder.iter().take(left as usize) {
        shares[at] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(weights: &[BasisPoints]) -> Vec<(String, BasisPoints)> {
        weights.iter().enumerate().map(|(at, &weight)| (format!("v{}", at + 1), weight)).collect()
    }

    fn asked(text: &str) -> Vec<(String, BasisPoints)> {
        text.split_whitespace()
            .map(|part| part.split_once('=').unwrap())
            .map(|(name, weight)| (name.to_owned(), crate::text::parse_percent(weight).unwrap()))
            .collect()
    }

    #[test]
    fn the_remainder_goes_to_the_others_in_proportion() {
        let rows: &[(&[BasisPoints], &str, &[BasisPoints])] = &[
            (&[10_000, 0], "v2=10%", &[9_000, 1_000]),
            (&[9_000, 1_000], "v2=100%", &[0, 10_000]),
            (&[0, 10_000], "v2=10%", &[9_000, 1_000]),
            (&[6_000, 3_000, 1_000], "v3=40%", &[4_000, 2_000, 4_000]),
            (&[3_333, 3_333, 3_334], "v3=0%", &[5_000, 5_000, 0]),
            (&[1, 1, 9_998], "v3=0.01%", &[5_000, 4_999, 1]),
            (&[0, 0, 10_000], "v3=50%", &[5_000, 0, 5_000]),
            (&[2_500, 5_000, 2_500], "v3=90%", &[333, 667, 9_000]),
            (&[10_000, 0], "v1=25% v2=75%", &[2_500, 7_500]),
            (&[10_000], "v1=100%", &[10_000]),
        ];
        for (current, ask, expected) in rows {
            assert_eq!(complete(&set(current), &asked(ask)).unwrap(), *expected, "{current:?} {ask}");
        }
    }

    #[test]
    fn senseless_weights_are_refused_with_the_way_out() {
        let say = |current: &[BasisPoints], ask: &str| {
            complete(&set(current), &asked(ask)).unwrap_err().to_string()
        };
        insta::assert_snapshot!(say(&[10_000, 0], ""), @"no weight is given; name at least one, as v2=10%");
        insta::assert_snapshot!(say(&[10_000, 0], "v3=1%"), @"there is no version `v3`; the service has v1, v2");
        insta::assert_snapshot!(say(&[10_000, 0], "v1=1% v1=2%"), @"version `v1` is named twice; give it one weight");
        insta::assert_snapshot!(say(&[10_000, 0], "v1=60% v2=40.5%"), @"the weights sum to 100.5%, more than 100%; lower one of them");
        insta::assert_snapshot!(say(&[10_000, 0], "v1=60% v2=10%"), @"the weights sum to 70%, and no version is left to take the rest; make them sum to 100%");
    }

    proptest! {
        #[test]
        fn asked_weights_are_exact_and_the_others_within_one_point(
            seeds in prop::collection::vec(0u32..=FULL, 2..8), named in 1usize..4, share in 0u32..=FULL,
        ) {
            let current = set(&divide(FULL, &seeds));
            let named = named.min(current.len() - 1);
            let each = share / named as u32;
            let asked: Vec<_> = current[..named].iter().map(|(name, _)| (name.clone(), each)).collect();
            let weights = complete(&current, &asked).unwrap();

            prop_assert_eq!(weights.iter().sum::<u32>(), FULL);
            prop_assert!(weights[..named].iter().all(|&weight| weight == each));
            let rest = f64::from(FULL - each * named as u32);
            let others: u32 = current[named..].iter().map(|(_, weight)| weight).sum();
            for (at, (_, had)) in current.iter().enumerate().skip(named) {
                let fair = if others > 0 { rest * f64::from(*had) / f64::from(others) }
                    else if at == named { rest } else { 0.0 };
                prop_assert!((f64::from(weights[at]) - fair).abs() < 1.0, "{} is not {}", weights[at], fair);
            }
        }

        #[test]
        fn a_version_that_had_nothing_gets_nothing_while_another_had_some(
            weight in 1u32..=FULL, ask in 0u32..=FULL,
        ) {
            let current = set(&[FULL - weight, weight, 0]);
            let got = complete(&current, &[("v1".to_owned(), ask)]).unwrap();
            prop_assert_eq!(got, vec![ask, FULL - ask, 0]);
        }
    }
}
