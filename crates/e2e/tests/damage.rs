//! A data directory that is damaged, or that another process has: an error that says so, never a panic, never other rows.

use atoll_e2e::rng::Rng;
use atoll_e2e::server::{Atoll, Server, atoll_command};
use atoll_e2e::wire::Client;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let atoll = Atoll::start();
    let output = serve(&atoll.data(), Duration::from_secs(20));
    let text = output.expect("it ends by itself");
    assert!(!text.0 && text.1.contains("data"), "it says which directory is taken: {}", text.1);
    let reply = atoll.connect().and_then(|mut c| c.query("SELECT 1")).expect("the first one lives on");
    assert_eq!(reply.scalar(), Some("1"));
}

/// Runs `atoll serve` on a directory; if it ends in time, whether well, and what it said.
fn serve(data: &Path, time: Duration) -> Option<(bool, String)> {
    let log = tempfile::NamedTempFile::new().expect("a log");
    let output = log.reopen().expect("a log");
    let mut child = atoll_command()
        .expect("the program is built")
        .args(["serve", "--sql-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data"])
        .arg(data)
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .spawn()
        .expect("it starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("its status") {
            break Some(status.success());
        }
        if began.elapsed() > time {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = (child.kill(), child.wait());
    let text = std::fs::read_to_string(log.path()).expect("what it said");
    status.map(|s| (s, text))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Bits turned in the data files: an error that names the trouble, or the rows as they were. Never a panic, never other rows.
#[test]
fn a_damaged_data_directory_is_noticed() {
    const ROWS: i64 = 3000;
    let seed = Rng::fresh_seed();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (mut refused, mut intact) = (0, 0);
    for round in 0..6 {
        let mut atoll = Atoll::start();
        let mut client = atoll.connect().expect("a connection");
        let run = |client: &mut Client, sql: &str| client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        run(&mut client, "CREATE TABLE precious (id int PRIMARY KEY, t text)");
        run(&mut client, &format!("INSERT INTO precious SELECT g, 'row ' || g FROM generate_series(1, {ROWS}) g"));
        atoll.terminate().expect("SIGTERM ends it");
        let damaged: Vec<PathBuf> =
            files(&atoll.data()).into_iter().filter(|f| f.metadata().is_ok_and(|m| m.len() > 64)).collect();
        let file = rng.pick(&damaged).clone();
        let mut bytes = std::fs::read(&file).expect("a file of the data directory");
        let at = rng.below(bytes.len());
        for byte in bytes.iter_mut().skip(at).take(16) {
            *byte ^= 0xa5;
        }
        std::fs::write(&file, &bytes).expect("the damage");
        let what = format!("round {round}, byte {at} of {}", file.display());
        if let Err(e) = atoll.restart() {
            assert!(!e.to_string().contains("panicked"), "{what}: {e}");
            refused += 1;
            continue;
        }
        let answer = atoll.connect().and_then(|mut c| c.query("SELECT id, t FROM precious ORDER BY id"));
        match answer {
            Ok(reply) => {
                let right = reply.rows.len() as i64 == ROWS
                    && (1..).zip(&reply.rows).all(|(id, row)| {
                        row[0].as_deref() == Some(&id.to_string()) && row[1].as_deref() == Some(&format!("row {id}"))
                    });
                assert!(right, "{what}: {} rows, some of them others, and no error", reply.rows.len());
                intact += 1;
            }
            Err(e) => {
                assert!(e.sqlstate().is_some(), "{what}: {e}");
                refused += 1;
            }
        }
        let log = std::fs::read_to_string(atoll.log()).expect("its log");
        assert!(!log.contains("panicked"), "{what}: something panicked:\n{}", atoll.log_tail());
    }
    println!("{refused} refused, {intact} intact");
}

/// A full disk: a refusal with its code, reads that go on, and nothing acknowledged that is lost.
#[test]
fn a_full_disk_is_an_error() {
    let Some(mut atoll) = Atoll::start_on_small_disk(192) else {
        println!("not tested: this user may not mount a small file system");
        return;
    };
    let mut client = atoll.connect().expect("a connection");
    client.query("CREATE TABLE growing (id int PRIMARY KEY, t text)").expect("a table");
    let mut rng = Rng::new(1);
    let mut acknowledged = 0;
    let refusal = loop {
        // Random digits cannot be compressed away.
        let row = |rng: &mut Rng| (0..64).map(|_| format!("{:016x}", rng.bits())).collect::<String>();
        let values: Vec<String> = (0..500).map(|n| format!("({}, '{}')", acknowledged + n, row(&mut rng))).collect();
        match client.query(&format!("INSERT INTO growing VALUES {}", values.join(", "))) {
            Ok(_) => acknowledged += 500,
            Err(refusal) => break refusal,
        }
        assert!(acknowledged < 1_000_000, "the disk is never full");
    };
    println!("after {acknowledged} rows: {refusal}");
    let sqlstate = refusal.sqlstate().unwrap_or_default();
    assert!(sqlstate == "53100" || sqlstate == "58030", "a full disk, or an I/O error: {refusal}");
    assert!(atoll.is_running(), "it has ended: {}", atoll.log_tail());
    let count = |client: &mut Client| -> i64 {
        let reply = client.query("SELECT count(*) FROM growing").expect("reads go on");
        reply.scalar().and_then(|t| t.parse().ok()).expect("a number")
    };
    // The refused statement's rows may be found after a restart if its commit's outcome was not known, but only all of them.
    let possible = [acknowledged, acknowledged + 500];
    let mut other = atoll.connect().expect("new connections are taken");
    assert!(possible.contains(&count(&mut other)), "{} rows after {acknowledged}", count(&mut other));
    atoll.kill();
    atoll.resize_disk(1024).expect("more room");
    atoll.restart().expect("it starts again");
    let mut client = atoll.connect().expect("a connection");
    assert!(possible.contains(&count(&mut client)), "{} rows after {acknowledged}", count(&mut client));
    client.query("INSERT INTO growing VALUES (-1, 'room again')").expect("a row");
}
