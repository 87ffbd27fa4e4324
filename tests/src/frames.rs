//! Frames out of capture files, ours (pcapng) and tcpdump's (pcap), read by code that shares nothing with the program's; and network
//! namespaces with a veth pair between them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A frame as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Name of its interface; empty in a file that does not say.
    pub interface: String,
    /// Link type of the interface.
    pub link_type: u16,
    /// Length on the wire.
    pub wire: u32,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Time of day, ns.
    pub time_ns: u64,
    /// Outbound, if that is said.
    pub outbound: Option<bool>,
    /// Its first comment.
    pub comment: String,
    /// All of them, each on a line.
    pub comments: String,
}

impl Frame {
    /// The process in its comment.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.comment.split("pid=").nth(1)?.split(' ').next()?.parse().ok()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// Options behind the fixed part of a block: code and value.
fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    while bytes.len() >= 4 && half(bytes, 0) != 0 {
        let length = usize::from(half(bytes, 2));
        out.push((half(bytes, 0), bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length.next_multiple_of(4)..];
    }
    out
}

/// Every frame of a pcapng file, in its order.
///
/// # Panics
/// If it is none, or is cut short.
#[must_use]
pub fn pcapng(path: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut interfaces, mut frames): (usize, Vec<(String, u16)>, Vec<Frame>) = (0, Vec::new(), Vec::new());
    assert!(bytes.len() >= 28 && word(&bytes, 0) == 0x0a0d_0d0a && word(&bytes, 8) == 0x1a2b_3c4d, "no pcapng file");
    while at < bytes.len() {
        let length = word(&bytes, at + 4) as usize;
        let block = &bytes[at..at + length];
        assert_eq!(word(block, length - 4) as usize, length, "a block that ends otherwise than it begins");
        let body = &block[8..length - 4];
        match word(block, 0) {
            1 => {
                let options = options(&body[8..]);
                let name = options.iter().find(|o| o.0 == 2).map(|o| String::from_utf8_lossy(&o.1).into_owned());
                assert!(options.iter().any(|o| o.0 == 9 && o.1 == [9]), "times in nanoseconds");
                interfaces.push((name.unwrap_or_default(), half(body, 0)));
            }
            6 => {
                let (interface, link_type) = interfaces[word(body, 0) as usize].clone();
                let captured = word(body, 12) as usize;
                let options = options(&body[20 + captured.next_multiple_of(4)..]);
                let comments = options.iter().filter(|o| o.0 == 1).map(|o| String::from_utf8_lossy(&o.1).into_owned());
                let comments = comments.collect::<Vec<_>>().join("\n");
                let of = |code| options.iter().find(|o| o.0 == code).map(|o| o.1.clone());
                frames.push(Frame {
                    interface,
                    link_type,
                    wire: word(body, 16),
                    data: body[20..20 + captured].to_vec(),
                    time_ns: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
                    outbound: of(2).map(|flags| flags[0] & 3 == 2),
                    comment: comments.lines().next().unwrap_or_default().to_owned(),
                    comments,
                });
            }
            _ => {}
        }
        at += length;
    }
    frames
}

/// Every frame of a file of tcpdump.
///
/// # Panics
/// If it is none, or is cut short.
#[must_use]
pub fn pcap(path: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(word(&bytes, 0), 0xa1b2_3c4d, "a file with nanoseconds");
    let (mut at, mut frames) = (24, Vec::new());
    while at < bytes.len() {
        let captured = word(&bytes, at + 8) as usize;
        frames.push(Frame {
            interface: String::new(),
            link_type: half(&bytes, 20),
            wire: word(&bytes, at + 12),
            data: bytes[at + 16..at + 16 + captured].to_vec(),
            time_ns: u64::from(word(&bytes, at)) * 1_000_000_000 + u64::from(word(&bytes, at + 4)),
            outbound: None,
            comment: String::new(),
            comments: String::new(),
        });
        at += 16 + captured;
    }
    frames
}

/// How often each frame is there.
#[must_use]
pub fn counted<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> BTreeMap<(u32, &'a [u8]), usize> {
    let mut counted = BTreeMap::new();
    for frame in frames {
        *counted.entry((frame.wire, frame.data.as_slice())).or_insert(0) += 1;
    }
    counted
}

/// Numbers of the interfaces that some running program counts frames of, as bpftool shows it.
///
/// # Panics
/// If there is no bpftool.
#[must_use]
pub fn counted_interfaces() -> BTreeSet<u32> {
    let bpftool = |args: &[&str]| -> Vec<serde_json::Value> {
        let shown = Command::new("/usr/sbin/bpftool").arg("-j").args(args).output().expect("bpftool");
        serde_json::from_slice(&shown.stdout).unwrap_or_default()
    };
    let byte = |digits: &serde_json::Value| u8::from_str_radix(digits.as_str()?.trim_start_matches("0x"), 16).ok();
    let number = |entry: &serde_json::Value| {
        let key: Option<Vec<u8>> = entry["key"].as_array()?.iter().map(byte).collect();
        Some(u32::from_ne_bytes(key?.try_into().ok()?))
    };
    let maps = bpftool(&["map", "show"]).into_iter().filter(|map| map["name"] == "packets_interfa");
    let entries = maps.flat_map(|map| bpftool(&["map", "dump", "id", &map["id"].to_string()]));
    entries.filter_map(|entry| number(&entry)).collect()
}

/// Two network namespaces with a veth pair between them: `v0` with 10.77.0.1 and fd77::1, and `v1` with 10.77.0.2 and fd77::2.
/// Gone when dropped.
pub struct Namespaces {
    names: [String; 2],
    dir: TempDir,
}

impl Namespaces {
    /// Makes them; the reason why not, for a skip.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn make(test: &str) -> Result<Self, String> {
        let base = format!("ecap-{}-{test}", std::process::id());
        let dir = tempfile::Builder::new().prefix("ecapture-net-").tempdir().map_err(|e| e.to_string())?;
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())?;
        let this = Self { names: [format!("{base}-a"), format!("{base}-b")], dir };
        let [a, b] = &this.names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["-n", a, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", b])?;
        for (name, link, end) in [(a, "v0", 1), (b, "v1", 2)] {
            // The kernel's own words, router solicitations and the like, come when they like.
            this.run(usize::from(end == 2), "sysctl", &["-qw", "net.ipv6.conf.all.router_solicitations=0"]);
            ip(&["-n", name, "addr", "add", &format!("10.77.0.{end}/24"), "dev", link])?;
            ip(&["-n", name, "addr", "add", &format!("fd77::{end}/64"), "dev", link, "nodad"])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(this)
    }

    /// A command in one of them (0 or 1). Its `/sys` stays that of the machine.
    #[must_use]
    pub fn command(&self, which: usize, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.names[which])).arg("--").arg(program).args(args);
        command
    }

    /// Runs a command in one of them to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, which: usize, program: &str, args: &[&str]) -> Output {
        self.command(which, program, args).output().expect("nsenter")
    }

    /// `ip`, in one of them.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, which: usize, args: &[&str]) {
        ip(&[&["-n", &self.names[which]], args].concat()).unwrap();
    }

    /// A program that is another one in one of them, with the same process id.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn wrapped(&self, which: usize, program: &Path) -> PathBuf {
        let path = self.dir.path().join(format!("in-{which}"));
        let (name, program) = (&self.names[which], program.display());
        let text = format!("#!/bin/sh\nexec nsenter --net=/run/netns/{name} -- {program} \"$@\"\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let done = Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
}
