//! The program as Wireshark starts it: an interface of Wireshark's list, whose packets come with their secrets ("extcap").
//!
//! Wireshark asks with options of its own what there is (`--extcap-interfaces`, `--extcap-dlts`, `--extcap-config`), and starts a capture into a
//! named pipe (`--capture --fifo`). A capture is that of `ecapture tls -m pcapng`: here its command line is made, and nothing else
//! is different, but that of the summary only what is missing is said: Wireshark shows everything that stands on stderr as an error. The grammar: <https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html>.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::failure::{Exit, Failure};

/// Its name in Wireshark's list.
const INTERFACE: &str = "ecapture";
const DISPLAY: &str = "TLS with keys (ecapture)";
/// Wireshark opens its end of the pipe some time after it has started us.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Wireshark asked for.
pub enum Asked {
    /// Nothing: the program was started by somebody else.
    Nothing,
    /// A question; the answer for stdout.
    Answer(String),
    /// Whether this is a packet filter; if so, the answer is no word, else why not.
    Filter(String),
    /// A capture: the command line that makes it, and the pipe, to be held open until the capture has it open itself.
    Capture(Vec<OsString>, File),
}

/// Reads the arguments. Options of the program itself that say where modules are may stand among them.
///
/// # Errors
/// `E-USAGE`; `E-OUTPUT` if nobody opens the pipe.
pub fn read(args: &[OsString]) -> Result<Asked, Failure> {
    let ours = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.starts_with("--extcap-"));
    if !args.iter().skip(1).any(ours) {
        return Ok(Asked::Nothing);
    }
    let usage = |text: String| Failure::new("E-USAGE", text).exit(Exit::Usage);
    let matches = command().try_get_matches_from(args).map_err(|e| usage(e.to_string()))?;
    if matches.get_flag("extcap-interfaces") {
        return Ok(Asked::Answer(interfaces()));
    }
    let interface = matches.get_one::<String>("extcap-interface").map(String::as_str);
    if interface != Some(INTERFACE) {
        let text = format!("there is no interface {:?} here, only {INTERFACE}", interface.unwrap_or_default());
        return Err(usage(text));
    }
    if matches.get_flag("extcap-dlts") {
        return Ok(Asked::Answer("dlt {number=1}{name=EN10MB}{display=Ethernet}\n".into()));
    }
    if matches.get_flag("extcap-config") {
        return Ok(Asked::Answer(config()));
    }
    if !matches.get_flag("capture") {
        let filter = matches.get_one::<String>("extcap-capture-filter").cloned();
        return Ok(filter.map_or(Asked::Answer(String::new()), Asked::Filter));
    }
    let fifo = matches.get_one::<OsString>("fifo").ok_or_else(|| usage("--capture needs --fifo".into()))?;
    let held = open(Path::new(fifo))?;
    Ok(Asked::Capture(capture(&matches, fifo), held))
}

/// What Wireshark's dialog offers, by the names of our own options: `arg` sentences without their number.
const CONFIG: [(&str, &str); 5] = [
    (
        "interface",
        "{display=Network interfaces}{type=string}{tooltip=A list: lo,eth0. Empty: all that are up}{placeholder=all}",
    ),
    (
        "pid",
        "{display=Processes}{type=string}{tooltip=Only these processes and their later children: a list of process ids}{placeholder=all}",
    ),
    ("comm", "{display=Names of threads}{type=string}{tooltip=Only threads of this name: a list}{placeholder=all}"),
    (
        "container",
        "{display=Containers}{type=string}{tooltip=Only these containers, by the first digits of their ids}{placeholder=all}",
    ),
    (
        "unowned-packets",
        "{display=Also packets of unknown processes}{type=boolflag}{tooltip=With a choice of processes: also packets of which it is not known whose they are}{default=false}",
    ),
];

fn interfaces() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let help = env!("CARGO_PKG_REPOSITORY");
    format!(
        "extcap {{version={version}}}{{help={help}}}{{display=ecapture}}\ninterface {{value={INTERFACE}}}{{display={DISPLAY}}}\n"
    )
}

fn config() -> String {
    let lines = CONFIG.iter().enumerate();
    lines.map(|(number, (option, rest))| format!("arg {{number={number}}}{{call=--{option}}}{rest}\n")).collect()
}

fn command() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let value = |name: &'static str| Arg::new(name).long(name).num_args(1);
    let choices = CONFIG.iter().map(|(name, rest)| if rest.contains("boolflag") { flag(name) } else { value(name) });
    Command::new("ecapture")
        .disable_help_flag(true)
        .args(["extcap-interfaces", "extcap-dlts", "extcap-config", "capture", "allow-untrusted"].map(flag))
        .args(["extcap-version", "extcap-interface", "extcap-capture-filter", "modules-dir", "config"].map(value))
        .arg(value("fifo").value_parser(clap::value_parser!(OsString)))
        .args(choices)
}

/// The command line of the capture.
fn capture(matches: &ArgMatches, fifo: &OsStr) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["ecapture", "tls", "--mode", "pcapng", "--quiet", "--write"].map(Into::into).into();
    args.push(fifo.into());
    let text = |name: &str| matches.get_one::<String>(name).filter(|value| !value.is_empty());
    for name in ["modules-dir", "config"].into_iter().chain(CONFIG.iter().map(|(name, _)| *name)) {
        let given = matches!(matches.try_get_one::<bool>(name), Ok(Some(true)));
        match matches.try_get_one::<String>(name) {
            Ok(Some(value)) if !value.is_empty() => args.push(format!("--{name}={value}").into()),
            _ if given => args.push(format!("--{name}").into()),
            _ => {}
        }
    }
    if matches.get_flag("allow-untrusted") {
        args.push("--allow-untrusted".into());
    }
    if let Some(filter) = text("extcap-capture-filter") {
        args.push(format!("--packet-filter={filter}").into());
    }
    args
}

/// Opens the pipe as soon as Wireshark has opened its end.
fn open(path: &Path) -> Result<File, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(file) => return Ok(file),
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(Failure::new("E-OUTPUT", format!("cannot write to {}: {e}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Asked, Failure> {
        read(&[&["ecapture"], words].concat().iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn answer(words: &[&str]) -> String {
        match read_words(words) {
            Ok(Asked::Answer(text)) => text,
            _ => panic!("{words:?}"),
        }
    }

    #[test]
    fn questions_are_answered() {
        let listed = answer(&["--extcap-interfaces", "--extcap-version=4.0"]);
        assert!(listed.contains("interface {value=ecapture}{display=TLS with keys (ecapture)}"), "{listed}");
        assert_eq!(answer(&["--extcap-interfaces"]), listed);
        let dlts = answer(&["--extcap-interface", "ecapture", "--extcap-dlts"]);
        assert!(dlts.starts_with("dlt {number=1}"), "{dlts}");
        let config = answer(&["--extcap-config", "--extcap-interface=ecapture"]);
        assert_eq!(config.lines().filter(|line| line.starts_with("arg {number=")).count(), CONFIG.len());
        let asked = read_words(&["--extcap-interface", "ecapture", "--extcap-capture-filter", "tcp port 1"]);
        assert!(matches!(asked, Ok(Asked::Filter(filter)) if filter == "tcp port 1"));
        assert_eq!(answer(&["--extcap-interface", "ecapture"]), "");
        assert!(matches!(read_words(&["tls", "-m", "pcapng"]), Ok(Asked::Nothing)));
        for wrong in [&["--extcap-interface", "lo", "--extcap-dlts"][..], &["--extcap-nothing"], &["--extcap-dlts"]] {
            let failure = read_words(wrong).err().unwrap();
            assert_eq!((failure.code, failure.exit), ("E-USAGE", Exit::Usage), "{wrong:?}");
        }
    }

    #[test]
    fn a_capture_is_a_command_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let path = fifo.to_str().unwrap();
        let words =
            ["--capture", "--extcap-interface", "ecapture", "--fifo", path, "--extcap-capture-filter", "tcp port 443"];
        let more =
            ["--interface", "lo,eth0", "--pid", "", "--unowned-packets", "--modules-dir", "/d", "--allow-untrusted"];
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                File::open(fifo).unwrap()
            })
        };
        let Ok(Asked::Capture(args, _held)) = read_words(&[&words[..], &more].concat()) else { panic!() };
        reader.join().unwrap();
        let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let expected = ["ecapture", "tls", "--mode", "pcapng", "--quiet", "--write", path];
        assert_eq!(args[..7], expected);
        let rest = ["--modules-dir=/d", "--interface=lo,eth0", "--unowned-packets", "--allow-untrusted"];
        assert_eq!(args[7..], [&rest[..], &["--packet-filter=tcp port 443"]].concat());
    }
}
