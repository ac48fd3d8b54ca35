//! The news platform's data, generated: the same rows for the same scale on every machine.
//!
//! Invariant: a row depends on its table and number alone, never on the order in which rows are made.

use std::io::Write;
use std::sync::Arc;

use crate::load::pipeline::Batch;

/// Rows in one COPY.
const BATCH_ROWS: u64 = 10_000;
/// Changing it changes every row.
const SEED: u64 = 0x41_74_6f_6c_6c;
/// 2026-01-01, in days since 1970-01-01.
const FIRST_DAY: i64 = 20_454;
/// The days over which articles are read.
const DAYS: u64 = 90;
const SECONDS_A_DAY: u64 = 86_400;

/// The number of rows of each table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Users.
    pub users: u64,
    /// Articles.
    pub articles: u64,
    /// Readings.
    pub reads: u64,
}

impl Scale {
    /// Scale 1 is 10,000 users, 10,000 articles and 1,000,000 readings; fractions are allowed.
    pub fn of(scale: f64) -> Self {
        let rows = |n: f64| (n * scale).round().max(10.0) as u64;
        Self { users: rows(10_000.0), articles: rows(10_000.0), reads: rows(1_000_000.0) }
    }
}

/// A generated table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Who reads.
    Users,
    /// What is read.
    Articles,
    /// Who read what, and when.
    Reads,
}

impl Table {
    /// All of them, in the order in which they are loaded: a reading lies beside its user.
    pub const ALL: [Self; 3] = [Self::Users, Self::Articles, Self::Reads];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Articles => "articles",
            Self::Reads => "reads",
        }
    }

    /// Its number of rows.
    pub fn rows(self, scale: Scale) -> u64 {
        match self {
            Self::Users => scale.users,
            Self::Articles => scale.articles,
            Self::Reads => scale.reads,
        }
    }

    /// The COPY that takes its rows.
    pub fn copy_statement(self) -> Arc<str> {
        let columns = match self {
            Self::Users => {
                "uid, name, gender, email, phone, dept, grade, language, region, role, prefer_tags, \
                 obtained_credits, created"
            }
            Self::Articles => "aid, title, category, abstract, tags, authors, language, text, image, video, created",
            Self::Reads => "rid, uid, aid, read_at, read_time_s, agree, comment, share",
        };
        format!("COPY {} ({columns}) FROM STDIN WITH (FORMAT csv)", self.name()).into()
    }

    /// Its rows, in batches.
    pub fn batches(self, scale: Scale) -> impl Iterator<Item = Batch> {
        let (rows, statement) = (self.rows(scale), self.copy_statement());
        (0..rows).step_by(BATCH_ROWS as usize).map(move |first| {
            let mut batch = Batch { statement: statement.clone(), ..Batch::default() };
            for row in first..rows.min(first + BATCH_ROWS) {
                // Writing to memory does not fail.
                let _ = self.write_row(row, scale, &mut batch.data);
                batch.end_row(row + 1);
            }
            batch
        })
    }

    fn write_row(self, n: u64, scale: Scale, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut random = Random::new(self, n);
        match self {
            Self::Users => user(n, &mut random, out),
            Self::Articles => article(n, &mut random, out),
            Self::Reads => read(n, scale, &mut random, out),
        }
    }
}

fn user(n: u64, random: &mut Random, out: &mut Vec<u8>) -> std::io::Result<()> {
    let beijing = random.chance(60);
    let (given, family) = (random.pick(&GIVEN), random.pick(&FAMILY));
    writeln!(
        out,
        "u{n},{given} {family},{},u{n}@example.org,+86 10 {:08},dept{},grade{},{},{},role{},{};{},{},{}",
        if random.chance(50) { "female" } else { "male" },
        random.below(100_000_000),
        random.below(20),
        random.below(4) + 1,
        if beijing == random.chance(80) { "zh" } else { "en" },
        if beijing { "Beijing" } else { "Hong Kong" },
        random.below(3),
        random.pick(&TOPICS),
        random.pick(&TOPICS),
        random.below(100),
        timestamp(random.below(DAYS * SECONDS_A_DAY), -365),
    )
}

fn article(n: u64, random: &mut Random, out: &mut Vec<u8>) -> std::io::Result<()> {
    let science = random.chance(45);
    let (verb, topic, place) = (random.pick(&VERBS), random.pick(&TOPICS), random.pick(&PLACES));
    let author = random.pick(&FAMILY);
    writeln!(
        out,
        "a{n},{verb} {topic} in {place},{},How {author} and others set about {} {topic} in {place}.,{topic};{},\
         {author};{},{},news/a{n}/text.txt,news/a{n}/image.jpg,{},{}",
        if science { "science" } else { "technology" },
        verb.to_lowercase(),
        random.pick(&TOPICS),
        random.pick(&FAMILY),
        if random.chance(50) { "en" } else { "zh" },
        if random.chance(5) { format!("news/a{n}/video.mp4") } else { String::new() },
        timestamp(random.below(DAYS * SECONDS_A_DAY), -90),
    )
}

fn read(n: u64, scale: Scale, random: &mut Random, out: &mut Vec<u8>) -> std::io::Result<()> {
    // Readings come in the order of time, with some noise; few articles are read often, most seldom.
    let span = DAYS * SECONDS_A_DAY;
    let at = (n * (span - 3600) / scale.reads.max(1) + random.below(3600)).min(span - 1);
    let skewed = random.fraction().powi(3);
    let aid = ((skewed * scale.articles as f64) as u64).min(scale.articles - 1);
    writeln!(
        out,
        "{n},u{},a{aid},{},{},{},{},{}",
        random.below(scale.users),
        timestamp(at, 0),
        5 + random.below(300),
        flag(random.chance(33)),
        flag(random.chance(10)),
        flag(random.chance(5)),
    )
}

fn flag(on: bool) -> char {
    if on { 't' } else { 'f' }
}

/// `YYYY-MM-DD HH:MM:SS`, `seconds` after the first day moved by `days`.
fn timestamp(seconds: u64, days: i64) -> String {
    let (day, second) = (FIRST_DAY + days + (seconds / SECONDS_A_DAY) as i64, seconds % SECONDS_A_DAY);
    let (year, month, date) = civil(day);
    format!("{year}-{month:02}-{date:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 1970-01-01, for days after it
/// (Howard Hinnant, *chrono-compatible low-level date algorithms*).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), begun anew for each row.
struct Random(u64);

impl Random {
    fn new(table: Table, row: u64) -> Self {
        let mut random = Self(SEED ^ (table as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        // One step between table and row, so that the rows of two tables are unrelated.
        let start = random.next();
        Self(start ^ row.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`. (The product's high half: biased by less than n / 2^64.)
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from 0 to 1, without 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

const GIVEN: [&str; 16] = [
    "Ada", "Bo", "Chen", "Dan", "Elena", "Fang", "Grace", "Hao", "Iris", "Jun", "Kai", "Lin", "Mei", "Noor", "Tao",
    "Yan",
];
const FAMILY: [&str; 16] = [
    "Wang", "Li", "Zhang", "Liu", "Chen", "Yang", "Huang", "Zhao", "Wu", "Zhou", "Chan", "Wong", "Lam", "Cheung", "Ho",
    "Ng",
];
const VERBS: [&str; 8] =
    ["Measuring", "Building", "Understanding", "Predicting", "Repairing", "Mapping", "Growing", "Teaching"];
const TOPICS: [&str; 16] = [
    "batteries",
    "bridges",
    "chips",
    "corals",
    "databases",
    "earthquakes",
    "enzymes",
    "galaxies",
    "glaciers",
    "lasers",
    "neurons",
    "oceans",
    "robots",
    "satellites",
    "storms",
    "vaccines",
];
const PLACES: [&str; 10] =
    ["Beijing", "Hong Kong", "Shenzhen", "Singapore", "Nairobi", "Lima", "Oslo", "Toronto", "Mumbai", "Tokyo"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rows_every_time_and_everywhere() {
        let scale = Scale::of(0.001);
        assert_eq!(scale, Scale { users: 10, articles: 10, reads: 1000 });
        for table in Table::ALL {
            let twice: Vec<Vec<u8>> = (0..2).map(|_| table.batches(scale).flat_map(|b| b.data).collect()).collect();
            assert_eq!(twice[0], twice[1]);
            let text = String::from_utf8(twice[0].clone()).expect("UTF-8");
            assert_eq!(text.lines().count() as u64, table.rows(scale));
            let fields = table.copy_statement().matches(", ").count() + 1;
            assert!(text.lines().all(|l| l.split(',').count() == fields), "{}", table.name());
        }
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(FIRST_DAY), (2026, 1, 1));
        assert_eq!(civil(FIRST_DAY - 1), (2025, 12, 31));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(timestamp(86_399 + 86_400, 0), "2026-01-02 23:59:59");
    }

    #[test]
    fn readings_name_users_and_articles_that_exist() {
        let scale = Scale::of(0.01);
        for batch in Table::Reads.batches(scale) {
            for line in String::from_utf8(batch.data).expect("UTF-8").lines() {
                let fields: Vec<&str> = line.split(',').collect();
                let number = |field: &str| field[1..].parse::<u64>().expect("a number");
                assert!(number(fields[1]) < scale.users && number(fields[2]) < scale.articles, "{line}");
                assert!(fields[3] < "2026-04-01", "{line}");
            }
        }
    }
}
