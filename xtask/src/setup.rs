//! Installs what is missing, on Debian and its kin; elsewhere names it and stops.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// A program that is needed, any of these paths, and the package that has it.
struct Need {
    paths: &'static [&'static str],
    package: &'static str,
    why: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        paths: &[
            "/usr/bin/clang",
            "/usr/bin/clang-14",
            "/usr/bin/clang-15",
            "/usr/bin/clang-16",
            "/usr/bin/clang-17",
            "/usr/bin/clang-18",
            "/usr/bin/clang-19",
        ],
        package: "clang",
        why: "compiles the eBPF objects",
    },
    Need { paths: &["/usr/bin/llvm-strip", "/usr/bin/llvm-strip-14"], package: "llvm", why: "strips the eBPF objects" },
    Need { paths: &["/usr/bin/gcc"], package: "gcc", why: "builds the programs that tests look at" },
    Need {
        paths: &["/usr/sbin/mariadbd"],
        package: "mariadb-server-core",
        why: "is what the demo and the tests capture from",
    },
    Need { paths: &["/usr/bin/mariadb-slap"], package: "mariadb-client", why: "is a load in the tests" },
    Need { paths: &["/usr/bin/python3"], package: "python3", why: "is captured from through SQLite" },
    Need {
        paths: &["/usr/lib/postgresql/15/bin/postgres"],
        package: "postgresql-15",
        why: "is captured from in the tests",
    },
    Need { paths: &["/usr/bin/sqlite3"], package: "sqlite3", why: "is captured from as well" },
    Need { paths: &["/usr/bin/openssl"], package: "openssl", why: "makes the certificates of the tests" },
    Need {
        paths: &["/usr/include/openssl/ssl.h"],
        package: "libssl-dev",
        why: "is what programs of the tests are built with",
    },
    Need { paths: &["/usr/bin/curl"], package: "curl", why: "is captured from through OpenSSL" },
    Need { paths: &["/usr/sbin/nginx"], package: "nginx-light", why: "is captured from as well" },
    Need { paths: &["/usr/bin/h2load"], package: "nghttp2-client", why: "speaks HTTP/2 in the tests" },
    Need { paths: &["/usr/sbin/nghttpd"], package: "nghttp2-server", why: "speaks HTTP/2 in the tests" },
    Need { paths: &["/usr/bin/brotli"], package: "brotli", why: "makes bodies that the tests capture" },
    Need { paths: &["/usr/bin/zstd"], package: "zstd", why: "makes bodies that the tests capture" },
    Need { paths: &["/usr/sbin/bpftool"], package: "bpftool", why: "shows what is left in the kernel" },
    Need {
        paths: &["/bin/zsh", "/usr/bin/zsh"],
        package: "zsh",
        why: "is captured from, and reads its completion script",
    },
    Need { paths: &["/usr/bin/fish"], package: "fish", why: "completes in the tests" },
    Need { paths: &["/usr/bin/tshark"], package: "tshark", why: "reads and decrypts capture files in the tests" },
    Need { paths: &["/usr/bin/tcpdump"], package: "tcpdump", why: "captures beside us in the tests" },
    Need { paths: &["/usr/sbin/ip", "/sbin/ip"], package: "iproute2", why: "makes networks for the tests" },
    Need { paths: &["/usr/bin/strace"], package: "strace", why: "shows which files a listing opens" },
];

/// Extra for `soak`: what builds TLS libraries.
const SOAK_NEEDS: &[Need] = &[
    Need { paths: &["/usr/bin/cmake"], package: "cmake", why: "builds AWS-LC and BoringSSL for the tests" },
    Need { paths: &["/usr/bin/g++"], package: "g++", why: "compiles them" },
];

/// Extra for `bench`: the peer, and its load.
const BENCH_NEEDS: &[Need] = &[
    Need { paths: &["/usr/bin/bpftrace"], package: "bpftrace", why: "is the peer in the benchmarks" },
    Need { paths: &["/usr/bin/wrk"], package: "wrk", why: "is the load of a web server in the benchmarks" },
];

/// Installs what building, demo and tests need.
pub fn run() -> Result<()> {
    install(NEEDS)
}

/// Installs what the long tests need beside that.
pub fn soak() -> Result<()> {
    run()?;
    install(SOAK_NEEDS)
}

/// Installs what the benchmarks need beside that.
pub fn bench() -> Result<()> {
    run()?;
    install(BENCH_NEEDS)
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|n| !n.paths.iter().any(|p| Path::new(p).exists())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        eprintln!("xtask: missing {}: it {}", need.package, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("there is no apt-get here; install the equivalents of these Debian packages: {}", packages.join(" "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("not root; run: sudo apt-get install {}", packages.join(" "));
    }
    let apt = |args: &[&str]| -> Result<()> {
        let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        if !status.success() {
            bail!("apt-get {} failed", args.join(" "));
        }
        Ok(())
    };
    no_cluster_of_its_own(&packages)?;
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"];
    args.extend(packages);
    apt(&args)
}

/// PostgreSQL's packages make a database and start a server on it, unless they are told not to before they are installed.
fn no_cluster_of_its_own(packages: &[&str]) -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if !packages.iter().any(|package| package.starts_with("postgresql")) || file.exists() {
        return Ok(());
    }
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(std::fs::write(file, "# The tests make their own.\ncreate_main_cluster = false\n")?)
}
