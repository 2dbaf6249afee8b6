//! Curves over an axis: latency over quantiles, over rate, rate over cores, figures over time.

use maud::{Markup, html};
use serde_json::json;

use super::axis::{Axis, Scale};
use super::{COLOURS, GROUPS_MAX, Size, cut};

/// A curve, or a cloud of marks.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// What sets it apart from the other lines of its group; empty for the only one.
    pub name: String,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Whether each datum has a mark.
    pub has_marks: bool,
    /// In the order of drawing.
    pub data: Vec<Datum>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stroke {
    /// Full.
    #[default]
    Solid,
    /// Dashed: the lesser line of a pair.
    Dashed,
    /// Not at all: marks only.
    None,
}

/// One value of a line.
#[derive(Clone, Debug, Default)]
pub struct Datum {
    /// Along.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// What the read-out says.
    pub text: String,
    /// Marked as one that failed.
    pub is_failure: bool,
}

/// Lines that belong together: one colour, one name, shown and hidden together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub label: String,
    /// Whether it is shown before anybody chose.
    pub is_shown: bool,
    /// Its lines; the name stands at the end of the first.
    pub lines: Vec<Line>,
}

/// A straight line across, with its name on it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Where, along the y axis.
    pub y: f64,
    /// What it is.
    pub label: String,
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// What it shows, for those who do not see it.
    pub title: String,
    /// Along.
    pub x: Axis,
    /// Up: the first is shown, another can be chosen.
    pub y: Vec<Axis>,
    /// The lines. No more than [`GROUPS_MAX`] of them are drawn.
    pub groups: Vec<Group>,
    /// Straight lines across.
    pub bounds: Vec<Bound>,
}

/// Where the plot is within the drawing.
struct Plot {
    size: Size,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

const LEFT: f64 = 62.0;
const TOP: f64 = 28.0;
const BELOW: f64 = 44.0;

impl LineChart {
    /// Whether anything would be drawn.
    pub fn is_empty(&self) -> bool {
        let mut lines = self.groups.iter().flat_map(|group| &group.lines);
        lines.all(|line| line.data.is_empty())
    }

    /// The drawing with the y axis of that number.
    pub fn svg(&self, size: Size, y: usize) -> Markup {
        let plot = Plot {
            size,
            left: LEFT,
            top: TOP,
            right: size.width - size.names,
            bottom: size.height - BELOW,
        };
        let y = &self.y[y];
        let shown = &self.groups[..self.groups.len().min(GROUPS_MAX)];
        html! {
            svg class=(format!("lines {}", size.class)) viewBox=(format!("0 0 {} {}", size.width, size.height))
                role="img" aria-label=(self.title) data-bottom=(plot.bottom.to_string()) data-top=(plot.top.to_string()) {
                (plot.grid(&self.x, y))
                @for bound in &self.bounds { (plot.bound(bound, y)) }
                @for (index, group) in shown.iter().enumerate() {
                    g class=(format!("group g{index} c{} d{}", index % COLOURS, index / COLOURS)) {
                        @for line in &group.lines { (plot.line(group, line, &self.x, y)) }
                    }
                }
                @if size.names > 50.0 { (plot.names(shown, &self.x, y)) }
            }
        }
    }
}

impl Plot {
    fn x(&self, axis: &Axis, value: f64) -> Option<f64> {
        Some(self.left + axis.place(value)? * (self.right - self.left))
    }

    fn y(&self, axis: &Axis, value: f64) -> Option<f64> {
        Some(self.bottom - axis.place(value)? * (self.bottom - self.top))
    }

    fn grid(&self, x: &Axis, y: &Axis) -> Markup {
        let (along, up) = self.size.ticks;
        let middle = (self.left + self.right) / 2.0;
        html! {
            g class="grid" aria-hidden="true" {
                @for (value, label) in y.ticks(up) {
                    @if let Some(at) = self.y(y, value) {
                        line x1=(place(self.left)) x2=(place(self.right)) y1=(place(at)) y2=(place(at)) {}
                        text class="tick" x=(place(self.left - 8.0)) y=(place(at + 4.0)) text-anchor="end" { (label) }
                    }
                }
                @for (value, label) in self.spaced(x, along) {
                    @if let Some(at) = self.x(x, value) {
                        line class="short" x1=(place(at)) x2=(place(at)) y1=(place(self.bottom)) y2=(place(self.bottom + 5.0)) {}
                        text class="tick" x=(place(at)) y=(place(self.bottom + 18.0)) text-anchor="middle" { (label) }
                    }
                }
                line class="base" x1=(place(self.left)) x2=(place(self.right)) y1=(place(self.bottom)) y2=(place(self.bottom)) {}
                text class="axis" x=(place(middle)) y=(place(self.bottom + 36.0)) text-anchor="middle" { (x.label) }
                text class="axis" x="4" y="14" { (y.label) }
            }
        }
    }

    /// The ticks of the x axis that do not run into each other.
    fn spaced(&self, axis: &Axis, room: usize) -> Vec<(f64, String)> {
        let mut free_from = f64::NEG_INFINITY;
        let mut ticks = axis.ticks(room);
        ticks.retain(|(value, label)| {
            let Some(at) = self.x(axis, *value) else {
                return false;
            };
            let half = label.chars().count() as f64 * 3.4;
            let fits = at - half >= free_from;
            if fits {
                free_from = at + half + 8.0;
            }
            fits
        });
        ticks
    }

    fn bound(&self, bound: &Bound, axis: &Axis) -> Markup {
        let Some(at) = self.y(axis, bound.y) else {
            return html! {};
        };
        html! {
            g class="bound" {
                line x1=(place(self.left)) x2=(place(self.right)) y1=(place(at)) y2=(place(at)) {}
                text x=(place(self.left + 6.0)) y=(place(at - 5.0)) { (bound.label) }
            }
        }
    }

    /// Places of the data that have one.
    fn placed<'a>(&self, line: &'a Line, x: &Axis, y: &Axis) -> Vec<(f64, f64, &'a Datum)> {
        let place = |datum: &'a Datum| Some((self.x(x, datum.x)?, self.y(y, datum.y)?, datum));
        line.data.iter().filter_map(place).collect()
    }

    fn line(&self, group: &Group, line: &Line, x: &Axis, y: &Axis) -> Markup {
        let placed = self.placed(line, x, y);
        if placed.is_empty() {
            return html! {};
        }
        let name = match line.name.as_str() {
            "" => group.label.clone(),
            name => format!("{}, {name}", group.label),
        };
        let read_out: Vec<_> = placed
            .iter()
            .map(|(x, y, datum)| json!([tenths(*x), tenths(*y), datum.text]))
            .collect();
        let class = match line.stroke {
            Stroke::Solid => "solid",
            Stroke::Dashed => "dashed",
            Stroke::None => "marks",
        };
        html! {
            g class=(format!("line {class}")) data-name=(name) data-points=(json!(read_out).to_string()) {
                @if line.stroke != Stroke::None { path d=(path(&placed, x.scale())) {} }
                @if line.has_marks {
                    @for (x, y, datum) in &placed {
                        @if datum.is_failure {
                            path class="failure" d=(format!("M{} {}l8 8m0 -8l-8 8", place(x - 4.0), place(y - 4.0))) { title { (name) ": " (datum.text) } }
                        } @else {
                            circle cx=(place(*x)) cy=(place(*y)) r="3" { title { (name) ": " (datum.text) } }
                        }
                    }
                }
            }
        }
    }

    /// The names of the groups at the right end of their first lines, moved apart.
    fn names(&self, groups: &[Group], x: &Axis, y: &Axis) -> Markup {
        const APART: f64 = 15.0;
        let mut names: Vec<(usize, f64, f64, f64)> = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let Some(line) = group.lines.first().filter(|_| group.is_shown) else {
                continue;
            };
            let placed = self.placed(line, x, y);
            if let Some((x, y, _)) = placed
                .iter()
                .max_by(|left, right| left.0.total_cmp(&right.0))
            {
                names.push((index, *x, *y, *y));
            }
        }
        names.sort_by(|left, right| left.2.total_cmp(&right.2));
        let mut free_from = self.top;
        for name in &mut names {
            name.3 = name.2.max(free_from);
            free_from = name.3 + APART;
        }
        let mut free_to = self.bottom;
        for name in names.iter_mut().rev() {
            name.3 = name.3.min(free_to);
            free_to = name.3 - APART;
        }
        html! {
            g class="names" aria-hidden="true" {
                @for (index, x, y, at) in names {
                    g class=(format!("g{index} c{}", index % COLOURS)) {
                        @if x + 24.0 < self.right || (at - y).abs() > 4.0 {
                            path class="leader" d=(format!("M{} {}L{} {}", place(x + 4.0), place(y), place(self.right + 4.0), place(at))) {}
                        }
                        text x=(place(self.right + 8.0)) y=(place(at + 4.0)) {
                            title { (groups[index].label) }
                            (cut(&groups[index].label, 27))
                        }
                    }
                }
            }
        }
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A coordinate, to a tenth of a unit.
fn place(value: f64) -> String {
    tenths(value).to_string()
}

/// Quantiles are steps: a value holds from its quantile on. What lies between two measured rates
/// or counts nobody knows, and a straight line says so best.
fn path(placed: &[(f64, f64, &Datum)], scale: Scale) -> String {
    let mut path = String::new();
    let mut last = None;
    for (x, y, _) in placed {
        let (x, y) = (place(*x), place(*y));
        match &last {
            None => path.push_str(&format!("M{x} {y}")),
            Some(_) if scale == Scale::Quantile => path.push_str(&format!("H{x}V{y}")),
            Some(_) => path.push_str(&format!("L{x} {y}")),
        }
        last = Some(x);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::super::{NARROW, WIDE};
    use super::*;
    use crate::report::number::{latency, short_rate};

    fn chart(label: &str, data: &[(f64, f64)]) -> LineChart {
        let data = data.iter().map(|(x, y)| Datum {
            x: *x,
            y: *y,
            text: format!("{x} {y}"),
            is_failure: false,
        });
        LineChart {
            title: "latency".to_owned(),
            x: Axis::linear("rate", 100.0, short_rate),
            y: vec![Axis::log("latency", 1.0, 100.0, latency)],
            groups: vec![Group {
                label: label.to_owned(),
                is_shown: true,
                lines: vec![Line {
                    data: data.collect(),
                    ..Line::default()
                }],
            }],
            bounds: Vec::new(),
        }
    }

    #[test]
    fn values_lie_where_the_axes_say() {
        let drawn = chart("a", &[(0.0, 1.0), (100.0, 100.0)]).svg(WIDE, 0).0;
        assert!(drawn.contains(r#"d="M62 356L770 28""#), "{drawn}");
    }

    #[test]
    fn what_has_no_place_is_not_drawn() {
        let drawn = chart("a", &[(50.0, 0.0), (f64::NAN, 3.0)]).svg(NARROW, 0).0;
        assert!(
            !drawn.contains("<path") && !drawn.contains("NaN"),
            "{drawn}"
        );
    }

    #[test]
    fn names_are_text_wherever_they_stand() {
        let drawn = chart("<script>\"'", &[(1.0, 2.0)]).svg(WIDE, 0).0;
        assert!(!drawn.contains("<script"), "{drawn}");
        assert!(drawn.contains("&lt;script&gt;&quot;"), "{drawn}");
    }
}
