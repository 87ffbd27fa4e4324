//! No secret is in any output unless it is asked for: a real server, a real shell, a real curl, and every form of output.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ecapture_tests::bash::{Bash, SHELL};
use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::postgres::{PGBENCH, Postgres, SERVER as POSTGRES};
use ecapture_tests::tls::Library;
use ecapture_tests::web::Nginx;
use ecapture_tests::zsh::{SHELL as ZSH, Zsh};
use ecapture_tests::{needs, skip_if};

/// Secret number so and so.
fn secret(number: usize) -> String {
    format!("Zq{number}xSecret{number}")
}

/// Every `@` is a secret of its own.
const STATEMENTS: &[&str] = &[
    "CREATE USER r1 IDENTIFIED BY '@'",
    "ALTER USER r1 IDENTIFIED BY \"@\"",
    "create user r2 identified via mysql_native_password using password('@')",
    "SET PASSWORD FOR r1 = PASSWORD('@')",
    "GRANT SELECT ON *.* TO r3 IDENTIFIED BY '@'",
    "GRANT ALL ON x.* TO r4 IDENTIFIED BY /* it's */ '@' WITH GRANT OPTION",
    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_USER='u', MASTER_PASSWORD='@'",
    "SELECT PASSWORD('@')",
    "CREATE SERVER s1 FOREIGN DATA WRAPPER mysql OPTIONS (USER 'u', PASSWORD '@', HOST '127.0.0.1')",
    "PREPARE p1 FROM 'ALTER USER r1 IDENTIFIED BY ''@'''",
    "CREATE USER r5 IDENTIFIED BY '@",
    "CREATE USSR r6 IDENTIFIED BY '@' nonsense",
    "SELECT 1 /* ALTER USER r1 IDENTIFIED BY '@' */",
    "SELECT 'https://user:@@h/path'",
    "SELECT 'host=h password=a,@ dbname=d'",
    "INSERT INTO shop.users (name, password) VALUES ('bob', '@'), ('eve', NULL)",
    "UPDATE shop.users SET user_pass='@' WHERE name = 'bob'",
    "SELECT JSON_OBJECT('password', '@')",
];

/// For a server whose quotes are others.
const OTHER_STATEMENTS: &[&str] = &[
    "CREATE ROLE r1 LOGIN PASSWORD '@'",
    "ALTER ROLE r1 WITH ENCRYPTED PASSWORD E'\\'@'",
    "DO $$ BEGIN EXECUTE 'ALTER ROLE r1 PASSWORD ''@'''; END $$",
    "DO $$ BEGIN EXECUTE format('ALTER ROLE r1 PASSWORD %L', '@'); END $$",
    "DO $$ BEGIN EXECUTE 'ALTER ROLE r1 PASSWORD ' || quote_literal('@'); END $$",
    "INSERT INTO users (name, password) VALUES ('bob', '@'), ('eve', DEFAULT)",
    "UPDATE users SET password = $x$@$x$",
    "SELECT set_config('app.secret', '@', false)",
    "SELECT 'postgresql://u:p#@@h/d'",
    "SELECT 1 /* ALTER ROLE r1 PASSWORD '@' */",
    "COPY users FROM PROGRAM 'true curl -u u:@ https://h/'",
    "CREATE ROL r2 PASSWORD '@'",
];

const COMMANDS: &[&str] = &[
    "/bin/true mysql -uroot -p@ shop",
    "/bin/true mysqldump --password=@ shop",
    "PGPASSWORD=@ /bin/true psql -h h",
    "/bin/true psql 'host=h password=@'",
    "/bin/true psql postgresql://u:@@h/d",
    "/bin/true curl -u user:@ https://h/",
    "/bin/true curl -sSu user:@ https://h/",
    "/bin/true curl -H 'Authorization: Bearer @' https://h/",
    "/bin/true curl 'https://h/?api_key=@&x=1'",
    "/bin/true wget --password=@ https://h/",
    "/bin/true sshpass -p @ ssh h",
    "/bin/true docker login -u u -p @ registry",
    "/bin/true redis-cli -a @ ping",
    "/bin/true openssl rsa -passin pass:@",
    "export AWS_SECRET_ACCESS_KEY=@",
    "GITHUB_TOKEN=@ /bin/true gh",
    "/bin/true git clone https://user:@@example.org/x.git",
    "/bin/true htpasswd -b file user @",
    "/bin/true useradd -p @ bob",
    "chpasswd() { :; }; chpasswd <<< 'bob:@'",
    "/bin/true smbclient //h/s -U user%@",
    "/bin/true ldapsearch -x -D cn=a -w @",
    "/bin/true bash -c 'mysql -p@ -e \"select 1\"'",
    "/bin/true mysql -e \"CREATE USER u IDENTIFIED BY '@'\"",
    "/bin/true mysql --password='ab)@'",
    "DB_PASS='a;@' /bin/true",
    "/bin/true htpasswd -nb admin @ > /dev/null",
    "/bin/true openssl passwd -6 @",
    "/bin/true docker login -u u -p=@ registry",
    "/bin/true curl -H 'X-Shopify-Access-Token: @' https://h/",
    "/bin/true psql mysql://u:p#@@h/db",
    "/bin/true psql <<EOF\n\\c db\nALTER ROLE r PASSWORD '@';\nEOF",
];

/// The same at a terminal.
const LINES: &[&str] = &[
    "export PGPASSWORD='a b@'",
    "/bin/true mysqladmin password @",
    "/bin/true curl -sSu user:@ https://h/",
    "/bin/true psql -c \"ALTER ROLE r PASSWORD '@'\" 2>/dev/null",
];

/// The texts with their secrets in them, from this number on.
fn with_secrets(texts: &[&str], from: usize) -> Vec<String> {
    let one = |(number, text): (usize, &&str)| {
        // `user:@@host`: only the first is a secret.
        let at = text.find('@').expect("a secret");
        format!("{}{}{}", &text[..at], secret(from + number), &text[at + 1..])
    };
    texts.iter().enumerate().map(one).collect()
}

/// What every form of output says of a recording.
fn replays(module: &str, recording: &Path, more: &[&str]) -> Vec<(String, String)> {
    let file = bin_dir().join(format!("libecap_{module}.so"));
    let forms: [&[&str]; 6] = [
        &["-o", "json"],
        &["-o", "text"],
        &["-o", "text", "--multiline"],
        &["-o", "hex"],
        &["-o", "none"],
        &["-o", "json", "--view", "raw"],
    ];
    let replay = |form: &&[&str]| {
        let output = Command::new("timeout")
            .arg("60")
            .arg(bin_dir().join("ecapture"))
            .args(["module", "replay"])
            .args(*form)
            .args(more)
            .args([&file, &recording.to_owned()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{form:?}: {}", String::from_utf8_lossy(&output.stderr));
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if form.contains(&"hex") {
            // The characters beside the dump, put together again.
            text = text
                .lines()
                .map(|line| line.split_once('|').map_or("\n", |(_, end)| end.trim_end_matches('|')))
                .collect();
        }
        (format!("{form:?} {more:?}"), text)
    };
    let twice = |form: &&&[&str]| form.contains(&"--view") && more.contains(&"--view");
    forms.iter().filter(|form| !twice(form)).map(replay).collect()
}

fn hidden(told: &[(String, String)], count: usize) {
    for (form, text) in told {
        for number in 0..count {
            let line = text.lines().find(|line| line.contains(&secret(number)));
            assert!(line.is_none(), "secret {number} in {form}: {line:?}");
        }
        if !form.contains("none") {
            assert!(text.contains("[redacted]"), "{form}");
        }
    }
}

fn shown(told: &[(String, String)], count: usize, from: usize) {
    for (form, text) in told.iter().filter(|(form, _)| !form.contains("none")) {
        for number in from..count {
            assert!(text.contains(&secret(number)), "secret {number} is not in {form}");
        }
    }
}

#[test]
fn statements_of_a_real_server() {
    skip_if!("statements_of_a_real_server", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let (server, modules, dir) = (Mariadb::start(), Modules::with(&["mysql"]), tempfile::tempdir().unwrap());
    let mut client = Client::connect(&server.socket()).unwrap();
    for sql in ["CREATE DATABASE shop", "CREATE TABLE shop.users (name text, password text, user_pass text)"] {
        assert!(client.query(sql.as_bytes()).unwrap().error.is_none());
    }
    let recording = dir.path().join("r");
    // An expression of one's own, in the configuration.
    let safe = tempfile::Builder::new().prefix("ecapture-config-").tempdir_in("/run").unwrap();
    let file = safe.path().join("ecapture.toml");
    std::fs::write(&file, "[redact]\npatterns = ['GRANT (\\w+)']\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let (pid, file, out) = (server.pid().to_string(), file.to_str().unwrap(), recording.to_str().unwrap());
    let args = ["mysql", "--pid", &pid, "--config", file, "-o", "json", "--record", out];
    let capture = Capture::start(&modules, &args);
    for sql in with_secrets(STATEMENTS, 0) {
        let _ = client.query(sql.as_bytes()).unwrap();
    }
    // What is bound, to a column and to a function.
    let bound = [secret(STATEMENTS.len()), secret(STATEMENTS.len() + 1)];
    let count = STATEMENTS.len() + bound.len();
    let statements = ["INSERT INTO shop.users (name, password) VALUES ('bob', ?)", "SELECT SHA2(?, 256)"];
    for (sql, value) in statements.iter().zip(&bound) {
        let prepared = client.prepare(sql.as_bytes()).unwrap().unwrap();
        assert!(client.execute(prepared, &[value.as_bytes()]).unwrap().error.is_none());
    }
    client.quit().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert!(finished.said.contains("a recording holds everything as it was captured"), "{}", finished.said);
    let live: Vec<String> = finished.events.iter().map(ToString::to_string).collect();
    assert!(live.iter().any(|event| event.contains("GRANT [redacted] ON")), "{live:#?}");
    hidden(&[("live".into(), live.join("\n") + &finished.said)], count);
    let marked = finished.named("mysql.query").filter(|event| event["ecapture.redacted"].is_array()).count();
    assert_eq!((marked, finished.named("mysql.query").count()), (STATEMENTS.len(), STATEMENTS.len()));
    for event in finished.named("mysql.execute") {
        assert_eq!(event["db.query.parameters"], "[\"[redacted]\"]", "{event}");
    }
    hidden(&replays("mysql", &recording, &[]), count);
    for (form, text) in replays("mysql", &recording, &["--view", "digest"]).iter().take(3) {
        assert!(!text.contains("Secret"), "{form}: {text}");
    }
    shown(&replays("mysql", &recording, &["--show-secrets"]), count, 0);
    // Literals, and an expression of one's own.
    let own = replays("mysql", &recording, &["--redact", "literals", "--redact-pattern", "GRANT (\\w+)"]);
    for (form, text) in &own[..3] {
        assert!(text.contains("GRANT [redacted] ON") && text.contains("IDENTIFIED BY ?"), "{form}: {text}");
        assert!(!text.contains("bob"), "{form}: {text}");
    }
}

#[test]
fn statements_of_another_real_server() {
    skip_if!(
        "statements_of_another_real_server",
        needs::capture(),
        needs::program(POSTGRES, "postgresql-15"),
        needs::program(PGBENCH, "postgresql-client-15")
    );
    let (server, modules, dir) = (Postgres::start(), Modules::with(&["postgres"]), tempfile::tempdir().unwrap());
    assert!(server.psql(&["-c", "CREATE TABLE users (name text, password text)"]).status.success());
    let (recording, binary) = (dir.path().join("r"), server.binary().display().to_string());
    let args = ["postgres", "--postgres", &binary, "-o", "json", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    for sql in with_secrets(OTHER_STATEMENTS, 0) {
        let _ = server.psql(&["-c", &sql]);
    }
    // What is bound to a column.
    let script = dir.path().join("script");
    std::fs::write(&script, "INSERT INTO users (name, password) VALUES ('bob', :value);\n").unwrap();
    let value = format!("value={}", secret(OTHER_STATEMENTS.len()));
    let mut load = server.client(PGBENCH);
    load.args(["-n", "-t", "1", "-M", "extended", "-D", &value, "-f"]).arg(&script);
    let output = load.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let count = OTHER_STATEMENTS.len() + 1;
    let live: Vec<String> = finished.events.iter().map(ToString::to_string).collect();
    hidden(&[("live".into(), live.join("\n") + &finished.said)], count);
    let is_bound = |event: &&serde_json::Value| event["db.query.parameters"] == "[\"[redacted]\"]";
    assert_eq!(finished.named("postgres.execute").filter(is_bound).count(), 1, "{live:#?}");
    hidden(&replays("postgres", &recording, &[]), count);
    for (form, text) in replays("postgres", &recording, &["--view", "digest"]).iter().take(3) {
        assert!(!text.contains("Secret") && text.contains("alter role r1 with encrypted password"), "{form}: {text}");
    }
    shown(&replays("postgres", &recording, &["--show-secrets"]), count, 0);
}

#[test]
fn commands_of_a_real_shell() {
    skip_if!("commands_of_a_real_shell", needs::capture(), needs::program(SHELL, "bash"));
    const PROMPT: &str = "ready> ";
    let (shell, modules, dir) = (Bash::installed(), Modules::with(&["bash"]), tempfile::tempdir().unwrap());
    let (recording, options) = (dir.path().join("r"), shell.options());
    let mut args = vec!["bash", "-o", "json", "--record", recording.to_str().unwrap()];
    args.extend(options.iter().map(String::as_str));
    let capture = Capture::start(&modules, &args);
    shell.run_script((with_secrets(COMMANDS, 0).join("\n") + "\n").as_bytes());
    let mut session = shell.session([PROMPT, "more> "]);
    session.wait_for(PROMPT);
    for line in with_secrets(LINES, COMMANDS.len()) {
        session.line(&line, PROMPT);
    }
    session.press(b"exit\r");
    session.wait();
    let (finished, count) = (capture.stop(), COMMANDS.len() + LINES.len());
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let live: Vec<String> = finished.events.iter().map(ToString::to_string).collect();
    hidden(&[("live".into(), live.join("\n") + &finished.said)], count);
    let marked = finished.named("bash.line").filter(|event| event["ecapture.redacted"].is_array()).count();
    assert_eq!(marked, LINES.len(), "{live:#?}");
    hidden(&replays("bash", &recording, &[]), count);
    shown(&replays("bash", &recording, &["--show-secrets"]), count, 0);
}

#[test]
fn commands_of_another_real_shell() {
    skip_if!("commands_of_another_real_shell", needs::capture(), needs::program(ZSH, "zsh"));
    let (shell, modules, dir) = (Zsh::installed(), Modules::with(&["zsh"]), tempfile::tempdir().unwrap());
    let (recording, binary) = (dir.path().join("r"), shell.text());
    let args = ["zsh", "--zsh", &binary, "-o", "json", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    std::fs::write(shell.home().join("script"), with_secrets(COMMANDS, 0).join("\n") + "\n").unwrap();
    assert!(shell.command().arg("script").status().unwrap().success());
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let live: Vec<String> = finished.events.iter().map(ToString::to_string).collect();
    hidden(&[("live".into(), live.join("\n") + &finished.said)], COMMANDS.len());
    hidden(&replays("zsh", &recording, &[]), COMMANDS.len());
    shown(&replays("zsh", &recording, &["--show-secrets"]), COMMANDS.len(), 0);
}

#[test]
fn headers_of_a_real_curl() {
    skip_if!(
        "headers_of_a_real_curl",
        needs::capture(),
        needs::program("/usr/bin/curl", "curl"),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/sbin/nginx", "nginx-light")
    );
    let (library, dir) = (Library::installed(), tempfile::tempdir().unwrap());
    let nginx = Nginx::start(&library, 1, 1 << 10);
    let (modules, path, recording) = (Modules::with(&["openssl"]), library.text(), dir.path().join("r"));
    let har = dir.path().join("x.har");
    let args = ["tls", "--libssl", &path, "-o", "json", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://127.0.0.1:{}/0?access_token={}&n=1", nginx.port, secret(0));
        let headers = ["Authorization: Bearer", "Proxy-Authorization: Basic", "X-Api-Key:", "X-Shopify-Access-Token:"];
        let headers: Vec<String> = headers.iter().zip(1..).map(|(name, n)| format!("{name} {}", secret(n))).collect();
        let mut command = library.command(Path::new("/usr/bin/curl"));
        command.args(["--silent", version, "--cacert"]).arg(library.certificate()).arg(&url);
        for header in &headers {
            command.args(["-H", header]);
        }
        let status =
            command.args(["-H", &format!("Cookie: sid={}; theme=dark{}", secret(5), secret(6))]).output().unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let live: Vec<String> = finished.named("openssl.http").map(ToString::to_string).collect();
    assert!(live.len() >= 4, "{live:?}");
    hidden(&[("live".into(), live.join("\n"))], 7);
    for event in finished.named("openssl.http") {
        assert_eq!(event["http.request.header.cookie"][0], "sid=[redacted]; theme=[redacted]", "{event}");
        assert_eq!(event["http.request.header.authorization"][0], "Bearer [redacted]", "{event}");
        assert_eq!(event["url.query"], "access_token=[redacted]&n=1", "{event}");
    }
    let har_of = |more: &[&str]| {
        let file = bin_dir().join("libecap_openssl.so");
        let mut command = Command::new(bin_dir().join("ecapture"));
        command.args(["module", "replay", "-q", "-w"]).arg(&har).args(more).args([&file, &recording]);
        assert!(command.status().unwrap().success());
        ("har".to_owned(), std::fs::read_to_string(&har).unwrap())
    };
    hidden(&[har_of(&[])], 7);
    std::fs::remove_file(&har).unwrap();
    shown(&[har_of(&["--show-secrets"])], 7, 0);
    hidden(&replays("openssl", &recording, &[])[..4], 7);
    shown(&replays("openssl", &recording, &["--show-secrets"])[..1], 7, 0);
}
