//! Compiles the kernel side. Needs clang 14 or later, and says so if it is missing.

fn main() {
    ecapture_ebpf::build_or_exit("bpf/module.bpf.c");
}
