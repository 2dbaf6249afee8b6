//! A web server that speaks enough of S3 for reads and listings, and misbehaves on demand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// How the bytes of an object are answered.
#[derive(Clone, Debug)]
pub enum Manner {
    Good,
    /// Half of the body, the rest when [`Origin::release`] is called.
    HalfThenWait,
    /// The head says how many bytes come; half of them do, then the connection is closed.
    Truncated,
    /// Half of the body, then the connection is reset.
    Reset,
    /// Half of the body without an end, and nothing more.
    Stalled,
    /// Ten bytes more than the range has.
    TooLong,
    /// The range that was asked for, but one page on.
    OtherRange,
    /// The right bytes, of an object that is said to be longer.
    OtherTotal,
    /// The right bytes, with this as `Content-Range`.
    ContentRange(&'static str),
    /// The whole object, as if no range had been asked for.
    RangeIgnored,
    /// Nothing at all.
    Silent,
    /// This status, with this `Retry-After`.
    Refused(u16, Option<&'static str>),
}

/// How a write (PUT or POST) is answered.
#[derive(Clone, Debug)]
pub enum WriteManner {
    /// The body is read, and kept if it is whole.
    Good,
    /// The body is read, and this status answered, with this `Retry-After`.
    Refused(u16, Option<&'static str>),
    /// The body is read, and 200 answered with an error document.
    ErrorIn200(&'static str),
    /// The body is read and kept, and 200 answered with the beginning of a document.
    CutDocument,
    /// The connection is reset in the middle of the body.
    ResetMidway,
    /// The body is not read beyond what the system buffers.
    TakesNothing,
    /// The body is read and kept, and nothing answered.
    Silent,
}

/// One object of the origin.
#[derive(Clone, Debug)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub etag: Option<String>,
    /// Empty: not said.
    pub modified: &'static str,
    /// The length that a HEAD is answered with, if not the object's.
    pub head_length: Option<u64>,
    /// For GETs, the next one first; after the last one it stays.
    pub manners: Vec<Manner>,
}

/// An object in good order.
pub fn stored(bytes: Vec<u8>, etag: &str) -> Stored {
    Stored {
        bytes,
        etag: Some(format!("\"{etag}\"")),
        modified: "Sun, 06 Nov 1994 08:49:37 GMT",
        head_length: None,
        manners: vec![Manner::Good],
    }
}

#[derive(Default)]
struct State {
    /// By path of the URL, such as `/bucket/key`.
    objects: BTreeMap<String, Stored>,
    /// Ranges of the GETs, by path.
    gets: BTreeMap<String, Vec<Range<u64>>>,
    lists: usize,
    /// All requests.
    requests: usize,
    /// Requests for paths that begin so are sent elsewhere: to this and the path.
    redirects: Vec<(String, String)>,
    /// `If-Match` of the GETs.
    if_match: Vec<String>,
    /// For writes, the next one first; after the last one it stays.
    write_manners: Vec<WriteManner>,
    writes: usize,
    /// Writes whose body ended before its announced length.
    cut_writes: usize,
}

/// The server; it ends when dropped.
pub struct Origin {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    released: Arc<Notify>,
    _runtime: Runtime,
}

impl Origin {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (state, released) = (Arc::<Mutex<State>>::default(), Arc::<Notify>::default());
        let (accept_state, accept_released) = (Arc::clone(&state), Arc::clone(&released));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, released) = (Arc::clone(&accept_state), Arc::clone(&accept_released));
                tokio::spawn(async move {
                    // A client that goes away early is not the origin's concern.
                    let _ = answer(stream, &state, &released).await;
                });
            }
        });
        Origin {
            address,
            state,
            released,
            _runtime: runtime,
        }
    }

    pub fn put(&self, path: &str, object: Stored) {
        self.state
            .lock()
            .expect("no panic")
            .objects
            .insert(path.to_owned(), object);
    }

    /// An object whose GETs are answered in these manners.
    pub fn put_with(&self, path: &str, bytes: Vec<u8>, manners: &[Manner]) {
        self.put(
            path,
            Stored {
                manners: manners.to_vec(),
                ..stored(bytes, "v1")
            },
        );
    }

    /// Ranges of the GETs of an object so far.
    pub fn gets(&self, path: &str) -> Vec<Range<u64>> {
        self.state
            .lock()
            .expect("no panic")
            .gets
            .get(path)
            .cloned()
            .unwrap_or_default()
    }

    /// Answers writes in these manners from now on.
    pub fn write_with(&self, manners: &[WriteManner]) {
        self.state.lock().expect("no panic").write_manners = manners.to_vec();
    }

    /// Writes so far, and those whose body was cut off.
    pub fn writes(&self) -> (usize, usize) {
        let state = self.state.lock().expect("no panic");
        (state.writes, state.cut_writes)
    }

    /// The bytes of the object at `path`.
    pub fn bytes_of(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().expect("no panic");
        state.objects.get(path).map(|object| object.bytes.clone())
    }

    /// Answers requests for paths that begin with `prefix` with a redirect to the same path behind `to`.
    pub fn redirect(&self, prefix: &str, to: &str) {
        let redirect = (prefix.to_owned(), to.to_owned());
        self.state
            .lock()
            .expect("no panic")
            .redirects
            .push(redirect);
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.state.lock().expect("no panic").requests
    }

    /// What the GETs so far carried as `If-Match`.
    pub fn if_match(&self) -> Vec<String> {
        self.state.lock().expect("no panic").if_match.clone()
    }

    pub fn lists(&self) -> usize {
        self.state.lock().expect("no panic").lists
    }

    /// Lets one answer of [`Manner::HalfThenWait`] go on.
    pub fn release(&self) {
        self.released.notify_one();
    }

    /// Options of an S3 mount at this origin.
    pub fn s3_options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("endpoint", format!("http://{}", self.address)),
            ("allow_http", "true".to_owned()),
            ("region", "nowhere".to_owned()),
            ("access_key_id", "key".to_owned()),
            ("secret_access_key", "secret".to_owned()),
        ]
    }
}

struct Asked {
    is_head: bool,
    is_write: bool,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
}

async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let method = first.next()?;
    let target = first.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Some(Asked {
        is_head: method == "HEAD",
        is_write: matches!(method, "PUT" | "POST"),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
    })
}

async fn answer(
    mut stream: TcpStream,
    state: &Mutex<State>,
    released: &Notify,
) -> std::io::Result<()> {
    let Some(asked) = read_request(&mut stream).await else {
        return Ok(());
    };
    let elsewhere = {
        let mut state = state.lock().expect("no panic");
        state.requests += 1;
        let mut redirects = state.redirects.iter();
        let found = redirects.find(|(prefix, _)| asked.path.starts_with(prefix.as_str()));
        found.map(|(_, to)| format!("{to}{}", asked.path))
    };
    if let Some(location) = elsewhere {
        let head = format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return stream.write_all(head.as_bytes()).await;
    }
    if asked.is_write {
        return write(&mut stream, state, &asked).await;
    }
    if asked.query.contains("list-type=2") {
        let body = list(&mut state.lock().expect("no panic"), &asked);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        return stream.write_all(body.as_bytes()).await;
    }
    let found = state
        .lock()
        .expect("no panic")
        .objects
        .get(&asked.path)
        .cloned();
    let Some(object) = found else {
        return refuse(&mut stream, 404, None).await;
    };
    if let (Some(wanted), Some(etag)) = (asked.headers.get("if-match"), &object.etag)
        && wanted != etag
    {
        return refuse(&mut stream, 412, None).await;
    }
    let total = object.bytes.len() as u64;
    let range = asked
        .headers
        .get("range")
        .and_then(|text| parse_range(text, total))
        .unwrap_or(0..total);
    if !asked.is_head && range.start >= range.end {
        return refuse(&mut stream, 416, None).await;
    }
    if asked.is_head {
        let length = object.head_length.unwrap_or(total);
        let head = head_of(&object, "200 OK", length, "");
        return stream.write_all(head.as_bytes()).await;
    }
    let manner = {
        let mut state = state.lock().expect("no panic");
        state
            .gets
            .entry(asked.path.clone())
            .or_default()
            .push(range.clone());
        if let Some(etag) = asked.headers.get("if-match") {
            state.if_match.push(etag.clone());
        }
        let manners = &mut state
            .objects
            .get_mut(&asked.path)
            .expect("found above")
            .manners;
        if manners.len() > 1 {
            manners.remove(0)
        } else {
            manners[0].clone()
        }
    };
    misbehave(&mut stream, &object, range, manner, released).await
}

async fn write(stream: &mut TcpStream, state: &Mutex<State>, asked: &Asked) -> std::io::Result<()> {
    let manner = {
        let mut state = state.lock().expect("no panic");
        state.writes += 1;
        match state.write_manners.len() {
            0 => WriteManner::Good,
            1 => state.write_manners[0].clone(),
            _ => state.write_manners.remove(0),
        }
    };
    let length: usize = asked
        .headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    match manner {
        WriteManner::TakesNothing => std::future::pending().await,
        WriteManner::ResetMidway => {
            stream.read_exact(&mut body[..length / 2]).await?;
            return stream.set_zero_linger();
        }
        _ => {}
    }
    if let Err(error) = stream.read_exact(&mut body).await {
        state.lock().expect("no panic").cut_writes += 1;
        return Err(error);
    }
    let keep = || {
        let mut state = state.lock().expect("no panic");
        let object = stored(body.clone(), &format!("{length}"));
        state.objects.insert(asked.path.clone(), object);
    };
    let document = match manner {
        WriteManner::Refused(status, retry_after) => {
            return refuse(stream, status, retry_after).await;
        }
        WriteManner::ErrorIn200(code) => {
            format!("<Error><Code>{code}</Code><Message>It failed late.</Message></Error>")
        }
        WriteManner::CutDocument => {
            keep();
            "<CompleteMultipartUploadResult><ETag>\"1".to_owned()
        }
        WriteManner::Silent => {
            keep();
            std::future::pending().await
        }
        _ => {
            keep();
            "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>"
                .to_owned()
        }
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"{length}\"\r\nConnection: close\r\n\r\n",
        document.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(document.as_bytes()).await
}

async fn misbehave(
    stream: &mut TcpStream,
    object: &Stored,
    range: Range<u64>,
    manner: Manner,
    released: &Notify,
) -> std::io::Result<()> {
    let body = object.bytes[range.start as usize..range.end as usize].to_vec();
    let length = body.len() as u64;
    let half = body.len() / 2;
    let total = object.bytes.len() as u64;
    let content_range = |start: u64, total: u64| {
        format!(
            "Content-Range: bytes {start}-{}/{total}\r\n",
            start + length - 1
        )
    };
    let partial = |length, range: String| head_of(object, "206 Partial Content", length, &range);
    let good = partial(length, content_range(range.start, total));
    match manner {
        Manner::Good => {
            stream.write_all(good.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Manner::HalfThenWait => {
            stream.write_all(good.as_bytes()).await?;
            stream.write_all(&body[..half]).await?;
            released.notified().await;
            stream.write_all(&body[half..]).await?;
        }
        Manner::Truncated => {
            stream.write_all(good.as_bytes()).await?;
            stream.write_all(&body[..half]).await?;
        }
        Manner::Reset => {
            stream.write_all(good.as_bytes()).await?;
            stream.write_all(&body[..half]).await?;
            stream.set_zero_linger()?;
        }
        Manner::Stalled => {
            stream.write_all(good.as_bytes()).await?;
            stream.write_all(&body[..half]).await?;
            std::future::pending().await
        }
        Manner::TooLong => {
            let head = partial(length + 10, content_range(range.start, total));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            stream.write_all(&[7; 10]).await?;
        }
        Manner::OtherRange => {
            let head = partial(length, content_range(range.start + 4096, total + 4096));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Manner::OtherTotal => {
            let head = partial(length, content_range(range.start, total + 1));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Manner::ContentRange(text) => {
            let head = partial(length, format!("Content-Range: {text}\r\n"));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Manner::RangeIgnored => {
            stream
                .write_all(head_of(object, "200 OK", total, "").as_bytes())
                .await?;
            stream.write_all(&object.bytes).await?;
        }
        Manner::Silent => std::future::pending().await,
        Manner::Refused(status, retry_after) => refuse(stream, status, retry_after).await?,
    }
    Ok(())
}

fn head_of(object: &Stored, status: &str, length: u64, extra: &str) -> String {
    let etag = object
        .etag
        .as_ref()
        .map_or_else(String::new, |etag| format!("ETag: {etag}\r\n"));
    let modified = match object.modified {
        "" => String::new(),
        modified => format!("Last-Modified: {modified}\r\n"),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{modified}\
         Content-Type: text/plain\r\nConnection: close\r\n{etag}{extra}\r\n"
    )
}

async fn refuse(
    stream: &mut TcpStream,
    status: u16,
    retry_after: Option<&str>,
) -> std::io::Result<()> {
    let wish = retry_after.map_or_else(String::new, |text| format!("Retry-After: {text}\r\n"));
    let head =
        format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n{wish}\r\n");
    stream.write_all(head.as_bytes()).await
}

fn parse_range(text: &str, total: u64) -> Option<Range<u64>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some(start.parse().ok()?..end.parse::<u64>().ok()?.saturating_add(1).min(total))
}

/// A page of a listing, as `ListObjectsV2` has it.
fn list(state: &mut State, asked: &Asked) -> String {
    state.lists += 1;
    let query: BTreeMap<String, String> = url::form_urlencoded::parse(asked.query.as_bytes())
        .into_owned()
        .collect();
    let of = |name: &str| query.get(name).map_or("", String::as_str);
    let bucket = format!("{}/", asked.path.trim_end_matches('/'));
    let behind = of("continuation-token").max(of("start-after"));
    let most: usize = of("max-keys").parse().unwrap_or(1000);
    let (mut text, mut last, mut count) = (String::new(), String::new(), 0);
    let mut is_cut = false;
    for (path, object) in &state.objects {
        let Some(key) = path
            .strip_prefix(&bucket)
            .filter(|key| key.starts_with(of("prefix")))
        else {
            continue;
        };
        let rest = &key[of("prefix").len()..];
        let folder = rest.find('/').filter(|_| of("delimiter") == "/");
        let shown = folder.map_or(key, |slash| &key[..of("prefix").len() + slash + 1]);
        if shown <= behind || shown == last {
            continue;
        }
        if count == most {
            is_cut = true;
            break;
        }
        count += 1;
        shown.clone_into(&mut last);
        let written = if folder.is_some() {
            write!(
                text,
                "<CommonPrefixes><Prefix>{shown}</Prefix></CommonPrefixes>"
            )
        } else {
            write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                object
                    .etag
                    .clone()
                    .unwrap_or_default()
                    .replace('"', "&quot;"),
                object.bytes.len()
            )
        };
        written.expect("writing to a string");
    }
    let token = if is_cut {
        format!("<NextContinuationToken>{last}</NextContinuationToken>")
    } else {
        String::new()
    };
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{is_cut}</IsTruncated>{text}{token}</ListBucketResult>"
    )
}
