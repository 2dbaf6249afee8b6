//! The Universal Scalability Law, fitted to measured rates.
//!
//! `X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1))`
//! (Gunther, "Guerrilla Capacity Planning", 2007, chapter 4). The invariant: both coefficients are
//! at least zero. What scales better than linearly is not law but a cache that began to fit, and
//! stays in the residuals, where a reader sees it.
//!
//! The fit minimises the sum of squared relative residuals. `n / X(n)` is linear in `1 / rate`,
//! `contention / rate` and `coherency / rate`, which gives a start; Gauss-Newton goes on from there
//! on the law itself. Bounds are kept by trying each subset of the two coefficients as free with the
//! rest at zero: the best fit inside the bounds is the best of those four that lie inside.

use crate::run::answers::Usl;

/// Fewest different counts that three parameters can be told from.
pub const STEPS_MIN: usize = 3;

/// Steps of Gauss-Newton; from the linear start it takes a handful.
const ITERATIONS_MAX: usize = 50;

/// Halvings of a step that made the fit worse, before it counts as converged.
const HALVINGS_MAX: usize = 20;

/// Relative change of the sum of squares below which the fit has converged.
const CONVERGED: f64 = 1e-12;

impl Usl {
    /// Operations a second of `count`.
    pub fn rate_at(&self, count: f64) -> f64 {
        let others = count - 1.0;
        self.rate * count / (1.0 + self.contention * others + self.coherency * count * others)
    }

    /// The count at which the rate is highest; none where it rises for ever.
    pub fn peak(&self) -> Option<f64> {
        if self.contention >= 1.0 {
            return Some(1.0);
        }
        let at = ((1.0 - self.contention) / self.coherency).sqrt();
        at.is_finite().then_some(at.max(1.0))
    }
}

/// Fits the law to `steps`, each a count and its rate in operations a second. None for fewer than
/// [`STEPS_MIN`] different counts, or rates that are not positive.
pub fn fit(steps: &[(u32, f64)]) -> Option<Usl> {
    let mut counts: Vec<u32> = steps.iter().map(|(count, _)| *count).collect();
    counts.sort_unstable();
    counts.dedup();
    let is_usable = |(count, rate): &(u32, f64)| *count > 0 && rate.is_finite() && *rate > 0.0;
    if counts.len() < STEPS_MIN || !steps.iter().all(is_usable) {
        return None;
    }
    let steps: Vec<(f64, f64)> = steps
        .iter()
        .map(|(count, rate)| (f64::from(*count), *rate))
        .collect();
    [[true, true], [true, false], [false, true], [false, false]]
        .into_iter()
        .filter_map(|free| fit_free(&steps, free))
        .filter(|law| law.contention >= 0.0 && law.coherency >= 0.0)
        .min_by(|one, other| one.relative_error.total_cmp(&other.relative_error))
}

/// The best fit with the coefficients that are not `free` at zero, wherever the free ones lie.
fn fit_free(steps: &[(f64, f64)], free: [bool; 2]) -> Option<Usl> {
    let mut law = start(steps, free)?;
    for _ in 0..ITERATIONS_MAX {
        let Some(step) = gauss_newton_step(&law, steps, free) else {
            break;
        };
        let before = law.relative_error;
        let mut share = 1.0;
        let better = (0..HALVINGS_MAX).find_map(|_| {
            let moved = moved(&law, step, share, steps);
            share /= 2.0;
            (moved.rate > 0.0 && moved.relative_error < before).then_some(moved)
        });
        let Some(better) = better else { break };
        law = better;
        if before - law.relative_error <= CONVERGED * before {
            break;
        }
    }
    law.relative_error.is_finite().then_some(law)
}

/// The linear regression of `n / X(n)`, weighted so that its residuals are relative ones.
fn start(steps: &[(f64, f64)], free: [bool; 2]) -> Option<Usl> {
    let rows = steps.iter().map(|(count, rate)| {
        let weight = rate / count;
        let basis = [1.0, count - 1.0, count * (count - 1.0)];
        (basis.map(|value| value * weight), 1.0)
    });
    let [inverse, contention, coherency] = least_squares(rows, free)?;
    let law = Usl {
        rate: 1.0 / inverse,
        contention: contention / inverse,
        coherency: coherency / inverse,
        relative_error: 0.0,
    };
    (law.rate.is_finite() && law.rate > 0.0).then(|| with_error(law, steps))
}

/// The change of the logarithm of the rate and of both coefficients.
fn gauss_newton_step(law: &Usl, steps: &[(f64, f64)], free: [bool; 2]) -> Option<[f64; 3]> {
    let rows = steps.iter().map(|(count, rate)| {
        let others = count - 1.0;
        let ratio = law.rate_at(*count) / rate;
        let divisor = 1.0 + law.contention * others + law.coherency * count * others;
        let slopes = [1.0, -others / divisor, -count * others / divisor];
        (slopes.map(|slope| slope * ratio), 1.0 - ratio)
    });
    least_squares(rows, free)
}

fn moved(law: &Usl, step: [f64; 3], share: f64, steps: &[(f64, f64)]) -> Usl {
    let moved = Usl {
        rate: law.rate * (step[0] * share).exp(),
        contention: law.contention + step[1] * share,
        coherency: law.coherency + step[2] * share,
        relative_error: 0.0,
    };
    with_error(moved, steps)
}

/// With the root mean square of its relative residuals.
fn with_error(law: Usl, steps: &[(f64, f64)]) -> Usl {
    let squares: f64 = steps
        .iter()
        .map(|(count, rate)| (law.rate_at(*count) / rate - 1.0).powi(2))
        .sum();
    Usl {
        relative_error: (squares / steps.len() as f64).sqrt(),
        ..law
    }
}

/// Solves `row . x = value` in the least-squares sense by the normal equations; the second and the
/// third unknown are zero unless free.
fn least_squares(rows: impl Iterator<Item = ([f64; 3], f64)>, free: [bool; 2]) -> Option<[f64; 3]> {
    let is_free = [true, free[0], free[1]];
    let mut matrix = [[0.0; 4]; 3];
    for (row, value) in rows {
        for (line, factor) in matrix.iter_mut().zip(row) {
            for (sum, other) in line.iter_mut().zip(row) {
                *sum += factor * other;
            }
            line[3] += factor * value;
        }
    }
    for index in 0..3 {
        if !is_free[index] {
            for line in &mut matrix {
                line[index] = 0.0;
            }
            matrix[index] = [0.0; 4];
            matrix[index][index] = 1.0;
        }
    }
    solve(matrix)
}

/// Gaussian elimination with pivots; none where the equations do not decide the unknowns.
fn solve(mut matrix: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    /// Below this share of the largest entry a pivot is rounding.
    const PIVOT_MIN: f64 = 1e-14;
    let largest = matrix
        .iter()
        .flat_map(|line| &line[..3])
        .fold(0.0f64, |largest, entry| largest.max(entry.abs()));
    for column in 0..3 {
        let pivot = (column..3)
            .max_by(|one, other| {
                matrix[*one][column]
                    .abs()
                    .total_cmp(&matrix[*other][column].abs())
            })
            .expect("there are rows left");
        matrix.swap(column, pivot);
        let line = matrix[column];
        if line[column].abs() <= largest * PIVOT_MIN || !line[column].is_finite() {
            return None;
        }
        for (index, other) in matrix.iter_mut().enumerate() {
            if index != column {
                let factor = other[column] / line[column];
                for (entry, subtracted) in other.iter_mut().zip(line) {
                    *entry -= factor * subtracted;
                }
            }
        }
    }
    Some([0, 1, 2].map(|index| matrix[index][3] / matrix[index][index]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn law(rate: f64, contention: f64, coherency: f64) -> Usl {
        Usl {
            rate,
            contention,
            coherency,
            relative_error: 0.0,
        }
    }

    fn steps_of(law: &Usl, counts: &[u32]) -> Vec<(u32, f64)> {
        let step = |count: &u32| (*count, law.rate_at(f64::from(*count)));
        counts.iter().map(step).collect()
    }

    fn is_near(found: f64, expected: f64, tolerance: f64) -> bool {
        (found - expected).abs() <= tolerance
    }

    #[test]
    fn known_coefficients_are_found_again() {
        for (rate, contention, coherency) in [
            (250_000.0, 0.0, 0.0),
            (250_000.0, 0.03, 0.0),
            (1_000.0, 0.0, 0.002),
            (995.65, 0.02671, 0.000_769),
            (1e6, 0.4, 0.05),
        ] {
            let real = law(rate, contention, coherency);
            for counts in [&[1, 2, 3][..], &[1, 2, 4, 8, 16, 32], &[2, 3, 5, 7]] {
                let found = fit(&steps_of(&real, counts)).expect("three counts or more");
                assert!(is_near(found.rate / rate, 1.0, 1e-6), "{found:?}");
                assert!(is_near(found.contention, contention, 1e-6), "{found:?}");
                assert!(is_near(found.coherency, coherency, 1e-6), "{found:?}");
                assert!(found.relative_error < 1e-7, "{found:?}");
            }
        }
    }

    #[test]
    fn noise_moves_the_coefficients_by_little_and_shows_in_the_error() {
        let real = law(100_000.0, 0.05, 0.001);
        let counts: Vec<u32> = (1..=32).collect();
        let mut random = Random::new(9);
        let noisy: Vec<(u32, f64)> = steps_of(&real, &counts)
            .into_iter()
            .map(|(count, rate)| (count, rate * (1.0 + 0.02 * (random.fraction() - 0.5))))
            .collect();
        let found = fit(&noisy).expect("three counts or more");
        assert!(is_near(found.rate / real.rate, 1.0, 0.03), "{found:?}");
        assert!(is_near(found.contention, 0.05, 0.01), "{found:?}");
        assert!(is_near(found.coherency, 0.001, 0.000_3), "{found:?}");
        // Evenly spread over 2 %: a deviation of 2 % / sqrt(12).
        assert!((0.003..0.009).contains(&found.relative_error), "{found:?}");
        // It is the least: no neighbour fits better.
        let steps: Vec<(f64, f64)> = noisy.iter().map(|(n, x)| (f64::from(*n), *x)).collect();
        for change in [[1e-3, 0.0, 0.0], [0.0, 1e-3, 0.0], [0.0, 0.0, 1e-5]] {
            for sign in [-1.0, 1.0] {
                let neighbour = moved(&found, change, sign, &steps);
                assert!(neighbour.relative_error > found.relative_error);
            }
        }
    }

    #[test]
    fn what_scales_better_than_linearly_has_no_negative_coefficients() {
        let found = fit(&[(1, 100.0), (2, 230.0), (3, 350.0), (4, 500.0)]).expect("enough");
        assert_eq!((found.contention, found.coherency), (0.0, 0.0));
        assert!(found.relative_error > 0.03, "{found:?}");
        assert_eq!(found.peak(), None);
    }

    #[test]
    fn a_rate_that_falls_has_its_peak_where_it_was() {
        let real = law(1_000.0, 0.1, 0.1);
        let found = fit(&steps_of(&real, &[1, 2, 3, 4, 5, 6])).expect("enough");
        assert!(
            is_near(found.peak().expect("it falls"), 3.0, 1e-4),
            "{found:?}"
        );
        assert_eq!(law(1.0, 1.5, 0.0).peak(), Some(1.0));
        // Of a file that somebody else wrote.
        assert_eq!(law(1.0, 0.5, -0.1).peak(), None);
        assert_eq!(law(1.0, 0.5, 0.0).peak(), None);
    }

    #[test]
    fn two_counts_tell_nothing_about_two_coefficients() {
        assert_eq!(fit(&[(1, 100.0), (2, 190.0)]), None);
        assert_eq!(fit(&[(1, 100.0), (2, 190.0), (2, 191.0)]), None);
        assert_eq!(fit(&[(1, 100.0), (2, 0.0), (3, 280.0)]), None);
    }
}
