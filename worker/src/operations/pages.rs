//! The pages of the operations port.

use std::fmt::Write;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;

use super::metrics::{self, Sample};
use super::status::{Phase, Status};
use crate::control_plane::Control;
use crate::control_plane::calls::devices;
use crate::control_plane::error::CallError;
use crate::printable::printable;
use crate::shard::request::{DeviceStats, ShardRequest, ShardStats, SlowRequest};

/// How long shards may take to answer a page: less than a scraper's usual patience.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";

/// An answer.
pub struct Page {
    /// Status code.
    pub status: StatusCode,
    /// Its type.
    pub content_type: &'static str,
    /// The whole body.
    pub body: String,
}

impl Page {
    /// A page of plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Page {
            status,
            content_type: TEXT,
            body: body.into(),
        }
    }

    fn unavailable(error: &CallError) -> Self {
        Page::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
    }
}

/// How much of a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Everything: for operators.
    Whole,
    /// Numbers and devices, without the objects, clients, mounts and jobs that they are about.
    Outline,
}

/// The page at `path`.
pub async fn page(status: &Status, path: &str, view: View) -> Page {
    match path {
        "/healthz" => Page::text(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(status.phase()),
        "/" | "/metrics" | "/slow" => match status.control() {
            Some(control) => live_page(control, status.phase(), path, view).await,
            None if path == "/" => {
                Page::text(StatusCode::OK, "corelane: starting, the shards recover\n")
            }
            None => Page::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting: the shards recover\n",
            ),
        },
        _ => Page::text(
            StatusCode::NOT_FOUND,
            "pages: / /metrics /healthz /readyz /slow; look-ups: POST /v1/lookup\n",
        ),
    }
}

fn readiness(phase: Phase) -> Page {
    let status = if phase == Phase::Serving {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Page::text(status, format!("{}\n", phase.name()))
}

async fn live_page(control: &Control, phase: Phase, path: &str, view: View) -> Page {
    let page = async {
        match path {
            "/metrics" => metrics_page(control).await,
            "/slow" => slow_page(control, view).await,
            _ => status_page(control, phase, view).await,
        }
    };
    match tokio::time::timeout(PAGE_DEADLINE, page).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => Page::unavailable(&error),
        Err(_) => {
            let sentence = format!(
                "the shards did not answer within {} s",
                PAGE_DEADLINE.as_secs()
            );
            Page::unavailable(&CallError::Failed(sentence))
        }
    }
}

async fn shard_stats(control: &Control) -> Result<Vec<ShardStats>, CallError> {
    Ok(control
        .shards
        .ask_all(PAGE_DEADLINE, |answer| ShardRequest::Stats { answer })
        .await?)
}

/// The same for all who may read it: a scraper has no operator's token, and the series of a mount or device need
/// its name.
async fn metrics_page(control: &Control) -> Result<Page, CallError> {
    let shards = shard_stats(control).await?;
    let devices = devices(control).await?;
    let mut samples = worker_samples(control);
    for (shard, stats) in shards.iter().enumerate() {
        samples.extend(metrics::of_shard(shard, stats));
    }
    samples.extend(devices.iter().flat_map(metrics::of_device));
    for (name, mount, value) in control.catalogue.counters() {
        let labels = if mount.is_empty() {
            Vec::new()
        } else {
            vec![("mount", mount)]
        };
        samples.push(Sample::new(name, labels, value as f64));
    }
    Ok(Page {
        status: StatusCode::OK,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        body: metrics::exposition(&samples),
    })
}

fn worker_samples(control: &Control) -> Vec<Sample> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    vec![
        Sample::new(
            "worker_info",
            vec![("id", control.worker_id.clone()), ("version", version)],
            1.0,
        ),
        Sample::new("worker_epoch", Vec::new(), control.epoch as f64),
        Sample::new(
            "worker_uptime_seconds",
            Vec::new(),
            control.uptime().as_secs_f64(),
        ),
        Sample::new(
            "worker_mounts",
            Vec::new(),
            control.mounts().iter().count() as f64,
        ),
        Sample::new(
            "worker_jobs_running",
            Vec::new(),
            control.jobs().running() as f64,
        ),
        Sample::new(
            "control_connections_open",
            Vec::new(),
            control.traffic().open() as f64,
        ),
        Sample::new(
            "control_bytes",
            Vec::new(),
            control.traffic().bytes() as f64,
        ),
        Sample::new(
            "control_connections_refused",
            Vec::new(),
            control.traffic().refused() as f64,
        ),
        Sample::new(
            "control_connections_cut",
            Vec::new(),
            control.traffic().cut() as f64,
        ),
    ]
}

async fn slow_page(control: &Control, view: View) -> Result<Page, CallError> {
    let answers = control
        .shards
        .ask_all(PAGE_DEADLINE, |answer| ShardRequest::Slow { answer })
        .await?;
    let mut slow: Vec<(usize, SlowRequest)> = Vec::new();
    for (shard, requests) in answers.into_iter().enumerate() {
        slow.extend(requests.into_iter().map(|request| (shard, request)));
    }
    slow.sort_by_key(|(_, request)| std::cmp::Reverse(request.total_us));
    let requests: Vec<serde_json::Value> = slow
        .iter()
        .map(|(shard, request)| slow_json(*shard, request, view))
        .collect();
    let body = format!("{:#}\n", json!({ "requests": requests }));
    Ok(Page {
        status: StatusCode::OK,
        content_type: "application/json",
        body,
    })
}

fn slow_json(shard: usize, request: &SlowRequest, view: View) -> serde_json::Value {
    let is_whole = view == View::Whole;
    json!({
        "at_ms": request.at_ms,
        "shard": shard,
        "client": is_whole.then_some(&request.client),
        "object": is_whole.then(|| request.object.to_string()),
        "offset": request.offset,
        "length": request.length,
        "source": request.source,
        "total_us": request.total_us,
        "device_us": request.device_us,
        "under_store_us": request.under_store_us,
    })
}

async fn status_page(control: &Control, phase: Phase, view: View) -> Result<Page, CallError> {
    let shards = shard_stats(control).await?;
    let devices = devices(control).await?;
    let mut body = String::new();
    let _ = writeln!(
        body,
        "corelane {} worker {} · {} · epoch {} · up {} s\n",
        env!("CARGO_PKG_VERSION"),
        control.worker_id,
        phase.name(),
        control.epoch,
        control.uptime().as_secs()
    );
    write_devices(&mut body, &devices);
    let mounts = control.mounts();
    let _ = writeln!(body, "\nmounts {}", mounts.iter().count());
    for mount in mounts.iter().filter(|_| view == View::Whole) {
        let _ = writeln!(
            body,
            "  {}  {}  {} {}",
            printable(&mount.path),
            printable(&mount.uri),
            mount.freshness,
            mount.admission
        );
    }
    let _ = writeln!(body, "\njobs running {}", control.jobs().running());
    let jobs = control.jobs().all();
    for job in jobs.iter().filter(|_| view == View::Whole) {
        let _ = writeln!(
            body,
            "  {} {} {} {:?} objects {}/{} bytes {}/{} failures {}",
            job.job,
            job.kind.name(),
            printable(&job.path),
            job.state,
            job.objects_done,
            job.objects_total,
            job.bytes_done,
            job.bytes_total,
            job.failures
        );
    }
    for (shard, stats) in shards.iter().enumerate() {
        let _ = writeln!(body, "\nshard {shard}");
        for (name, [p50, p99, p999, count]) in &stats.latencies {
            let _ = writeln!(
                body,
                "  {name}: p50 {p50} us, p99 {p99} us, p99.9 {p999} us, of {count} reads"
            );
        }
        for (name, value) in &stats.values {
            let _ = writeln!(body, "  {name} {value}");
        }
    }
    Ok(Page::text(StatusCode::OK, body))
}

fn write_devices(body: &mut String, devices: &[DeviceStats]) {
    let _ = writeln!(body, "devices");
    for device in devices {
        let health = match (device.healthy, device.reason.as_str()) {
            (true, "") => "healthy".to_owned(),
            (true, reason) => format!("NOT USED NOW ({reason})"),
            (false, reason) => format!("TAKEN OUT ({reason})"),
        };
        let _ = writeln!(
            body,
            "  {}  {}  {health}  {} of {} bytes used, {} of {} regions free, {} bytes written since format",
            device.path,
            device.uuid,
            device.bytes_used,
            device.bytes,
            device.regions_free,
            device.regions,
            device.bytes_written
        );
    }
}
