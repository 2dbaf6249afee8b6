//! Ranks by Zipf's law: rank k of n with a probability proportional to 1 / k^theta.
//!
//! Rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from
//! monotone discrete distributions", ACM TOMACS 6:3, 1996): constant time, no tables, any theta
//! of at least zero and any number of ranks.

use crate::random::Random;

/// A sampler.
#[derive(Clone, Debug)]
pub struct Zipf {
    ranks: u64,
    theta: f64,
    integral_first: f64,
    integral_last: f64,
    shortcut: f64,
}

impl Zipf {
    /// A sampler of ranks 1 to `ranks`.
    ///
    /// # Panics
    /// If there are no ranks, or theta is negative or not a number.
    pub fn new(ranks: u64, theta: f64) -> Zipf {
        assert!(ranks > 0, "a Zipf distribution has at least one rank");
        assert!(theta >= 0.0, "theta {theta} of a Zipf distribution");
        let mut zipf = Zipf {
            ranks,
            theta,
            integral_first: 0.0,
            integral_last: 0.0,
            shortcut: 0.0,
        };
        // The density's integral from the left edge of the first rank's area to the last's.
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(ranks as f64 + 0.5);
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    fn density(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// The integral of 1 / x^theta, (x^(1 - theta) - 1) / (1 - theta), written so that theta near
    /// one loses no digits.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        log * expm1_over((1.0 - self.theta) * log)
    }

    /// The inverse of [`Zipf::integral`].
    fn inverse(&self, y: f64) -> f64 {
        // Rounding may carry the product just below -1, where the logarithm ends.
        let scaled = (y * (1.0 - self.theta)).max(-1.0);
        (y * ln_1p_over(scaled)).exp()
    }

    /// A rank, 1 the most frequent.
    pub fn sample(&self, random: &mut Random) -> u64 {
        loop {
            let u =
                self.integral_last + random.fraction() * (self.integral_first - self.integral_last);
            let x = self.inverse(u);
            let rank = (x + 0.5).floor().clamp(1.0, self.ranks as f64);
            if rank - x <= self.shortcut || u >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64;
            }
        }
    }
}

/// (e^x - 1) / x, 1 at zero.
fn expm1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0
    }
}

/// ln(1 + x) / x, 1 at zero.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.ln_1p() / x
    } else {
        1.0 - x / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the first ranks' frequencies with the law, five standard deviations either way.
    fn follows_the_law(ranks: u64, theta: f64) {
        const SAMPLES: u64 = 400_000;
        let zipf = Zipf::new(ranks, theta);
        let mut random = Random::new(3);
        let mut counts = vec![0u64; ranks as usize + 1];
        for _ in 0..SAMPLES {
            let rank = zipf.sample(&mut random);
            assert!((1..=ranks).contains(&rank));
            counts[rank as usize] += 1;
        }
        let sum: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum();
        for rank in 1..=ranks.min(20) {
            let probability = (rank as f64).powf(-theta) / sum;
            let expected = probability * SAMPLES as f64;
            let deviation = (expected * (1.0 - probability)).sqrt();
            let found = counts[rank as usize] as f64;
            assert!(
                (found - expected).abs() <= 5.0 * deviation + 1.0,
                "rank {rank} of {ranks}, theta {theta}: {found} instead of {expected}"
            );
        }
    }

    #[test]
    fn frequencies_follow_the_law() {
        for (ranks, theta) in [
            (1, 0.99),
            (2, 0.5),
            (10, 0.0),
            (100, 1.0),
            (1000, 0.99),
            (5000, 1.3),
        ] {
            follows_the_law(ranks, theta);
        }
    }

    #[test]
    fn many_ranks_cost_no_memory_and_stay_in_range() {
        let zipf = Zipf::new(1 << 40, 0.99);
        let mut random = Random::new(4);
        assert!((0..10_000).all(|_| (1..=1 << 40).contains(&zipf.sample(&mut random))));
    }
}
