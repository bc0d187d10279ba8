//! Medians and spreads of a few figures, and percentiles of many.

/// What remains of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Nothing for no figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Some(Self { median, min, max })
    }

    /// How one series compares with another, round by round: what slowed down a whole round falls out.
    pub(crate) fn of_ratios(figures: &[f64], base: &[f64]) -> Option<Self> {
        Self::of(figures.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(figure, base)| figure / base))
    }
}

/// The smallest figure that at least `percent` of all do not exceed (nearest rank); `sorted` goes upwards.
pub(crate) fn percentile(sorted: &[u64], percent: f64) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_of_the_sorted_figures() {
        let summary = |figures: &[f64]| Summary::of(figures.iter().copied()).map(|s| (s.median, s.min, s.max));
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(summary(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn a_slow_round_does_not_change_a_ratio() {
        let ratios = Summary::of_ratios(&[8.0, 16.0, 8.0], &[10.0, 20.0, 10.0]).expect("three rounds");
        assert_eq!(ratios, Summary { median: 0.8, min: 0.8, max: 0.8 });
        assert_eq!(Summary::of_ratios(&[8.0], &[0.0]), None);
        assert_eq!(Summary::of_ratios(&[8.0], &[]), None);
    }

    #[test]
    fn percentiles_are_figures_that_occurred() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50.0), Some(50));
        assert_eq!(percentile(&hundred, 99.0), Some(99));
        assert_eq!(percentile(&hundred, 100.0), Some(100));
        assert_eq!(percentile(&hundred, 0.0), Some(1));
        assert_eq!(percentile(&[5], 99.0), Some(5));
        assert_eq!(percentile(&[], 50.0), None);
    }
}
