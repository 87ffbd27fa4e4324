//! The demo: everything real, nothing of the user's touched, over by itself.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ecapture_tests::capture::CAPTURING;
use ecapture_tests::mariadb::Mariadb;
use ecapture_tests::mysql::Client;

use crate::{build, setup};

pub fn run() -> Result<()> {
    setup::run()?;
    let bin = build::release()?;
    if !rustix::process::geteuid().is_root() {
        bail!("capturing needs root: run `sudo cargo xtask demo`");
    }
    let modules = build::target_dir().join("demo/modules");
    std::fs::create_dir_all(&modules)?;
    for module in build::MODULES {
        let file = format!("libecap_{module}.so");
        // Removed first: a module that is mapped by a running capture must not change under it.
        let _ = std::fs::remove_file(modules.join(&file));
        std::fs::copy(bin.join(&file), modules.join(&file)).with_context(|| file.clone())?;
    }
    let ecapture = |args: &[&str]| {
        let mut command = Command::new(bin.join("ecapture"));
        command.arg("--modules-dir").arg(&modules).arg("--allow-untrusted").args(args);
        command
    };

    println!("\n== A module is a file: copied to {}, it is there ==", modules.display());
    build::must(&mut ecapture(&["--list-modules"]))?;

    println!("\n== A private MariaDB, and what it is told ==");
    let server = Mariadb::start();
    let pid = server.pid().to_string();
    let copy = server.dir().join("shown");
    let outputs = ["-w", "-", "-w", copy.to_str().context("a path that is text")?];
    let mut capture = ecapture(&["mysql", "--pid", &pid, "--duration", "5s"])
        .args(outputs)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let (ready, wait) = channel();
    let stderr = capture.stderr.take().context("stderr")?;
    let relay = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if line.contains(CAPTURING) {
                // Nobody waits any more once the first has come.
                let _ = ready.send(());
            }
        }
    });
    // An early end of the capture closes the channel, and shows below.
    if wait.recv_timeout(Duration::from_secs(30)).is_ok() {
        talk(&server).context("talking to the private MariaDB")?;
    }
    let status = capture.wait()?;
    let _ = relay.join();
    if !status.success() {
        bail!("the capture failed: {status}");
    }
    let shown = std::fs::read_to_string(&copy)?;
    if !shown.contains("select * from orders where id = 17") {
        bail!("the capture has not seen what the server was told");
    }
    println!("\nThe demo is over; the private server is gone.");
    Ok(())
}

/// A little shop.
fn talk(server: &Mariadb) -> Result<()> {
    let (mut shop, mut clerk) = (Client::connect(&server.socket())?, Client::connect(&server.socket())?);
    shop.query(b"create database shop")?;
    shop.init_db("shop")?;
    shop.query(b"create table orders (id int primary key, item varchar(40), price decimal(8,2))")?;
    shop.query(b"insert into orders values (17, 'kettle', 39.90), (18, 'teapot', 24.50), (19, 'cups', 12.00)")?;
    clerk.init_db("shop")?;
    clerk.query(b"select * from orders where id = 17")?;
    clerk.query(b"select item from orderz")?;
    if let Ok(statement) = clerk.prepare(b"select item, price from orders where price < ?")? {
        for price in ["20", "30", "100"] {
            clerk.execute(statement, &[price.as_bytes()])?;
        }
        clerk.close(statement)?;
    }
    shop.query(b"update orders set price = price * 0.9")?;
    shop.quit()?;
    clerk.quit()?;
    Ok(())
}
