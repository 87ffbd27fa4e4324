//! The C headers are a public interface: modules are compiled against them. What they declare is listed in
//! `headers-listing.txt`; a change shows there, and has to be one that compiles every module that exists.

use std::collections::BTreeMap;
use std::path::Path;

/// Everything that a module's source can name, file by file: constants with their values, macros and functions with their
/// parameters, structures whole. What ends in `_` is the headers' own.
fn listing() -> String {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(ecapture_ebpf::include_dir().join("ecapture")).expect("the headers").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("text");
        files.insert(entry.file_name(), without_comments(&text));
    }
    let mut out = String::new();
    for (name, text) in files {
        out += &format!("ecapture/{}\n", name.display());
        for line in declarations(&text) {
            out += &format!("  {line}\n");
        }
    }
    out
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        out += before;
        rest = after.split_once("*/").expect("comments end").1;
    }
    out + rest
}

fn declarations(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let joined = text.replace("\\\n", " ");
    let mut lines = joined.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(define) = line.strip_prefix("#define ") {
            let end = define.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(define.len());
            let (name, rest) = define.split_at(end);
            match rest.strip_prefix('(') {
                _ if name.ends_with('_') || name.ends_with("_H") => {}
                Some(parameters) => {
                    let parameters = parameters.split_once(')').map_or("", |(p, _)| p);
                    found.push(format!("macro {name}({parameters})"));
                }
                None => found.push(format!("{name} = {}", one_line(rest))),
            }
        } else if line.starts_with("ECAP_INLINE ") {
            let mut signature = line.to_owned();
            while !signature.contains(')') {
                signature += lines.next().expect("a signature ends");
            }
            let signature = signature.split_once(')').map_or(signature.as_str(), |(s, _)| s).to_owned() + ")";
            if !signature.contains("_(") {
                found.push(one_line(&signature));
            }
        } else if (line.starts_with("struct ") || line.starts_with("enum ")) && line.ends_with('{') {
            let mut whole = line.to_owned();
            for line in lines.by_ref() {
                whole = whole + " " + line;
                if line.starts_with('}') {
                    break;
                }
            }
            found.push(one_line(&whole));
        }
    }
    found
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Set `ECAPTURE_BLESS=1` to write the file anew; look at the difference before it is committed: a module's source that
/// compiled has to compile, and to mean the same.
#[test]
fn the_headers_declare_what_is_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("headers-listing.txt");
    let now = listing();
    assert!(now.contains("ECAP_INLINE void ecap_end(struct ecap_message *m)"), "{now}");
    assert!(now.contains("struct ecap_record {"), "{now}");
    if std::env::var_os("ECAPTURE_BLESS").is_some() {
        std::fs::write(&path, &now).expect("writable");
    }
    let listed = std::fs::read_to_string(&path).expect("headers-listing.txt is there");
    assert!(now == listed, "the headers have changed; does every module still compile? Now:\n{now}");
}
