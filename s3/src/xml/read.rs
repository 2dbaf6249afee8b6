//! A bounded walk through a document that a client sent.
//!
//! Elements are told by their local names, so a namespace or none is the same. No document type
//! and no entity but the five of XML itself is taken: nothing expands. The limits are checked
//! before anything is kept.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, Event};

use crate::{Error, ErrorCode};

/// Nesting of any document here is three; more is somebody's attack on a stack.
const DEPTH_MAX: usize = 8;

/// What a document may be.
pub(super) struct Limits {
    /// Bytes of the whole document.
    pub bytes_max: usize,
    /// Elements, known and unknown.
    pub elements_max: usize,
}

/// What a document fills. A `path` is the local names from below the root, as `Object/Key`.
pub(super) trait Visitor {
    /// An element begins.
    fn open(&mut self, path: &str) -> Result<(), Error>;
    /// It ended; `text` is what it holds itself, if it has no children, with its white space.
    fn close(&mut self, path: &str, text: &str) -> Result<(), Error>;
}

pub(super) fn malformed(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::MalformedXml,
        format_args!("the XML of the request is not what the operation takes: {what}"),
    )
}

/// Walks `document`, whose root must be `root`.
pub(super) fn walk(
    document: &[u8],
    root: &str,
    limits: &Limits,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    if document.len() > limits.bytes_max {
        return Err(malformed(format_args!(
            "it is longer than {} bytes",
            limits.bytes_max
        )));
    }
    let text = std::str::from_utf8(document).map_err(|_| malformed("it is not UTF-8"))?;
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut walk = Walk {
        path: String::new(),
        above: Vec::with_capacity(DEPTH_MAX),
        text: String::new(),
        elements_left: limits.elements_max,
        is_over: false,
    };
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(start) => walk.open(start.local_name().as_ref(), root, visitor)?,
            Event::End(_) => walk.close(visitor)?,
            Event::Text(text) => {
                walk.take(
                    &text
                        .xml_content(XmlVersion::Explicit1_0)
                        .map_err(malformed)?,
                )?;
            }
            Event::CData(text) => {
                walk.take(
                    &text
                        .xml_content(XmlVersion::Explicit1_0)
                        .map_err(malformed)?,
                )?;
            }
            Event::GeneralRef(reference) => {
                walk.take(resolve(&reference)?.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(malformed("it has a document type")),
            Event::Empty(_) => unreachable!("the reader expands empty elements"),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if walk.is_over {
        Ok(())
    } else {
        Err(malformed("it ends early"))
    }
}

struct Walk {
    path: String,
    /// For each open element the length of the path above it.
    above: Vec<usize>,
    text: String,
    elements_left: usize,
    /// The root was closed.
    is_over: bool,
}

impl Walk {
    fn open(&mut self, name: &[u8], root: &str, visitor: &mut impl Visitor) -> Result<(), Error> {
        if self.elements_left == 0 {
            return Err(malformed("it has too many elements"));
        }
        self.elements_left -= 1;
        if self.above.len() == DEPTH_MAX {
            return Err(malformed("its elements nest too deep"));
        }
        self.text.clear();
        let is_root = self.above.is_empty();
        self.above.push(self.path.len());
        if is_root {
            return if !self.is_over && name == root.as_bytes() {
                Ok(())
            } else {
                Err(malformed(format_args!("its root is not {root}")))
            };
        }
        if !self.path.is_empty() {
            self.path.push('/');
        }
        self.path
            .push_str(std::str::from_utf8(name).map_err(malformed)?);
        visitor.open(&self.path)
    }

    fn close(&mut self, visitor: &mut impl Visitor) -> Result<(), Error> {
        let Some(above) = self.above.pop() else {
            return Err(malformed("an element ends that did not begin"));
        };
        if self.above.is_empty() {
            self.is_over = true;
            return Ok(());
        }
        visitor.close(&self.path, &self.text)?;
        self.path.truncate(above);
        self.text.clear();
        Ok(())
    }

    fn take(&mut self, text: &str) -> Result<(), Error> {
        // A byte order mark is no text.
        if self.above.is_empty() && !text.trim_matches('\u{feff}').trim().is_empty() {
            return Err(malformed("it has text outside of its root"));
        }
        self.text.push_str(text);
        Ok(())
    }
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, Error> {
    if let Some(character) = reference.resolve_char_ref().map_err(malformed)? {
        return Ok(character);
    }
    match &**reference {
        b"amp" => Ok('&'),
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"quot" => Ok('"'),
        b"apos" => Ok('\''),
        _ => Err(malformed("it has an entity")),
    }
}

/// Sets what may be said once.
pub(super) fn set_once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), Error> {
    if place.replace(value).is_some() {
        return Err(malformed(format_args!("{name} stands twice")));
    }
    Ok(())
}
