//! What a reader must not overlook about a point, in words.

use super::number::{figure, percent, rate, whole};
use crate::load::Verify;
use crate::run::Point;
use crate::run::point::Arrivals;

/// Above this share of time taken by the hypervisor, in percent, figures are doubtful; the gate
/// repeats such rounds.
const STEAL_PERCENT_MAX: f64 = 1.0;

/// From this load of a generator on, in percent of a core, the generator may be what was measured.
const GENERATOR_BUSY_PERCENT_MAX: f64 = 95.0;

/// From this share of the 99th percentile on, the wait before the send is worth a word ...
const SENT_LATE_SHARE_MAX: f64 = 0.25;

/// ... if it is longer than what a thread takes to wake, in microseconds.
const SENT_LATE_US_MIN: f64 = 20.0;

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    /// Whether the point is worthless as a measure of what it names.
    pub is_grave: bool,
    /// A sentence.
    pub text: String,
}

/// What is to be said about a point.
pub(super) fn of(point: &Point) -> Vec<Warning> {
    let mut all = overload(point);
    all.extend(besides_overload(point));
    all
}

/// That the load was more than could be served. Of a search's steps this is what was looked for.
fn overload(point: &Point) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut say = |is_grave, text: String| all.push(Warning { is_grave, text });
    if point.is_overrun {
        say(
            true,
            "Overrun: the backlog passed its bound and the stretch was ended early. Latencies would \
             have gone on growing."
                .to_owned(),
        );
    }
    if point.unfinished > 0 {
        say(
            false,
            format!(
                "{} operations had not ended when they were given up; they count with the time that they \
                 had waited.",
                whole(point.unfinished)
            ),
        );
    }
    if let (Some(false), Some(offered)) = (point.keeps_offered_rate(), point.arrivals.per_second())
        && !point.is_overrun
        && point.unfinished == 0
    {
        say(
            false,
            format!(
                "The offered rate was not kept: {} of {}, {} %.",
                rate(point.rate),
                rate(offered),
                percent(point.rate / offered)
            ),
        );
    }
    all
}

/// What is to be said about a point whatever it was loaded with.
pub(super) fn besides_overload(point: &Point) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut say = |is_grave, text: String| all.push(Warning { is_grave, text });
    if point.wrong > 0 {
        say(
            true,
            format!(
                "Wrong bytes: {} of {} compared payloads were not what they should be.",
                whole(point.wrong),
                whole(point.verified)
            ),
        );
    }
    if point.errors > 0 {
        let first = match &point.first_error {
            Some(text) => format!("; the first said: {text}"),
            None => String::new(),
        };
        say(
            true,
            format!(
                "{} of {} reads were answered with an error{first}.",
                whole(point.errors),
                whole(point.reads.max(point.errors))
            ),
        );
    }
    if point.operations == 0 {
        say(true, "Not one operation ended.".to_owned());
    }
    if point.steal_percent > STEAL_PERCENT_MAX {
        say(
            false,
            format!(
                "The hypervisor took {} % of the machine's time meanwhile.",
                figure(point.steal_percent)
            ),
        );
    }
    // In an open loop a generator polls before what is due; where it is too slow, it sends late.
    let is_closed = point.arrivals == Arrivals::Closed;
    if is_closed && point.generator_busy_percent >= GENERATOR_BUSY_PERCENT_MAX {
        let verdict = match point.generator_spin_us {
            Some(0.0) => "It was the limit, not the server.",
            Some(_) => "It polled, so that does not tell whether it was the limit.",
            None => "Unless it was told to spin, it was the limit, not the server.",
        };
        say(
            false,
            format!(
                "A generator used {} % of its core. {verdict}",
                figure(point.generator_busy_percent)
            ),
        );
    }
    let late_us = point.sent_late.p99_us;
    if late_us > SENT_LATE_SHARE_MAX * point.latency.p99_us && late_us > SENT_LATE_US_MIN {
        say(
            false,
            format!(
                "One operation in a hundred was sent {} µs late or later, of {} µs at the 99th percentile: it \
                 waited for room on the connections, or the generator was late.",
                figure(late_us),
                figure(point.latency.p99_us)
            ),
        );
    }
    if point.verified == 0 && point.operations > 0 {
        say(
            false,
            match point.verify {
                Verify::None => "No payload was compared with what it should be.".to_owned(),
                Verify::Sample | Verify::All => {
                    "Payloads were to be compared, and none was.".to_owned()
                }
            },
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    fn said(change: impl FnOnce(&mut Point)) -> Vec<String> {
        let mut point = fixtures::load("a", 1.0).points.remove(0);
        assert_eq!(of(&point), []);
        change(&mut point);
        of(&point).into_iter().map(|warning| warning.text).collect()
    }

    #[test]
    fn each_doubt_is_said_in_words() {
        type Spoil = fn(&mut Point);
        let cases: [(Spoil, &str); 10] = [
            (|point| point.wrong = 3, "Wrong bytes: 3 of"),
            (
                |point| {
                    point.errors = 2;
                    point.first_error = Some("no such key".to_owned());
                },
                "no such key",
            ),
            (|point| point.is_overrun = true, "Overrun"),
            (|point| point.unfinished = 1_234, "1,234 operations"),
            (|point| point.steal_percent = 2.5, "2.50 %"),
            (
                |point| point.generator_busy_percent = 99.0,
                "It was the limit",
            ),
            (
                |point| {
                    point.generator_busy_percent = 99.0;
                    point.generator_spin_us = Some(50.0);
                },
                "does not tell",
            ),
            (
                |point| {
                    point.generator_busy_percent = 99.0;
                    point.generator_spin_us = None;
                },
                "Unless it was told",
            ),
            (|point| point.verified = 0, "none was"),
            (
                |point| point.sent_late.p99_us = 0.5 * point.latency.p99_us.max(100.0),
                "waited for room",
            ),
        ];
        for (change, words) in cases {
            let said = said(change);
            assert!(
                said.len() == 1 && said[0].contains(words),
                "{words}: {said:?}"
            );
        }
    }

    #[test]
    fn a_rate_that_was_not_kept_is_said_unless_something_graver_was() {
        let open = |rate: f64| {
            let mut run = fixtures::load("a", 1.0);
            let found = run
                .points
                .iter()
                .position(|point| point.arrivals.per_second().is_some());
            let mut point = run.points.remove(found.expect("an open loop"));
            point.rate = rate;
            point.generator_busy_percent = 99.0;
            of(&point)
        };
        // The generator of that loop polls, which is no doubt.
        assert_eq!(open(199_900.0), []);
        assert!(open(150_000.0)[0].text.contains("75.0 %"));
    }
}
