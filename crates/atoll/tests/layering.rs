//! The directions between the crates, and the versions that may be in the tree only once, read from `cargo metadata`.
//!
//! The tables below are the law; `ARCHITECTURE.md` says why. A dependency that a table does not name fails, and so does a line of a
//! table that nothing uses any more, so that they cannot grow stale. What a crate needs for its tests alone is free.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Which of our crates each one may use, directly.
const ALLOWED: &[(&str, &[&str])] = &[
    ("atoll-model", &[]),
    ("atoll-protocol", &["atoll-model"]),
    ("atoll-sim", &["atoll-model", "atoll-protocol"]),
    ("atoll-ports", &["atoll-model"]),
    ("atoll-storage", &["atoll-model"]),
    ("atoll-adapters", &["atoll-model", "atoll-ports", "atoll-storage"]),
    ("atoll-node", &["atoll-model", "atoll-ports", "atoll-protocol"]),
    ("atoll-query", &["atoll-model", "atoll-ports"]),
    ("atoll-front", &["atoll-model", "atoll-ports"]),
    (
        "atoll",
        &["atoll-model", "atoll-ports", "atoll-storage", "atoll-adapters", "atoll-node", "atoll-query", "atoll-front"],
    ),
    // A black box: it can find out what a user could find out.
    ("atoll-e2e", &[]),
];

/// Heavy dependencies, and the only crates of ours that may have them, through whatever path.
const CONFINED: &[(&str, &[&str])] = &[
    ("datafusion", &["atoll-query", "atoll"]),
    ("sqlparser", &["atoll-query", "atoll"]),
    ("moka", &["atoll-storage", "atoll-adapters", "atoll-query", "atoll"]),
    ("fjall", &["atoll-storage", "atoll-adapters", "atoll"]),
    ("fs4", &["atoll-storage", "atoll-adapters", "atoll"]),
    ("axum", &["atoll-front", "atoll"]),
    ("hyper", &["atoll-front", "atoll"]),
    ("utoipa", &["atoll-front", "atoll"]),
    ("rustls", &["atoll-adapters", "atoll-front", "atoll"]),
    ("metrics-exporter-prometheus", &["atoll-front", "atoll"]),
    ("deadpool", &["atoll-adapters", "atoll"]),
    ("mysql_async", &["atoll-adapters", "atoll"]),
    ("tokio-postgres", &["atoll-adapters", "atoll"]),
    ("clap", &["atoll"]),
    ("tpchgen", &["atoll"]),
    ("arrow-cast", &["atoll-front", "atoll-query", "atoll"]),
    (
        "arrow-array",
        &["atoll-ports", "atoll-storage", "atoll-adapters", "atoll-node", "atoll-query", "atoll-front", "atoll"],
    ),
    ("tokio", &["atoll-ports", "atoll-storage", "atoll-adapters", "atoll-node", "atoll-query", "atoll-front", "atoll"]),
];

/// Families of crates of which the tree has one version: their types cross the borders between crates.
const ONE_VERSION: &[&str] = &["arrow", "datafusion", "sqlparser", "tokio", "postgres-protocol", "rustls"];

/// What `cargo metadata` says, as far as it matters here.
struct Tree {
    /// Our crates: name to id.
    ours: BTreeMap<String, String>,
    names: BTreeMap<String, String>,
    versions: BTreeMap<String, BTreeSet<String>>,
    /// By id: what is built with it, leaving out what only its tests need.
    uses: BTreeMap<String, Vec<String>>,
}

impl Tree {
    fn read() -> Result<Tree, Box<dyn std::error::Error>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = |args: &[&str]| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
            let output = Command::new(&cargo).args(args).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
            Ok(output.stdout)
        };
        // For this platform only: what others need may never have been fetched.
        let version = String::from_utf8(output(&["-vV"])?)?;
        let host =
            version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("cargo does not tell its host")?;
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let args = ["metadata", "--format-version", "1", "--offline", "--manifest-path", manifest];
        let metadata: Value = serde_json::from_slice(&output(&[&args[..], &["--filter-platform", host]].concat())?)?;

        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let members: BTreeSet<String> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let mut tree =
            Tree { ours: BTreeMap::new(), names: BTreeMap::new(), versions: BTreeMap::new(), uses: BTreeMap::new() };
        for package in list(&metadata["packages"]) {
            let (id, name) = (text(&package["id"]), text(&package["name"]));
            if members.contains(&id) {
                tree.ours.insert(name.clone(), id.clone());
            }
            tree.versions.entry(name.clone()).or_default().insert(text(&package["version"]));
            tree.names.insert(id, name);
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let built = |dep: &&Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            let uses = list(&node["deps"]).iter().filter(built).map(|dep| text(&dep["pkg"])).collect();
            tree.uses.insert(text(&node["id"]), uses);
        }
        Ok(tree)
    }

    /// The crates that one of ours is built with, directly.
    fn direct(&self, name: &str) -> BTreeSet<&str> {
        let uses = self.ours.get(name).and_then(|id| self.uses.get(id));
        uses.into_iter().flatten().filter_map(|id| self.names.get(id)).map(String::as_str).collect()
    }

    /// The crates that one of ours is built with, through whatever path.
    fn all(&self, name: &str) -> BTreeSet<&str> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = self.ours.get(name).map(String::as_str).into_iter().collect();
        while let Some(id) = next.pop() {
            for used in self.uses.get(id).into_iter().flatten() {
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
        seen.into_iter().filter_map(|id| self.names.get(id)).map(String::as_str).collect()
    }
}

/// Says everything that is wrong at once.
fn report(wrong: &[String]) -> TestResult {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

#[test]
fn crates_use_only_what_lies_below_them() -> TestResult {
    let tree = Tree::read()?;
    let mut wrong = vec![];
    for name in tree.ours.keys().filter(|name| ALLOWED.iter().all(|(known, _)| known != *name)) {
        wrong.push(format!("{name} has no line in ALLOWED"));
    }
    for (name, allowed) in ALLOWED {
        if !tree.ours.contains_key(*name) {
            wrong.push(format!("ALLOWED names {name}, which is no crate of the workspace"));
            continue;
        }
        let direct = tree.direct(name);
        let ours: BTreeSet<&str> = direct.iter().copied().filter(|used| tree.ours.contains_key(*used)).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        wrong.extend(ours.difference(&allowed).map(|used| format!("{name} must not depend on {used}")));
        wrong.extend(
            allowed.difference(&ours).map(|used| format!("{name} no longer depends on {used}: take it out of ALLOWED")),
        );
    }
    report(&wrong)
}

#[test]
fn heavy_dependencies_stay_where_they_are() -> TestResult {
    let tree = Tree::read()?;
    let mut wrong = vec![];
    for (heavy, homes) in CONFINED {
        if !tree.versions.contains_key(*heavy) {
            wrong.push(format!("CONFINED names {heavy}, which nothing uses"));
        }
        for name in tree.ours.keys() {
            match (homes.contains(&name.as_str()), tree.all(name).contains(heavy)) {
                (false, true) => wrong.push(format!("{name} must not be built with {heavy}")),
                (true, false) => wrong.push(format!("{name} is no longer built with {heavy}: take it out of CONFINED")),
                _ => {}
            }
        }
    }
    report(&wrong)
}

#[test]
fn shared_types_come_in_one_version() -> TestResult {
    let tree = Tree::read()?;
    let mut wrong = vec![];
    for family in ONE_VERSION {
        let members: Vec<_> = tree
            .versions
            .iter()
            .filter(|(name, _)| *name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with('-')))
            .collect();
        if members.is_empty() {
            wrong.push(format!("ONE_VERSION names {family}, which nothing uses"));
        }
        for (name, versions) in members.iter().filter(|(_, versions)| versions.len() > 1) {
            wrong.push(format!("{name} is in the tree in several versions: {versions:?}"));
        }
    }
    // The crates of Arrow are released together, and exchange types.
    for family in ["arrow", "datafusion"] {
        let versions: BTreeSet<_> = tree
            .versions
            .iter()
            .filter(|(name, _)| *name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with('-')))
            .flat_map(|(_, versions)| versions)
            .collect();
        if versions.len() != 1 {
            wrong.push(format!("the crates of {family} are of several versions: {versions:?}"));
        }
    }
    report(&wrong)
}
