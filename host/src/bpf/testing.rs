//! Objects and targets for the tests of this folder, compiled when they run. Without a compiler they answer `None` and say
//! which test was skipped.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What the objects below start with: no header of anybody is needed.
pub const PRELUDE: &str = r#"
typedef unsigned char u8; typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(n) __attribute__((section(n), used))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define CORE __attribute__((preserve_access_index))
struct pt_regs { unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss; };
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*ktime)(void) = (void *)5;
static long (*printk)(const char *fmt, u32 size, ...) = (void *)6;
static u64 (*pid_tgid)(void) = (void *)14;
static long (*write_user)(void *to, const void *from, u32 len) = (void *)36;
static u64 (*cookie)(void *ctx) = (void *)174;
static void *(*reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*submit)(void *data, u64 flags) = (void *)132;
static void (*discard)(void *data, u64 flags) = (void *)133;
static void *(*storage)(void *map, void *task, void *value, u64 flags) = (void *)156;
static void *(*task_btf)(void) = (void *)158;
char LICENSE[] SEC("license") = "GPL";
"#;

/// Counts calls, pairs entries with returns, and reports each call through the host's maps.
pub const CAPTURE: &str = r#"
struct counters { u64 n[512]; };
struct layout { u32 valid, factor; u64 unused[3]; };
struct { __uint(type, 27); __uint(max_entries, 65536); } ecap_events SEC(".maps");
struct { __uint(type, 2); __uint(map_flags, 1024); __uint(max_entries, 1); __type(key, u32); __type(value, struct counters); } ecap_counters SEC(".maps");
struct { __uint(type, 2); __uint(max_entries, 64); __type(key, u32); __type(value, struct layout); } ecap_layouts SEC(".maps");
struct { __uint(type, 29); __uint(map_flags, 1); __type(key, int); __type(value, u64); } calls SEC(".maps");
struct { __uint(type, 1); __uint(max_entries, 16); __type(key, u32); __type(value, u32); } own SEC(".maps");
const volatile u32 filter_pid;
const volatile u64 salt = 7;
struct task_struct { int pid, tgid; } CORE;
struct event { u64 cookie, argument, result, factor; };

static __attribute__((noinline)) void count(u32 which)
{
	u32 zero = 0;
	struct counters *c = map_lookup(&ecap_counters, &zero);
	if (c && which < 512)
		__sync_fetch_and_add(&c->n[which], 1);
}
static __attribute__((always_inline)) int wanted(void) { return !filter_pid || filter_pid == pid_tgid() >> 32; }

SEC("uprobe") int on_entry(struct pt_regs *ctx)
{
	if (!wanted()) return 0;
	count(0);
	u64 *arg = storage(&calls, task_btf(), 0, 1);
	if (arg) *arg = ctx->di;
	return 0;
}
SEC("uretprobe") int on_return(struct pt_regs *ctx)
{
	if (!wanted()) return 0;
	u64 c = cookie(ctx);
	u32 target = c;
	struct layout *row = map_lookup(&ecap_layouts, &target);
	u64 *arg = storage(&calls, task_btf(), 0, 0);
	if (!row || !row->valid || !arg) { count(3); return 0; }
	struct event *given_up = reserve(&ecap_events, 24, 0);
	if (given_up) discard(given_up, 1);
	struct event *e = reserve(&ecap_events, sizeof(*e), 0);
	if (!e) { count(2); return 0; }
	e->cookie = c; e->argument = *arg; e->result = ctx->ax + salt; e->factor = row->factor;
	submit(e, 1);
	count(1);
	return 0;
}
SEC("tp_btf/sched_process_fork") int on_fork(u64 *ctx)
{
	struct task_struct *parent = (void *)ctx[0], *child = (void *)ctx[1];
	if (filter_pid && parent->tgid == filter_pid && child->tgid != parent->tgid) count(4);
	return 0;
}
SEC("tracepoint/syscalls/sys_enter_getppid") int on_getppid(void *ctx) { if (wanted()) count(5); return 0; }
"#;

/// A program that calls `work` as often as each line of its input says, and answers each line.
const TARGET: &str = r#"
#include <stdio.h>
__attribute__((noinline)) long work(long n) { __asm__ volatile("" ::: "memory"); return n * 3; }
__attribute__((noinline)) long other(long n) { __asm__ volatile("" ::: "memory"); return n + 1; }
int main(void)
{
	long n, sum = 0;
	puts("ready"); fflush(stdout);
	while (scanf("%ld", &n) == 1) {
		for (long i = 0; i < n; i++) sum += work(i) + other(i);
		printf("%ld\n", sum); fflush(stdout);
	}
	return 0;
}
"#;

fn run(test: &str, tool: &str, args: &[&str], source: &str, out: &Path) -> Option<()> {
    let from = out.with_extension("c");
    fs::write(&from, source).expect("the temporary directory is writable");
    let done = Command::new(tool).args(args).arg(&from).arg("-o").arg(out).output();
    let Ok(done) = done else {
        eprintln!("SKIPPED {test}: {tool} is not installed");
        return None;
    };
    assert!(done.status.success(), "{tool}: {}", String::from_utf8_lossy(&done.stderr));
    Some(())
}

/// The object file of `PRELUDE` and `source`.
pub fn object(test: &str, source: &str) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let out = dir.path().join("object.o");
    let args = ["-target", "bpf", "-g", "-O2", "-Werror=implicit-function-declaration", "-c"];
    run(test, "clang-14", &args, &format!("{PRELUDE}{source}"), &out)?;
    Some(fs::read(&out).expect("clang wrote its output"))
}

/// A private program in a directory of its own.
pub struct Target {
    dir: tempfile::TempDir,
}

impl Target {
    pub fn build(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        run(test, "gcc", &["-O2", "-no-pie", "-fcf-protection=none"], TARGET, &dir.path().join("target"))?;
        Some(Self { dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    pub fn open(&self) -> File {
        File::open(self.path()).expect("the target is there")
    }

    /// File offset and address of a function.
    pub fn function(&self, name: &str) -> (u64, u64) {
        let bytes = fs::read(self.path()).expect("the target is there");
        let elf = goblin::elf::Elf::parse(&bytes).expect("gcc writes ELF files");
        let symbol = elf.syms.iter().find(|s| elf.strtab.get_at(s.st_name) == Some(name)).expect("not stripped");
        let load = elf.program_headers.iter().find(|p| p.vm_range().contains(&(symbol.st_value as usize)));
        (symbol.st_value - load.map_or(0, |p| p.p_vaddr - p.p_offset), symbol.st_value)
    }

    pub fn start(&self) -> Running {
        let mut child =
            Command::new(self.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the target runs");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut running = Running { child, input, output: BufReader::new(output) };
        assert_eq!(running.line(), "ready");
        running
    }
}

pub struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the target answers");
        line.trim().to_owned()
    }

    /// Lets it call `work` so often.
    pub fn calls(&mut self, n: u32) {
        writeln!(self.input, "{n}").expect("the target listens");
        assert!(!self.line().is_empty(), "the target died");
    }

    /// The byte at an address of its memory: 0xcc where a probe is armed.
    pub fn byte(&self, address: u64) -> u8 {
        use std::os::unix::fs::FileExt;
        let mut byte = [0];
        let memory = File::open(format!("/proc/{}/mem", self.pid())).expect("our own child");
        memory.read_exact_at(&mut byte, address).expect("mapped");
        byte[0]
    }

    /// No probe is armed at an address. Asked for a while: a process that another test is just starting holds copies of our
    /// descriptors, so of links that we have dropped, until its `exec`.
    pub fn disarmed(&self, address: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        while self.byte(address) == 0xcc && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        self.byte(address) != 0xcc
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// xorshift64: the same mutations in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Changes one to eight bytes, now and then cuts the end off.
    pub fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(out.len());
            out[at] = match self.below(4) {
                0 => 0,
                1 => 0xff,
                2 => out[at] ^ (1 << self.below(8)),
                _ => self.below(256) as u8,
            };
        }
        if self.below(20) == 0 {
            out.truncate(self.below(bytes.len()));
        }
        out
    }
}
