//! The client's randomness: enough to spread clients in time, and nothing that must not be guessed.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number from 0 to 1 that differs between clients and calls. Quality does not matter here.
pub(crate) fn fraction() -> f64 {
    // The standard library seeds each of these anew.
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_differ_and_stay_in_range() {
        let fractions: Vec<f64> = (0..100).map(|_| fraction()).collect();
        let in_range = |fraction: &f64| (0.0..1.0).contains(fraction);
        assert!(fractions.iter().all(in_range));
        let differs = |fraction: &f64| (fraction - fractions[0]).abs() > 0.01;
        assert!(fractions.iter().any(differs));
    }
}
