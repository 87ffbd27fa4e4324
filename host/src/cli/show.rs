//! `ecapture config --show`: each option of a run, its value, and where that is from.

use std::fmt::Write as _;

use serde_json::json;

use super::settings::{Resolved, Shape, Source};

/// A configuration file that says the same, with the source of each value as a comment. What has no value is a comment
/// itself.
pub fn text(options: &[Resolved]) -> String {
    let mut out = String::new();
    let mut section = "";
    for option in options {
        if option.section != section {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}[{}]", if section.is_empty() { "" } else { "\n" }, option.section);
            section = &option.section;
        }
        let line = match &option.values {
            Some(values) => format!("{} = {}", option.name, written(option, values)),
            None => format!("# {}", option.name),
        };
        let source = if option.values.is_none() { "not set".into() } else { option.source.to_string() };
        let _ = writeln!(out, "{line:39} # {source}");
    }
    out
}

fn written(option: &Resolved, values: &[String]) -> String {
    let one = |value: &String| match option.shape {
        Shape::Flag | Shape::Count => value.clone(),
        Shape::One | Shape::Many => toml::Value::String(value.clone()).to_string(),
    };
    match (option.shape, values) {
        (Shape::Many, _) => format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", ")),
        (_, [value]) => one(value),
        _ => String::from("\"\""),
    }
}

/// One object; keys may be added, never renamed or removed.
///
/// # Errors
/// Of `serde_json`; not seen.
pub fn json(options: &[Resolved]) -> serde_json::Result<String> {
    let source = |source: &Source| match source {
        Source::Flag => json!({ "kind": "flag" }),
        Source::Variable(name) => json!({ "kind": "environment", "name": name }),
        Source::File(path, spot) => {
            json!({ "kind": "file", "file": path.to_string_lossy(), "line": spot.line, "column": spot.column })
        }
        Source::Default => json!({ "kind": "default" }),
    };
    let one =
        |o: &Resolved| json!({ "section": o.section, "name": o.name, "values": o.values, "source": source(&o.source) });
    let all = json!({ "schema": 1, "options": options.iter().map(one).collect::<Vec<_>>() });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
