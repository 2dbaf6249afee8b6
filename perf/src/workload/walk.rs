//! The reads of operations: from a workload and what a target says of its objects to pieces.
//!
//! The invariant: a piece lies inside one object, starts on a page and crosses no stripe, so that
//! one owner answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_rpc_schema::{PAGE_BYTES, STRIPE_BYTES};

use super::keys::{Draw, scatter};
use super::{Kind, Order, READ_BYTES_MAX, Workload};
use crate::random::Random;

const PAGE: u64 = PAGE_BYTES as u64;

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the object in the target's list.
    pub object: u32,
    /// Bytes asked for.
    pub length: u32,
    /// From where.
    pub offset: u64,
}

/// The reads of one operation that are still to come.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    object: u32,
    kind: u16,
    ranges_left: u32,
    at: u64,
    end: u64,
}

/// Places of one kind of operation.
#[derive(Clone, Debug)]
enum Places {
    Points {
        draw: Draw,
        read: u64,
    },
    Whole {
        order: Order,
        read: u64,
        tickets: Arc<AtomicU64>,
        /// Which objects, as indices of the target's list.
        objects: std::ops::Range<u32>,
    },
    Parquet {
        draw: Draw,
        footer: u64,
        ranges: u32,
        range_pages: (u64, u64),
    },
}

/// A source of operations.
#[derive(Clone, Debug)]
pub struct Walks {
    /// Share of each kind and of those before it, rising to 1.
    shares: Vec<f64>,
    places: Vec<Places>,
    /// Bytes of each object.
    lengths: Vec<u64>,
    /// Number of the first point of each object, by length of a read; and of the end.
    first_points: Vec<Vec<u64>>,
}

impl Walks {
    /// The operations of `workload` on objects of `lengths` bytes, of which the first
    /// `warm_objects` are those that are read again and again and the rest are cold. Clones share
    /// the order of whole objects, so that several generators read each once.
    ///
    /// # Errors
    /// When there is nothing to read.
    pub fn new(workload: &Workload, lengths: &[u64], warm_objects: u32) -> Result<Walks, String> {
        let warm = &lengths[..warm_objects as usize];
        if warm.iter().all(|length| *length == 0) {
            return Err("the objects have no bytes to read".to_owned());
        }
        let total: f64 = workload.operation.iter().map(|one| one.share).sum();
        let mut sum = 0.0;
        let mut walks = Walks {
            shares: Vec::new(),
            places: Vec::new(),
            lengths: lengths.to_vec(),
            first_points: Vec::new(),
        };
        for operation in &workload.operation {
            sum += operation.share / total;
            walks.shares.push(sum);
            let mut first_points = Vec::new();
            let places = match &operation.kind {
                Kind::Point { read, keys } => {
                    let mut points = 0;
                    for length in warm {
                        first_points.push(points);
                        points += length.div_ceil(read.0);
                    }
                    first_points.push(points);
                    Places::Points {
                        draw: Draw::new(*keys, points),
                        read: read.0,
                    }
                }
                Kind::Whole { read, order } => Places::Whole {
                    order: *order,
                    read: read.0,
                    tickets: Arc::default(),
                    objects: 0..warm_objects,
                },
                Kind::Fill { read } => {
                    let objects = warm_objects..lengths.len() as u32;
                    if objects.is_empty() {
                        return Err("there are no cold objects to fill from".to_owned());
                    }
                    Places::Whole {
                        order: Order::InOrder,
                        read: read.0,
                        tickets: Arc::default(),
                        objects,
                    }
                }
                Kind::Parquet {
                    footer,
                    ranges,
                    range_min,
                    range_max,
                    keys,
                } => Places::Parquet {
                    draw: Draw::new(*keys, u64::from(warm_objects)),
                    footer: footer.0,
                    ranges: *ranges,
                    range_pages: (range_min.0 / PAGE, range_max.0 / PAGE),
                },
            };
            walks.places.push(places);
            walks.first_points.push(first_points);
        }
        Ok(walks)
    }

    /// The next operation, `since_start` into the load, and its first read.
    #[inline]
    pub fn begin(&self, random: &mut Random, since_start: Duration) -> (Walk, Piece) {
        let kind = match self.shares.len() {
            1 => 0,
            _ => {
                let drawn = random.fraction();
                let found = self.shares.partition_point(|share| *share <= drawn);
                found.min(self.shares.len() - 1)
            }
        };
        let mut walk = Walk {
            object: 0,
            kind: kind as u16,
            ranges_left: 0,
            at: 0,
            end: 0,
        };
        match &self.places[kind] {
            Places::Points { draw, read } => {
                let point = draw.next(random, since_start);
                let firsts = &self.first_points[kind];
                let object = firsts.partition_point(|first| *first <= point) - 1;
                walk.object = object as u32;
                walk.at = (point - firsts[object]) * read;
                walk.end = self.lengths[object].min(walk.at + read);
            }
            Places::Whole {
                order,
                tickets,
                objects,
                ..
            } => {
                let count = u64::from(objects.end - objects.start);
                // Empty objects have nothing to read; at least one object has.
                while walk.at == walk.end {
                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                    let (epoch, place) = (ticket / count, ticket % count);
                    let index = match order {
                        Order::InOrder => place,
                        Order::Shuffled => scatter(place, count, epoch),
                    };
                    walk.object = objects.start + index as u32;
                    walk.end = self.lengths[walk.object as usize];
                }
            }
            Places::Parquet {
                draw,
                footer,
                ranges,
                ..
            } => {
                while walk.end == 0 {
                    walk.object = draw.next(random, since_start) as u32;
                    walk.end = self.lengths[walk.object as usize];
                }
                walk.at = footer_start(walk.end, *footer);
                walk.ranges_left = *ranges;
            }
        }
        let piece = self.next(&mut walk, random);
        (walk, piece.expect("an operation has at least one read"))
    }

    /// The next read of an operation; none at its end.
    #[inline]
    pub fn next(&self, walk: &mut Walk, random: &mut Random) -> Option<Piece> {
        let places = &self.places[usize::from(walk.kind)];
        if walk.at >= walk.end {
            let Places::Parquet {
                footer,
                range_pages: (least, greatest),
                ..
            } = places
            else {
                return None;
            };
            let data_pages = footer_start(self.lengths[walk.object as usize], *footer) / PAGE;
            if walk.ranges_left == 0 || data_pages == 0 {
                return None;
            }
            walk.ranges_left -= 1;
            let pages = (least + random.below(greatest - least + 1)).clamp(1, data_pages);
            walk.at = random.below(data_pages - pages + 1) * PAGE;
            walk.end = walk.at + pages * PAGE;
        }
        let longest = match places {
            Places::Points { read, .. } | Places::Whole { read, .. } => *read,
            Places::Parquet { .. } => READ_BYTES_MAX,
        };
        let stripe_end = (walk.at / STRIPE_BYTES + 1) * STRIPE_BYTES;
        let end = walk.end.min(walk.at + longest).min(stripe_end);
        let piece = Piece {
            object: walk.object,
            length: (end - walk.at) as u32,
            offset: walk.at,
        };
        walk.at = end;
        Some(piece)
    }
}

/// Where the last `footer` bytes of an object start, rounded down to a page.
fn footer_start(length: u64, footer: u64) -> u64 {
    length.saturating_sub(footer) / PAGE * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Keys, Operation};
    use std::collections::BTreeMap;

    const LENGTHS: [u64; 4] = [40 << 20, 5000, 0, 16 << 20];

    fn walks(kinds: Vec<Kind>, warm: u32) -> Walks {
        let mut workload = Workload::points(4096, Keys::Uniform);
        workload.operation = kinds
            .into_iter()
            .map(|kind| Operation { share: 1.0, kind })
            .collect();
        Walks::new(&workload, &LENGTHS, warm).expect("there is something to read")
    }

    fn operation(walks: &Walks, random: &mut Random) -> Vec<Piece> {
        let (mut walk, first) = walks.begin(random, Duration::ZERO);
        let mut pieces = vec![first];
        while let Some(piece) = walks.next(&mut walk, random) {
            pieces.push(piece);
        }
        for piece in &pieces {
            let end = piece.offset + u64::from(piece.length);
            assert!(piece.length > 0 && end <= LENGTHS[piece.object as usize]);
            assert!(piece.offset.is_multiple_of(PAGE));
            assert_eq!(piece.offset / STRIPE_BYTES, (end - 1) / STRIPE_BYTES);
        }
        pieces
    }

    fn size(bytes: u64) -> crate::quantities::ByteSize {
        crate::quantities::ByteSize(bytes)
    }

    #[test]
    fn points_reach_every_page_of_every_object() {
        let read = size(1 << 20);
        let points = walks(
            vec![Kind::Point {
                read,
                keys: Keys::Uniform,
            }],
            4,
        );
        let mut random = Random::new(1);
        let mut seen = BTreeMap::new();
        for _ in 0..5_000 {
            let pieces = operation(&points, &mut random);
            assert_eq!(pieces.len(), 1);
            seen.insert((pieces[0].object, pieces[0].offset), pieces[0].length);
        }
        let bytes: u64 = seen.values().map(|length| u64::from(*length)).sum();
        assert_eq!(bytes, LENGTHS.iter().sum::<u64>());
    }

    #[test]
    fn an_epoch_reads_every_byte_once_among_all_generators() {
        let kind = Kind::Whole {
            read: size(4 << 20),
            order: Order::Shuffled,
        };
        let whole = walks(vec![kind], 4);
        let generators = [whole.clone(), whole.clone()];
        let mut random = Random::new(1);
        for _ in 0..3 {
            let mut bytes = 0;
            // Three objects have bytes.
            for index in 0..3 {
                let pieces = operation(&generators[index % 2], &mut random);
                bytes += pieces
                    .iter()
                    .map(|piece| u64::from(piece.length))
                    .sum::<u64>();
            }
            assert_eq!(bytes, LENGTHS.iter().sum::<u64>());
        }
    }

    #[test]
    fn a_parquet_query_reads_the_footer_first_and_then_ranges_before_it() {
        let kind = Kind::Parquet {
            footer: size(64 << 10),
            ranges: 5,
            range_min: size(8 << 10),
            range_max: size(64 << 10),
            keys: Keys::Uniform,
        };
        let parquet = walks(vec![kind], 1);
        let mut random = Random::new(1);
        for _ in 0..200 {
            let pieces = operation(&parquet, &mut random);
            let footer = LENGTHS[0] - (64 << 10);
            assert_eq!((pieces[0].offset, pieces[0].length), (footer, 64 << 10));
            // A range that crosses a stripe takes two reads.
            assert!((6..=11).contains(&pieces.len()), "{}", pieces.len());
            let bytes: u64 = pieces[1..]
                .iter()
                .map(|piece| u64::from(piece.length))
                .sum();
            assert!((5 * (8 << 10)..=5 * (64 << 10)).contains(&bytes));
            assert!(pieces[1..].iter().all(|piece| piece.offset < footer));
        }
    }

    #[test]
    fn fills_take_the_cold_objects_in_order_and_kinds_their_shares() {
        let kinds = vec![
            Kind::Point {
                read: size(4096),
                keys: Keys::Uniform,
            },
            Kind::Fill {
                read: size(4 << 20),
            },
        ];
        let mixed = walks(kinds, 2);
        let mut random = Random::new(1);
        let mut fills = 0;
        for _ in 0..1_000 {
            let pieces = operation(&mixed, &mut random);
            if pieces[0].object >= 2 {
                assert_eq!(pieces[0].object, 3, "the other cold object is empty");
                assert_eq!(pieces.len(), 4);
                fills += 1;
            }
        }
        assert!((400..600).contains(&fills), "{fills}");
    }

    #[test]
    fn nothing_to_read_is_refused() {
        let workload = Workload::points(4096, Keys::Uniform);
        assert!(Walks::new(&workload, &[0, 0], 2).is_err());
    }
}
