//! What is handed out: a tarball and a Debian package with the host, the modules of this tree, completions and the manual
//! page; and their checksums. The same commit gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, MODULES, must, root};

/// Where a distribution's programs look for completions of a shell.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/ecapture"),
    ("zsh", "usr/share/zsh/vendor-completions/_ecapture"),
    ("fish", "usr/share/fish/vendor_completions.d/ecapture.fish"),
];

/// Makes everything, in `target/dist`.
pub fn run() -> Result<()> {
    let bin = build::release()?;
    let dist = build::target_dir().join("dist");
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("ecapture-{version}-{}-linux", std::env::consts::ARCH);
    let tree = dist.join(&name);
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| dist.display().to_string())?;
    }
    stage(&bin, &tree)?;
    let mut made = vec![tarball(&dist, &name)?];
    if Path::new("/usr/bin/dpkg-deb").exists() {
        made.push(debian(&dist, &tree, version)?);
    } else {
        eprintln!("xtask: no dpkg-deb here: no Debian package is made");
    }
    let names = made.iter().filter_map(|path| path.file_name());
    let sums = Command::new("sha256sum").args(names).current_dir(&dist).output().context("sha256sum")?;
    if !sums.status.success() {
        bail!("sha256sum failed: {}", sums.status);
    }
    fs::write(dist.join("SHA256SUMS"), &sums.stdout)?;
    for path in made {
        println!("{}", path.display());
    }
    println!("{}", dist.join("SHA256SUMS").display());
    Ok(())
}

/// Lays the files out as they are installed.
fn stage(bin: &Path, tree: &Path) -> Result<()> {
    install(&bin.join("ecapture"), &tree.join("usr/bin/ecapture"), 0o755)?;
    for module in MODULES {
        let file = format!("libecap_{module}.so");
        install(&bin.join(&file), &tree.join("usr/lib/ecapture/modules").join(&file), 0o644)?;
    }
    let modules = tree.join("usr/lib/ecapture/modules");
    let said = |args: &[&str]| -> Result<Vec<u8>> {
        let mut command = Command::new(bin.join("ecapture"));
        command.arg("--modules-dir").arg(&modules).arg("--allow-untrusted").args(args);
        let output = command.output().context("the program that was built")?;
        if !output.status.success() {
            bail!("{}: {}", build::shown(&command), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    };
    for (shell, place) in COMPLETIONS {
        write(&tree.join(place), &said(&["completion", shell])?)?;
    }
    write(&tree.join("usr/share/man/man1/ecapture.1"), &said(&["--man"])?)?;
    extcap(tree)?;
    let doc = tree.join("usr/share/doc/ecapture");
    install(&root().join("README.md"), &doc.join("README.md"), 0o644)?;
    install(&root().join("CHANGELOG.md"), &doc.join("changelog"), 0o644)?;
    install(&root().join("LICENSE"), &doc.join("copyright"), 0o644)?;
    // Without the name and time of this build in the compressed file.
    for file in [tree.join("usr/share/man/man1/ecapture.1"), doc.join("changelog")] {
        must(Command::new("gzip").args(["-9", "-n"]).arg(file))?;
    }
    Ok(())
}

/// Wireshark's list of interfaces is what is found here: docs/packets.md.
fn extcap(tree: &Path) -> Result<()> {
    let dir = tree.join(format!("usr/lib/{}-linux-gnu/wireshark/extcap", std::env::consts::ARCH));
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let link = dir.join("ecapture");
    std::os::unix::fs::symlink("../../../../bin/ecapture", &link).with_context(|| link.display().to_string())
}

fn tarball(dist: &Path, name: &str) -> Result<PathBuf> {
    let file = dist.join(format!("{name}.tar.gz"));
    let time = format!("--mtime=@{}", source_time());
    let owner = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--use-compress-program=gzip -9n"];
    must(Command::new("tar").args(owner).arg(time).arg("-C").arg(dist).arg("-cf").arg(&file).arg(name))?;
    Ok(file)
}

fn debian(dist: &Path, tree: &Path, version: &str) -> Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = dist.join("debian");
    must(Command::new("cp").arg("-a").arg(tree).arg(&package))?;
    // No maintainer scripts: copying files in is the whole installation, so removing them leaves nothing behind.
    let control = format!(
        "Package: ecapture\nVersion: {version}\nArchitecture: {arch}\nMaintainer: ecapture maintainers <maintainers@ecapture.invalid>\n\
         Section: admin\nPriority: optional\nDepends: libc6 (>= {}), libgcc-s1\nHomepage: {}\n\
         Description: captures what programs say, with eBPF and loadable modules\n \
         Statements, shell commands and whatever a module adds, without changing\n the program and without a proxy.\n",
        libc_needed(tree)?,
        env!("CARGO_PKG_REPOSITORY"),
    );
    write(&package.join("DEBIAN/control"), control.as_bytes())?;
    let file = dist.join(format!("ecapture_{version}_{arch}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&package).arg(&file);
    must(command.env("SOURCE_DATE_EPOCH", source_time().to_string()))?;
    fs::remove_dir_all(&package)?;
    Ok(file)
}

/// The newest version of glibc that a program or module here asks for.
fn libc_needed(tree: &Path) -> Result<String> {
    let modules = MODULES.iter().map(|m| tree.join(format!("usr/lib/ecapture/modules/libecap_{m}.so")));
    let mut newest = (2, 0);
    for file in modules.chain([tree.join("usr/bin/ecapture")]) {
        let bytes = fs::read(&file)?;
        // The names of versions stand in the string table of dynamic symbols, each ended by a NUL.
        for at in bytes.windows(8).enumerate().filter(|(_, w)| w == b"GLIBC_2.").map(|(at, _)| at) {
            let digits: String =
                bytes[at + 8..].iter().map(|b| char::from(*b)).take_while(char::is_ascii_digit).collect();
            newest = newest.max((2, digits.parse().unwrap_or(0)));
        }
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

/// Time of the last commit, for everything that carries a time.
fn source_time() -> u64 {
    let output = Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]).output();
    output.ok().and_then(|o| String::from_utf8(o.stdout).ok()?.trim().parse().ok()).unwrap_or(0)
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    write(to, &fs::read(from).with_context(|| from.display().to_string())?)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for dir in to
        .parent()
        .into_iter()
        .flat_map(Path::ancestors)
        .take_while(|dir| !dir.exists())
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        fs::create_dir(dir).with_context(|| dir.display().to_string())?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(to, bytes).with_context(|| to.display().to_string())?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o644))?)
}
