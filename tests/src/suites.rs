//! Programs and libraries of other Debian suites, each in a root of its own with all that they need.
//!
//! A private package root: own list of sources, own lists, nothing installed, so that the package manager works out the
//! whole closure of dependencies down to the suite's libc; then downloaded and unpacked, not installed. Kept under
//! `target/suites`; only the first run needs the network, and `rm -r target/suites` fetches anew. The mirror is the one
//! that this machine's own sources name.
//!
//! Not here: how a program of such a root is run (`container`).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// Who signs Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What nobody needs of a root: half of its files.
const DROPPED: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"];

/// A suite of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// 11: MariaDB 10.5, OpenSSL 1.1.1, PostgreSQL 13.
    Bullseye,
    /// 12: MariaDB 10.11, OpenSSL 3.0, PostgreSQL 15.
    Bookworm,
    /// 13: MariaDB 11.8, OpenSSL 3.5, PostgreSQL 17.
    Trixie,
    /// What is being made: MySQL 9, the newest of everything.
    Sid,
}

impl Suite {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// A directory with these packages and everything they depend on, unpacked.
    ///
    /// # Errors
    /// Why the suite can't be had here: a reason to skip a test.
    ///
    /// # Panics
    /// If there is no room for it, or what was fetched cannot be unpacked.
    pub fn root(self, packages: &[&str]) -> Result<Root, String> {
        let suite = cache().join(self.name());
        fs::create_dir_all(&suite).unwrap_or_else(|e| panic!("{}: {e}", suite.display()));
        let path = suite.join(packages.join("+"));
        let lock = File::create(suite.join("lock")).expect("lock");
        flock(&lock, FlockOperation::LockExclusive).expect("lock");
        if !path.exists() {
            self.fetch(&suite, &path, packages)?;
        }
        Ok(Root { path })
    }

    /// Makes `path`, whole or not at all.
    fn fetch(self, suite: &Path, path: &Path, packages: &[&str]) -> Result<(), String> {
        let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(suite).expect("temporary directory");
        let archives = self.download(work.path(), packages)?;
        let root = work.path().join("root");
        // Since bookworm nearly all is below /usr, and a package that nothing depends on makes these links.
        for dir in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(dir)).expect("directory");
            symlink(Path::new("usr").join(dir), root.join(dir)).expect("link");
        }
        for archive in &archives {
            let status = Command::new("dpkg").arg("-x").arg(archive).arg(&root).status().expect("dpkg");
            assert!(status.success(), "{} is no package", archive.display());
        }
        for dropped in DROPPED {
            let _ = fs::remove_dir_all(root.join(dropped));
        }
        fs::rename(&root, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Ok(())
    }

    /// The packages and all that they depend on, as files.
    fn download(self, work: &Path, packages: &[&str]) -> Result<Vec<PathBuf>, String> {
        if !Path::new(KEYRING).exists() {
            return Err(format!("needs {KEYRING} (package debian-archive-keyring)"));
        }
        for dir in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(work.join(dir)).expect("directory");
        }
        let mirror = mirror().ok_or("needs a Debian mirror among this machine's package sources")?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {} main\n", self.name());
        fs::write(work.join("sources.list"), source).expect("sources");
        fs::write(work.join("status"), "").expect("status");
        fs::write(work.join("apt.conf"), configuration(work)).expect("configuration");
        self.apt(work, &["update"])?;
        let install = ["install", "--yes", "--download-only", "--no-install-recommends"];
        self.apt(work, &[&install, packages].concat())?;
        let files = fs::read_dir(work.join("archives")).expect("archives").flatten().map(|entry| entry.path());
        let mut archives: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "deb")).collect();
        archives.sort();
        Ok(archives)
    }

    fn apt(self, work: &Path, args: &[&str]) -> Result<(), String> {
        let output = Command::new("timeout")
            .args(["150", "apt-get", "--quiet"])
            .args(args)
            .env("APT_CONFIG", work.join("apt.conf"))
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| format!("needs apt-get: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        // An update that reached nothing is a success with warnings.
        if output.status.success() && !said.contains("Failed to fetch") {
            return Ok(());
        }
        let why = said.lines().find(|line| line.starts_with("E:") || line.starts_with("W:")).unwrap_or("no word why");
        Err(format!("Debian {}: apt-get {} failed: {why}", self.name(), args.first().unwrap_or(&"")))
    }
}

/// Packages of a suite, unpacked. Nothing in it may be changed: all tests share it.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory beside it that is made once and then kept, like it: what a program makes of an empty directory and
    /// takes long for.
    ///
    /// # Panics
    /// If `make` does.
    #[must_use]
    pub fn keep(&self, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let mut kept = self.path.clone().into_os_string();
        kept.push(format!(".{name}"));
        let kept = PathBuf::from(kept);
        let suite = self.path.parent().expect("a suite");
        let lock = File::create(suite.join("lock")).expect("lock");
        flock(&lock, FlockOperation::LockExclusive).expect("lock");
        if !kept.exists() {
            let work = tempfile::Builder::new().prefix("keep-").tempdir_in(suite).expect("temporary directory");
            make(work.path());
            fs::rename(work.keep(), &kept).unwrap_or_else(|e| panic!("{}: {e}", kept.display()));
        }
        kept
    }

    /// A copy for one test, removed when dropped. Files are shared by hard links, but for those named (below the root),
    /// which are copied: a probe sits in a file, whatever its name, and only the test's own is to have one.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn copy(&self, own: &[&str]) -> TempDir {
        let copies = cache().join("copies");
        fs::create_dir_all(&copies).unwrap_or_else(|e| panic!("{}: {e}", copies.display()));
        let copy = tempfile::Builder::new().prefix("root-").tempdir_in(&copies).expect("temporary directory");
        link_tree(&self.path, copy.path());
        for file in own {
            let file = file.trim_start_matches('/');
            let to = copy.path().join(file);
            fs::remove_file(&to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
            fs::copy(self.path.join(file), &to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
        }
        copy
    }
}

fn link_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let (here, there) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("type of a file");
        let done = if kind.is_dir() {
            let made = fs::create_dir(&there);
            link_tree(&here, &there);
            made
        } else if kind.is_symlink() {
            fs::read_link(&here).and_then(|target| symlink(target, &there))
        } else {
            fs::hard_link(&here, &there)
        };
        done.unwrap_or_else(|e| panic!("{}: {e}", there.display()));
    }
}

fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the source tree").join("target");
    target.join("suites")
}

/// Where this machine takes Debian's packages from: the first source whose path is `debian`.
fn mirror() -> Option<String> {
    let list = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = list.collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| mirrors_in(&text)).next()
}

/// The Debian mirrors in a file of sources, one-line or deb822.
fn mirrors_in(text: &str) -> Vec<String> {
    let words = text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    let is_mirror = |word: &&str| {
        let path = word.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
        word.starts_with("http") && path.is_some_and(|path| path.trim_end_matches('/').ends_with("debian"))
    };
    words.filter(is_mirror).map(str::to_owned).collect()
}

/// The package manager's configuration: everything of its own, but how this machine reaches the network.
fn configuration(work: &Path) -> String {
    let network = Command::new("apt-config").args(["dump", "Acquire"]).output().map(|output| output.stdout);
    let network = String::from_utf8_lossy(&network.unwrap_or_default()).into_owned();
    let mut text = String::new();
    for line in network.lines().filter(|line| line.starts_with("Acquire::http")) {
        let _ = writeln!(text, "{line}");
    }
    let own = work.display();
    for (key, value) in [
        ("Dir::Etc::main", "/dev/null".to_owned()),
        ("Dir::Etc::parts", "/dev/null".to_owned()),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::Etc::sourcelist", format!("{own}/sources.list")),
        ("Dir::State", own.to_string()),
        ("Dir::State::lists", format!("{own}/lists")),
        ("Dir::State::status", format!("{own}/status")),
        ("Dir::Cache", own.to_string()),
        ("Dir::Cache::archives", format!("{own}/archives")),
        ("APT::Sandbox::User", "root".to_owned()),
        ("APT::Architecture", "amd64".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        ("Acquire::Retries", "2".to_owned()),
        ("Acquire::http::Timeout", "15".to_owned()),
        // Suites that are no longer made keep their last signature.
        ("Acquire::Check-Valid-Until", "false".to_owned()),
    ] {
        let _ = writeln!(text, "{key} \"{value}\";");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_both_forms_of_sources() {
        let deb822 =
            "Types: deb\n# http://old.example/archive/debian/2025\nURIs: http://mirror.example/debian\nSuites: x";
        assert_eq!(mirrors_in(deb822), ["http://mirror.example/debian"]);
        let one_line = "# deb http://no.example/debian x main\ndeb [signed-by=/x] https://m.example/pub/debian/ x main";
        assert_eq!(mirrors_in(one_line), ["https://m.example/pub/debian/"]);
        assert!(
            mirrors_in("URIs: http://m.example/debian-security\ndeb https://m.example/node_20.x n main").is_empty()
        );
    }
}
