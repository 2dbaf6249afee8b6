//! The access log: a line a request, in the format of Amazon S3's server access logs, to a file.
//!
//! Lines are made on the data core and written by a thread of their own. The invariant: a disk that does
//! not keep up costs lines, which are counted, never answers. A file that was renamed is opened anew
//! within seconds, so that the usual rotation works.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use corelane_s3::ErrorCode;
use corelane_s3::access_log::LogRecord;
use corelane_s3::head::Head;
use corelane_s3::operation::Routed;
use corelane_s3::response::request_id_text;
use corelane_s3::sigv4::{AuthType, Caller};
use corelane_s3::target::Target;

/// Lines that wait for the disk.
const LINES_MAX: usize = 16 << 10;

/// How often the file is looked for under its name.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// What a request said of itself, kept until it was answered.
#[derive(Debug, Default)]
pub struct Entry {
    peer: Option<SocketAddr>,
    method: String,
    request_uri: String,
    host: String,
    referrer: String,
    user_agent: String,
    requester: String,
    auth: Option<AuthType>,
    bucket: String,
    key: String,
    /// In the words of the format; empty while it is not known.
    pub operation: &'static str,
}

/// What the format calls an operation.
pub fn operation_name(routed: &Routed<'_>) -> &'static str {
    match routed.name() {
        "GetObject" => "REST.GET.OBJECT",
        "HeadObject" => "REST.HEAD.OBJECT",
        "ListBuckets" => "REST.GET.SERVICE",
        "HeadBucket" => "REST.HEAD.BUCKET",
        "GetBucketLocation" => "REST.GET.LOCATION",
        "GetBucketVersioning" => "REST.GET.VERSIONING",
        "GetBucketAcl" => "REST.GET.ACL",
        "CreateBucket" => "REST.PUT.BUCKET",
        "ListObjects" | "ListObjectsV2" => "REST.GET.BUCKET",
        "ListMultipartUploads" => "REST.GET.UPLOADS",
        "PutObject" => "REST.PUT.OBJECT",
        "CopyObject" => "REST.COPY.OBJECT",
        "CreateMultipartUpload" => "REST.POST.UPLOADS",
        "UploadPart" => "REST.PUT.PART",
        "UploadPartCopy" => "REST.COPY.PART",
        "CompleteMultipartUpload" => "REST.POST.UPLOAD",
        "AbortMultipartUpload" => "REST.DELETE.UPLOAD",
        "ListParts" => "REST.GET.UPLOAD",
        "DeleteObject" => "REST.DELETE.OBJECT",
        "DeleteObjects" => "REST.POST.MULTI_OBJECT_DELETE",
        other => other,
    }
}

impl Entry {
    /// What `head` says.
    pub fn of(head: &Head<'_>, peer: SocketAddr) -> Self {
        let text = |name| {
            let value = head.header(name).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let mut request_uri = head.path.to_owned();
        if !head.query.is_empty() {
            request_uri.push('?');
            request_uri.push_str(head.query);
        }
        Entry {
            peer: Some(peer),
            method: head.method.to_owned(),
            request_uri,
            host: head.known.host.unwrap_or_default().to_owned(),
            referrer: text("referer"),
            user_agent: text("user-agent"),
            ..Entry::default()
        }
    }

    /// A head that cannot be read says nothing.
    pub fn unread(peer: SocketAddr) -> Self {
        Entry {
            peer: Some(peer),
            ..Entry::default()
        }
    }

    /// Who asks, and for what.
    pub fn name(&mut self, caller: &Caller, target: &Target<'_>) {
        if let Some(key) = &caller.key {
            self.requester.clone_from(&key.name);
        }
        self.auth = Some(caller.auth).filter(|auth| *auth != AuthType::None);
        self.bucket = target.bucket.clone().into_owned();
        self.key = target.key.clone().into_owned();
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Its number.
    pub request_id: u64,
    /// Status of the answer.
    pub status: u16,
    /// The error that it told.
    pub error: Option<ErrorCode>,
    /// Bytes of the body.
    pub bytes: u64,
    /// Bytes of the object.
    pub object_bytes: u64,
    /// From the head to the answer.
    pub total: Duration,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Whether it came under TLS.
    pub is_secret: bool,
}

/// The way to the file; clones share it.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens `path` for appending and starts the thread that writes.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = open(path)?;
        let (lines, inbound) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&path, file, &inbound))?;
        Ok(AccessLog { lines, dropped })
    }

    /// Appends the line of a request.
    pub fn write(&self, entry: &Entry, end: End) {
        let id = request_id_text(end.request_id);
        let peer = entry.peer.map(|peer| peer.ip().to_string());
        let mut line = Vec::with_capacity(256);
        let total_ms = end.total.as_millis() as u64;
        let record = LogRecord {
            bucket: &entry.bucket,
            time_ms: end.at_ms,
            remote_ip: peer.as_deref().unwrap_or_default(),
            requester: &entry.requester,
            request_id: std::str::from_utf8(&id).expect("hexadecimal digits"),
            operation: entry.operation,
            key: &entry.key,
            method: &entry.method,
            request_uri: &entry.request_uri,
            status: end.status,
            error_code: end.error.map_or("", ErrorCode::as_str),
            bytes_sent: end.bytes,
            object_size: Some(end.object_bytes).filter(|bytes| *bytes > 0),
            total_ms,
            turn_around_ms: total_ms,
            referer: &entry.referrer,
            user_agent: &entry.user_agent,
            signature_version: if entry.auth.is_some() { "SigV4" } else { "" },
            authentication_type: match entry.auth {
                Some(AuthType::Header) => "AuthHeader",
                Some(AuthType::Query) => "QueryString",
                _ => "",
            },
            host: &entry.host,
            tls_version: if end.is_secret { "TLS" } else { "" },
            ..LogRecord::default()
        };
        record.write(&mut line);
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that the disk had no time for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Whether `file` is still what stands under its name.
fn is_current(path: &Path, file: &File) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

/// Writes lines, as many at a time as there are, until nobody can send any more.
fn write_lines(path: &Path, mut file: File, inbound: &Receiver<Vec<u8>>) {
    let mut looked_at = Instant::now();
    let mut failing = false;
    loop {
        let mut lines = match inbound.recv_timeout(REOPEN_INTERVAL) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        inbound
            .try_iter()
            .take(LINES_MAX)
            .for_each(|line| lines.extend(line));
        if looked_at.elapsed() >= REOPEN_INTERVAL {
            looked_at = Instant::now();
            if !is_current(path, &file)
                && let Ok(opened) = open(path)
            {
                file = opened;
            }
        }
        let written = file.write_all(&lines);
        // Said once, not once a line.
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(path = %path.display(), %error, "the access log cannot be written; make room");
        }
        failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(request_id: u64) -> End {
        End {
            request_id,
            status: 206,
            error: None,
            bytes: 4096,
            object_bytes: 1 << 20,
            total: Duration::from_millis(3),
            at_ms: 784_111_777_000,
            is_secret: false,
        }
    }

    fn until(what: impl Fn() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_go_to_the_file_of_that_name_also_after_it_was_renamed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = AccessLog::open(&path).expect("a file");
        let entry = Entry {
            method: "GET".to_owned(),
            bucket: "lake".to_owned(),
            key: "a\nb".to_owned(),
            ..Entry::default()
        };
        let lines = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().count()
        };
        log.write(&entry, end(1));
        until(|| lines(&path) == 1);
        std::fs::rename(&path, &old).expect("the log moves");
        let mut written = 1;
        let began = Instant::now();
        while !path.exists() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the move was not seen"
            );
            log.write(&entry, end(written));
            written += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        until(|| lines(&old) + lines(&path) == written as usize);
        assert_eq!(log.dropped(), 0);
    }
}
