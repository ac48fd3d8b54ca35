//! A look at the tree's journals before the tree opens them.
//!
//! The tree takes whatever it cannot read in a journal for the end that a crash tore, and cuts it off there. That is right for a torn end
//! and wrong for damage in the middle, where acknowledged commits would silently go with it. The two can be told apart: behind a torn
//! end there is no complete batch, since each batch is synced before the next is written. Batches that were *not* synced
//! (`synchronous_commit = off`) can survive a power failure behind one that did not; then a whole page in between was never written,
//! and is zero.
//!
//! Invariant: [`check`] fails exactly when a complete batch lies behind an unreadable place with no unwritten page between. It changes
//! nothing on disk.

use super::error::io_error;
use atoll_model::{Error, ErrorKind, Result};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// What ends every batch, behind a tag and a checksum of 8 bytes.
const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// The unit in which a file system loses what was not synced.
const PAGE: usize = 4096;

/// Checks every journal in the tree's directory.
///
/// # Errors
/// `DataCorrupted`, naming the journal and the place; `Io`.
pub(crate) fn check(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("reading", dir, &e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| io_error("reading", dir, &e))?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let damage = examine(&path).map_err(|e| io_error("reading", &path, &e))?;
        if let Some(at) = damage {
            return Err(Error::new(
                ErrorKind::DataCorrupted,
                format!("journal {} is damaged at byte {at}, and complete commits follow", path.display()),
            )
            .hint("Restore the directory from a backup. Nothing was changed."));
        }
    }
    Ok(())
}

/// The place of the damage, if there is any.
fn examine(path: &Path) -> io::Result<Option<u64>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut good = 0;
    while let Some(size) = batch(&mut reader, length - good)? {
        good += size;
    }
    Ok(complete_batch_follows(&mut reader, good)?.then_some(good))
}

/// The size of the next batch; `None`: there is no complete one here.
fn batch(reader: &mut BufReader<File>, room: u64) -> io::Result<Option<u64>> {
    let mut size = 0;
    let mut inside = false;
    loop {
        let mut head = [0; 20];
        if room.saturating_sub(size) < 13 {
            return Ok(None);
        }
        reader.read_exact(&mut head[..1])?;
        let (rest, skip) = match head[0] {
            START if !inside => (12, 0),
            CLEAR if inside => (8, 0),
            END if inside => (12, 0),
            // Type, compression, site, length of the key, of the value, of the value as stored.
            ITEM if inside && room - size >= 21 => (20, 1),
            _ => return Ok(None),
        };
        reader.read_exact(&mut head[..rest])?;
        size += 1 + rest as u64;
        if skip == 1 {
            let key = u64::from(u16::from_le_bytes([head[10], head[11]]));
            let value = u64::from(u32::from_le_bytes([head[16], head[17], head[18], head[19]]));
            if head[0] > 4 || head[1] > 1 || size + key + value > room {
                return Ok(None);
            }
            reader.seek_relative((key + value) as i64)?;
            size += key + value;
        }
        if inside && rest == 12 {
            return Ok((head[8..12] == TRAILER).then_some(size));
        }
        inside = true;
    }
}

/// Whether the end of a batch lies behind `from`, before any page that was never written.
fn complete_batch_follows(reader: &mut BufReader<File>, from: u64) -> io::Result<bool> {
    reader.seek(SeekFrom::Start(from))?;
    let mut window: Vec<u8> = Vec::with_capacity(3 * PAGE);
    let mut next = PAGE - (from % PAGE as u64) as usize;
    loop {
        let start = window.len();
        let read = reader.by_ref().take(next as u64).read_to_end(&mut window)?;
        let page = &window[start..];
        if page.len() == PAGE && page.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        // A tag, a checksum, the trailer; then another batch, unused space, or the end of the file.
        let found = window.windows(13).enumerate().any(|(at, bytes)| {
            bytes[0] == END && bytes[9..] == TRAILER && matches!(window.get(at + 13), None | Some(&(0 | START)))
        });
        if found {
            return Ok(true);
        }
        if read < next {
            return Ok(false);
        }
        // What a trailer across the border needs stays.
        let keep = window.len().min(13);
        window.drain(..window.len() - keep);
        next = PAGE;
    }
}
