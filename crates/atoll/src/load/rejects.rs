//! The reject file: CSV with the line, the SQLSTATE, the reason and the row of everything that was not loaded.
//!
//! Created with the first reject, so that a clean load leaves none; one that an earlier load left is replaced then.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::pipeline::Reject;

/// Collects rejected rows of one file.
pub struct RejectFile {
    path: PathBuf,
    writer: Mutex<Option<csv::Writer<File>>>,
}

impl RejectFile {
    /// Nothing is written before the first reject.
    pub fn new(path: PathBuf) -> Self {
        Self { path, writer: Mutex::new(None) }
    }

    /// Where the rows go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a row.
    pub fn write(&self, reject: &Reject<'_>) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let writer = match &mut *writer {
            Some(writer) => writer,
            none => {
                let mut created = csv::Writer::from_path(&self.path).map_err(io::Error::other)?;
                created.write_record(["line", "sqlstate", "reason", "row"]).map_err(io::Error::other)?;
                none.insert(created)
            }
        };
        let row = reject.row.strip_suffix(b"\n").unwrap_or(reject.row);
        writer
            .write_record([
                reject.line.to_string().as_bytes(),
                reject.sqlstate.as_bytes(),
                reject.reason.as_bytes(),
                row,
            ])
            .map_err(io::Error::other)
    }

    /// Makes sure that the rows are in the file.
    pub fn close(&self) -> io::Result<()> {
        match &mut *self.writer.lock() {
            Some(writer) => writer.flush(),
            None => Ok(()),
        }
    }
}
