//! Sorting of words by their upper bits, in time that the values cannot make quadratic.

/// Most bits of a digit: 2,048 places to write to are what first- and second-level caches hold.
const DIGIT_BITS_MAX: u32 = 11;

/// Bits beyond those that tell so many words apart on average: one word in 256 has a neighbour from
/// which only the rest tells it, and is sorted with it by comparison.
const SPARE_BITS: u32 = 8;

/// Sorts `words` by the bits below `top` and not below `bottom`; those above `top` are zero. Words
/// that agree in the bits that were sorted by are neighbours, in the order in which they were; the
/// answer says the lowest such bit, which may be higher than `bottom`.
///
/// A least-significant-digit radix sort, over no more bits than tell random words apart. It has a
/// second buffer of the size of `words`.
pub(super) fn by_upper_bits(words: &mut Vec<u64>, bottom: u32, top: u32) -> u32 {
    let needed = words.len().max(2).ilog2() + 1 + SPARE_BITS;
    let passes = needed.min(top - bottom).div_ceil(DIGIT_BITS_MAX);
    if passes == 0 {
        return bottom;
    }
    let width = (top - bottom).div_ceil(passes).min(DIGIT_BITS_MAX);
    let lowest = top.saturating_sub(passes * width).max(bottom);
    let mut other = vec![0; words.len()];
    let mut shift = lowest;
    while shift < top {
        let bits = width.min(top - shift);
        scatter(words, &mut other, shift, bits);
        std::mem::swap(words, &mut other);
        shift += bits;
    }
    lowest
}

/// One pass: `from` into `to`, stable, by `bits` bits from `shift` on.
fn scatter(from: &[u64], to: &mut [u64], shift: u32, bits: u32) {
    const DIGITS: usize = 1 << DIGIT_BITS_MAX;
    let digit_mask = (1usize << bits) - 1;
    let digit = |word: u64| (word >> shift) as usize & digit_mask & (DIGITS - 1);
    let mut places = [0u32; DIGITS];
    for word in from {
        places[digit(*word)] += 1;
    }
    let mut start = 0;
    for place in &mut places {
        start += std::mem::replace(place, start);
    }
    for word in from {
        let place = &mut places[digit(*word)];
        to[*place as usize] = *word;
        *place += 1;
    }
}

/// Calls `sort` with each run of two or more neighbours that agree from bit `lowest` on.
pub(super) fn for_each_tie(words: &mut [u64], lowest: u32, mut sort: impl FnMut(&mut [u64])) {
    let mut start = 0;
    while start + 1 < words.len() {
        let prefix = words[start] >> lowest;
        if words[start + 1] >> lowest != prefix {
            start += 1;
            continue;
        }
        let run = words[start..]
            .iter()
            .take_while(|word| *word >> lowest == prefix)
            .count();
        sort(&mut words[start..start + run]);
        start += run;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn upper_bits_and_then_ties_are_the_whole_order(
            mut words in proptest::collection::vec(any::<u64>(), 0..2000),
            bits in 1u32..=64,
            spread in 0u32..64,
        ) {
            for word in &mut words {
                *word = *word >> (64 - bits) >> (*word as u32 % (spread + 1));
            }
            let mut expected = words.clone();
            expected.sort_unstable();
            let lowest = by_upper_bits(&mut words, 0, bits);
            if lowest > 0 {
                for_each_tie(&mut words, lowest, |run| run.sort_unstable());
            }
            prop_assert_eq!(words, expected);
        }
    }

    #[test]
    fn words_that_agree_stay_in_order() {
        let mut words: Vec<u64> = (0..1000)
            .map(|number| (number % 7) << 32 | number)
            .collect();
        let lowest = by_upper_bits(&mut words, 32, 35);
        assert_eq!(lowest, 32);
        assert!(words.is_sorted());
    }
}
