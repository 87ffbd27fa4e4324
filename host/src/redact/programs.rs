//! What is known of programs: which of their arguments are secrets, what they read, whether they run others. A table, and nothing that looks at a
//! command.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What of a value is secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// Nothing: the option has a value, and that is all.
    Nothing,
    /// Behind the first of this byte; without one, nothing.
    After(u8),
    /// All, but only in the same word: `-pSECRET`, since `-p` alone asks for it.
    Attached,
    /// All, but only in the next word, since others begin as it does: `-k`, `-keyout`.
    Next,
    /// `user/SECRET@database`.
    Slash,
    /// It is a header.
    Header,
}

/// Where a secret stands.
#[derive(Clone, Copy)]
pub enum Place {
    /// The value of an option.
    Option(&'static str, Part),
    /// The same, only behind this word: `docker login -p`.
    OptionBehind(&'static str, &'static str),
    /// Words that begin so: `pass:SECRET`.
    Prefix(&'static str),
    /// From that operand on; what of it.
    Operands(usize, Part),
    /// The same, counted from behind this word.
    Behind(&'static str, usize),
    /// The word behind an operand that is a secret's name, once this word was there: `config set token SECRET`. An empty one always is.
    Named(&'static str),
    /// The last operand, with this option.
    Last(u8),
}

/// What a program reads from its standard input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Reads {
    /// No secret.
    #[default]
    Nothing,
    /// A secret in the first line; the others are for a program that it runs.
    First,
    /// Secrets.
    Secrets,
}

/// A program, or several that are alike.
pub struct Program {
    names: &'static [&'static str],
    /// Where its secrets stand.
    pub places: &'static [Place],
    /// What it reads.
    pub reads: Reads,
    /// Only with one of these.
    pub reads_with: &'static [&'static str],
    /// It executes what it reads as SQL.
    pub sql: bool,
    /// Its arguments are the command of another program.
    pub runs: bool,
}

const NONE: Program =
    Program { names: &[], places: &[], reads: Reads::Nothing, reads_with: &[], sql: false, runs: false };

use Part::{After, All, Attached, Header, Next, Nothing, Slash};
use Place::{Behind, Last, Named, Operands, Option, OptionBehind, Prefix};

#[rustfmt::skip]
static TABLE: &[Program] = &[
    Program { names: &["mysql", "mariadb", "mycli", "mysqlsh"], places: &[Option("-p", Attached)], sql: true, ..NONE },
    Program { names: &[
        "mysqldump", "mariadb-dump", "mysqlslap", "mariadb-slap", "mysqlimport", "mariadb-import", "mysqlshow", "mariadb-show", "mysqlcheck",
        "mariadb-check", "mysqlbinlog", "mariadb-binlog", "mysqlpump", "mytop", "mydumper", "myloader", "mysqlreplicate", "mariabackup",
        "xtrabackup", "innobackupex",
    ], places: &[Option("-p", Attached)], ..NONE },
    Program { names: &["mysqladmin", "mariadb-admin"], places: &[Option("-p", Attached), Behind("password", 0), Behind("old-password", 0)], ..NONE },
    Program { names: &["psql", "pgcli", "sqlite3", "cockroach", "usql", "clickhouse-client", "duckdb", "trino", "hive", "db2", "bq"], sql: true, ..NONE },
    Program { names: &["cqlsh", "beeline"], places: &[Option("-p", All)], sql: true, ..NONE },
    Program { names: &["sqlcmd", "isql", "tsql"], places: &[Option("-P", All)], sql: true, ..NONE },
    Program { names: &["sqlplus", "sql"], places: &[Operands(0, Slash)], sql: true, ..NONE },
    Program { names: &["rman"], places: &[Operands(1, Slash)], ..NONE },
    Program { names: &["conn", "connect", "sqlldr", "exp", "imp", "expdp", "impdp"], places: &[Operands(0, Slash)], ..NONE },
    Program { names: &["curl"], places: &[
        Option("-u", After(b':')), Option("--user", After(b':')), Option("-U", After(b':')), Option("--proxy-user", After(b':')),
        Option("-b", After(b'=')), Option("--cookie", After(b'=')), Option("--oauth2-bearer", All), Option("-E", After(b':')),
        Option("--cert", After(b':')), Option("--proxy-pass", All), Option("-H", Header), Option("--header", Header), Option("--proxy-header", Header),
    ], ..NONE },
    Program { names: &["wget"], places: &[Option("--header", Header)], ..NONE },
    Program { names: &["http", "https", "xh"], places: &[Option("-a", After(b':')), Option("--auth", After(b':'))], ..NONE },
    Program { names: &["sshpass"], places: &[Option("-p", All)], runs: true, ..NONE },
    Program { names: &["redis-cli", "valkey-cli", "keydb-cli"], places: &[Option("-a", All), Behind("auth", 0), Behind("AUTH", 0), Named("")], ..NONE },
    Program { names: &["useradd", "usermod", "groupadd", "groupmod"], places: &[Option("-p", All)], ..NONE },
    Program { names: &["smbclient", "rpcclient", "net", "smbget", "smbcacls", "smbtree", "nmblookup", "winexe", "wmic"], places: &[
        Option("-U", After(b'%')), Option("--user", After(b'%')),
    ], ..NONE },
    Program { names: &["samba-tool"], places: &[Option("-U", After(b'%')), Behind("create", 1), Behind("add", 1)], ..NONE },
    Program { names: &["ldapsearch", "ldapadd", "ldapmodify", "ldapdelete", "ldapwhoami", "ldapcompare", "ldapmodrdn"], places: &[Option("-w", All)], ..NONE },
    Program { names: &["ldappasswd"], places: &[Option("-w", All), Option("-s", All), Option("-a", All)], ..NONE },
    Program { names: &["bcp", "ipmitool", "mosquitto_pub", "mosquitto_sub", "zip", "unzip"], places: &[Option("-P", All)], ..NONE },
    Program { names: &["mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport", "twine", "rdesktop"], places: &[Option("-p", All)], ..NONE },
    Program { names: &["xfreerdp", "xfreerdp3", "wlfreerdp"], places: &[Prefix("/p:"), Prefix("/gp:"), Prefix("/pth:"), Option("-p", All)], ..NONE },
    Program { names: &["7z", "7za", "7zr"], places: &[Option("-p", Attached)], ..NONE },
    Program { names: &["rar", "unrar"], places: &[Option("-hp", Attached), Option("-p", Attached)], ..NONE },
    Program { names: &["lftp"], places: &[Option("-u", After(b','))], ..NONE },
    Program { names: &["snmpwalk", "snmpget", "snmpset", "snmpbulkwalk"], places: &[Option("-A", All), Option("-X", All), Option("-c", All)], ..NONE },
    Program { names: &["nmcli", "machine", "npm", "pnpm", "yarn"], places: &[Named("")], ..NONE },
    Program { names: &["git"], places: &[Named("config")], ..NONE },
    Program { names: &["pulumi"], places: &[Named("set")], ..NONE },
    Program { names: &["consul", "etcdctl"], places: &[Named("put")], ..NONE },
    Program { names: &["rabbitmqctl"], places: &[Behind("add_user", 1), Behind("change_password", 1), Behind("authenticate_user", 1)], ..NONE },
    Program { names: &["ngrok"], places: &[Behind("authtoken", 0), Behind("add-authtoken", 0)], ..NONE },
    Program { names: &["rclone"], places: &[Behind("obscure", 0)], ..NONE },
    Program { names: &["mc"], places: &[Behind("set", 2)], ..NONE },
    Program { names: &["kadmin"], places: &[Option("-w", All)], ..NONE },
    Program { names: &["aws"], places: &[Named("set")], ..NONE },
    Program { names: &["vault"], places: &[Behind("login", 0), Named("put")], ..NONE },
    Program { names: &["ssh-keygen"], places: &[Option("-N", Next), Option("-P", Next)], ..NONE },
    Program { names: &["openssl"], places: &[
        Prefix("pass:"), Option("-k", Next), Option("-K", Next), Option("-in", Nothing), Option("-salt", Nothing), Behind("passwd", 0),
    ], reads: Reads::Secrets, reads_with: &["-stdin"], ..NONE },
    Program { names: &["mkpasswd"], places: &[
        Option("-m", Nothing), Option("-S", Nothing), Option("-R", Nothing), Option("-P", Nothing), Operands(0, All),
    ], reads: Reads::Secrets, ..NONE },
    Program { names: &["wpa_passphrase"], places: &[Operands(1, All)], reads: Reads::Secrets, ..NONE },
    Program { names: &["htpasswd"], places: &[Option("-C", Nothing), Last(b'b')], reads: Reads::Secrets, reads_with: &["-i"], ..NONE },
    Program { names: &["chpasswd", "passwd", "smbpasswd", "cryptsetup", "kinit", "secret-tool", "pdbedit", "vncpasswd"], reads: Reads::Secrets, ..NONE },
    Program { names: &["docker", "podman", "nerdctl", "oc"], places: &[OptionBehind("login", "-p"), Option("--from-literal", After(b'='))], runs: true, ..NONE },
    Program { names: &["buildah", "skopeo", "helm", "crane", "az", "regctl", "cf"], places: &[OptionBehind("login", "-p")], ..NONE },
    Program { names: &["kubectl"], places: &[Option("--from-literal", After(b'='))], runs: true, ..NONE },
    Program { names: &["sudo", "doas"], reads: Reads::First, reads_with: &["-S", "--stdin"], runs: true, ..NONE },
    Program { names: &["su"], reads: Reads::First, runs: true, ..NONE },
    Program { names: &[
        "env", "nohup", "time", "exec", "command", "builtin", "nice", "ionice", "timeout", "xargs", "watch", "ssh", "chroot", "setsid", "stdbuf", "unbuffer",
        "runuser", "systemd-run", "flock", "chronic", "parallel", "find", "strace", "ltrace", "gdb", "lxc", "incus", "nsenter", "unshare", "eval",
        "if", "while", "until", "then", "do", "else", "elif", "!", "{",
    ], runs: true, ..NONE },
];

/// By name: every word is looked up.
static PROGRAMS: LazyLock<HashMap<&[u8], &Program>> = LazyLock::new(|| {
    let all = TABLE.iter().flat_map(|program| program.names.iter().map(move |name| (name.as_bytes(), program)));
    all.collect()
});

/// The name in a path.
#[must_use]
pub fn base_name(word: &[u8]) -> &[u8] {
    word.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// A program that is well known.
#[must_use]
pub fn find(word: &[u8]) -> std::option::Option<&'static Program> {
    PROGRAMS.get(base_name(word)).copied()
}

/// The same among the arguments of a program that nobody knows: a path leads to it only if it leads to programs. `/etc/passwd` is a file.
#[must_use]
pub fn find_argument(word: &[u8]) -> std::option::Option<&'static Program> {
    let name = base_name(word);
    let dir = word.get(..word.len() - name.len()).unwrap_or_default();
    // Words that mean much else.
    let common = matches!(name, b"conn" | b"connect" | b"exp" | b"imp" | b"sql" | b"net" | b"mc" | b"machine");
    ((dir.is_empty() || dir.ends_with(b"bin/")) && !common).then(|| find(name)).flatten()
}

impl Program {
    /// Options and operands that say that it reads secrets.
    #[must_use]
    pub fn reads_by(&self, word: &[u8]) -> bool {
        self.reads_with.iter().any(|flag| match flag.as_bytes() {
            [b'-', letter] => short_flag(word, *letter),
            flag => word == flag,
        })
    }
}

/// `-S`, `-nS`.
#[must_use]
pub fn short_flag(word: &[u8], flag: u8) -> bool {
    matches!(word, [b'-', letters @ ..] if letters.iter().all(u8::is_ascii_alphabetic) && letters.contains(&flag))
}
