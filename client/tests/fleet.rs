//! A fleet's client against servers that do what the test says.

#[allow(dead_code, reason = "its faults serve the tests of single lanes too")]
mod lane_server;

use std::time::Duration;

use corelane_client::fleet::{Fleet, FleetOptions, Worker};
use corelane_client::policy::avoid::AvoidLimits;
use corelane_client::policy::hedge::HedgeLimits;
use corelane_client::{Error, ErrorCode, Object, Options};
use corelane_placement::fleet::{FleetError, MemberState};
use corelane_rpc_schema::{STRIPE_BYTES, Stripe};
use lane_server::{Fault, Server, TOKEN, bytes};

const PATH: &str = "/data/a";
const STRIPES: u64 = 12;

async fn servers(count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..count {
        let server = Server::start(2).await;
        server.put(PATH, "v1", STRIPES * STRIPE_BYTES);
        servers.push(server);
    }
    servers
}

fn options(replicas: usize) -> FleetOptions {
    FleetOptions {
        client: Options {
            back_off_first: Duration::from_millis(1),
            back_off_max: Duration::from_millis(5),
            ..Options::default()
        },
        replicas,
        hedge: None,
        avoid: AvoidLimits::default(),
    }
}

fn workers(servers: &[Server]) -> Vec<Worker> {
    let worker = |(number, server): (usize, &Server)| {
        Worker::active(format!("worker-{number}"), server.address(), 100)
    };
    servers.iter().enumerate().map(worker).collect()
}

fn fleet(servers: &[Server], options: FleetOptions) -> Fleet {
    Fleet::new(&workers(servers), TOKEN, options).expect("a possible fleet")
}

/// Number of the server that is first for `stripe`, as its place in `servers` has it.
fn owner(fleet: &Fleet, object: &Object, stripe: u64) -> usize {
    let placement = fleet.placement();
    let first = placement.holders_of(object.id.home, stripe as u32)[0];
    let key = placement.members()[usize::from(first)].key;
    (0..placement.members().len())
        .find(|number| corelane_placement::fleet::MemberKey::of(&format!("worker-{number}")) == key)
        .expect("it is one of the servers")
}

/// Reads some bytes of every stripe, each of which has to be right.
async fn read_all_stripes(fleet: &Fleet, object: &Object) {
    for stripe in 0..STRIPES {
        let start = stripe * STRIPE_BYTES + 4096;
        let read = fleet.read(object, start..start + 5000).await;
        let read = read.unwrap_or_else(|error| panic!("stripe {stripe}: {error}"));
        assert!(read == bytes(object.id, start, 5000), "stripe {stripe}");
    }
}

#[tokio::test]
async fn each_stripe_is_read_from_the_worker_that_owns_it() {
    let servers = servers(3).await;
    let fleet = fleet(&servers, options(1));
    let object = fleet.open(PATH).await.expect("it is there");
    let (start, end) = (STRIPE_BYTES - 10, 5 * STRIPE_BYTES + 10);
    let read = fleet.read(&object, start..end).await.expect("served");
    assert!(read == bytes(object.id, start, end - start));
    read_all_stripes(&fleet, &object).await;
    for (number, server) in servers.iter().enumerate() {
        for (_, request) in &server.script().reads {
            let stripe = Stripe::of_offset(request.offset);
            assert_eq!(owner(&fleet, &object, u64::from(stripe.0)), number);
        }
    }
    let readers = servers
        .iter()
        .filter(|server| !server.script().reads.is_empty());
    assert!(readers.count() > 1, "the stripes are on several workers");
    assert_eq!(fleet.counters().retries, 0);
}

#[tokio::test]
async fn no_read_fails_when_a_worker_is_lost_and_it_is_left_alone() {
    let mut servers = servers(3).await;
    let mut options = options(2);
    options.avoid.first = Duration::from_secs(3600);
    let fleet = fleet(&servers, options);
    let object = fleet.open(PATH).await.expect("it is there");
    read_all_stripes(&fleet, &object).await;
    servers.remove(owner(&fleet, &object, 0));
    for _ in 0..5 {
        read_all_stripes(&fleet, &object).await;
    }
    let counters = fleet.counters();
    // The lost lanes fail once each; after that nobody asks there.
    assert!((1..=2).contains(&counters.retries), "{counters:?}");
    assert_eq!(counters.retries, counters.unreachable, "{counters:?}");
}

#[tokio::test]
async fn without_replicas_another_worker_stands_in() {
    let mut servers = servers(2).await;
    let fleet = fleet(&servers, options(1));
    let object = fleet.open(PATH).await.expect("it is there");
    read_all_stripes(&fleet, &object).await;
    servers.remove(owner(&fleet, &object, 0));
    read_all_stripes(&fleet, &object).await;
    assert!(fleet.open(PATH).await.is_ok());
}

#[tokio::test]
async fn a_worker_that_is_back_is_used_again() {
    let mut servers = servers(2).await;
    let mut options = options(1);
    options.avoid = AvoidLimits {
        first: Duration::ZERO,
        most: Duration::ZERO,
    };
    let fleet = fleet(&servers, options);
    let object = fleet.open(PATH).await.expect("it is there");
    let lost = owner(&fleet, &object, 0);
    let first = servers[lost].addresses[0];
    drop(servers.remove(lost));
    read_all_stripes(&fleet, &object).await;
    let back = Server::start_at(first, 2).await;
    back.put(PATH, "v1", STRIPES * STRIPE_BYTES);
    read_all_stripes(&fleet, &object).await;
    assert!(!back.script().reads.is_empty());
}

#[tokio::test]
async fn a_busy_worker_sends_the_read_on_and_is_not_avoided() {
    let servers = servers(2).await;
    let fleet = fleet(&servers, options(2));
    let object = fleet.open(PATH).await.expect("it is there");
    let first = owner(&fleet, &object, 0);
    servers[first].faults([Fault::Error(ErrorCode::Busy, 60_000)]);
    let started = tokio::time::Instant::now();
    fleet
        .read(&object, 0..100)
        .await
        .expect("the other one answers");
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "it did not wait"
    );
    fleet
        .read(&object, 0..100)
        .await
        .expect("the first answers");
    assert_eq!(servers[first].script().reads.len(), 2);
    assert_eq!(fleet.counters().unreachable, 0);
}

#[tokio::test]
async fn wrong_bytes_are_read_from_another_worker() {
    let servers = servers(2).await;
    let fleet = fleet(&servers, options(2));
    let object = fleet.open(PATH).await.expect("it is there");
    let first = owner(&fleet, &object, 0);
    servers[first].faults([Fault::WrongByte, Fault::WrongByte]);
    let read = fleet
        .read(&object, 0..100)
        .await
        .expect("the other one has it");
    assert!(read == bytes(object.id, 0, 100));
}

#[tokio::test]
async fn a_late_read_is_hedged_within_the_budget() {
    let servers = servers(2).await;
    let mut options = options(2);
    options.hedge = Some(HedgeLimits {
        percent_max: 10,
        ..HedgeLimits::default()
    });
    let fleet = fleet(&servers, options);
    let object = fleet.open(PATH).await.expect("it is there");
    for _ in 0..5 {
        read_all_stripes(&fleet, &object).await;
    }
    let before = fleet.counters();
    let first = owner(&fleet, &object, 0);
    servers[first].faults([Fault::Silence]);
    // Without the hedge this waits for the request's timeout and then counts a retry.
    let read = fleet
        .read(&object, 0..100)
        .await
        .expect("the other one answers");
    assert!(read == bytes(object.id, 0, 100));
    let counters = fleet.counters();
    assert_eq!(counters.retries, 0, "{counters:?}");
    assert!(counters.hedges > before.hedges && counters.hedges_won > before.hedges_won);
    assert!(counters.hedges * 10 <= 5 * STRIPES + 1, "{counters:?}");
}

#[tokio::test]
async fn a_draining_worker_is_asked_only_where_no_other_answers() {
    let mut servers = servers(2).await;
    let mut workers = workers(&servers);
    workers[0].state = MemberState::Draining;
    let fleet = Fleet::new(&workers, TOKEN, options(1)).expect("a possible fleet");
    let object = fleet.open(PATH).await.expect("it is there");
    read_all_stripes(&fleet, &object).await;
    assert!(servers[0].script().reads.is_empty());
    servers.remove(1);
    let held = (0..STRIPES).find(|stripe| {
        let placement = fleet.placement();
        let slot = placement.slot_of(object.id.home, *stripe as u32);
        placement.leaving(slot).next().is_some()
    });
    let start = held.expect("two workers held these") * STRIPE_BYTES;
    let read = fleet.read(&object, start..start + 10).await;
    assert!(read.expect("it still has it") == bytes(object.id, start, 10));
}

#[tokio::test]
async fn what_will_not_change_is_not_asked_of_another() {
    let servers = servers(2).await;
    let fleet = fleet(&servers, options(2));
    let missing = fleet.open("/data/none").await;
    assert_eq!(
        missing.expect_err("no such object").code(),
        Some(ErrorCode::NotFound)
    );
    let object = fleet.open(PATH).await.expect("it is there");
    let beyond = fleet.read(&object, 0..object.length + 1).await;
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    servers.iter().for_each(|server| {
        server.put(PATH, "v2", 10);
    });
    let changed = fleet.read(&object, 0..10).await;
    assert!(
        matches!(changed, Err(Error::VersionChanged { .. })),
        "{changed:?}"
    );
    let (object, read) = fleet.read_file(PATH).await.expect("the new one");
    assert!(read == bytes(object.id, 0, 10));
    assert_eq!(fleet.counters().retries, 0);
}

#[tokio::test]
async fn when_all_are_away_the_error_says_so() {
    let mut servers = servers(2).await;
    let fleet = fleet(&servers, options(2));
    let object = fleet.open(PATH).await.expect("it is there");
    servers.clear();
    let read = fleet.read(&object, 0..10).await;
    let error = read.expect_err("nobody is there");
    assert!(
        error.to_string().contains("is the worker running there?"),
        "{error}"
    );
    assert_eq!(fleet.counters().retries, 4);
}

#[tokio::test]
async fn workers_that_are_no_fleet_are_refused() {
    let refused = |workers: &[Worker], replicas| {
        Fleet::new(workers, TOKEN, options(replicas)).expect_err("no fleet")
    };
    assert_eq!(refused(&[], 1), FleetError::NoActiveMember);
    let one = [Worker::active("a", "127.0.0.1:1", 1)];
    assert_eq!(refused(&one, 0), FleetError::Replicas(0));
    assert_eq!(refused(&one, 9), FleetError::Replicas(9));
}

#[tokio::test]
async fn a_read_that_tries_a_silent_worker_does_not_wait_for_it() {
    let mut servers = servers(2).await;
    let mut options = options(1);
    options.avoid = AvoidLimits {
        first: Duration::ZERO,
        most: Duration::ZERO,
    };
    // Nobody hedges here; without the trial's own patience a read waits for this.
    options.client.connect_timeout = Duration::from_secs(3600);
    let fleet = fleet(&servers, options);
    let object = fleet.open(PATH).await.expect("it is there");
    let lost = owner(&fleet, &object, 0);
    fleet.read(&object, 0..10).await.expect("served");
    let first = servers[lost].addresses[0];
    drop(servers.remove(lost));
    // It takes connections and never says a word.
    let _silent = loop {
        // The server's tasks end when the runtime comes to them.
        match tokio::net::TcpListener::bind(first).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    for _ in 0..3 {
        let read = fleet
            .read(&object, 0..10)
            .await
            .expect("the other one answers");
        assert!(read == bytes(object.id, 0, 10));
    }
}
