//! A look at the schema in a footer before it is decoded: `parquet` builds it recursively, and believes
//! how many children a group says it has.

use crate::error::{LookupError, Result};
use crate::thrift::{LIST, Reader, STRUCT, Step, Stop};

/// Deepest nesting of columns. Engines refuse far less.
const DEPTH_MAX: usize = 64;

/// Most columns and groups of a file.
const ELEMENTS_MAX: u64 = 1 << 20;

/// Refuses a footer whose schema is no tree, or a too deep one; gives the number of its columns and groups.
///
/// # Errors
/// Corrupt.
pub fn check(footer: &[u8]) -> Result<usize> {
    match elements(&mut Reader::new(footer, footer.len())) {
        Ok(children) => check_tree(&children).map(|()| children.len()),
        Err(Stop::End) => Err(LookupError::corrupt("the footer ends in its schema")),
        Err(Stop::Wrong(why)) => Err(LookupError::corrupt(format!("the footer's schema: {why}"))),
    }
}

/// The number of children of each element of the schema, in order.
fn elements(reader: &mut Reader<'_>) -> Step<Vec<u32>> {
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        if (number, kind) != (2, LIST) {
            reader.skip(kind)?;
            continue;
        }
        let (count, element) = reader.list()?;
        if element != STRUCT || count > ELEMENTS_MAX {
            return Err(Stop::Wrong("it has too many columns, or is none"));
        }
        let mut children = Vec::new();
        for _ in 0..count {
            let (mut last, mut own) = (0, 0);
            while let Some((number, kind)) = reader.field(&mut last)? {
                match (number, kind) {
                    (5, 4..=6) => own = reader.size()?,
                    (_, kind) => reader.skip(kind)?,
                }
            }
            children.push(own);
        }
        return Ok(children);
    }
    Err(Stop::Wrong("it is missing"))
}

pub(super) fn check_tree(children: &[u32]) -> Result<()> {
    // How many children are still to come, of each group that is open.
    let mut open: Vec<u32> = Vec::new();
    for (index, own) in children.iter().enumerate() {
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if index > 0 => {
                return Err(LookupError::corrupt("the footer's schema has two roots"));
            }
            None => {}
        }
        if *own as usize > children.len() - index - 1 {
            return Err(LookupError::corrupt(
                "the footer's schema has fewer columns than it says",
            ));
        }
        if *own > 0 {
            open.push(*own);
        }
        if open.len() > DEPTH_MAX {
            return Err(LookupError::unsupported(format!(
                "columns are nested deeper than {DEPTH_MAX} groups"
            )));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(LookupError::corrupt(
            "the footer's schema has fewer columns than it says",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trees_of_bounded_depth_pass() {
        assert!(check_tree(&[2, 0, 1, 0]).is_ok());
        assert!(check_tree(&[0]).is_ok());
        assert!(check_tree(&[2, 0]).is_err(), "a column is missing");
        assert!(check_tree(&[1, 0, 0]).is_err(), "a column too many");
        assert!(check_tree(&[u32::MAX, 0]).is_err());
        let deep: Vec<u32> = std::iter::repeat_n(1, 100).chain([0]).collect();
        assert!(check_tree(&deep).is_err());
    }
}
