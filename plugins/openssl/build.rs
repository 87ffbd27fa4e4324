//! Compiles the module's eBPF objects, which come with `ecapture-ebpf`.

fn main() {
    for object in ["openssl", "openssl_keylog"] {
        ecapture_ebpf::build_or_exit(ecapture_ebpf::source_dir().join(format!("{object}.bpf.c")));
    }
}
