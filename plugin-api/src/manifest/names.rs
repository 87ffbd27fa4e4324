//! Which names are allowed.

/// Names of the host's own commands (and `doctor`, `config`, kept for later): no module, command or alias has them.
pub const RESERVED_NAMES: &[&str] = &["run", "module", "help", "completion", "record", "replay", "config", "doctor"];

/// Short flags of the host: no option has them.
pub const RESERVED_SHORT: &[char] = &['p', 'u', 'o', 'w', 'q', 'v', 'h', 'V'];

/// Long flags of the host: no option has them.
pub const RESERVED_LONG: &[&str] = &[
    "allow-untrusted",
    "body",
    "btf",
    "cgroup",
    "comm",
    "config",
    "container",
    "count",
    "duration",
    "errors-only",
    "explain",
    "help",
    "host",
    "interface",
    "interval",
    "json",
    "keylog-file",
    "list-modules",
    "max-body",
    "method",
    "min-duration",
    "mode",
    "modules-dir",
    "multiline",
    "no-children",
    "no-new-targets",
    "no-real-time",
    "output",
    "packet-filter",
    "packet-hook",
    "packet-ring",
    "path",
    "pid",
    "quiet",
    "record",
    "redact",
    "redact-pattern",
    "ring-size",
    "rotate-keep",
    "rotate-size",
    "rotate-time",
    "show",
    "show-secrets",
    "status",
    "stream-memory",
    "uid",
    "unowned-packets",
    "verbose",
    "version",
    "view",
    "write",
];

/// Columns that the host fills in for every event: a module's column of that name would be a second, unproven truth, and
/// a line of JSON with the same key twice.
pub const HOST_COLUMNS: &[&str] = &[
    "container.id",
    "ecapture.cgroup.id",
    "ecapture.columns_refused",
    "ecapture.lost",
    "ecapture.module",
    "ecapture.monotonic_ns",
    "ecapture.partial",
    "ecapture.redacted",
    "ecapture.state_lost",
    "ecapture.stream.id",
    "ecapture.stream.offset",
    "ecapture.target.path",
    "ecapture.truncated_bytes",
    "event.name",
    "process.executable.path",
    "process.pid",
    "process.user.id",
    "thread.id",
    "thread.name",
    "time",
];

/// Whole families of such columns, by what their names begin with.
pub const HOST_PREFIXES: &[&str] =
    &["ecapture.base64.", "ecapture.host.", "ecapture.payload.", "ecapture.session.", "ecapture.sink."];

/// Whether a column is the host's own.
pub(super) fn is_host_column(name: &str) -> bool {
    HOST_COLUMNS.contains(&name) || HOST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `[a-z][a-z0-9_-]{0,31}`.
pub(super) fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(rest)
}

/// Words of `[a-z][a-z0-9_]*` with single dots between, at most 64 bytes.
pub(super) fn is_column(text: &str) -> bool {
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.split('.').all(word)
}

/// `[A-Za-z_][A-Za-z0-9_]{0,63}`: names of maps, programs and helpers.
pub(super) fn is_identifier(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The closest of `known`, if it is close enough to be a slip of the hand: one edit in a short word, two in a longer.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = if word.chars().count() < 5 { 1 } else { 2 };
    known.map(|k| (distance(word, k), k)).filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to another. Words longer than any key are far.
fn distance(a: &str, b: &str) -> usize {
    const MAX: usize = 64;
    let a: Vec<char> = a.chars().take(MAX).collect();
    let b: Vec<char> = b.chars().take(MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |r: &[usize], k: usize| r.get(k).copied().unwrap_or(MAX);
            let replace = at(&last, j) + usize::from(x != y);
            let mut best = replace.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_name("mysql") && is_name("a") && is_name("go-tls_2"));
        assert!(!is_name("") && !is_name("Mysql") && !is_name("9a") && !is_name("a.b") && !is_name("é"));
        assert!(is_name(&"a".repeat(32)) && !is_name(&"a".repeat(33)));
        assert!(is_column("db.query.text") && is_column("db.query.parameter.0") && is_column("x"));
        assert!(!is_column("db..x") && !is_column(".x") && !is_column("x.") && !is_column("DB.x") && !is_column("0.x"));
    }

    #[test]
    fn slips_are_recognised() {
        let keys = ["name", "version", "title"];
        assert_eq!(did_you_mean("verison", keys.into_iter()), Some("version"));
        assert_eq!(did_you_mean("titel", keys.into_iter()), Some("title"));
        assert_eq!(did_you_mean("colour", keys.into_iter()), None);
    }
}
