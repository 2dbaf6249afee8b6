//! The page around the sections.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use super::chart::GROUPS_MAX;
use super::sections;

/// No request leaves the page, even if a run file got markup past the escaping.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page as HTML.
pub fn page(report: &Report<'_>) -> String {
    let sections = sections::all(report);
    let markup: Markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.title) }
                style { (PreEscaped(STYLE)) (PreEscaped(choices())) }
            }
            body {
                header {
                    (sections::head::head(report))
                    nav aria-label="Sections" {
                        @for section in &sections { a href=(format!("#{}", section.id)) { (section.title) } }
                    }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                            h2 id=(format!("{}-title", section.id)) { (section.title) }
                            (section.body)
                        }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

/// What hides a series whose check box is not checked.
fn choices() -> String {
    (0..GROUPS_MAX)
        .map(|index| format!(".chart:has(.t{index}:not(:checked)) .g{index}{{display:none}}\n"))
        .collect()
}
