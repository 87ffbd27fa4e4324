//! What is found, and what is left alone.

use proptest::prelude::*;

use super::*;
use crate::statements::lex::Dialect;

pub fn without(text: &str, find: impl Fn(&[u8], &mut Spans)) -> String {
    let mut spans = Spans::default();
    find(text.as_bytes(), &mut spans);
    spans.apply(text.as_bytes()).map_or(text.to_owned(), |(text, _)| String::from_utf8(text).unwrap())
}

pub fn mysql(text: &str) -> String {
    without(text, |text, spans| _ = sql::scan(text, Dialect { mysql: true }, spans))
}

pub fn postgres(text: &str) -> String {
    without(text, |text, spans| _ = sql::scan(text, Dialect { mysql: false }, spans))
}

pub fn shell(text: &str) -> String {
    without(text, command::scan)
}

#[test]
fn passwords_in_statements_are_found() {
    for sql in [
        "CREATE USER u IDENTIFIED BY 'S3cret'",
        "create user 'u'@'%' identified with mysql_native_password by 'S3cret' require none",
        "ALTER USER u IDENTIFIED BY PASSWORD '*S3cret'",
        "ALTER USER u IDENTIFIED BY 'S3cret' REPLACE 'oldS3cret' RETAIN CURRENT PASSWORD",
        "GRANT ALL ON *.* TO u IDENTIFIED BY \"S3cret\" WITH GRANT OPTION",
        "SET PASSWORD = 'S3cret'",
        "SET PASSWORD FOR 'u'@'h' = PASSWORD('S3cret')",
        "SET PASSWORD FOR u TO 'S3cret'",
        "set password = concat('S3cret', 'S3cret')",
        "CHANGE MASTER TO MASTER_HOST='h', MASTER_PASSWORD='S3cret', MASTER_PORT=3306",
        "CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = 'S3cret'",
        "START SLAVE USER='u' PASSWORD='S3cret'",
        "SELECT PASSWORD('S3cret')",
        "CREATE USER u IDENTIFIED BY/* it's */'S3cret'",
        "CREATE USER u /*!50000 IDENTIFIED BY 'S3cret' */",
        r"CREATE USER u IDENTIFIED BY 'a\'S3cret'",
        "CREATE USER u IDENTIFIED BY 'S3cret",
        "CREATE USER u IDENTIFIED VIA ed25519 USING PASSWORD('S3cret')",
        "PREPARE s FROM 'ALTER USER u IDENTIFIED BY ''S3cret'''",
        "PREPARE s FROM \"ALTER USER u IDENTIFIED BY 'S3cret'\"",
        r"PREPARE s FROM 'ALTER USER u IDENTIFIED BY \'S3cret\''",
        "-- CREATE USER u IDENTIFIED BY 'S3cret'\nSELECT 1",
        "UPDATE users SET password = 'S3cret' WHERE id = 7",
        "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'u', PASSWORD 'S3cret', HOST 'h')",
        "SET PASSWORD FOR u = 'a' 'S3cret'",
        "CREATE USER u IDENTIFIED BY 0x5333S3cret",
    ] {
        let out = mysql(sql);
        assert!(!out.contains("S3cret") && out.contains("[redacted]"), "{sql}: {out}");
    }
    for sql in [
        "CREATE ROLE r LOGIN PASSWORD 'S3cret' VALID UNTIL '2030-01-01'",
        "ALTER ROLE r WITH ENCRYPTED PASSWORD 'S3cret'",
        "ALTER USER r PASSWORD E'a\\'S3cret'",
        "ALTER USER r PASSWORD $$S3cret$$",
        "ALTER USER r PASSWORD $p$S3cret$p$",
        "ALTER USER r PASSWORD U&'S3cret'",
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'u', password 'S3cret')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=h user=u password=S3cret dbname=d' PUBLICATION p",
        "SELECT dblink_connect('host=h password=''S3cret''')",
        "SELECT * FROM dblink('postgresql://u:S3cret@h/d', 'select 1')",
        "DO $$ BEGIN EXECUTE 'ALTER ROLE r PASSWORD ''S3cret'''; END $$",
        "DO $do$ BEGIN ALTER ROLE r PASSWORD 'S3cret'; END $do$",
        "ALTER ROLE r PASSWORD 'S3cret",
        "SELECT '{\"password\": \"S3cret\"}'::json",
    ] {
        let out = postgres(sql);
        assert!(!out.contains("S3cret") && out.contains("[redacted]"), "{sql}: {out}");
    }
    assert_eq!(
        mysql("CREATE USER 'u'@'h' IDENTIFIED BY 'x' REQUIRE SSL"),
        "CREATE USER 'u'@'h' IDENTIFIED BY '[redacted]' REQUIRE SSL"
    );
}

#[test]
fn what_is_no_password_stays() {
    for sql in [
        "SELECT password FROM users WHERE name = 'bob'",
        "SELECT name, password, 'x' FROM users",
        "ALTER ROLE r PASSWORD NULL",
        "ALTER USER u PASSWORD EXPIRE INTERVAL 90 DAY",
        "SELECT 'identified by', 'bob'",
        "CREATE USER u IDENTIFIED WITH 'auth_socket'",
        "SHOW VARIABLES LIKE 'max_user'",
    ] {
        assert_eq!(mysql(sql), sql);
        assert_eq!(postgres(sql), sql);
    }
}

#[test]
fn parameters_in_the_place_of_a_password_are_told() {
    assert!(sql::scan(b"ALTER USER u IDENTIFIED BY ?", Dialect { mysql: true }, &mut Spans::default()));
    assert!(sql::scan(b"UPDATE u SET password = $1", Dialect { mysql: false }, &mut Spans::default()));
    assert!(!sql::scan(b"UPDATE u SET name = $1 /* password */", Dialect { mysql: false }, &mut Spans::default()));
}

#[test]
fn passwords_in_commands_are_found() {
    for line in [
        "mysql -uroot -pS3cret shop",
        "mysql -u root --password=S3cret -e 'select 1'",
        "mysqldump '-pS3cret' shop > x.sql",
        "mariadb -e \"CREATE USER u IDENTIFIED BY 'S3cret'\"",
        "PGPASSWORD=S3cret psql -h h",
        "export PGPASSWORD='S3cret value'",
        "psql 'host=h password=S3cret'",
        "psql postgresql://u:S3cret@h/d",
        "psql -c \"ALTER ROLE r PASSWORD 'S3cret'\"",
        "curl -u user:S3cret https://h/",
        "curl -sSu user:S3cret https://h/",
        "curl --user 'user:S3cret' https://h/",
        "curl -uuser:S3cret https://h/",
        "curl -H 'Authorization: Bearer S3cret' https://h/",
        "curl -H \"Cookie: sid=S3cret\" https://h/",
        "curl -b sid=S3cret https://h/",
        "curl https://user:S3cret@h/",
        "curl 'https://h/?api_key=S3cret&x=1'",
        "curl --oauth2-bearer S3cret https://h/",
        "wget --password=S3cret https://h/",
        "wget --http-password S3cret https://h/",
        "wget --header='Authorization: Basic S3cret' https://h/",
        "sshpass -p S3cret ssh h",
        "sshpass -pS3cret ssh h",
        "sudo docker login -u u -p S3cret registry",
        "docker login --password S3cret",
        "echo S3cret | docker login --password-stdin",
        "redis-cli -a S3cret ping",
        "openssl rsa -in k -passin pass:S3cret",
        "openssl enc -aes256 -k S3cret",
        "export AWS_SECRET_ACCESS_KEY=S3cret",
        "GITHUB_TOKEN=S3cret gh pr list",
        "export DB_PASSWORD=\"S3cret\"",
        "git clone https://user:S3cret@example.org/x.git",
        "htpasswd -b file user S3cret",
        "htpasswd -bc file user S3cret",
        "useradd -p S3cret bob",
        "chpasswd <<< 'bob:S3cret'",
        "chpasswd <<EOF\nbob:S3cret\nEOF",
        "echo 'bob:S3cret' | chpasswd",
        "echo bob:S3cret | sudo chpasswd",
        "smbclient //h/s -U user%S3cret",
        "ldapsearch -x -D cn=a -w S3cret",
        "echo S3cret | sudo -S id",
        "sudo -S id <<< S3cret",
        "mount -t cifs -o username=u,password=S3cret //h/s /mnt",
        "ssh h 'mysql -pS3cret -e \"select 1\"'",
        "X=$(mysql -pS3cret -e 'select 1')",
        "bash -c \"curl -u a:S3cret h\"",
        "mysql -pS3cr\\et\\S3cret",
        "mysql --password='S3cret",
        "mysql -e\"CREATE USER u IDENTIFIED BY 'S3cret'\"",
        "mysql --execute=\"use mysql; ALTER USER u IDENTIFIED BY 'S3cret'\"",
        "mysql <<EOF\nuse shop;\nCREATE USER u IDENTIFIED BY 'S3cret';\nEOF",
        "sqlplus / <<EOF\nALTER USER scott IDENTIFIED BY S3cret;\nEOF",
        "python3 -c 'db.execute(\"ALTER ROLE r PASSWORD $$S3cret$$\")'",
        "psql <<< \"ALTER ROLE r PASSWORD 'S3cret'\"",
        "echo \"ALTER ROLE r PASSWORD 'S3cret'\" | psql",
        "ssh h \"psql -c \\\"ALTER ROLE r PASSWORD 'S3cret'\\\"\"",
    ] {
        let out = shell(line);
        assert!(!out.contains("S3cret") && out.contains("[redacted]"), "{line}: {out}");
    }
    let args = without("mysql\0-pS3 cret\0shop", command::arguments);
    assert_eq!(args, "mysql\0-p[redacted]\0shop");
    assert_eq!(shell("curl -u user:x -o f h"), "curl -u user:[redacted] -o f h");
}

#[test]
fn other_commands_stay() {
    for line in [
        "docker run -p 80:80 nginx",
        "mkdir -p /a/b",
        "ssh -p 22 host",
        "mysql -p shop",
        "cd $PWD",
        "PWD=/tmp ls",
        "curl -o x https://example.org:8443/a?b=c",
        "echo hello world | grep -p wor",
        "cp -a /a /b",
        "cat <<EOF\ntext of 'somebody\nEOF",
        "tar -czf x.tgz . 2>&1 | tee log",
        // Prose about passwords.
        "git commit -m 'see passwd(1) and crypt(3)'",
        "git commit -m \"users are identified by an address\"",
        "git commit -m 'Create users that are; identified by an address'",
        "echo 'the password is identified by a 17 digit number'",
        "man 5 passwd",
        "grep -r 'password: str' src",
        "git log --grep='password (1)'",
        "echo 'Set passwd(1) apart'",
        "echo 'Create passwd(1) anew'",
        "git commit -m \"Select a password (2 of 3)\"",
        "echo \"it's password 1\"",
    ] {
        assert_eq!(shell(line), line);
    }
}

#[test]
fn headers_keep_names_and_schemes() {
    let header = |name: &str, value: &str| without(value, |value, spans| http::header(name.as_bytes(), value, spans));
    assert_eq!(header("Authorization", "Bearer abc.def"), "Bearer [redacted]");
    assert_eq!(header("proxy-authorization", "Basic YTpi"), "Basic [redacted]");
    assert_eq!(header("Authorization", "abc"), "[redacted]");
    assert_eq!(header("cookie", "a=1; b=2; c"), "a=[redacted]; b=[redacted]; [redacted]");
    assert_eq!(header("Set-Cookie", "a=1; Path=/; HttpOnly"), "a=[redacted]; Path=/; HttpOnly");
    assert_eq!(
        header("Location", "https://u:p@h/?access_token=x#f"),
        "https://u:[redacted]@h/?access_token=[redacted]#f"
    );
    assert_eq!(header("Accept", "text/html"), "text/html");
    let raw =
        "GET /a?token=S3cret&b=c HTTP/1.1\r\nHost: h\r\nAUTHORIZATION: Basic S3cret\r\nCookie: a=S3cret\r\n\r\nbody";
    let expected = "GET /a?token=[redacted]&b=c HTTP/1.1\r\nHost: h\r\nAUTHORIZATION: Basic [redacted]\r\nCookie: a=[redacted]\r\n\r\nbody";
    assert_eq!(without(raw, http::plaintext), expected);
}

#[test]
fn literals_become_question_marks() {
    let dialect = Some(Dialect { mysql: true });
    let out = literals::literals(b"SELECT a FROM t1 WHERE b = 'x' AND c IN (1, -2.5e3) /* bob */", dialect).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "SELECT a FROM t1 WHERE b = ? AND c IN (?, -?) /*?*/");
    assert_eq!(literals::literals(b"SELECT a FROM t", dialect), None);
}

#[test]
fn own_expressions_are_bounded() {
    assert!(pattern("acct-[0-9]{8}").is_ok());
    for bad in ["(", "a*", "(\\w{500}){500}", &"x".repeat(2000)] {
        assert!(pattern(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_a_cut_shows_no_more(
        parts in proptest::collection::vec(prop_oneof![
            Just("IDENTIFIED BY ".to_owned()), Just("password".to_owned()), Just("='".to_owned()), Just("''".to_owned()), Just("$$".to_owned()),
            Just("://".to_owned()), Just("<<E\n".to_owned()), Just("mysql -p".to_owned()), Just("Cookie: a=".to_owned()), Just("\\".to_owned()),
            Just("(".to_owned()), Just(")".to_owned()), Just(", ".to_owned()), Just("\n".to_owned()), Just("insert into u (a, password) values ".to_owned()), Just("*2\r\n$4\r\nauth\r\n".to_owned()), Just("psql <<E\n\\c x\n".to_owned()), Just(" > f ".to_owned()), Just("@".to_owned()), Just("/*".to_owned()), Just("\"".to_owned()), "[ -~]{0,6}", "\\PC{0,3}"], 0..24),
        cut in 0_usize..200) {
        let text = parts.concat().into_bytes();
        let text = text.get(..cut.min(text.len())).unwrap_or_default();
        for find in [|t: &[u8], s: &mut Spans| _ = sql::scan(t, Dialect { mysql: true }, s), |t: &[u8], s: &mut Spans| _ = sql::scan(t, Dialect { mysql: false }, s), command::scan, command::arguments, http::plaintext, inline::query] {
            let mut spans = Spans::default();
            find(text, &mut spans);
            for (from, to, _) in spans.iter() {
                prop_assert!(from < to && to <= text.len());
            }
            let _ = spans.apply(text);
        }
    }

    #[test]
    fn a_statement_that_is_cut_in_its_secret_shows_nothing_of_it(cut in 0_usize..20) {
        let sql = "ALTER USER u IDENTIFIED BY 'Q0Q1Q2Q3Q4Q5Q6Q7Q8Q9'";
        let out = mysql(&sql[..sql.len() - cut]);
        prop_assert!(!out.contains("Q0"), "{}", out);
    }
}
