//! A figure for each of several names, from zero, with the spread of its rounds and its ceiling.

use maud::{Markup, html};

use super::{COLOURS, Size, cut};

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Whose.
    pub label: String,
    /// Which colour, the same for the same label all over the page.
    pub colour: usize,
    /// How long.
    pub value: f64,
    /// Least and greatest of its rounds, where it has several.
    pub spread: Option<[f64; 2]>,
    /// Name and value of its ceiling.
    pub ceiling: Option<(String, f64)>,
    /// The figure in words, at the end of the bar.
    pub text: String,
}

/// Bars below each other.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What they show, for those who do not see it.
    pub title: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// Bars of one chart: beyond it the table serves better.
const BARS_MAX: usize = 40;

impl Bars {
    /// The drawing.
    pub fn svg(&self, size: Size) -> Markup {
        let bars = &self.bars[..self.bars.len().min(BARS_MAX)];
        let is_wide = size.width > 600.0;
        let (left, step) = if is_wide { (200.0, 30.0) } else { (4.0, 46.0) };
        let right = size.width - if is_wide { 190.0 } else { 4.0 };
        let greatest = bars.iter().flat_map(Bar::reach).fold(0.0, f64::max);
        let at = |value: f64| {
            let share = if greatest > 0.0 {
                value / greatest
            } else {
                0.0
            };
            left + share.clamp(0.0, 1.0) * (right - left)
        };
        let height = step * bars.len() as f64 + 6.0;
        html! {
            svg class=(format!("bars {}", size.class)) viewBox=(format!("0 0 {} {height}", size.width)) role="img" aria-label=(self.title) {
                @for (index, bar) in bars.iter().enumerate() {
                    @let middle = step * index as f64 + if is_wide { step / 2.0 } else { step / 2.0 + 10.0 };
                    g class=(format!("bar c{}", bar.colour % COLOURS)) {
                        @if is_wide {
                            text x=(left - 10.0) y=(middle + 4.0) text-anchor="end" { title { (bar.label) } (cut(&bar.label, 28)) }
                        } @else {
                            text x=(left) y=(middle - 14.0) { (cut(&bar.label, 24)) }
                        }
                        rect x=(left) y=(middle - 8.0) height="16" width=(format!("{:.1}", at(bar.value) - left)) {
                            title { (bar.label) ": " (bar.text) }
                        }
                        @if let Some([least, most]) = bar.spread {
                            path class="spread" d=(format!("M{0:.1} {2}H{1:.1}M{0:.1} {3}v8M{1:.1} {3}v8", at(least), at(most), middle, middle - 4.0)) {
                                title { "least and greatest of the rounds" }
                            }
                        }
                        @if let Some((name, value)) = &bar.ceiling {
                            path class="ceiling" d=(format!("M{:.1} {}v22", at(*value), middle - 11.0)) { title { "ceiling: " (name) } }
                        }
                        @if is_wide {
                            text class="value" x=(format!("{:.1}", bar.reach().into_iter().map(at).fold(left, f64::max) + 8.0)) y=(middle + 4.0) { (bar.text) }
                        } @else {
                            text class="value" x=(right) y=(middle - 14.0) text-anchor="end" { (bar.text) }
                        }
                    }
                }
            }
        }
    }
}

impl Bar {
    /// The values that have to have room.
    fn reach(&self) -> Vec<f64> {
        let mut values = vec![self.value];
        values.extend(self.spread.map(|[_, most]| most));
        values.extend(self.ceiling.as_ref().map(|(_, value)| *value));
        values
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NARROW, WIDE};
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let bar = |value| Bar {
            label: "a & b".to_owned(),
            colour: 0,
            value,
            spread: None,
            ceiling: None,
            text: value.to_string(),
        };
        let bars = Bars {
            title: "rates".to_owned(),
            bars: vec![bar(100.0), bar(50.0), bar(0.0)],
        };
        let drawn = bars.svg(WIDE).0;
        for width in ["570.0", "285.0", "0.0"] {
            assert!(drawn.contains(&format!(r#"width="{width}""#)), "{drawn}");
        }
        assert!(drawn.contains("a &amp; b"));
        let nothing = Bars {
            title: String::new(),
            bars: vec![bar(0.0)],
        };
        assert!(!nothing.svg(NARROW).0.contains("NaN"));
    }
}
