//! TLS libraries that come with no Debian suite, built from source, some minutes each: for `cargo xtask soak`.
//!
//! The sources come as crates.io has them (`openssl-src` and others), so the tool that fetches is cargo. Kept under
//! `target/suites`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Versions of OpenSSL, and of the crate that brings each.
pub const OPENSSL: [(&str, &str); 4] =
    [("3.2.1", "300.2.3+3.2.1"), ("3.3.2", "300.3.2+3.3.2"), ("3.4.1", "300.4.2+3.4.1"), ("4.0.3", "400.0.2+4.0.3")];

/// A library that is BoringSSL or was made from it.
#[derive(Debug, Clone, Copy)]
pub struct Kin {
    name: &'static str,
    /// The crate that has its sources, its version, and where in it they are.
    from: [&'static str; 3],
    options: &'static str,
}

/// AWS-LC, of Amazon.
pub const AWS_LC: Kin = Kin {
    name: "aws-lc",
    from: ["aws-lc-sys", "0.47.0", "aws-lc"],
    options: "-DBUILD_TOOL=OFF -DDISABLE_GO=ON -DDISABLE_PERL=ON -DENABLE_SOURCE_MODIFICATION=OFF",
};

/// BoringSSL, of Google.
pub const BORINGSSL: Kin = Kin { name: "boringssl", from: ["boring-sys", "5.4.0", "deps/boringssl"], options: "" };

/// A directory with `libssl.so.N` and `libcrypto.so.N` of this version. Nothing in it may be changed: all tests share it.
///
/// # Errors
/// Why the sources can't be had here: a reason to skip a test.
///
/// # Panics
/// If what was fetched cannot be built.
pub fn openssl(version: &str, of_crate: &str) -> Result<PathBuf, String> {
    let number = of_crate.split('+').next().unwrap_or(of_crate);
    let script = format!(
        "./Configure linux-x86_64 no-shared no-module no-tests no-docs -fPIC && make -j2 build_libs && {}",
        link(&version[..1])
    );
    built(&format!("openssl-{version}"), ["openssl-src", number, "openssl"], &script)
}

/// A directory with `include`, `libssl.a` and `libcrypto.a`. Nothing in it may be changed: all tests share it.
///
/// # Errors
/// Why the sources can't be had here: a reason to skip a test.
///
/// # Panics
/// If what was fetched cannot be built.
pub fn kin(of: &Kin) -> Result<PathBuf, String> {
    let script = format!(
        "cmake -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_TESTING=OFF {} && \
         cmake --build build --parallel 2 --target ssl && cp $(find build -name libssl.a -o -name libcrypto.a) .",
        of.options
    );
    built(&format!("{}-{}", of.name, of.from[1]), of.from, &script)
}

/// What a script makes of the sources in a crate: its name and version, and the directory in it.
fn built(name: &str, [of_crate, number, dir]: [&str; 3], script: &str) -> Result<PathBuf, String> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites/sources");
    fs::create_dir_all(&cache).expect("directory");
    let path = cache.canonicalize().expect("directory").join(name);
    if path.exists() {
        return Ok(path);
    }
    let work = tempfile::tempdir_in(&cache).expect("temporary directory");
    fs::create_dir(work.path().join("src")).expect("directory");
    fs::write(work.path().join("src/lib.rs"), "").expect("a crate that needs the sources");
    let manifest = format!(
        "[workspace]\n[package]\nname = \"sources\"\nversion = \"0.1.0\"\n[dependencies]\n{of_crate} = \"={number}\"\n"
    );
    fs::write(work.path().join("Cargo.toml"), manifest).expect("manifest");
    let mut vendor = Command::new("timeout");
    vendor.args(["150", "cargo", "vendor", "--quiet", "vendor"]).current_dir(work.path());
    let output = vendor.output().map_err(|e| format!("needs timeout: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("needs the crate {of_crate} {number}: {}", said.lines().last().unwrap_or("no word why")));
    }
    let source = work.path().join("vendor").join(of_crate).join(dir);
    let output = Command::new("sh").args(["-ec", script]).current_dir(&source).output().expect("sh");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&source, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Ok(path)
}

/// The crate has no more of OpenSSL than the archives need, so the shared libraries are made of these: with all functions of
/// libcrypto to be seen from outside, and of libssl those that programs call.
fn link(number: &str) -> String {
    let seen = "{global: SSL_*; TLS_*; DTLS_*; OPENSSL_*; BIO_*; ERR_*; PEM_*; d2i_*; i2d_*; local: *;};";
    let shared = |name: &str, more: &str| {
        format!(
            "gcc -shared -Wl,-soname,lib{name}.so.{number} -o lib{name}.so.{number} \\
             -Wl,--whole-archive lib{name}.a -Wl,--no-whole-archive {more} -Wl,-Bsymbolic -lpthread -ldl"
        )
    };
    let ssl = shared("ssl", &format!("-Wl,--version-script=seen libcrypto.so.{number}"));
    format!("printf '%s' '{seen}' > seen && {} && {ssl}", shared("crypto", ""))
}
