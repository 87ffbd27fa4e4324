//! What must be found, and what must stay: by rule, a line each.

use super::tests::{mysql, postgres, shell, without};
use super::*;
use crate::statements::lex::Dialect;

/// No secret has another name here.
fn hidden(lines: &[&str], find: fn(&str) -> String) {
    for line in lines {
        let out = find(line);
        assert!(!out.contains("S3cret") && out.contains("[redacted]"), "{line}: {out}");
    }
}

#[test]
fn columns_that_hold_secrets() {
    hidden(
        &[
            "UPDATE wp_users SET user_pass='S3cret' WHERE id = 1",
            "UPDATE users SET password_hash = 'S3cret', pw='S3cret'",
            "INSERT INTO users (name,password) VALUES ('bob','S3cret')",
            "INSERT INTO users (name, `password`, n) VALUES ('bob', 'S3cret', 1), ('eve', \"S3cret\", 2)",
            "insert ignore into shop.users(token, name) value (concat('S3cret', 'x'), lower('bob'))",
            "REPLACE INTO t (id, api_key) VALUES ROW(1, 'S3cret'), ROW(2, 'S3cret') ON DUPLICATE KEY UPDATE id = 1",
            "INSERT INTO users (name, password) SELECT 'bob', 'S3cret' WHERE 1 = 1",
            "PREPARE s FROM 'INSERT INTO users (name, password) VALUES (''bob'', ''S3cret'')'",
        ],
        mysql,
    );
    hidden(
        &[
            "INSERT INTO users (name, password) OVERRIDING USER VALUE VALUES ('bob', 'S3cret') RETURNING id",
            r#"INSERT INTO "users" AS u ("name", "password") VALUES ('bob', $$S3cret$$), ('eve', E'S3\'S3cret')"#,
            "MERGE INTO u USING v ON u.id = v.id WHEN NOT MATCHED THEN INSERT (id, token) VALUES (1, 'S3cret')",
            "INSERT INTO settings (name, value) VALUES ('smtp_password', 'S3cret')",
        ],
        postgres,
    );
    assert_eq!(
        mysql("INSERT INTO u (name, password, n) VALUES ('bob', 'x', 7), ('eve', NULL, 8)"),
        "INSERT INTO u (name, password, n) VALUES ('bob', '[redacted]', 7), ('eve', NULL, 8)"
    );
    let told = |sql: &str, mysql| sql::scan(sql.as_bytes(), Dialect { mysql }, &mut Spans::default());
    assert!(told("INSERT INTO u (name, password) VALUES (?, ?)", true));
    assert!(told("INSERT INTO u (token, n) VALUES ($2, $1)", false));
    assert!(!told("INSERT INTO u (token, n) VALUES ('x', $1)", false));
}

#[test]
fn statements_that_are_put_together() {
    hidden(
        &[
            "SELECT JSON_OBJECT('user', 'bob', 'password', 'S3cret')",
            "SET @s = CONCAT('ALTER USER u IDENTIFIED BY ', QUOTE('S3cret'))",
            "SET @s = CONCAT('ALTER USER u IDENTIFIED BY ''', 'S3cret', '''')",
            "EXECUTE IMMEDIATE 'ALTER USER u IDENTIFIED BY ?' USING 'S3cret'",
            "INSERT INTO t VALUES ('bob', SHA2('S3cret', 256), MD5('S3cret'))",
            "CREATE TABLE t (a int) ENGINE=FEDERATED CONNECTION='mysql://u:p#S3cret@h/d/t'",
            "SELECT 'host=h password=S3cret,S3cret)S3cret'",
        ],
        mysql,
    );
    hidden(
        &[
            "EXECUTE format('ALTER ROLE r PASSWORD %L','S3cret')",
            "EXECUTE format('ALTER ROLE %I WITH PASSWORD %L VALID UNTIL %L', 'bob', 'S3cret', 'x')",
            "EXECUTE format('ALTER ROLE r PASSWORD ''%s''', 'S3cret')",
            "DO $$ BEGIN EXECUTE format('ALTER ROLE r PASSWORD %L', 'S3cret'); END $$",
            "EXECUTE 'ALTER ROLE r PASSWORD ' || quote_literal('S3cret')",
            "EXECUTE 'ALTER ROLE ' || quote_ident('r') || ' PASSWORD ' || quote_literal('S3cret')",
            "EXECUTE 'ALTER ROLE r PASSWORD $1' USING 'S3cret'",
            "SELECT set_config('app.secret','S3cret',false)",
            "SELECT json_build_object('password', 'S3cret')",
            "SELECT hmac('d','S3cret','sha1')",
            "SELECT encrypt('d','S3cret','aes'), decrypt_iv('d', 'S3cret', 'iv', 'aes')",
            "SELECT pgp_sym_decrypt(x,'S3cret'), pgp_pub_decrypt(x, dearmor('k'), 'S3cret')",
            "COPY t FROM PROGRAM 'curl -u u:S3cret https://h/x'",
            "copy (select 1) to program 'PGPASSWORD=\"S3cret S3cret\" psql -h h'",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=S3c,S3cret dbname=d' PUBLICATION p",
            "SELECT dblink('postgresql://u:S3cret/S3cret@h/d')",
        ],
        postgres,
    );
}

#[test]
fn statements_without_secrets_stay() {
    for sql in [
        "INSERT INTO t (password, name) VALUES (NULL, 'bob'), (DEFAULT, 'eve')",
        "INSERT INTO t (name, password) SELECT name, password FROM u WHERE kind = 'bob'",
        "SELECT * FROM t WHERE kind IN ('password', 'otp')",
        "SELECT 'password', 'otp'",
        "INSERT INTO messages (id, text) VALUES (1, 'please update your password'), (2, 'bob')",
        "INSERT INTO messages VALUES ('Update your password', 'bob')",
        "UPDATE tests SET pass = 1, fail = 0",
        "SELECT program, session, author FROM t WHERE name = 'bob'",
        "SET SESSION sql_mode = 'ANSI'",
        "SELECT md5(random()::text), 'x'",
        "SELECT passengers FROM flights WHERE code = 'LH 400'",
    ] {
        assert_eq!(mysql(sql), sql);
        assert_eq!(postgres(sql), sql);
    }
}

#[test]
fn values_go_on_to_their_end() {
    hidden(
        &[
            "mysql --password='ab)S3cret'",
            "PGPASSWORD='a&S3cret;S3cret' psql",
            "DB_PASSWORD=Xy,S3cret app",
            "export PGPASSWORD='a S3cret'",
            r#"env PGPASSWORD="a'S3cret S3cret" psql"#,
            r#"bash -c 'PGPASSWORD="a S3cret" psql -c "select 1"'"#,
            "mount -o 'username=u,password=S3)S3cret' //h/s /mnt",
            r#"psql "host=h password='a S3cret' dbname=d""#,
            "psql mysql://u:p#S3cret@h/db",
            "psql mysql://u:p/S3cret?S3cret@h/db",
        ],
        shell,
    );
    for (line, shown) in [
        ("curl -u user:x -o f h", "curl -u user:[redacted] -o f h"),
        ("htpasswd -nb admin x > f", "htpasswd -nb admin [redacted] > f"),
        ("export PGPASSWORD='a b'; ls", "export PGPASSWORD='[redacted]'; ls"),
        ("psql 'password=a,b host=h'", "psql 'password=[redacted]'"),
        ("ssh h 'TOKEN=a ./run it'", "ssh h 'TOKEN=[redacted] ./run it'"),
        ("mount -o user=u,pass=a,uid=0 x", "mount -o user=u,pass=[redacted],uid=0 x"),
        ("mkpasswd -m sha-512 x", "mkpasswd -m sha-512 [redacted]"),
        ("sqlplus scott/x@db", "sqlplus scott/[redacted]@db"),
        ("sudo -S psql <<E\nx\nselect 1;\nE", "sudo -S psql <<E\n[redacted]\nselect 1;\nE"),
        ("curl 'https://h/?sig=x&n=1#f'", "curl 'https://h/?sig=[redacted]&n=1#f'"),
    ] {
        assert_eq!(shell(line), shown);
    }
}

#[test]
fn names_of_secrets() {
    hidden(
        &[
            "DB_PASS=S3cret app",
            "SMTP_PASS=S3cret app",
            "SSHPASS=S3cret sshpass -e ssh h",
            "PASS=S3cret app",
            "PW=S3cret app",
            "app pass=S3cret",
            "PASSWORD1=S3cret PASSWORD_HASH=S3cret app",
            "SECRET_KEY_BASE=S3cret rails s",
            "password_hash='S3cret S3cret'",
        ],
        shell,
    );
}

#[test]
fn redirections_are_no_arguments() {
    hidden(
        &[
            "htpasswd -nb admin S3cret > file",
            "htpasswd -nb admin S3cret 2>&1 >>file </dev/null",
            "htpasswd -nb admin S3cret &> file",
            "wpa_passphrase ssid S3cret >> f",
            "> f htpasswd -nb admin S3cret",
        ],
        shell,
    );
}

#[test]
fn documents_and_what_reads_them() {
    hidden(
        &[
            "psql <<EOF\n\\c db\nALTER ROLE r PASSWORD 'S3cret';\nEOF",
            "psql <<EOF\n\\echo it's me\nALTER ROLE r PASSWORD 'S3cret';\nEOF",
            "psql <<EOF\n\\set x 1\n\\c db\n  alter role r\n  password 'S3cret';\nEOF",
            "mysql <<EOF\nuse shop\nCREATE USER u IDENTIFIED BY 'S3cret';\nEOF",
            "sqlplus / as sysdba <<EOF\nset echo off\nALTER USER scott IDENTIFIED BY S3cret;\nEOF",
            "sqlplus /nolog <<EOF\nconn scott/S3cret@db\nEOF",
            "docker exec -i db psql -U u <<EOF\n\\c db\nALTER ROLE r PASSWORD 'S3cret';\nEOF",
            "cat <<EOF | psql\n\\c db\nALTER ROLE r PASSWORD 'S3cret';\nEOF",
            "cat > x.sql <<EOF\nuse shop\nCREATE USER u IDENTIFIED BY 'S3cret';\nEOF",
            "kubectl apply -f - <<EOF\nkind: Secret\nstringData:\n  user: u\n  password: S3cret S3cret\nEOF",
            "cat > .env <<EOF\nDB_PASSWORD=a S3cret\nEOF",
            "cat > ~/.netrc <<EOF\nmachine h login u password S3cret\nEOF",
            "cat > ~/.netrc <<EOF\nmachine h\nlogin u\npassword S3cret\nEOF",
            "echo 'machine h login u password S3cret' >> ~/.netrc",
            "cat > ~/.pgpass <<EOF\nh:5432:d:u:S3cret\nEOF",
            "echo 'h:5432:d:u:S3:S3cret' >> ~/.pgpass",
            "chpasswd <<EOF; echo done\nbob:S3cret\nEOF",
            "cat <<EOF | sudo chpasswd\nbob:S3cret\nEOF",
            "echo S3cret | su - bob -c id",
            "su - bob -c id <<< S3cret",
            "echo S3cret | kinit bob",
            "printf S3cret | secret-tool store --label=x a b",
            "yes S3cret | passwd bob",
            "cat <<< S3cret | passwd bob",
            "echo S3cret | htpasswd -i file bob",
            "sudo -S psql <<EOF\nS3cret\nselect 1;\nEOF",
        ],
        shell,
    );
}

#[test]
fn arguments_of_programs() {
    hidden(
        &[
            "mysqladmin -u root password 'S3cret'",
            "mysqladmin -u root -pS3cret password S3cret",
            "docker login -u u -pS3cret registry",
            "docker login -u u -p=S3cret registry",
            "openssl passwd -6 S3cret",
            "openssl passwd -salt ab -1 S3cret",
            "mkpasswd S3cret",
            "sqlplus scott/S3cret@db",
            "sqlplus -s scott/S3cret@//h:1521/db @x.sql",
            "expdp userid=scott/S3cret directory=d",
            "xfreerdp /u:u /p:S3cret /v:h",
            "cqlsh -u u -p S3cret",
            "beeline -n u -p S3cret",
            "twine upload -u u -p S3cret dist/x",
            "rar a -hpS3cret x.rar y",
            "nmcli dev wifi connect ssid password S3cret",
            "nmcli con modify x wifi-sec.psk S3cret",
            "rabbitmqctl add_user u S3cret",
            "rabbitmqctl -n node change_password u S3cret",
            "samba-tool user create u S3cret",
            "aws secretsmanager create-secret --name n --secret-string S3cret",
            "aws configure set aws_secret_access_key S3cret",
            "tailscale up --authkey S3cret",
            "tailscale up --auth-key=S3cret",
            "npm config set //registry.npmjs.org/:_authToken S3cret",
            "git config --global hub.token S3cret",
            "influx -username u -password S3cret",
            "keytool -importkeystore -srcstorepass S3cret",
            "java -Ddb.password=S3cret -jar x.jar",
            "plink -pw S3cret h",
            "redis-cli auth S3cret",
            "sudo -u postgres -E mysql -pS3cret",
            "kubectl exec -it db-0 -- mysql -uroot -pS3cret",
            "docker exec -it db mysqladmin -pS3cret status",
            "chronic -v /usr/bin/mysql -pS3cret",
            "for i in 1 2; do mysql -pS3cret; done",
            "curl -H 'DD-API-KEY: S3cret' h",
            "curl -H \"X-Shopify-Access-Token: S3cret\" h",
            "curl -H 'token: S3cret' h",
            "curl --header='X-Auth-Key: S3cret' h",
            "curl -HX-Gitlab-Token:S3cret h",
            "http h X-Consul-Token:S3cret",
            "curl 'https://h/?sig=S3cret&x=1'",
            "curl 'https://maps.example.org/api?q=a&key=AIzaS3cretxxxxxxxx'",
            "curl 'https://h/cb?code=4S3cretxxxxxxxxxxx&state=x'",
            "curl 'https://h/cart;jsessionid=S3cret?x=1'",
        ],
        shell,
    );
}

#[test]
fn commands_without_secrets_stay() {
    for line in [
        // Words that are the names of programs as well.
        "docker run --name mysql -p3306:3306 -d mysql:8",
        "echo x | tee /etc/passwd",
        "echo x | grep passwd",
        "cat /usr/share/mysql -p1",
        "adb connect a/b",
        "mysql --password --host h",
        "psql --no-password -h h",
        "ffmpeg -pass 1 -i x",
        "make -j2 > log 2>&1 && ./bypass=1",
        "sqlplus / as sysdba @/a/b.sql",
        "git commit -F - <<EOF\nUpdate the token handling\n\nIt's more than (1)\nEOF",
        "openssl genrsa -out k 2048",
        "openssl req -keyout k -key x",
        "cat <<EOF | sh\nls 'a b'\nEOF",
        "su - postgres -c 'psql -l'",
        "curl 'https://h:8080/a@b?code=200&key=name'",
        "git clone ssh://git@github.com:22/x/y.git",
        "echo 'password reset'",
    ] {
        assert_eq!(shell(line), line);
    }
}

#[test]
fn headers_by_the_ends_of_their_names() {
    let header = |name: &str, value: &str| without(value, |value, spans| http::header(name.as_bytes(), value, spans));
    assert_eq!(header("X-Forwarded-Authorization", "Bearer abc"), "Bearer [redacted]");
    for name in [
        "DD-API-KEY",
        "x-shopify-access-token",
        "X-Auth-Key",
        "X-Gitlab-Token",
        "X-Consul-Token",
        "X-Csrf-Token",
        "Ocp-Apim-Subscription-Key",
        "X-Registry-Auth",
        "X-Auth-Token",
        "Private-Token",
        "X-Amz-Security-Token",
        "Cf-Access-Jwt-Assertion",
        "token",
    ] {
        assert_eq!(header(name, "S3cret x"), "[redacted]", "{name}");
        let line = format!("GET / HTTP/1.1\r\n{name}: S3cret\r\n\r\n");
        assert_eq!(without(&line, http::plaintext), line.replace("S3cret", "[redacted]"));
    }
    assert_eq!(
        without("GET /cb?code=4/0AX4XfWhxxxxxxxx&n=1 HTTP/1.1\r\n\r\n", http::plaintext),
        "GET /cb?code=[redacted]&n=1 HTTP/1.1\r\n\r\n"
    );
    assert_eq!(header("Location", "/cb?sig=x&n=1"), "/cb?sig=[redacted]&n=1");
    for name in ["Sec-WebSocket-Key", "Idempotency-Key", "Access-Control-Allow-Headers", "WWW-Authenticate"] {
        assert_eq!(header(name, "abc"), "abc");
    }
}

#[test]
fn logins_of_protocols_that_are_text() {
    for (sent, shown) in [
        ("AUTH PLAIN AGJvYgBTM2NyZXQ=\r\n", "AUTH PLAIN [redacted]\r\n"),
        ("auth login Ym9i\r\n", "auth login [redacted]\r\n"),
        ("AUTH LOGIN\r\n", "AUTH LOGIN\r\n"),
        ("USER bob\r\nPASS S3 cret\r\n", "USER bob\r\nPASS [redacted]\r\n"),
        ("a1 LOGIN bob \"S3 cret\"\r\n", "a1 LOGIN bob [redacted]\r\n"),
        ("a1 AUTHENTICATE PLAIN AGJvYg==\r\n", "a1 AUTHENTICATE PLAIN [redacted]\r\n"),
        ("AUTH S3cret\r\n", "AUTH [redacted]\r\n"),
        ("AUTH bob S3cret\r\nPING\r\n", "AUTH [redacted]\r\nPING\r\n"),
        ("*2\r\n$4\r\nAUTH\r\n$6\r\nS3cret\r\n", "*2\r\n$4\r\nAUTH\r\n$6\r\n[redacted]\r\n"),
        (
            "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nauth\r\n$3\r\nbob\r\n$6\r\nS3cre",
            "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nauth\r\n$3\r\n[redacted]\r\n$6\r\n[redacted]",
        ),
        ("p\0\0\0\x0bS3cret\0", "p\0\0\0\x0b[redacted]\0"),
        ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
        ("text\r\nPASS all tests\r\n", "text\r\nPASS all tests\r\n"),
        (
            "*9999999999999999999999\r\n$18446744073709551615\r\nx",
            "*9999999999999999999999\r\n$18446744073709551615\r\nx",
        ),
        ("p", "p"),
    ] {
        assert_eq!(without(sent, http::plaintext), shown);
    }
}

#[test]
fn literals_of_an_unknown_server() {
    for (sql, shown) in [
        ("SELECT \"S3cret\" FROM t", "SELECT ? FROM t"),
        ("SELECT `a`, 'it''s', 3", "SELECT `a`, ?, ?"),
        ("SELECT 'a\\', 'S3cret', 'x'", "SELECT ?"),
        ("SELECT $$S3cret$$", "SELECT ?"),
    ] {
        let out = literals::literals(sql.as_bytes(), None).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), shown, "{sql}");
    }
}
