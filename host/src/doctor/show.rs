//! The checks as text and as JSON.

use std::fmt::Write as _;

use serde_json::json;

use super::judge::{Check, Status};
use super::works;

/// A line for each check, what it costs and what to do under it, and the verdict.
#[must_use]
pub fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or_default();
    let mut out = String::new();
    for Check { name, status, found, cost, remedy } in checks {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:8}  {name:width$}  {found}", status.as_str());
        let under = [("costs", cost), ("do", remedy)];
        for (word, text) in under.iter().filter_map(|(word, text)| text.as_ref().map(|text| (word, text))) {
            let _ = writeln!(out, "{:8}  {:width$}  {word}: {text}", "", "");
        }
    }
    let named = |wanted| {
        let names = checks.iter().filter(|c| c.status == wanted).map(|c| c.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let (missing, degraded) = (named(Status::Missing), named(Status::Degraded));
    let _ = match (missing.as_str(), degraded.as_str()) {
        ("", "") => writeln!(out, "capturing works here"),
        ("", degraded) => writeln!(out, "capturing works here; degraded: {degraded}"),
        (missing, _) => writeln!(out, "capturing does not work here; missing: {missing}"),
    };
    out
}

/// One object; keys may be added, never renamed or removed.
///
/// # Errors
/// Of `serde_json`; not seen.
pub fn json(checks: &[Check]) -> serde_json::Result<String> {
    let one = |c: &Check| {
        json!({
            "name": c.name, "status": c.status.as_str(), "found": c.found, "cost": c.cost, "remedy": c.remedy,
        })
    };
    let all = json!({ "schema": 1, "works": works(checks), "checks": checks.iter().map(one).collect::<Vec<_>>() });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
