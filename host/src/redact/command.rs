//! Secrets in command lines: words as a shell splits them, the options of well-known programs that take a password, assignments,
//! URLs, headers, statements in quotes, and what is piped or fed into programs that read a password.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::spans::{Kinds, Spans};
use super::words::{Token, Word, after_nul, tokens};
use super::{inline, sql};
use crate::statements::lex::Dialect;

/// Commands within quotes that are looked into.
const DEPTH: u8 = 3;

/// What of an option's value is secret.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// All.
    All,
    /// Behind the first of this byte; without one, nothing.
    After(u8),
    /// All, but only in the same word: `-pSECRET`, since `-p` alone asks for it.
    Attached,
}

type Options = &'static [(&'static str, Part)];
type Rule = (&'static [&'static str], Options);

const RULES: &[Rule] = &[
    (
        &[
            "mysql",
            "mariadb",
            "mysqldump",
            "mariadb-dump",
            "mysqladmin",
            "mariadb-admin",
            "mysqlslap",
            "mariadb-slap",
            "mysqlimport",
            "mariadb-import",
            "mysqlshow",
            "mariadb-show",
            "mysqlcheck",
            "mariadb-check",
            "mysqlbinlog",
            "mariadb-binlog",
            "mysqlpump",
            "mysqlsh",
            "mytop",
            "mydumper",
            "myloader",
            "mysqlreplicate",
            "mariabackup",
            "xtrabackup",
            "innobackupex",
        ],
        &[("-p", Part::Attached)],
    ),
    (
        &["curl"],
        &[
            ("-u", Part::After(b':')),
            ("--user", Part::After(b':')),
            ("-U", Part::After(b':')),
            ("--proxy-user", Part::After(b':')),
            ("-b", Part::After(b'=')),
            ("--cookie", Part::After(b'=')),
            ("--oauth2-bearer", Part::All),
            ("-E", Part::After(b':')),
            ("--cert", Part::After(b':')),
            ("--pass", Part::All),
            ("--proxy-pass", Part::All),
        ],
    ),
    (&["http", "https", "xh"], &[("-a", Part::After(b':')), ("--auth", Part::After(b':'))]),
    (&["sshpass"], &[("-p", Part::All)]),
    (&["redis-cli", "valkey-cli", "keydb-cli"], &[("-a", Part::All), ("--pass", Part::All)]),
    (&["useradd", "usermod", "groupadd", "groupmod"], &[("-p", Part::All)]),
    (
        &["smbclient", "rpcclient", "net", "smbget", "smbcacls", "smbtree", "nmblookup", "winexe", "wmic"],
        &[("-U", Part::After(b'%')), ("--user", Part::After(b'%'))],
    ),
    (
        &["ldapsearch", "ldapadd", "ldapmodify", "ldapdelete", "ldapwhoami", "ldapcompare", "ldapmodrdn"],
        &[("-w", Part::All)],
    ),
    (&["ldappasswd"], &[("-w", Part::All), ("-s", Part::All), ("-a", Part::All)]),
    (&["sqlcmd", "bcp", "isql", "tsql", "ipmitool"], &[("-P", Part::All)]),
    (&["mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport"], &[("-p", Part::All)]),
    (&["zip", "unzip"], &[("-P", Part::All)]),
    (&["7z", "7za", "7zr"], &[("-p", Part::Attached)]),
    (&["lftp"], &[("-u", Part::After(b','))]),
    (&["snmpwalk", "snmpget", "snmpset", "snmpbulkwalk"], &[("-A", Part::All), ("-X", Part::All), ("-c", Part::All)]),
    (&["keytool"], &[("-storepass", Part::All), ("-keypass", Part::All)]),
    (&["kubectl", "oc"], &[("--from-literal", Part::After(b'='))]),
    (&["mosquitto_pub", "mosquitto_sub"], &[("-P", Part::All)]),
    (&["xfreerdp", "rdesktop"], &[("-p", Part::All)]),
];

/// Those that log in somewhere with `login -p`.
const LOGIN: &[&str] = &["docker", "podman", "buildah", "skopeo", "helm", "nerdctl", "crane", "oc", "az", "regctl"];

/// The options of a program, by its name: every word is looked up.
static PROGRAMS: LazyLock<HashMap<&[u8], Options>> = LazyLock::new(|| {
    let all = RULES.iter().flat_map(|(names, options)| names.iter().map(|name| (name.as_bytes(), *options)));
    all.collect()
});

fn base_name(word: &[u8]) -> &[u8] {
    word.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// Finds what is secret in a command line, or a script.
pub fn scan(text: &[u8], spans: &mut Spans) {
    lines(tokens(text), 0, &mut |from, to, kind| spans.add(from, to, kind));
}

/// The same of arguments that are separated by NUL.
pub fn arguments(text: &[u8], spans: &mut Spans) {
    lines(after_nul(text), 0, &mut |from, to, kind| spans.add(from, to, kind));
}

fn lines(tokens: Vec<Token>, level: u8, found: &mut dyn FnMut(usize, usize, Kinds)) {
    let (mut words, mut before): (Vec<Word>, Vec<Word>) = (Vec::new(), Vec::new());
    // Is what the last command reads secret?
    let mut reads = false;
    let mut here = false;
    for token in tokens {
        match token {
            Token::Word(word) if here => {
                reads = command(&words, level, found);
                body(&word, reads, level, found);
                here = false;
            }
            Token::Word(word) => words.push(word),
            Token::Here => here = true,
            Token::Document(word) => {
                if !words.is_empty() {
                    reads = command(&words, level, found);
                }
                body(&word, reads, level, found);
            }
            Token::Pipe | Token::End => {
                if !words.is_empty() {
                    reads = command(&words, level, found);
                    feeds(&before, reads, found);
                    before = if token == Token::Pipe { std::mem::take(&mut words) } else { Vec::new() };
                }
                words.clear();
            }
        }
    }
    reads = command(&words, level, found);
    feeds(&before, reads, found);
}

/// A here-string or here-document.
fn body(word: &Word, secret: bool, level: u8, found: &mut dyn FnMut(usize, usize, Kinds)) {
    if secret {
        word.tell(0, word.value.len(), Kinds::PASSWORD, found);
    } else {
        within(word, level, found);
    }
}

/// What `echo` and `printf` say into a program that reads a password.
fn feeds(words: &[Word], secret: bool, found: &mut dyn FnMut(usize, usize, Kinds)) {
    let speaks = words.first().is_some_and(|w| matches!(base_name(&w.value), b"echo" | b"printf" | b"print"));
    if secret && speaks {
        for word in words.iter().skip(1).filter(|w| !w.value.starts_with(b"-")) {
            word.tell(0, word.value.len(), Kinds::PASSWORD, found);
        }
    }
}

/// One simple command. True: what it reads is a password.
fn command(words: &[Word], level: u8, found: &mut dyn FnMut(usize, usize, Kinds)) -> bool {
    let mut rule: Options = &[];
    let (mut reads, mut logs_in, mut program): (bool, bool, &[u8]) = (false, false, b"");
    let mut whole: Option<Part> = None;
    for (number, word) in words.iter().enumerate() {
        let value = word.value.as_slice();
        if let Some(part) = whole.take() {
            tell_part(word, 0, part, found);
            if part == Part::All {
                continue;
            }
        }
        let name = base_name(value);
        if let Some(options) = PROGRAMS.get(name) {
            (rule, program) = (*options, name);
        } else if matches!(
            name,
            b"chpasswd"
                | b"passwd"
                | b"htpasswd"
                | b"openssl"
                | b"sudo"
                | b"smbpasswd"
                | b"cryptsetup"
                | b"vault"
                | b"mkpasswd"
                | b"wpa_passphrase"
                | b"aws"
                | b"ssh-keygen"
                | b"pdbedit"
                | b"gpg"
        ) || LOGIN.iter().any(|n| n.as_bytes() == name)
        {
            program = name;
        }
        logs_in |= value == b"login" && number > 0;
        reads |= match program {
            b"chpasswd" | b"smbpasswd" | b"passwd" | b"cryptsetup" | b"mkpasswd" => true,
            b"sudo" => short_flag(value, b'S') || value == b"--stdin",
            _ => matches!(value, b"--password-stdin" | b"--passphrase-fd" | b"--with-token"),
        };
        if value == b"-p" && logs_in && LOGIN.iter().any(|n| n.as_bytes() == program) {
            whole = Some(Part::All);
            continue;
        }
        if program == b"openssl" && value.starts_with(b"pass:") {
            word.tell(5, value.len(), Kinds::PASSWORD, found);
            continue;
        }
        whole = match (program, value) {
            (b"openssl", b"-k" | b"-K") | (b"ssh-keygen", b"-N" | b"-P") => Some(Part::All),
            (b"aws", name) if name.starts_with(b"aws_") && inline::is_secret_name(name) => Some(Part::All),
            (b"vault", b"login") => Some(Part::All),
            _ => option(word, rule, found),
        };
        if whole.is_none() {
            within(word, level, found);
        }
    }
    // `htpasswd -b file user password`, `wpa_passphrase ssid password`.
    let last = match program {
        b"htpasswd" => words.iter().any(|w| short_flag(&w.value, b'b')),
        b"wpa_passphrase" => words.len() > 2,
        _ => false,
    };
    if last && let Some(word) = words.last() {
        word.tell(0, word.value.len(), Kinds::PASSWORD, found);
    }
    reads
}

/// `-S`, `-nS`.
fn short_flag(word: &[u8], flag: u8) -> bool {
    matches!(word, [b'-', letters @ ..] if letters.iter().all(u8::is_ascii_alphabetic) && letters.contains(&flag))
}

fn tell_part(word: &Word, from: usize, part: Part, found: &mut dyn FnMut(usize, usize, Kinds)) {
    let rest = word.value.get(from..).unwrap_or_default();
    let skip = match part {
        Part::All | Part::Attached => Some(0),
        Part::After(sign) => memchr::memchr(sign, rest).map(|n| n + 1),
    };
    if let Some(skip) = skip {
        word.tell(from + skip, word.value.len(), Kinds::PASSWORD, found);
    }
}

/// An option whose value is secret. What of the next word is, if the value stands there.
fn option(word: &Word, rule: &[(&str, Part)], found: &mut dyn FnMut(usize, usize, Kinds)) -> Option<Part> {
    let value = word.value.as_slice();
    if !value.starts_with(b"-") || value.len() < 2 {
        return None;
    }
    for (flag, part) in rule {
        let flag = flag.as_bytes();
        if value == flag {
            return (*part != Part::Attached).then_some(*part);
        }
        let single = flag.len() == 2;
        if single && value.starts_with(flag) {
            tell_part(word, 2, *part, found);
            return None;
        }
        // `-sSu user:password`
        if single && *part != Part::Attached && cluster(value, flag) {
            return Some(*part);
        }
        if !single && value.starts_with(flag) && value.get(flag.len()) == Some(&b'=') {
            tell_part(word, flag.len() + 1, *part, found);
            return None;
        }
    }
    // `--password SECRET`; `--password=SECRET` says itself what it is.
    let name = value.strip_prefix(b"--").unwrap_or_default();
    let secret = inline::is_secret_name(name) || matches!(name, b"pass" | b"passin" | b"passout");
    (secret && !name.contains(&b'=')).then_some(Part::All)
}

fn cluster(value: &[u8], flag: &[u8]) -> bool {
    value.len() > 2
        && value.last() == flag.last()
        && value.get(1..).is_some_and(|v| v.iter().all(u8::is_ascii_alphabetic))
}

/// What says itself that it is a secret, and commands and statements in quotes.
fn within(word: &Word, level: u8, found: &mut dyn FnMut(usize, usize, Kinds)) {
    let value = word.value.as_slice();
    let mut spans = Spans::default();
    if inline::suspicious(value) {
        inline::scan(value, 0, &mut spans);
        if value.contains(&b' ') {
            // Behind the option that it may be written to: `-eCREATE …`, `--command=CREATE …`.
            let skip = match value {
                [b'-', b'-', ..] => memchr::memchr(b'=', value).map_or(0, |sign| sign + 1),
                [b'-', _, ..] => 2,
                _ => 0,
            };
            // Of whatever server: what one of them takes for a secret is one.
            for mysql in [true, false] {
                let mut found = Spans::default();
                sql::scan_text(value.get(skip..).unwrap_or_default(), Dialect { mysql }, &mut found);
                found.iter().for_each(|(from, to, kind)| spans.add(skip + from, skip + to, kind));
            }
        }
    }
    // `mount -o username=u,pass=p`
    for sign in memchr::memmem::find_iter(value, b"pass=") {
        let rest = value.get(sign + 5..).unwrap_or_default();
        let len = rest.iter().position(|b| matches!(b, b',' | b' ' | b'&' | b';' | b'"' | b'\'')).unwrap_or(rest.len());
        spans.add(sign + 5, sign + 5 + len, Kinds::PASSWORD);
    }
    spans.iter().for_each(|(from, to, kind)| word.tell(from, to, kind, found));
    if level < DEPTH && value.iter().any(|b| matches!(b, b' ' | b'\n')) {
        lines(tokens(value), level + 1, &mut |from, to, kind| word.tell(from, to, kind, found));
    }
}
