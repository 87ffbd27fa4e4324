//! Compiles the module's eBPF object, which comes with `ecapture-ebpf`.

fn main() {
    ecapture_ebpf::build_or_exit(ecapture_ebpf::source_dir().join("postgres.bpf.c"));
}
