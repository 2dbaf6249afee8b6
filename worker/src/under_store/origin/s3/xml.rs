//! XML documents of S3, read into a small tree.
//!
//! What is read comes from an origin that answered, which is trusted with data but not with our
//! memory: documents, depth and number of elements are bounded, and only the five entities of XML
//! itself are known.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Largest document: a listing of 1,000 keys of 1,024 bytes, each byte written as `%XX`, is 4 MiB.
pub(super) const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Deepest element; the documents of S3 have five levels.
const DEPTH_MAX: usize = 16;

/// Most elements: a listing of 1,000 keys has some 10,000.
const ELEMENTS_MAX: usize = 200_000;

/// An element.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    /// The text directly in it.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// The root element of `document`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(document: &[u8]) -> Result<Element, String> {
        let mut reader = Reader::from_reader(document);
        let mut open: Vec<Element> = Vec::new();
        let mut elements = 0;
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            match event {
                Event::Start(tag) => {
                    elements += 1;
                    if open.len() >= DEPTH_MAX || elements > ELEMENTS_MAX {
                        return Err("the document has too many or too deep elements".to_owned());
                    }
                    open.push(Element {
                        name: name_of(tag.local_name().as_ref())?,
                        ..Element::default()
                    });
                }
                Event::Empty(tag) => {
                    elements += 1;
                    let element = Element {
                        name: name_of(tag.local_name().as_ref())?,
                        ..Element::default()
                    };
                    match open.last_mut() {
                        Some(parent) if elements <= ELEMENTS_MAX => parent.children.push(element),
                        Some(_) => return Err("the document has too many elements".to_owned()),
                        None => return Ok(element),
                    }
                }
                Event::End(_) => {
                    let element = open.pop().ok_or("an element ends that never began")?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| error.to_string())?;
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| error.to_string())?;
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::GeneralRef(reference) => {
                    let character = reference
                        .resolve_char_ref()
                        .map_err(|error| error.to_string())?;
                    let character = match character {
                        Some(character) => character,
                        None => match reference
                            .decode()
                            .map_err(|error| error.to_string())?
                            .as_ref()
                        {
                            "amp" => '&',
                            "lt" => '<',
                            "gt" => '>',
                            "quot" => '"',
                            "apos" => '\'',
                            other => return Err(format!("the entity `{other}` is not known")),
                        },
                    };
                    if let Some(element) = open.last_mut() {
                        element.text.push(character);
                    }
                }
                Event::DocType(_) => return Err("the document declares a type".to_owned()),
                Event::Eof => return Err("the document ends before its root element".to_owned()),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    /// The children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of that name; empty if there is none.
    pub fn text_of(&self, name: &str) -> &str {
        self.children
            .iter()
            .find(|child| child.name == name)
            .map_or("", |child| child.text.trim_matches(is_layout))
    }
}

/// Spaces that writers put around text. A key may begin or end with a blank, so that is none.
fn is_layout(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\t')
}

fn name_of(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| "an element's name is not UTF-8".to_owned())
}

/// Appends `text` so that it reads back as itself.
pub(super) fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Readers turn a bare carriage return into a line feed.
            '\r' => out.push_str("&#13;"),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_as_it_was_written() {
        let text = "a&b<c>\"d'é\r &amp;";
        let mut document = String::from("<?xml version=\"1.0\"?><R xmlns=\"x\"><Key>");
        escape(text, &mut document);
        document.push_str("</Key><Empty/></R>");
        let root = Element::parse(document.as_bytes()).expect("well formed");
        assert_eq!((root.name.as_str(), root.text_of("Key")), ("R", text));
        assert_eq!(root.text_of("Empty"), "");
    }

    #[test]
    fn documents_that_could_eat_memory_or_are_cut_off_are_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        for bad in [
            deep.as_str(),
            "<a><b></b>",
            "",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<a>&unknown;</a>",
        ] {
            assert!(Element::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
