//! `corelane device verify`: reads everything on devices and compares it with its checksums.

use std::path::{Path, PathBuf};

use clap::Args;
use corelane_worker::store::{DeviceReport, verify_offline};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Kind};
use crate::output::{Output, pairs};
use crate::quantity::{bytes, count};

/// Reads and checks everything on devices that no worker is using. Ends with 5 where something
/// that counts is wrong; what was freed or written again since is told, and no reason for it. Damage is no
/// reason to format: a worker drops what is wrong and fetches it again.
#[derive(Args, Debug)]
pub struct Verify {
    /// Block devices or files
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    path: String,
    objects: u64,
    blocks: u64,
    block_bytes: u64,
    pages_checked: u64,
    pages_wrong: u64,
    pages_wrong_unused: u64,
    summaries_wrong: u64,
    summaries_wrong_unused: u64,
    regions_damaged: u64,
    copies_wrong: u64,
    state_lost: bool,
    damage: Vec<Place>,
}

#[derive(Serialize)]
struct Place {
    offset: u64,
    what: String,
    used: bool,
}

impl Verify {
    /// Runs the command: one answer a device.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let mut places_wrong = 0;
        for path in &self.devices {
            let answer = Answer::from(verified(output, path)?);
            output.answer(&answer, Answer::text)?;
            places_wrong += answer.places_wrong();
        }
        if places_wrong == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Damaged,
            format!(
                "{places_wrong} places are not as they were written; a worker drops them and fetches \
                 them again. If it happens again, replace the device"
            ),
        ))
    }
}

fn verified(output: Output, path: &Path) -> Result<DeviceReport, Failure> {
    let target = if output.shows_progress() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} regions {eta} {msg}")
        .expect("the template is valid");
    let bar = ProgressBar::with_draw_target(None, target)
        .with_style(style)
        .with_message(path.display().to_string());
    let report = verify_offline(path, |done, all| {
        bar.set_length(all.into());
        bar.set_position(done.into());
    });
    bar.finish_and_clear();
    Ok(report?)
}

impl From<DeviceReport> for Answer {
    fn from(report: DeviceReport) -> Self {
        Answer {
            path: report.path,
            objects: report.objects,
            blocks: report.blocks,
            block_bytes: report.block_bytes,
            pages_checked: report.pages_checked,
            pages_wrong: report.pages_wrong,
            pages_wrong_unused: report.pages_wrong_unused,
            summaries_wrong: report.summaries_wrong,
            summaries_wrong_unused: report.summaries_wrong_unused,
            regions_damaged: report.regions_damaged,
            copies_wrong: report.copies_wrong,
            state_lost: report.is_state_lost,
            damage: report
                .damage
                .into_iter()
                .map(|damage| Place {
                    offset: damage.offset,
                    what: damage.what,
                    used: damage.is_used,
                })
                .collect(),
        }
    }
}

impl Answer {
    fn places_wrong(&self) -> u64 {
        self.pages_wrong + self.summaries_wrong + self.copies_wrong
    }

    fn text(&self) -> String {
        let mut text = pairs([
            ("device", self.path.clone()),
            ("objects", count(self.objects)),
            (
                "blocks",
                format!("{}, {}", count(self.blocks), bytes(self.block_bytes)),
            ),
            ("pages checked", count(self.pages_checked)),
            ("pages wrong", count(self.pages_wrong)),
            ("summaries wrong", count(self.summaries_wrong)),
            ("regions damaged", count(self.regions_damaged)),
            ("superblocks and states wrong", count(self.copies_wrong)),
            (
                "wrong, no longer used",
                count(self.pages_wrong_unused + self.summaries_wrong_unused),
            ),
        ]);
        for place in &self.damage {
            let unused = if place.used { "" } else { " (no longer used)" };
            text.push_str(&format!(
                "at byte {}: {}{unused}\n",
                place.offset, place.what
            ));
        }
        if self.state_lost {
            text.push_str(
                "mounts that were made with `corelane mount` and unfinished jobs are lost: make them again\n",
            );
        }
        text
    }
}
