//! Run files as the report takes them: the run, and the text that it was read from.

use std::path::Path;

use crate::run::{Point, Run};

/// A run and where it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    /// Its text, attached to the report as it is.
    pub text: String,
    /// What it says.
    pub run: Run,
}

impl Source {
    /// Reads a run file.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Source, String> {
        let (text, run) = Run::read_with_text(path)?;
        Ok(Source {
            file: path.display().to_string(),
            text,
            run,
        })
    }
}

/// The place of a point on the page, to link to.
pub(super) fn anchor(run: usize, point: usize) -> String {
    format!("point-{}-{}", run + 1, point + 1)
}

/// How a point was loaded, in words: `closed, 64 × 32` or `200,000/s Poisson, 64 × 32`.
pub(super) fn load_of(point: &Point) -> String {
    format!(
        "{}, {} × {}",
        arrivals_of(point),
        point.connections,
        point.depth
    )
}

/// How its requests arrived, in words.
pub(super) fn arrivals_of(point: &Point) -> String {
    use super::number::rate;
    use crate::run::point::Arrivals;
    match point.arrivals {
        Arrivals::Closed => "closed".to_owned(),
        Arrivals::Constant { per_second } => format!("{} constant", rate(per_second)),
        Arrivals::Poisson { per_second } => format!("{} Poisson", rate(per_second)),
    }
}
