//! The two options that decide which commands exist, read before the command line is parsed.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::{Exit, Failure};
use crate::module::{Search, SearchError};

/// Where modules come from: reads `--modules-dir DIR` and `--allow-untrusted`, wherever they stand before a `--`.
///
/// # Errors
/// `--modules-dir` without a value; `--allow-untrusted` without `--modules-dir`: what is in the system's directory is
/// trusted or not used.
pub fn search(args: &[OsString]) -> Result<Search, Failure> {
    let usage = |text: String| Failure::new("E-USAGE", text).exit(Exit::Usage);
    let (mut directory, mut untrusted) = (None, false);
    let mut args = args.iter().skip(1).take_while(|a| *a != "--");
    while let Some(arg) = args.next() {
        if arg == "--allow-untrusted" {
            untrusted = true;
        } else if arg == "--modules-dir" {
            let value = args.next().ok_or_else(|| usage("--modules-dir needs a directory".into()))?;
            directory = Some(PathBuf::from(value));
        } else if let Some(value) = arg.to_str().and_then(|a| a.strip_prefix("--modules-dir=")) {
            directory = Some(value.into());
        }
    }
    Search::new(directory, untrusted).map_err(|e: SearchError| usage(e.to_string()))
}

/// The value of `--config`, if it stands before a `--`. One without a value is clap's to refuse.
#[must_use]
pub fn config(args: &[OsString]) -> Option<OsString> {
    let mut args = args.iter().skip(1).take_while(|a| *a != "--");
    let mut found = None;
    while let Some(arg) = args.next() {
        if arg == "--config" {
            found = args.next().cloned();
        } else if let Some(value) = arg.to_str().and_then(|a| a.strip_prefix("--config=")) {
            found = Some(value.into());
        }
    }
    found
}

/// Whether `--btf` stands among the arguments: then a kernel without types of its own has some.
#[must_use]
pub fn brings_types(args: &[OsString]) -> bool {
    let is = |arg: &OsString| arg.to_str().is_some_and(|a| a == "--btf" || a.starts_with("--btf="));
    args.iter().skip(1).take_while(|a| *a != "--").any(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::DEFAULT_DIR;

    fn read(args: &[&str]) -> Result<Search, Failure> {
        search(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn reads_both_forms_wherever_they_stand() {
        for args in [&["e", "--modules-dir", "/d", "mysql"][..], &["e", "mysql", "-q", "--modules-dir=/d"]] {
            assert_eq!(read(args).unwrap().dir(), "/d");
        }
        assert!(read(&["e", "mysql", "--modules-dir", "/d", "--allow-untrusted"]).unwrap().allow_untrusted());
    }

    #[test]
    fn the_systems_directory_is_never_exempt() {
        assert_eq!(read(&["e", "--allow-untrusted"]).unwrap_err().exit, Exit::Usage);
        assert!(read(&["e", "--modules-dir"]).is_err());
    }

    #[test]
    fn what_stands_behind_two_dashes_is_not_an_option() {
        assert_eq!(read(&["e", "--", "--modules-dir"]).unwrap().dir(), DEFAULT_DIR);
    }
}
