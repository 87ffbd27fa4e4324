//! `--list-modules` with one and with a hundred modules.

use std::time::Instant;

use ecapture_tests::capture::{Modules, bin_dir};

use crate::stats::Rounds;

const ROUNDS: usize = 15;
const MANY: usize = 100;

pub fn run() {
    let one = Modules::with(&["mysql"]);
    let many = Modules::empty();
    let bytes = std::fs::read(bin_dir().join("libecap_mysql.so")).expect("the module");
    for number in 0..MANY {
        // Another module in all that a list looks at: names of the same length, written over those in the file.
        let name = format!("my{number:03}");
        let file = [
            ("name = \"mysql\"", format!("name = \"{name}\"")),
            ("command = \"mysql\"", format!("command = \"{name}\"")),
        ]
        .iter()
        .fold(bytes.clone(), |file, (from, to)| replaced(file, from.as_bytes(), to.as_bytes()));
        std::fs::write(many.path().join(format!("libecap_{name}.so")), file).expect("a module");
    }
    let (mut few_ms, mut many_ms) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        few_ms.push(list(&one, 1));
        many_ms.push(list(&many, MANY));
    }
    println!("--list-modules, ms from start to exit ({ROUNDS} rounds), modules of {} KiB each", bytes.len() >> 10);
    println!("  1 module      {few_ms}");
    println!("  {MANY} modules   {many_ms}   {:.1} x", many_ms.median() / few_ms.median());
}

fn list(modules: &Modules, expected: usize) -> f64 {
    let begin = Instant::now();
    let output = modules.run(&["--list-modules"]);
    let time = begin.elapsed();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(table.lines().filter(|l| l.contains("  ok ")).count(), expected, "{table}");
    time.as_secs_f64() * 1e3
}

fn replaced(mut file: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "names of the same length");
    let places: Vec<usize> = file.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(n, _)| n).collect();
    for place in places {
        file[place..place + to.len()].copy_from_slice(to);
    }
    file
}
