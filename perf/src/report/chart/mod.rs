//! Charts as SVG, drawn here, so that they stand without any script and on paper.
//!
//! Every chart is drawn twice, wide and narrow, and the style sheet shows the one that fits:
//! scaled text would not be read on a phone. Where a logarithmic and a linear axis both make
//! sense, both are drawn, and radio buttons choose; check boxes take series out. Both work by style
//! alone. The script only adds read-outs, from the texts that are drawn in here. The invariant:
//! a chart shows nothing that is not in the table below it.
//!
//! | module | holds |
//! |---|---|
//! | [`axis`] | from values to places, ticks |
//! | [`lines`] | curves over an axis |
//! | [`bars`] | a figure for each of several names |
//! | [`figure`] | the frame: title, choices, chart, table |

pub mod axis;
pub mod bars;
pub mod figure;
pub mod lines;

/// Colours that the style sheet has, `c0` and so on: the series after the last has the first
/// again, with other strokes.
pub const COLOURS: usize = 8;

/// Series of one chart that can be taken out and put back, `g0` and so on in the style sheet, and
/// that are drawn at all: nobody tells more of them apart.
pub const GROUPS_MAX: usize = 24;

/// How large a drawing is, in units of its own (pixels where it is shown in full size).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Its class in the style sheet.
    pub class: &'static str,
    /// Width of all of it.
    pub width: f64,
    /// Height of all of it.
    pub height: f64,
    /// What is left free to the right of the plot, for the names of the lines.
    pub names: f64,
    /// Ticks that have room along x, and along y.
    pub ticks: (usize, usize),
}

/// For screens and paper.
pub const WIDE: Size = Size {
    class: "wide",
    width: 960.0,
    height: 400.0,
    names: 190.0,
    ticks: (8, 6),
};

/// For phones.
pub const NARROW: Size = Size {
    class: "narrow",
    width: 360.0,
    height: 300.0,
    names: 12.0,
    ticks: (4, 5),
};

/// At most `length` characters of `text`, cut with an ellipsis.
fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}
