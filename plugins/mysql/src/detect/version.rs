//! The server's version text, found among the strings of the file.
//!
//! Every server has a string `mysqld-<major>.<minor>`: the name of a group in its option files. The version is the
//! string that begins with these numbers and a patch number. The version is for the user; the one thing that depends on it are the
//! parameters of MySQL's prepared statements, so "unknown" is an answer.

use super::Image;

/// What the file says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `MariaDB` or `MySQL`.
    pub product: &'static str,
    /// `10.11.14-MariaDB`; `10.11` if only the series is known; `unknown`.
    pub text: String,
    /// How it was found.
    pub how: String,
}

/// Strings longer than this are no version.
const MOST: usize = 60;

/// Finds the version.
pub fn find(image: &impl Image, product: &'static str) -> Version {
    let sections = image.data_sections();
    let texts = || sections.iter().flat_map(|(name, bytes)| strings(bytes).map(move |text| (*name, text)));
    if let Some((section, text)) = texts().find(|(_, text)| is_mariadb(text)) {
        return Version { product, text: text.to_owned(), how: format!("string \"{text}\" in {section}") };
    }
    let Some((section, group)) = texts().find_map(|(name, text)| Some((name, series(text)?))) else {
        return Version { product, text: "unknown".to_owned(), how: "no string of the file looks like one".to_owned() };
    };
    // Short texts that the server copies may be immediates in its code; "MySQL 9.7.4" then is a string still.
    let full = texts().filter_map(|(name, text)| {
        let whole = text;
        let text = text.strip_prefix("MySQL ").unwrap_or(text);
        let patch = text.strip_prefix(group)?.strip_prefix('.')?;
        (numbers(text) == Some(3) && !patch.is_empty() && !text.contains(' ')).then_some((name, whole, text))
    });
    // "8.0.36-0ubuntu0.22.04.1" says more than "8.0.36".
    match full.max_by_key(|(.., text)| text.len()) {
        Some((section, whole, text)) => Version {
            product,
            text: text.to_owned(),
            how: format!("string \"{whole}\" in {section}, of the series of \"mysqld-{group}\""),
        },
        None => Version { product, text: group.to_owned(), how: format!("string \"mysqld-{group}\" in {section}") },
    }
}

/// The NUL-terminated printable strings of a section that are as short as a version.
fn strings(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let plausible = |text: &&[u8]| {
        (3..=MOST).contains(&text.len()) && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
    };
    bytes.split(|byte| *byte == 0).filter(plausible).filter_map(|text| std::str::from_utf8(text).ok())
}

/// `10.11.14-MariaDB` and what distributions put behind it.
fn is_mariadb(text: &str) -> bool {
    numbers(text) == Some(3) && !text.contains(' ') && text.contains("-MariaDB")
}

/// The `10.11` of `mysqld-10.11`.
fn series(text: &str) -> Option<&str> {
    text.strip_prefix("mysqld-").filter(|numbers_text| {
        numbers(numbers_text) == Some(2) && numbers_text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// The three numbers of a version's text.
pub fn parts(text: &str) -> Option<[u16; 3]> {
    let end = text.find(['-', '+', '~']).unwrap_or(text.len());
    let mut numbers = text.get(..end)?.split('.').map(|part| part.parse().ok());
    let version = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(version)
}

/// How many numbers with dots between the text begins with, if nothing but a suffix behind `-`, `+` or `~` follows.
fn numbers(text: &str) -> Option<usize> {
    let end = text.find(['-', '+', '~']).unwrap_or(text.len());
    let (head, _) = text.split_at_checked(end)?;
    let mut count = 0;
    for part in head.split('.') {
        if part.is_empty() || part.len() > 4 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rodata(&'static [u8]);

    impl Image for Rodata {
        fn has_function(&self, _: &str) -> bool {
            false
        }
        fn code(&self, _: &str, _: usize) -> Option<&[u8]> {
            None
        }
        fn calls(&self, _: &str, _: &str) -> bool {
            false
        }
        fn data_sections(&self) -> Vec<(&str, &[u8])> {
            vec![(".rodata", self.0)]
        }
        fn has_symbols(&self) -> bool {
            true
        }
        fn is_x86_64(&self) -> bool {
            true
        }
    }

    fn found(bytes: &'static [u8]) -> (String, String) {
        let version = find(&Rodata(bytes), "X");
        (version.text, version.how)
    }

    #[test]
    fn mariadb() {
        let (text, how) = found(b"5.7.31\0mysqld-10.11\x0010.11.19-MariaDB\x0010.11.19\0");
        assert_eq!(text, "10.11.19-MariaDB");
        assert_eq!(how, "string \"10.11.19-MariaDB\" in .rodata");
        assert_eq!(found(b"x\x0011.8.6-MariaDB-ubu2404\0").0, "11.8.6-MariaDB-ubu2404");
    }

    #[test]
    fn mysql_by_series() {
        let (text, how) = found(b"9.70.1\x001.3.2\0mysqld-aH\0mysqld-9.7\x009.7.4\x009.7.4-2\x0017.9.7\0");
        assert_eq!(text, "9.7.4-2");
        assert!(how.contains("mysqld-9.7"), "{how}");
        assert_eq!(found(b"mysqld-8.0\0nothing\x008.0.1 was\0").0, "8.0");
        assert_eq!(found(b"9.7.4.0\0MySQL 9.7.4\0ndb-9.7.4\0mysqld-9.7\0").0, "9.7.4");
    }

    #[test]
    fn versions_as_numbers() {
        assert_eq!(parts("8.0.36-0ubuntu0.22.04.1"), Some([8, 0, 36]));
        assert_eq!(parts("9.7.4"), Some([9, 7, 4]));
        for text in ["8.0", "unknown", "", "1.2.3.4", "8.0.99999", "-1.2.3"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn neither() {
        assert_eq!(found(b"").0, "unknown");
        assert_eq!(found(b"\xff\xff1.2.3-MariaDB\x00mysqld-1.2.3\0mysqld-\0").0, "unknown");
        assert_eq!(found(b"use 10.1.1-MariaDB-log\0").0, "unknown", "blanks are text, not a version");
    }
}
