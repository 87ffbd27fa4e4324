//! What a program that talks TLS loses by being captured from, and what of it is seen: with nothing, probes that only count,
//! ecapture, bpftrace in turn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use ecapture_tests::capture::{Capture, Modules, children};
use ecapture_tests::target::Program;
use ecapture_tests::tls::Library;

use crate::memory;
use crate::peer::{Bpftrace, Place, first_probe};
use crate::stats::Rounds;

const ROUNDS: usize = 5;

/// `fixtures/targets/tls-load.c`, running.
struct Load {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Load {
    fn start(library: &Library, program: &Program) -> Self {
        let dir = program.path().parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let mut command = library.command(&program.path());
        command.arg(library.path()).arg(library.certificate()).arg(library.key());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the load starts");
        let orders = process.stdin.take().expect("stdin");
        let answers = BufReader::new(process.stdout.take().expect("stdout"));
        Self { process, orders, answers }
    }

    /// Messages a second.
    fn run(&mut self, messages: u64, size: u64) -> f64 {
        writeln!(self.orders, "{messages} {size}").expect("the load runs");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the load runs");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processor time of a capture so far, in seconds.
fn processor_time(broker: u32) -> f64 {
    let processes = std::iter::once(broker).chain(children(broker).into_values());
    let ticks = processes.map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)
    });
    ticks.sum::<u64>() as f64 / 100.0
}

/// The number before these words, in the line of a summary that has the others; 0 if there is none.
fn number_before(said: &str, line: &str, words: &str) -> f64 {
    let line = said.lines().find(|l| l.contains(line)).unwrap_or_default();
    let number = line.split(words).next().and_then(|before| before.rsplit(' ').next()).unwrap_or_default();
    number.replace(',', "").parse().unwrap_or(0.0)
}

/// File offset of an exported function.
fn offset_of(library: &Library, name: &str) -> u64 {
    let bytes = std::fs::read(library.path()).expect("library");
    let elf = ecapture_plugin_api::sdk::elf::Elf::parse(&bytes).expect("library");
    elf.symbol(name).and_then(|symbol| elf.offset(symbol.address)).expect("function")
}

/// One contender's rounds.
#[derive(Default)]
struct Contender {
    rate: Rounds,
    kept: Rounds,
    seen: Rounds,
    cost: Rounds,
}

impl Contender {
    fn push(&mut self, rate: f64, base: f64, seen: f64, cost: f64) {
        self.rate.push(rate);
        self.kept.push(100.0 * rate / base);
        self.seen.push(100.0 * seen);
        self.cost.push(cost * 1e6);
    }
}

pub fn run() {
    let library = Library::installed();
    let program = Program::compile("tls-load.c", "tls-load");
    let modules = Modules::with(&["openssl"]);
    let mut load = Load::start(&library, &program);
    load.run(1000, 64);
    let path = library.text();
    let place = Place::new(load.process.id(), &library.path(), first_probe(&modules, "openssl", &library.path()));
    // Where bpftrace puts its first probe.
    let symbol = Place::new(load.process.id(), &library.path(), offset_of(&library, "SSL_write"));
    let out = library.dir().join("out");
    let file = out.display().to_string();
    let both = |probe: &str| format!("{probe}:{path}:SSL_write, {probe}:{path}:SSL_read");
    let counting = format!("{} {{ @e = count(); }} {} {{ @x = count(); }}", both("uprobe"), both("uretprobe"));
    let printing = format!(
        "{} {{ @b[tid] = arg1; }} {} /@b[tid]/ {{ $n = (int32)retval; if ($n > 0) {{ printf(\"call %d %d %r\\n\", tid, $n, \
         buf(@b[tid], $n)); }} delete(@b[tid]); }}",
        both("uprobe"),
        both("uretprobe")
    );
    for (messages, size) in [(300_000_u64, 64_u64), (20_000, 16_384), (300, 1 << 20)] {
        let mut contenders: [(&str, Contender); 5] = Default::default();
        let names =
            ["ecapture, JSON file", "ecapture, -o none", "ecapture, --record", "bpftrace counts", "bpftrace prints"];
        contenders.iter_mut().zip(names).for_each(|(c, name)| c.0 = name);
        let mut nothing = Rounds::default();
        let mut memory = memory::Samples::default();
        for _ in 0..ROUNDS {
            let before = load.run(messages, size);
            let mut round = Vec::new();
            let ways: [&[&str]; 3] =
                [&["-o", "json", "-w", &file], &["-o", "none"], &["-o", "none", "--record", &file]];
            for way in ways {
                let _ = std::fs::remove_file(&out);
                let capture =
                    Capture::start(&modules, &[&["tls", "--libssl", &path, "--no-new-targets"], way].concat());
                let started = processor_time(capture.pid());
                let rate = load.run(messages, size);
                std::thread::sleep(std::time::Duration::from_millis(500));
                let spent = processor_time(capture.pid()) - started;
                memory.take(capture.pid());
                let finished = capture.stop();
                let seen = number_before(&finished.said, "events from", " messages");
                let lost = number_before(&finished.said, " messages lost", " messages lost");
                round.push((rate, seen / (seen + lost), spent / seen));
                place.wait(false);
            }
            for (program, mark) in [(&counting, ""), (&printing, "call ")] {
                let mut peer = Bpftrace::start(program, &out);
                symbol.wait(true);
                let rate = load.run(messages, size);
                if !mark.is_empty() {
                    memory.peer(peer.pid());
                }
                let seen = peer.stop(mark);
                round.push((rate, if mark.is_empty() { 1.0 } else { seen as f64 / (2 * messages) as f64 }, 0.0));
                symbol.wait(false);
            }
            // What the machine can do at this moment: once before and once after.
            let base = f64::midpoint(before, load.run(messages, size));
            nothing.push(base);
            for (contender, (rate, seen, cost)) in contenders.iter_mut().zip(round) {
                contender.1.push(rate, base, seen, cost);
            }
        }
        println!("{size} bytes, {messages} messages a round, {ROUNDS} rounds; messages/s");
        println!("  nothing              {nothing}");
        for (name, contender) in &contenders {
            println!("  {name:20} {}   kept {} %", contender.rate, contender.kept);
            if !name.contains("counts") {
                print!("  {:20} seen {} %", "", contender.seen);
                match name.starts_with("ecapture") {
                    true => println!("   processor time a message {} us", contender.cost),
                    // Long messages are read in parts: there are more calls than messages.
                    false if size > 16_384 => println!(" of the messages, in lines cut at 200 bytes"),
                    false => println!(" (cut at 200 bytes)"),
                }
            }
        }
        memory.print();
    }
}
