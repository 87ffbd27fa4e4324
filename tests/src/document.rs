//! What the documents show, for tests that run it.

use std::path::Path;

/// The commands in the `console` blocks of a document of the repository, without their prompts, in order.
///
/// # Panics
/// If there is no such document.
#[must_use]
pub fn commands(path: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut found = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(language), None) => inside = Some(language == "console"),
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                found.extend(line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")).map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}
