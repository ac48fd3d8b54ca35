//! A bank: accounts at several sites, clients that move money between them, and what must hold at every moment.
//!
//! A transfer changes two accounts, which mostly lie at different sites, appends to the journal, and advances the client's mark,
//! of which every site has a copy. Clients keep a ledger of their own of what was acknowledged, so that after a crash
//! three things can be checked: nothing acknowledged is missing, nothing is there that was not sent, and nothing is there by half.

use crate::rng::Rng;
use crate::server::Server;
use crate::wire::{Client, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

/// Accounts, numbered from 0.
pub const ACCOUNTS: i64 = 60;
/// What each of them holds at first.
pub const OPENING: i64 = 1000;
/// The sum that never changes.
pub const TOTAL: i64 = ACCOUNTS * OPENING;
/// A client's transfers have numbers from its own number times this.
const STRIDE: i64 = 100_000_000;

/// The statements that set up the bank; `spread` with Atoll's clauses.
pub fn setup(spread: bool, clients: i64) -> Vec<String> {
    let clause = |text: &str| {
        if spread { format!(" {text}") } else { String::new() }
    };
    let mut statements = Vec::new();
    if spread {
        statements.extend((1..=3).map(|n| format!("CREATE SITE s{n} ENGINE embedded")));
    }
    let hash = "PARTITION BY HASH (id) WITH (fragments = 6, sites = 's1, s2, s3')";
    statements.push(format!("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL){}", clause(hash)));
    statements.push(format!(
        "CREATE TABLE journal (id bigint PRIMARY KEY, source int, target int, amount bigint){}",
        clause(hash)
    ));
    statements.push("CREATE INDEX journal_source ON journal (source)".to_string());
    statements.push(format!(
        "CREATE TABLE marks (client int PRIMARY KEY, last bigint){}",
        clause("WITH (sites = 's1, s2, s3', replication = 'all')")
    ));
    statements.push(format!("INSERT INTO accounts SELECT g, {OPENING} FROM generate_series(0, {}) g", ACCOUNTS - 1));
    statements.push(format!("INSERT INTO marks SELECT g, -1 FROM generate_series(0, {}) g", clients - 1));
    statements
}

/// One client, and its ledger.
#[derive(Debug)]
pub struct Teller {
    number: i64,
    rng: Rng,
    next: i64,
    /// Transfers whose COMMIT was acknowledged.
    acknowledged: BTreeSet<i64>,
    /// Transfers whose COMMIT was sent and not answered: they may be there, wholly, or not.
    in_doubt: BTreeSet<i64>,
    /// How many transactions were refused and have to be tried again, as 40001 and its like say.
    pub refused: u64,
}

impl Teller {
    /// A client with that number, from 0.
    pub fn new(number: i64, seed: u64) -> Self {
        let rng = Rng::new(seed.wrapping_add(number as u64 * 7919));
        Teller {
            number,
            rng,
            next: number * STRIDE,
            acknowledged: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            refused: 0,
        }
    }

    /// How many of its transfers were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Transfers money until `stop` is set or the connection breaks.
    ///
    /// # Errors
    /// A refusal that does not ask to try again.
    pub fn work(&mut self, server: &dyn Server, stop: &AtomicBool) -> Result<(), Error> {
        let Ok(mut client) = server.connect() else {
            return Ok(());
        };
        while !stop.load(Ordering::Relaxed) {
            match self.transfer(&mut client) {
                Ok(()) => {}
                Err(Error::Io(_)) => return Ok(()),
                Err(Error::Sql { sqlstate, .. }) if is_transient(&sqlstate) => {
                    self.refused += 1;
                    if client.query("ROLLBACK").is_err() {
                        return Ok(());
                    }
                }
                // What a server says that is being stopped.
                Err(Error::Sql { sqlstate, .. }) if sqlstate.starts_with("57P") => return Ok(()),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn transfer(&mut self, client: &mut Client) -> Result<(), Error> {
        let id = self.next;
        self.next += 1;
        let (source, target) = (self.rng.between(0, ACCOUNTS - 1), self.rng.between(0, ACCOUNTS - 1));
        let amount = self.rng.between(1, 50);
        let text = |n: i64| n.to_string();
        client.query("BEGIN")?;
        let debit = "UPDATE accounts SET balance = balance - $2 WHERE id = $1";
        let credit = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
        client.execute(debit, &[Some(&text(source)), Some(&text(amount))])?;
        client.execute(credit, &[Some(&text(target)), Some(&text(amount))])?;
        client.query(&format!("INSERT INTO journal VALUES ({id}, {source}, {target}, {amount})"))?;
        client.query(&format!("UPDATE marks SET last = {id} WHERE client = {}", self.number))?;
        if self.rng.chance(5) {
            client.query("ROLLBACK")?;
            return Ok(());
        }
        self.in_doubt.insert(id);
        match client.query("COMMIT") {
            Ok(reply) => {
                assert_eq!(reply.tag, "COMMIT", "a COMMIT that was answered with something else");
                self.in_doubt.remove(&id);
                self.acknowledged.insert(id);
                Ok(())
            }
            Err(Error::Sql { sqlstate, message }) => {
                // Refused, so not there.
                self.in_doubt.remove(&id);
                Err(Error::Sql { sqlstate, message })
            }
            Err(broken) => Err(broken),
        }
    }
}

/// Whether a refusal says: try again.
pub fn is_transient(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01" | "55P03")
}

fn numbers(client: &mut Client, sql: &str) -> Result<Vec<Vec<i64>>, Error> {
    let reply = client.query(sql)?;
    let number = |v: Option<String>| v.and_then(|t| t.parse().ok()).unwrap_or(i64::MIN);
    Ok(reply.rows.into_iter().map(|row| row.into_iter().map(number).collect()).collect())
}

/// Checks the whole bank against the clients' ledgers; what does not hold is told, one line each.
///
/// # Errors
/// When the server does not answer.
pub fn audit(client: &mut Client, tellers: &[Teller]) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    let balances: BTreeMap<i64, i64> =
        numbers(client, "SELECT id, balance FROM accounts")?.into_iter().map(|r| (r[0], r[1])).collect();
    let journal: BTreeMap<i64, Vec<i64>> =
        numbers(client, "SELECT id, source, target, amount FROM journal")?.into_iter().map(|r| (r[0], r)).collect();

    let sum: i64 = balances.values().sum();
    if sum != TOTAL || balances.len() as i64 != ACCOUNTS {
        wrong.push(format!("{} accounts hold {sum}, not {ACCOUNTS} and {TOTAL}", balances.len()));
    }
    let mut replayed: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, OPENING)).collect();
    for row in journal.values() {
        *replayed.entry(row[1]).or_default() -= row[3];
        *replayed.entry(row[2]).or_default() += row[3];
    }
    if balances != replayed {
        let differing: Vec<_> = balances.iter().filter(|(id, b)| replayed.get(id) != Some(b)).take(5).collect();
        wrong.push(format!("balances are not what the journal says, first: {differing:?}"));
    }
    // By the index, too.
    let by_index: i64 = (0..ACCOUNTS)
        .map(|id| numbers(client, &format!("SELECT count(*) FROM journal WHERE source = {id}")).map(|r| r[0][0]))
        .sum::<Result<i64, _>>()?;
    if by_index != journal.len() as i64 {
        wrong.push(format!("{by_index} journal rows by the index, {} without it", journal.len()));
    }

    let mut known = BTreeSet::new();
    for teller in tellers {
        let missing: Vec<_> = teller.acknowledged.iter().filter(|id| !journal.contains_key(id)).collect();
        if !missing.is_empty() {
            let (n, first) = (missing.len(), missing[0]);
            wrong.push(format!("client {}: {n} acknowledged transfers are lost, first {first}", teller.number));
        }
        known.extend(teller.acknowledged.iter().chain(&teller.in_doubt).copied());
        let range = teller.number * STRIDE..(teller.number + 1) * STRIDE;
        let last = journal.range(range).next_back().map_or(-1, |(id, _)| *id);
        // Once for each copy, and again.
        for _ in 0..6 {
            let mark = numbers(client, &format!("SELECT last FROM marks WHERE client = {}", teller.number))?[0][0];
            if mark != last {
                wrong.push(format!("client {}: its mark is {mark}, its last transfer {last}", teller.number));
                break;
            }
        }
    }
    let strange: Vec<_> = journal.keys().filter(|id| !known.contains(id)).collect();
    if let Some(first) = strange.first() {
        wrong.push(format!("{} transfers that were never committed are there, first {first}", strange.len()));
    }
    Ok(wrong)
}
