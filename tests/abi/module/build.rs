//! Compiles the eBPF object.

fn main() {
    ecapture_ebpf::build_or_exit("bpf/steady.bpf.c");
}
