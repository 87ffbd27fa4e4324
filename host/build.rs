//! Compiles the host's own eBPF object.

fn main() {
    ecapture_ebpf::build_or_exit(ecapture_ebpf::source_dir().join("core.bpf.c"));
}
