//! The run files themselves.

use maud::{Markup, PreEscaped, html};

use super::Section;
use crate::report::{Report, Source};

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let body = html! {
        p { "Every figure on this page is computed from these files, which are part of it, whole histograms included." }
        noscript { p { "Without scripts, take them from the page’s source: " code { "<script type=\"application/json\">" } "." } }
        ul {
            @for (index, source) in report.runs.iter().chain(report.against).enumerate() {
                li { (attached(index, source)) }
            }
        }
    };
    Some(Section {
        id: "attached",
        title: "Raw runs",
        body,
    })
}

fn attached(index: usize, source: &Source) -> Markup {
    let id = format!("run-{}", index + 1);
    let file = source.file.rsplit('/').next().unwrap_or_default();
    html! {
        (source.run.name) ", " (source.file) " "
        button type="button" data-of=(id) data-file=(file) hidden { "Save the JSON" }
        script type="application/json" id=(id) { (PreEscaped(json_in_html(&source.text))) }
    }
}

/// JSON that cannot end the element that it stands in. In JSON `<` is found within strings only,
/// where it can be written by its number.
fn json_in_html(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_json_is_the_same_value_and_holds_no_markup() {
        let json = r#"{"label":"</script><!--<script>\\"}"#;
        let attached = json_in_html(json);
        assert!(!attached.contains('<'));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&attached), value(json));
    }
}
