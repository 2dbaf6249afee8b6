//! The page as a whole: which parts are there, and that nothing in a run file becomes markup.

use super::{Report, Source, fixtures, page};

fn page_of(runs: &[Source], against: &[Source]) -> String {
    page(&Report {
        title: "Night run",
        runs,
        against,
    })
}

fn sections(page: &str) -> Vec<&str> {
    let parts = page.split("<section id=\"").skip(1);
    parts.filter_map(|part| part.split('"').next()).collect()
}

#[test]
fn a_part_is_there_for_what_the_runs_have_and_none_for_what_they_lack() {
    let always = ["machine", "attached"];
    let of_points = [
        "percentiles",
        "cost",
        "machine",
        "points",
        "workloads",
        "attached",
    ];
    let with = |first: &[&'static str], rest: &[&'static str]| [first, rest].concat();
    let cases = [
        (
            fixtures::load("load", 1.0),
            with(&["comparison"], &of_points),
        ),
        (fixtures::search(), with(&["search"], &of_points)),
        (
            fixtures::scale(),
            vec![
                "percentiles",
                "scaling",
                "cost",
                "machine",
                "points",
                "workloads",
                "attached",
            ],
        ),
        (fixtures::simulation(), with(&["simulation"], &always)),
        (fixtures::gate(), with(&["gate"], &always)),
        (fixtures::backends(), with(&["backends"], &always)),
    ];
    for (run, expected) in cases {
        let name = run.name.clone();
        let page = page_of(&[fixtures::source(run)], &[]);
        assert_eq!(sections(&page), expected, "{name}");
    }
    let all = fixtures::all();
    let page = page_of(&all, &all);
    let expected = [
        "changes",
        "gate",
        "backends",
        "search",
        "comparison",
        "percentiles",
        "scaling",
        "cost",
        "simulation",
        "machine",
        "points",
        "workloads",
        "attached",
    ];
    assert_eq!(sections(&page), expected);
}

#[test]
fn whatever_stands_in_a_run_is_text() {
    let hostile = [fixtures::source(fixtures::hostile())];
    let page = page(&Report {
        title: "<script>",
        runs: &hostile,
        against: &hostile,
    });
    // Two attached runs and the page's own.
    assert_eq!(page.matches("<script").count(), 3);
    assert_eq!(page.matches("</script").count(), 3);
    assert!(!page.contains("<b \""));
    assert!(page.contains("&lt;/script&gt;"));
}

#[test]
fn the_page_asks_nothing_of_any_network() {
    let all = fixtures::all();
    let page = page_of(&all, &[]);
    // Names of XML, which no browser fetches.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for needle in ["http:", "https:", "src=", "@import", "url(", "<link"] {
        assert!(!page.contains(needle), "{needle}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_is_doubtful_is_said_before_any_figure() {
    let runs = [fixtures::source(fixtures::hostile())];
    let page = page_of(&runs, &[]);
    let first_section = page.find("<section").expect("sections");
    for words in [
        "Partial. ",
        "Wrong bytes: 3 of",
        "Overrun",
        "not valid as a measure",
    ] {
        let at = page.find(words);
        assert!(at.is_some_and(|at| at < first_section), "{words}");
    }
    let fine = page_of(&[fixtures::source(fixtures::load("fine", 1.0))], &[]);
    assert!(!fine.contains("class=\"alarm"));
}

#[test]
fn what_a_search_overloads_is_a_finding_and_no_alarm() {
    let page = page_of(&[fixtures::source(fixtures::search())], &[]);
    assert!(!page.contains("class=\"alarm") && !page.contains(">not valid<"));
    assert!(page.contains(">overload<") && page.contains("Overrun"));
}

#[test]
fn machines_that_differ_stand_side_by_side() {
    let mut other = fixtures::load("other", 1.0);
    other.machine.kernel = "6.1.0".to_owned();
    let runs = [
        fixtures::source(fixtures::load("one", 1.0)),
        fixtures::source(other),
    ];
    let page = page_of(&runs, &[]);
    assert!(page.contains("not made on the same machine"));
    assert_eq!(page.matches("<tr class=\"differs\">").count(), 1);
    let page = page_of(&runs[..1], &[]);
    assert!(
        !page.contains("not made on the same machine") && !page.contains("<tr class=\"differs\">")
    );
}

#[test]
fn ids_are_unique_and_links_lead_somewhere() {
    let mut all = fixtures::all();
    all.push(fixtures::source(fixtures::hostile()));
    all.push(fixtures::source(fixtures::search()));
    let page = page_of(&all, &all);
    let of = |needle: &str| -> Vec<String> {
        let parts = page.split(needle).skip(1);
        parts
            .filter_map(|part| Some(part.split('"').next()?.to_owned()))
            .collect()
    };
    let mut ids = of(" id=\"");
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
    let links = of("href=\"#");
    assert!(!links.is_empty());
    for link in links {
        assert!(ids.binary_search(&link).is_ok(), "#{link}");
    }
}

#[test]
fn runs_without_anything_in_them_still_make_a_page() {
    let mut empty = fixtures::run(crate::run::RunKind::Search, "nothing");
    empty.machine = crate::run::Machine::default();
    empty.command.clear();
    let mut bare = fixtures::load("bare", 1.0);
    for point in &mut bare.points {
        point.server = None;
        point.ceiling = None;
        point.operations = 0;
        point.rate = 0.0;
        point.latency = crate::run::Latencies::default();
        point.service = crate::run::Latencies::default();
    }
    let page = page_of(&[fixtures::source(empty), fixtures::source(bare)], &[]);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert_eq!(
        sections(&page),
        ["comparison", "machine", "points", "workloads", "attached"]
    );
}
