//! A look-up as JSON, as it comes over HTTP.
//!
//! | field | value |
//! |---|---|
//! | `"path"` or `"paths"` | a string; an array of them |
//! | `"where"` | the predicate: a string as in [`parse`](crate::predicate::parse), or a tree as in [`json`](crate::predicate::json) |
//! | `"select"` | dotted paths of columns: an array, or a string with commas between them |
//! | `"limit"`, `"scan_bytes_max"` | integers |
//! | `"explain"` | a boolean |
//! | `"keys"` | `{"column": "o_orderkey", "values": [1, 2, 3]}` |
//!
//! All but the path may be left out or null. Other fields are refused.

use serde_json::value::RawValue;

use super::{
    Batch, LookupRequest, PATHS_MAX, SELECT_MAX, check_column, check_key_count, check_length,
    check_path, check_path_count, check_select_count,
};
use crate::error::{LookupError, Result};
use crate::json_fields;
use crate::predicate::{self, Literal, Predicate};

impl LookupRequest {
    /// The request that the JSON in `text` says.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::ErrorKind::Invalid), with the field that it is about.
    pub fn from_json(text: &str) -> Result<Self> {
        check_length(text.len())?;
        let fields = json_fields::object(json_fields::whole(text, "request")?, "request")?;
        let mut request = LookupRequest {
            paths: Vec::new(),
            predicate: Predicate::And(Vec::new()),
            select: Vec::new(),
            limit: None,
            scan_bytes_max: None,
            explain: false,
            keys: None,
        };
        for (name, json) in fields.iter().filter(|(_, json)| json.get() != "null") {
            request
                .set(name, json)
                .map_err(|error| error.of(format_args!("\"{name}\"")))?;
        }
        if request.paths.is_empty() {
            return Err(LookupError::invalid(
                "\"path\": missing; it names the file to look in",
            ));
        }
        Ok(request)
    }

    fn set(&mut self, name: &str, json: &RawValue) -> Result<()> {
        match name {
            "path" | "paths" if !self.paths.is_empty() => {
                return Err(LookupError::invalid(
                    "both \"path\" and \"paths\"; write one of them",
                ));
            }
            "path" => self.paths = vec![json_fields::value(json, "path")?],
            "paths" => self.paths = strings(json, PATHS_MAX)?,
            "where" => self.predicate = predicate_of(json)?,
            "select" => self.select = select(json)?,
            "limit" => self.limit = Some(json_fields::value(json, "rows")?),
            "scan_bytes_max" => self.scan_bytes_max = Some(json_fields::value(json, "bytes")?),
            "explain" => self.explain = json_fields::value(json, "explain")?,
            "keys" => self.keys = Some(batch(json)?),
            _ => {
                return Err(LookupError::invalid(
                    "unknown field; there are path, paths, where, select, limit, scan_bytes_max, explain, keys",
                ));
            }
        }
        if matches!(name, "path" | "paths") {
            check_path_count(self.paths.len())?;
            self.paths.iter().try_for_each(|path| check_path(path))?;
        }
        Ok(())
    }
}

fn predicate_of(json: &RawValue) -> Result<Predicate> {
    match json.get().as_bytes().first() {
        Some(b'"') => predicate::parse::parse(&json_fields::value::<String>(json, "text")?),
        _ => predicate::json::of_json(json),
    }
}

fn select(json: &RawValue) -> Result<Vec<String>> {
    let columns: Vec<String> = match json.get().as_bytes().first() {
        Some(b'"') => {
            let text: String = json_fields::value(json, "text")?;
            let columns = text.split(',').map(str::trim);
            match text.trim().is_empty() {
                true => Vec::new(),
                false => columns.take(SELECT_MAX + 1).map(str::to_owned).collect(),
            }
        }
        _ => strings(json, SELECT_MAX)?,
    };
    check_select_count(columns.len())?;
    columns.iter().try_for_each(|column| check_column(column))?;
    Ok(columns)
}

fn strings(json: &RawValue, most: usize) -> Result<Vec<String>> {
    json_fields::array(json, most, "list")?
        .into_iter()
        .map(|element| json_fields::value(element, "element"))
        .collect()
}

fn batch(json: &RawValue) -> Result<Batch> {
    let mut column = None;
    let mut keys: Option<Vec<Literal>> = None;
    for (name, json) in json_fields::object(json, "batch")? {
        match name.as_str() {
            "column" => column = Some(json_fields::value::<String>(json, "column")?),
            "values" => keys = Some(predicate::json::literals(json, "values")?),
            _ => {
                return Err(LookupError::invalid(format!(
                    "unknown field \"{name}\"; there are column and values"
                )));
            }
        }
    }
    let (Some(column), Some(keys)) = (column, keys) else {
        return Err(LookupError::invalid(
            "expected {\"column\": \"…\", \"values\": […]}; one of the fields is missing",
        ));
    };
    check_column(&column)?;
    check_key_count(keys.len())?;
    Ok(Batch { column, keys })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        LookupRequest::from_json(text).expect_err(text).message
    }

    #[test]
    fn every_field_is_read() {
        let request = LookupRequest::from_json(
            r#"{"paths": ["/a.parquet", "/b.parquet"], "where": "a = 1 and b > 2", "select": "a, b.c",
                "limit": 10, "scan_bytes_max": 1048576, "explain": true,
                "keys": {"column": "k", "values": [3, "x", 1.50]}}"#,
        )
        .expect("valid");
        assert_eq!(request.paths, ["/a.parquet", "/b.parquet"]);
        assert_eq!(request.predicate.to_string(), "a = 1 and b > 2");
        assert_eq!(request.select, ["a", "b.c"]);
        assert_eq!(
            (request.limit, request.scan_bytes_max),
            (Some(10), Some(1 << 20))
        );
        assert!(request.explain);
        let keys = vec![
            Literal::Integer(3),
            Literal::Text("x".into()),
            Literal::Number("1.50".into()),
        ];
        let column = "k".to_owned();
        assert_eq!(request.keys, Some(Batch { column, keys }));
    }

    #[test]
    fn the_path_alone_asks_for_every_row_and_column() {
        let request = LookupRequest::from_json(r#"{"path": "/a", "where": null, "limit": null}"#)
            .expect("valid");
        assert_eq!(request.predicate, Predicate::And(Vec::new()));
        assert!(request.select.is_empty() && request.limit.is_none() && request.keys.is_none());
    }

    #[test]
    fn the_predicate_may_be_a_tree() {
        let request = LookupRequest::from_json(
            r#"{"path": "/a", "where": {"or": [{"column": "a", "eq": 1}, {"column": "b", "is_null": true}]},
                "select": ["x,y"]}"#,
        )
        .expect("valid");
        assert_eq!(request.predicate.to_string(), "a = 1 or b is null");
        assert_eq!(request.select, ["x,y"]);
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            ("{}", "\"path\": missing"),
            (r#"{"path": ""}"#, "\"path\": an empty path"),
            (r#"{"paths": []}"#, "\"paths\": no file"),
            (r#"{"path": "a", "paths": ["a"]}"#, "\"paths\": both"),
            (r#"{"path": 5}"#, "\"path\": path: invalid type: integer"),
            (
                r#"{"path": "a", "where": "b ="}"#,
                "\"where\": predicate, character 4: found the end",
            ),
            (
                r#"{"path": "a", "where": 5}"#,
                "\"where\": predicate: invalid type",
            ),
            (
                r#"{"path": "a", "limit": -1}"#,
                "\"limit\": rows: invalid value",
            ),
            (
                r#"{"path": "a", "limit": "5"}"#,
                "\"limit\": rows: invalid type: string",
            ),
            (
                r#"{"path": "a", "select": "a,,b"}"#,
                "\"select\": an empty name",
            ),
            (
                r#"{"path": "a", "select": [1]}"#,
                "\"select\": element: invalid type",
            ),
            (
                r#"{"path": "a", "explain": 1}"#,
                "\"explain\": explain: invalid type",
            ),
            (
                r#"{"path": "a", "keys": {"column": "a"}}"#,
                "\"keys\": expected",
            ),
            (
                r#"{"path": "a", "keys": {"column": "a", "values": [null]}}"#,
                "\"keys\": values: nothing equals null",
            ),
            (
                r#"{"path": "a", "wher": "b = 1"}"#,
                "\"wher\": unknown field",
            ),
            ("[]", "request: invalid type: sequence"),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in r#"\{"path": "a"(, ?"(where|select|limit|keys|explain)": ?([0-9\[\]{}",:]|"a"|null){0,9}){0,3}\}"#,
        ) {
            let _ = LookupRequest::from_json(&text);
        }
    }
}
