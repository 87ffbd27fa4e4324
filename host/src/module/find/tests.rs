use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn directory(path: &Path, allow_untrusted: bool) -> Directory {
    let search = Search::new(Some(path.to_owned()), allow_untrusted).unwrap();
    Directory::open(&search).unwrap().unwrap()
}

fn refusal(directory: &Directory, name: &str) -> Refusal {
    directory.candidate(OsStr::new(name)).opened.unwrap_err()
}

#[test]
fn untrusted_files_need_a_directory_of_their_own() {
    assert!(matches!(Search::new(None, true), Err(SearchError::UntrustedDefault)));
    assert_eq!(Search::new(None, false).unwrap().dir(), Path::new(DEFAULT_DIR));
}

#[test]
fn a_missing_directory_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let search = Search::new(Some(dir.path().join("no/such")), false).unwrap();
    assert!(Directory::open(&search).unwrap().is_none());
}

#[test]
fn only_module_names_are_candidates_and_they_are_sorted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["libecap_b.so", "libecap_a.so", "libecap_c.so.1", "libssl.so", "README", "ecap_d.so", "libecap_e.txt"]
    {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    let names = directory(dir.path(), false).names().unwrap();
    assert_eq!(names.files, ["libecap_a.so", "libecap_b.so"]);
    assert!(names.notes.is_empty());
}

#[test]
fn too_many_files_are_cut_and_said() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..=MAX_FILES {
        fs::write(dir.path().join(format!("libecap_{number:05}.so")), b"").unwrap();
    }
    let names = directory(dir.path(), false).names().unwrap();
    assert_eq!(names.files.len(), MAX_FILES);
    assert_eq!(names.files.last().unwrap(), OsStr::new("libecap_01023.so"));
    assert!(names.notes[0].contains("1025 module files"), "{:?}", names.notes);
}

#[test]
fn a_link_on_the_way_is_refused_with_its_target() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let search = Search::new(Some(dir.path().join("link")), true).unwrap();
    let error = Directory::open(&search).unwrap_err();
    assert!(matches!(&error, SearchError::Link { to, .. } if to == Path::new("real")), "{error}");
}

#[test]
fn a_file_is_not_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let search = Search::new(Some(dir.path().join("file")), false).unwrap();
    assert!(matches!(Directory::open(&search), Err(SearchError::NotADirectory(_))));
}

#[test]
fn odd_kinds_of_files_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("libecap_dir.so")).unwrap();
    symlink("nowhere", dir.path().join("libecap_dangling.so")).unwrap();
    symlink("libecap_loop.so", dir.path().join("libecap_loop.so")).unwrap();
    std::os::unix::net::UnixListener::bind(dir.path().join("libecap_socket.so")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("libecap_fifo.so"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let directory = directory(dir.path(), true);
    for (name, words) in [
        ("libecap_dir.so", "is a directory"),
        ("libecap_dangling.so", "is a symbolic link to nowhere, which is not there"),
        ("libecap_loop.so", "is a symbolic link to libecap_loop.so"),
        ("libecap_socket.so", "is a socket"),
        ("libecap_fifo.so", "is a named pipe"),
        ("libecap_gone.so", "cannot be opened"),
    ] {
        let refusal = refusal(&directory, name);
        assert_eq!(refusal.code, Code::Elf, "{name}");
        assert!(refusal.message.contains(words), "{name}: {}", refusal.message);
    }
}

#[test]
fn a_link_to_a_file_is_followed_only_where_untrusted_files_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"123").unwrap();
    symlink("file", dir.path().join("libecap_x.so")).unwrap();
    assert_eq!(refusal(&directory(dir.path(), false), "libecap_x.so").code, Code::Trust);
    let followed = directory(dir.path(), true).candidate(OsStr::new("libecap_x.so"));
    assert_eq!(followed.trust, Trust::Tainted);
    assert_eq!(followed.opened.unwrap().size, 3);
}

#[test]
fn the_first_bad_step_of_the_path_is_named() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(dir.path().join("libecap_x.so"), b"").unwrap();
    let candidate = directory(dir.path(), false).candidate(OsStr::new("libecap_x.so"));
    assert_eq!(candidate.trust, Trust::Tainted);
    assert_eq!(candidate.trust_problem.as_deref(), Some("/tmp is writable by everybody (mode 1777)"));
}

#[test]
fn two_names_of_one_file_have_one_identity() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("libecap_a.so"), b"").unwrap();
    fs::hard_link(dir.path().join("libecap_a.so"), dir.path().join("libecap_b.so")).unwrap();
    let directory = directory(dir.path(), false);
    let id = |name: &str| directory.candidate(OsStr::new(name)).opened.unwrap().id;
    assert_eq!(id("libecap_a.so"), id("libecap_b.so"));
}
