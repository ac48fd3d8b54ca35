//! Loads into a private PostgreSQL: whatever is wrong with the rows, each is loaded or rejected, and none twice.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::Ordering;

use super::*;
use crate::bench::Server;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

struct World {
    server: Server,
    directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let server = Server::postgres(None, &[]).await.expect("PostgreSQL starts; scripts/test installs it");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let world = Self { server, directory };
        world.query("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, v numeric CHECK (v >= 0))").await;
        world
    }

    async fn query(&self, sql: &str) -> Vec<String> {
        let mut client = self.server.target.connect().await.expect("the server answers");
        let result = client.query(sql).await.expect("the statement is right");
        result.rows.iter().map(|r| r.get(0).unwrap_or_default().into_owned()).collect()
    }

    async fn ids(&self) -> BTreeSet<u64> {
        let ids = self.query("SELECT id FROM t").await;
        ids.iter().map(|id| id.parse().expect("an id is a number")).collect()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path.to_string_lossy().into_owned()
    }

    async fn load(&self, arguments: &[&str]) -> bool {
        let url = format!("postgres://atoll@{}/{}", self.server.target.address(), self.server.database());
        let cli = Cli::try_parse_from(["load", "t", "--url", &url].iter().chain(arguments)).expect("flags are right");
        load(&cli.load).await.expect("the load begins")
    }

    /// Line, SQLSTATE and row of each reject.
    fn rejects(&self, file: &str) -> Vec<(u64, String, String)> {
        let Ok(mut reader) = csv::Reader::from_path(format!("{file}.rej")) else {
            return Vec::new();
        };
        let records = reader.records().map(|r| r.expect("the reject file is CSV"));
        records.map(|r| (r[0].parse().expect("a line number"), r[1].to_owned(), r[3].to_owned())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_loaded_or_rejected() {
    let world = World::start().await;
    for (seed, batch_rows, jobs) in [(1u64, "1", "1"), (2, "7", "3"), (3, "1000", "2"), (4, "100000", "1")] {
        world.query("TRUNCATE t").await;
        let (mut text, mut good, mut bad) = ("v,id,name\n".to_owned(), BTreeSet::new(), Vec::new());
        for id in 0..1000u64 {
            let line = id + 2;
            // A small hash decides what is wrong, so that bad rows come alone and in runs.
            let kind = (id / 3).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(seed) >> 57;
            let row = match kind {
                0 => (format!("x,{id},n"), "22P02"),
                1 => (format!("-1,{id},n"), "23514"),
                2 => (format!("1,{id}"), "22P04"),
                3 => (format!("1,{id},"), "23502"),
                4 => (format!("1,{id},\"quoted, \"\"name\"\"\""), ""),
                _ => (format!("1,{id},n"), ""),
            };
            text.push_str(&row.0);
            text.push('\n');
            if row.1.is_empty() {
                good.insert(id);
            } else {
                bad.push((line, row.1.to_owned(), row.0));
            }
        }
        assert!(bad.len() > 10 && good.len() > 500, "seed {seed} makes {} bad rows", bad.len());
        let file = world.write("rows.csv", &text);
        let allowed = bad.len().to_string();
        let flags = ["--max-errors", &allowed, "--batch-rows", batch_rows, "--jobs", jobs, &file];
        assert!(world.load(&flags).await, "seed {seed}");
        assert_eq!(world.ids().await, good, "seed {seed}");
        let mut rejected = world.rejects(&file);
        rejected.sort();
        assert_eq!(rejected, bad, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_stops_can_go_on_where_it_says() {
    let world = World::start().await;
    let mut text = "id,name\n".to_owned();
    for id in 0..5000 {
        text.push_str(&if id == 1234 { "oops,n\n".to_owned() } else { format!("{id},n\n") });
    }
    let file = world.write("rows.csv", &text);
    assert!(!world.load(&["--batch-rows", "100", "--jobs", "2", &file]).await);
    let (loaded, rejects) = (world.ids().await, world.rejects(&file));
    // Line 2 is row 0. What is neither loaded nor rejected is one piece at the end of the file.
    let dealt: BTreeSet<u64> = loaded.iter().map(|id| id + 2).chain(rejects.iter().map(|r| r.0)).collect();
    assert_eq!(dealt.len(), loaded.len() + rejects.len(), "no row is in both");
    let next = dealt.last().expect("something was read") + 1;
    assert!(dealt.iter().copied().eq(2..next), "no row is left out");
    assert!(rejects.iter().any(|(line, code, _)| (*line, code.as_str()) == (1236, "22P02")));
    let rest = next.to_string();
    assert!(world.load(&["--from-line", &rest, &file]).await);
    assert_eq!(world.ids().await.len() + rejects.len(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_gzip_and_globs() {
    let world = World::start().await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"{\"name\":\"a\\nb\",\"id\":1,\"v\":12345678901234567890.5}\n\n{\"id\":2}\n").expect("in memory");
    let packed = packed.finish().expect("in memory");
    std::fs::write(world.directory.path().join("a.jsonl.gz"), packed).expect("the file is written");
    world.write("b.jsonl", "{\"id\":3,\"name\":\"c\",\"v\":null}\nnonsense\n");
    let glob = world.directory.path().join("*.jsonl*").to_string_lossy().into_owned();
    assert!(world.load(&["--max-errors", "1", &glob]).await);
    assert_eq!(world.ids().await, BTreeSet::from([1, 3]));
    assert_eq!(world.query("SELECT v FROM t WHERE name = E'a\\nb'").await, ["12345678901234567890.5"]);
    let rejects = world.rejects(&world.directory.path().join("a.jsonl.gz").to_string_lossy());
    assert_eq!(rejects, [(3, "23502".to_owned(), "{\"id\":2}".to_owned())]);
    let rejects = world.rejects(&world.directory.path().join("b.jsonl").to_string_lossy());
    assert_eq!(rejects, [(2, "22P04".to_owned(), "nonsense".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_reported_as_unknown() {
    let world = World::start().await;
    let target = world.server.target.clone();
    let (sender, receiver) = mpsc::channel(1);
    let counters = Arc::new(Counters::default());
    let sink: Arc<RejectSink> = Arc::new(|r: &Reject<'_>| panic!("no row is bad, not even {r:?}"));
    let loader = Loader { target: target.clone(), jobs: 1, max_errors: 0 };
    let running = tokio::spawn({
        let counters = counters.clone();
        async move { loader.run(receiver, counters, sink).await }
    });
    // The server hangs up in the middle of a COPY: a trigger of ours ends the session.
    world
        .query(
            "CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$",
        )
        .await;
    world
        .query("CREATE TRIGGER hang_up BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id = 15) EXECUTE FUNCTION hang_up()")
        .await;
    for first in [1u64, 11, 21] {
        let mut batch =
            Batch { statement: "COPY t (id, name) FROM STDIN WITH (FORMAT csv)".into(), ..Batch::default() };
        for id in first..first + 10 {
            batch.data.extend_from_slice(format!("{id},n\n").as_bytes());
            batch.end_row(id);
        }
        sender.send(batch).await.expect("batches are received even after a failure");
    }
    drop(sender);
    let outcome = running.await.expect("the loader does not panic");
    let failure = outcome.failure.expect("the connection broke").to_string();
    assert!(failure.starts_with("lines 11 to 20"), "{failure}");
    assert_eq!(outcome.resume, Some(21));
    assert_eq!(counters.loaded.load(Ordering::Acquire), 10);
    assert_eq!(world.ids().await.len(), 10);
}
