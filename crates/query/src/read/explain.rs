//! EXPLAIN: what a statement does, where, and (with ANALYZE) what it cost.
//!
//! Invariant: the text without ANALYZE depends on the plan alone, so tests can compare it.

use super::engine::Engine;
use super::localize::Reduction;
use super::scan::FragmentScanExec;
use super::sites::SiteQueryExec;
use atoll_model::{Catalog, Error, ErrorKind, Result, SiteId};
use atoll_ports::cluster::Transaction;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion::sql::sqlparser::ast::{AnalyzeFormatKind, UtilityOption};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The options of EXPLAIN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExplainOptions {
    /// Run it and measure.
    pub(crate) analyze: bool,
    /// Also the logical plan.
    pub(crate) verbose: bool,
    /// Estimated rows.
    pub(crate) costs: bool,
    /// Times, with ANALYZE.
    pub(crate) timing: bool,
    /// Totals at the end.
    pub(crate) summary: bool,
    /// As JSON.
    pub(crate) json: bool,
}

impl ExplainOptions {
    /// Reads both forms: `EXPLAIN ANALYZE VERBOSE …` and `EXPLAIN (ANALYZE, FORMAT JSON, …)`.
    ///
    /// # Errors
    /// `Syntax` for an unknown option, `InvalidParameterValue` for a bad value.
    pub(crate) fn parse(
        analyze: bool,
        verbose: bool,
        format: Option<&AnalyzeFormatKind>,
        options: Option<&[UtilityOption]>,
    ) -> Result<Self> {
        let mut out = ExplainOptions { analyze, verbose, costs: true, timing: true, summary: true, json: false };
        let set_format = |name: &str, out: &mut ExplainOptions| match name.to_ascii_lowercase().as_str() {
            "text" => {
                out.json = false;
                Ok(())
            }
            "json" => {
                out.json = true;
                Ok(())
            }
            other => Err(Error::unsupported(format!("EXPLAIN in the format {other}"))
                .hint("FORMAT TEXT and FORMAT JSON are there.")),
        };
        if let Some(AnalyzeFormatKind::Keyword(f) | AnalyzeFormatKind::Assignment(f)) = format {
            set_format(&f.to_string(), &mut out)?;
        }
        for option in options.unwrap_or_default() {
            let name = option.name.value.to_ascii_lowercase();
            let argument = option.arg.as_ref().map(|a| a.to_string().trim_matches('\'').to_ascii_lowercase());
            if name == "format" {
                set_format(argument.as_deref().unwrap_or("text"), &mut out)?;
                continue;
            }
            let on = match argument.as_deref() {
                None | Some("true" | "on" | "1") => true,
                Some("false" | "off" | "0") => false,
                Some(other) => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("{name} requires a Boolean value, not \"{other}\""),
                    ));
                }
            };
            match name.as_str() {
                "analyze" => out.analyze = on,
                "verbose" => out.verbose = on,
                "costs" => out.costs = on,
                "timing" => out.timing = on,
                "summary" => out.summary = on,
                // Nothing to show for these; PostgreSQL's tools give them.
                "buffers" | "wal" | "settings" | "generic_plan" => {}
                other => return Err(Error::new(ErrorKind::Syntax, format!("unrecognized EXPLAIN option \"{other}\""))),
            }
        }
        Ok(out)
    }
}

/// What is read at one site.
#[derive(Default)]
struct AtSite {
    fragments: Vec<String>,
    rows: usize,
    bytes: usize,
}

impl Engine {
    /// Explains a plan as bound (not yet optimized).
    ///
    /// # Errors
    /// Those of planning; with ANALYZE those of execution.
    pub(crate) async fn explain(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
        txn: Arc<dyn Transaction>,
        options: &ExplainOptions,
    ) -> Result<Vec<String>> {
        let started = Instant::now();
        let optimized = self.optimize(state, plan)?;
        let state = &self.with_subqueries(state, &optimized, &txn, &None);
        let localized = self.localize(optimized, &txn)?;
        let physical = self.physical(state, &localized).await?;
        let planning = started.elapsed();
        let mut execution = None;
        if options.analyze {
            let started = Instant::now();
            let (_, mut stream) = self.start(state, physical.clone())?;
            let mut rows = 0;
            while let Some(batch) = stream.try_next().await? {
                rows += batch.num_rows();
            }
            execution = Some((started.elapsed(), rows));
        }
        let catalog = txn.catalog();
        let report = Report {
            options,
            catalog: &catalog,
            reductions: &localized.reductions,
            physical: &physical,
            planning,
            execution,
        };
        if options.json {
            return report.json();
        }
        let mut lines = report.text();
        if options.verbose {
            lines.push("Logical plan:".to_owned());
            lines.extend(localized.plan.display_indent().to_string().lines().map(|l| format!("  {l}")));
        }
        Ok(lines)
    }
}

struct Report<'a> {
    options: &'a ExplainOptions,
    catalog: &'a Catalog,
    reductions: &'a [Reduction],
    physical: &'a Arc<dyn ExecutionPlan>,
    planning: Duration,
    execution: Option<(Duration, usize)>,
}

struct Shown<'a>(&'a dyn ExecutionPlan);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(DisplayFormatType::Default, f)
    }
}

impl Report<'_> {
    fn text(&self) -> Vec<String> {
        let mut lines = vec![];
        for r in self.reductions {
            lines.push(self.reduction(r));
        }
        for (site, at) in self.sites() {
            let name = self.site(site);
            let mut line = format!("Site {name}: reads {}", at.fragments.join(", "));
            if self.options.analyze {
                line.push_str(&format!(" (shipped {} rows, {} bytes)", at.rows, at.bytes));
            }
            lines.push(line);
        }
        self.tree(self.physical, 0, &mut lines);
        if self.options.summary && (self.options.analyze || self.options.verbose) && self.options.timing {
            lines.push(format!("Planning Time: {:.3} ms", millis(self.planning)));
        }
        if let Some((time, rows)) = self.execution
            && self.options.summary
        {
            lines.push(if self.options.timing {
                format!("Execution Time: {:.3} ms, {rows} rows", millis(time))
            } else {
                format!("Rows: {rows}")
            });
        }
        lines
    }

    fn reduction(&self, r: &Reduction) -> String {
        let kept: Vec<&str> = r.kept.iter().map(|at| r.table.fragments[*at].name.as_str()).collect();
        let name = if r.name == r.table.name { r.name.clone() } else { format!("{} {}", r.table.name, r.name) };
        let list = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        let mut line = format!("Fragments of {name}: {} of {} ({list})", r.kept.len(), r.of);
        if r.kept.len() < r.of && !r.because.is_empty() {
            line.push_str(&format!(", others dropped by {}", r.because.join(" AND ")));
        }
        line
    }

    fn site(&self, id: SiteId) -> String {
        self.catalog.site_name(id)
    }

    fn sites(&self) -> BTreeMap<SiteId, AtSite> {
        let mut sites = BTreeMap::new();
        collect(self.physical, &mut sites);
        sites
    }

    fn tree(&self, plan: &Arc<dyn ExecutionPlan>, depth: usize, lines: &mut Vec<String>) {
        let arrow = if depth == 0 { String::new() } else { format!("{}->  ", "      ".repeat(depth - 1) + "  ") };
        let mut line = format!("{arrow}{}", Shown(plan.as_ref()));
        if let Some(place) = place(plan) {
            line.push_str(&format!(" [{place}]"));
        }
        if self.options.analyze
            && let Some(metrics) = plan.metrics()
        {
            let rows = metrics
                .output_rows()
                .or_else(|| plan.downcast_ref::<FragmentScanExec>().map(|s| s.total_shipped().0))
                .or_else(|| plan.downcast_ref::<SiteQueryExec>().map(|s| s.shipped().0));
            let mut actual = vec![];
            if self.options.timing
                && let Some(nanos) = metrics.elapsed_compute()
                && nanos > 0
            {
                actual.push(format!("time={:.3} ms", nanos as f64 / 1e6));
            }
            if let Some(rows) = rows {
                actual.push(format!("rows={rows}"));
            }
            if let Some(bytes) = metrics.spilled_bytes().filter(|b| *b > 0) {
                actual.push(format!("spilled={bytes} bytes"));
            }
            if !actual.is_empty() {
                line.push_str(&format!(" (actual {})", actual.join(" ")));
            }
        }
        lines.push(line);
        for child in plan.children() {
            self.tree(child, depth + 1, lines);
        }
    }

    fn json(&self) -> Result<Vec<String>> {
        let fragments: Vec<_> = self
            .reductions
            .iter()
            .map(|r| {
                serde_json::json!({
                    "Table": r.table.name, "Alias": r.name, "Of": r.of, "Reduced By": r.because,
                    "Kept": r.kept.iter().map(|at| r.table.fragments[*at].name.clone()).collect::<Vec<_>>(),
                })
            })
            .collect();
        let sites: Vec<_> = self
            .sites()
            .into_iter()
            .map(|(id, at)| {
                let mut site = serde_json::json!({ "Site": self.site(id), "Fragments": at.fragments });
                if self.options.analyze {
                    site["Shipped Rows"] = at.rows.into();
                    site["Shipped Bytes"] = at.bytes.into();
                }
                site
            })
            .collect();
        let mut whole =
            serde_json::json!({ "Plan": self.json_tree(self.physical), "Fragments": fragments, "Sites": sites });
        if self.options.summary {
            whole["Planning Time"] = millis(self.planning).into();
            if let Some((time, _)) = self.execution {
                whole["Execution Time"] = millis(time).into();
            }
        }
        let text =
            serde_json::to_string_pretty(&serde_json::json!([whole])).map_err(|e| Error::internal(e.to_string()))?;
        // One row holds the whole document, as in PostgreSQL.
        Ok(vec![text])
    }

    fn json_tree(&self, plan: &Arc<dyn ExecutionPlan>) -> serde_json::Value {
        let mut node = serde_json::json!({ "Node Type": plan.name(), "Detail": Shown(plan.as_ref()).to_string() });
        if self.options.analyze
            && let Some(metrics) = plan.metrics()
            && let Some(rows) = metrics.output_rows()
        {
            node["Actual Rows"] = rows.into();
        }
        let children: Vec<_> = plan.children().into_iter().map(|c| self.json_tree(c)).collect();
        if !children.is_empty() {
            node["Plans"] = children.into();
        }
        node
    }
}

/// Where a join is done.
fn place(plan: &Arc<dyn ExecutionPlan>) -> Option<&'static str> {
    use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
    match plan.downcast_ref::<HashJoinExec>()?.mode {
        PartitionMode::CollectLeft => Some("broadcast of the first input"),
        PartitionMode::Partitioned => Some("at the coordinator, by hash"),
        PartitionMode::Auto => None,
    }
}

fn collect(plan: &Arc<dyn ExecutionPlan>, sites: &mut BTreeMap<SiteId, AtSite>) {
    if let Some(scan) = plan.downcast_ref::<FragmentScanExec>() {
        for (partition, part) in scan.parts().iter().enumerate() {
            let at = sites.entry(part.site).or_default();
            at.fragments.push(part.fragment.table.fragments[part.fragment.at].name.clone());
            let (rows, bytes) = scan.shipped(partition);
            at.rows += rows;
            at.bytes += bytes;
        }
    }
    if let Some(query) = plan.downcast_ref::<SiteQueryExec>() {
        let at = sites.entry(query.site()).or_default();
        at.fragments.extend(query.fragments());
        let (rows, bytes) = query.shipped();
        at.rows += rows;
        at.bytes += bytes;
    }
    for child in plan.children() {
        collect(child, sites);
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
