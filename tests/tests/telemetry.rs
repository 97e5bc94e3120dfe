//! The dashboard and the alert rules in `docs/telemetry` name only metrics that the program has,
//! and the guide describes each of these.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};

use quittance_tests::sources::{Source, source, sources};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// How every metric of the project begins.
const PREFIX: &str = "quittance_";

/// What Prometheus appends to the name of a histogram.
const HISTOGRAM_SERIES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The names with the project's prefix in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with(PREFIX))
        .map(str::to_owned)
        .collect()
}

/// Each metric that the code records, and the macro that records it.
fn recorded() -> BTreeMap<String, &'static str> {
    let is_program = |path: &str| path.starts_with("crates/") || path.starts_with("chains/");
    let mut metrics = BTreeMap::new();
    for Source { path, text } in sources("rs") {
        if !is_program(&path) {
            continue;
        }
        for kind in ["counter", "gauge", "histogram"] {
            for after in text.split(&format!("metrics::{kind}!(")).skip(1) {
                let literal = after.trim_start().strip_prefix('"').unwrap();
                let name = literal.split('"').next().unwrap();
                metrics.insert(name.to_owned(), kind);
            }
        }
    }
    metrics
}

/// The series that `/metrics` shows of the metrics.
fn series(metrics: &BTreeMap<String, &'static str>) -> BTreeSet<String> {
    let of_one = |(name, kind): (&String, &&str)| match *kind {
        "histogram" => HISTOGRAM_SERIES.map(|end| format!("{name}{end}")).to_vec(),
        _ => vec![name.clone()],
    };
    metrics.iter().flat_map(of_one).collect()
}

/// Every query of the dashboard, those of its variables included.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} is empty", panel["title"]);
        targets.iter().map(|target| &target["expr"])
    });
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    targets
        .chain(variables.iter().map(|variable| &variable["query"]))
        .map(|query| query.as_str().unwrap().to_owned())
        .collect()
}

fn alerts() -> Vec<Yaml> {
    let files = YamlLoader::load_from_str(&source("docs/telemetry/alerts.yaml")).unwrap();
    let groups = files[0]["groups"].as_vec().unwrap().clone();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_vec().unwrap().clone());
    rules.collect()
}

fn assert_exist(used: &BTreeSet<String>) {
    let unknown: Vec<_> = used.difference(&series(&recorded())).cloned().collect();
    assert!(unknown.is_empty(), "not in /metrics: {unknown:?}");
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&source("docs/telemetry/dashboard.json")).unwrap();
    let used = names(&queries(&dashboard).join(" "));
    assert_exist(&used);
    for metric in recorded().keys() {
        let shown = used.iter().any(|name| name.starts_with(metric.as_str()));
        assert!(shown, "no panel shows {metric}");
    }
}

#[test]
fn alert_rules_name_metrics_that_exist() {
    let rules = alerts();
    assert!(!rules.is_empty());
    for rule in rules {
        let used = names(rule["expr"].as_str().unwrap());
        assert!(!used.is_empty(), "{rule:?} names no metric");
        assert_exist(&used);
    }
}

/// `increase` is 0 for the event that creates the series of a counter.
#[test]
fn an_alert_on_a_single_event_sees_the_first_one() {
    let rules = alerts();
    let expressions = rules.iter().map(|rule| rule["expr"].as_str().unwrap());
    let single: Vec<_> = expressions
        .filter(|expression| expression.contains("increase(") && expression.contains(") > 0"))
        .collect();
    assert!(!single.is_empty());
    for expression in single {
        let metric = names(expression).pop_first().unwrap();
        let first = format!("({metric} unless {metric} offset ");
        assert!(expression.contains(&first), "{expression}");
    }
}

#[test]
fn each_alert_has_a_severity_and_a_runbook_sentence() {
    let mut seen = BTreeSet::new();
    for rule in alerts() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        for sentence in ["summary", "runbook"] {
            let text = rule["annotations"][sentence].as_str().unwrap();
            assert!(text.ends_with('.'), "{name}: {text}");
        }
        assert!(seen.insert(name.clone()), "{name} is there twice");
    }
}

#[test]
fn the_guide_describes_every_metric_and_no_other() {
    let guide = source("docs/operating.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `"));
    let described: BTreeSet<_> = rows
        .flat_map(|row| names(row.split('`').next().unwrap()))
        .collect();
    let recorded: BTreeSet<_> = recorded().into_keys().collect();
    assert_eq!(described, recorded);
}
