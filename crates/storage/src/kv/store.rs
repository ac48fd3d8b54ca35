//! A [`Store`]: the LSM database of one node, with one journal for all of its embedded sites.
//!
//! Layout of the data directory: `LOCK` (held by the process that has it open), `FORMAT` (version of this layout), `lsm/` (the tree's
//! own files). Each site is a keyspace of the tree; the keyspace `atoll` holds the store's own records.
//!
//! Invariants:
//! * The committer thread is the only writer of the tree, and it takes the published snapshot between two commits, so a
//!   snapshot never holds a part of a commit (the tree alone would allow that: flushes move its visible sequence number).
//! * What is published is durable, except for commits that asked not to wait for that.
//! * After a failed write nobody knows what is on disk, so the store refuses all further writes until it is opened again
//!   (Rebello et al., *Can Applications Recover from fsync Failures?*, ATC 2020); reads go on.

use super::bulk;
use super::commit::{Committer, Queue};
use super::error::{io_error, panic_text, tree_error};
use super::journal;
use super::locks::LockTable;
use super::options::StoreOptions;
use super::stats::{FragmentSize, Sizes};
use super::txn::{Txn, TxnOptions};
use super::writes::MAX_KEY;
use arc_swap::ArcSwap;
use atoll_model::{Error, ErrorKind, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Slice, Snapshot};
use parking_lot::{Condvar, Mutex, RwLock};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

const FORMAT: &str = "atoll-storage 1\n";

/// How often, and after which pause, a locked data directory is tried again.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);
/// Key of the clock's lease in the store's own keyspace.
pub(crate) const CLOCK_KEY: &[u8] = b"clock";

/// Keys of a purge's deletes in one commit.
const PURGE_CHUNK: usize = 2_000;

/// One embedded site's key space.
pub struct Space {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) keyspace: Keyspace,
}

impl Space {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({})", self.name)
    }
}

/// What readers see: everything up to a commit.
pub(crate) struct Published {
    pub(crate) timestamp: u64,
    pub(crate) snapshot: Snapshot,
}

/// What transactions, the committer and the store's handle share.
pub(crate) struct Shared {
    pub(crate) db: Database,
    pub(crate) own: Keyspace,
    pub(crate) dir: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) published: ArcSwap<Published>,
    pub(crate) locks: Arc<LockTable>,
    pub(crate) sizes: Sizes,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    /// Why no more writes are taken.
    pub(crate) refused: OnceLock<Error>,
    /// Serializable transactions that are open.
    pub(crate) serializable: AtomicUsize,
    pub(crate) spaces: RwLock<Vec<Arc<Space>>>,
    // Last, so that it is unlocked after the tree has closed.
    _lock: File,
}

/// An open store. Dropping it is as good as [`Store::close`], except that nobody learns of an error.
pub struct Store {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in a directory, creating both as needed.
    ///
    /// # Errors
    /// `CannotConnectNow` when another process has it open; `DataCorrupted`, `DiskFull`, `Io` with the file or directory.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Store> {
        let dir = dir.as_ref().to_path_buf();
        fs::create_dir_all(&dir).map_err(|e| io_error("creating data directory", &dir, &e))?;
        let lock = lock(&dir)?;
        check_format(&dir)?;
        let lsm = dir.join("lsm");
        journal::check(&lsm)?;
        // Parts of the tree's recovery assert what a damaged file may break.
        let (db, own) = catch_unwind(AssertUnwindSafe(|| open_tree(&lsm, &options))).unwrap_or_else(|payload| {
            let text = panic_text(payload.as_ref());
            Err(Error::new(ErrorKind::DataCorrupted, format!("opening {}: {text}", lsm.display()))
                .hint("A file there is damaged or was removed. Restore the directory from a backup."))
        })?;
        let saved = own.get(CLOCK_KEY).map_err(|e| tree_error("reading", &lsm, &e))?;
        let clock = match saved {
            Some(bytes) => u64::from_le_bytes(bytes.as_ref().try_into().map_err(|_| {
                Error::new(ErrorKind::DataCorrupted, format!("clock record in {} is malformed", lsm.display()))
            })?),
            None => 0,
        };
        bulk::recover(&db, &own).map_err(|e| tree_error("undoing an unfinished load in", &lsm, &e))?;
        let committer = Committer::new(clock);
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(Published { timestamp: committer.now(), snapshot: db.snapshot() }),
            db,
            own,
            dir,
            options,
            locks: LockTable::new(),
            sizes: Sizes::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            refused: OnceLock::new(),
            serializable: AtomicUsize::new(0),
            spaces: RwLock::default(),
            _lock: lock,
        });
        let thread = std::thread::Builder::new()
            .name("atoll-commit".into())
            .spawn({
                let shared = shared.clone();
                move || committer.run(&shared)
            })
            .map_err(|e| Error::new(ErrorKind::Io, format!("starting the committer thread: {e}")))?;
        Ok(Store { shared, committer: Mutex::new(Some(thread)) })
    }

    /// The key space of a site, created at the first use.
    ///
    /// # Errors
    /// `InvalidParameterValue` for a name that is empty or longer than 200 bytes; those of files.
    pub fn space(&self, name: &str) -> Result<Arc<Space>> {
        if name.is_empty() || name.len() > 200 {
            return Err(Error::new(ErrorKind::InvalidParameterValue, "a site's name has from 1 to 200 bytes"));
        }
        let mut spaces = self.shared.spaces.write();
        if let Some(space) = spaces.iter().find(|s| s.name == name) {
            return Ok(space.clone());
        }
        let options = &self.shared.options;
        let keyspace = self
            .shared
            .db
            .keyspace(&keyspace_name(name), || {
                KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes)
            })
            .map_err(|e| tree_error("opening site in", &self.shared.dir, &e))?;
        let space = Arc::new(Space { index: spaces.len() as u32, name: name.to_string(), keyspace });
        self.load_sizes(&space)?;
        spaces.push(space.clone());
        Ok(space)
    }

    fn load_sizes(&self, space: &Space) -> Result<()> {
        let prefix = size_prefix(&space.name);
        let opened = self.shared.published.load().timestamp;
        for entry in self.shared.own.prefix(&prefix) {
            let (key, value) = entry.into_inner().map_err(|e| tree_error("reading", &self.shared.dir, &e))?;
            let (Some(fragment), Some((rows, bytes))) = (
                key.get(prefix.len()..).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes),
                value.split_at_checked(8).and_then(|(r, b)| Some((r.try_into().ok()?, b.try_into().ok()?))),
            ) else {
                // Sizes are estimates: a record of a form we do not know is not worth failing for.
                continue;
            };
            let size = FragmentSize {
                rows: u64::from_le_bytes(rows),
                bytes: u64::from_le_bytes(bytes),
                modifications: opened,
            };
            self.shared.sizes.load(space.index, fragment, size);
        }
        Ok(())
    }

    /// Begins a transaction over all spaces of the store.
    pub fn begin(&self, options: TxnOptions) -> Txn {
        Txn::new(self.shared.clone(), options)
    }

    /// The timestamp up to which commits are visible.
    pub fn timestamp(&self) -> u64 {
        self.shared.published.load().timestamp
    }

    /// Approximate size of a fragment's copy in a space.
    pub fn fragment_size(&self, space: &Space, fragment: u32) -> FragmentSize {
        self.shared.sizes.get(space.index, fragment)
    }

    /// Deletes every key with a prefix, in chunks, so that other commits go on in between. Not undoable; a crash in the middle
    /// leaves the rest, and calling it again goes on.
    ///
    /// # Errors
    /// Those of reading and of commits.
    pub async fn purge(&self, space: &Arc<Space>, prefix: &[u8]) -> Result<u64> {
        let mut purged = 0;
        // Goes on behind the last key: from the start, every chunk would pass over the graves of all those before.
        let mut from = Bound::Included(Slice::new(prefix));
        loop {
            let txn = self.begin(TxnOptions { synchronous_commit: false, ..TxnOptions::default() });
            let mut chunk = 0;
            for key in txn.keys_from(space, from.clone()).take(PURGE_CHUNK) {
                let key = key?;
                if !key.starts_with(prefix) {
                    break;
                }
                txn.delete(space, &key)?;
                from = Bound::Excluded(key);
                chunk += 1;
            }
            if chunk == 0 {
                return Ok(purged);
            }
            txn.commit().await?;
            purged += chunk;
            // Others have waited for this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Sets the recorded size of a fragment to zero, after it was purged.
    pub fn forget_size(&self, space: &Space, fragment: u32) {
        self.shared.sizes.reset(space.index, fragment, self.timestamp());
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn disk_bytes(&self) -> Result<u64> {
        self.shared.db.disk_space().map_err(|e| tree_error("measuring", &self.shared.dir, &e))
    }

    /// Number of keys that are locked now.
    pub fn locked_keys(&self) -> usize {
        self.shared.locks.len()
    }

    /// Why the store takes no more writes, if so.
    pub fn write_refusal(&self) -> Option<Error> {
        self.shared.refused.get().cloned()
    }

    /// Finishes the commits under way, makes everything durable and stops. Transactions that are still open can read on but
    /// not commit. Blocks the calling thread.
    ///
    /// # Errors
    /// Why the store had stopped taking writes, if so.
    pub fn close(&self) -> Result<()> {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.committer.lock().take() {
            // The thread turns its own panics into a refusal.
            let _ = thread.join();
        }
        match self.shared.refused.get() {
            Some(error) if error.kind() != ErrorKind::AdminShutdown => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "store closed after a failure");
        }
    }
}

/// The tree's name for a site's key space.
pub(crate) fn keyspace_name(space: &str) -> String {
    format!("site:{space}")
}

/// Prefix of the records of fragment sizes of one site.
pub(crate) fn size_prefix(name: &str) -> Vec<u8> {
    [b"size:", name.as_bytes(), b"\0"].concat()
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("LOCK");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| io_error("opening", &path, &e))?;
    // A process that is being forked elsewhere in this program holds a copy of an old descriptor until it executes, and a
    // predecessor that was told to stop may be a moment from done: a short wait tells those from a directory in use.
    let mut patience = LOCK_TRIES;
    let mut locked = file.try_lock();
    while patience > 0 && matches!(locked, Err(fs::TryLockError::WouldBlock)) {
        std::thread::sleep(LOCK_PAUSE);
        patience -= 1;
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // For the message only: whose lock it is, if that can be read.
            let _ = file.read_to_string(&mut holder);
            return Err(Error::new(
                ErrorKind::CannotConnectNow,
                format!("data directory {} is in use by another Atoll (process {})", dir.display(), holder.trim()),
            )
            .hint("Stop that process, or give this one another --data directory."));
        }
        Err(fs::TryLockError::Error(e)) => return Err(io_error("locking", &path, &e)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()))
        .map_err(|e| io_error("writing", &path, &e))?;
    Ok(file)
}

fn check_format(dir: &Path) -> Result<()> {
    let path = dir.join("FORMAT");
    match fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) if found.starts_with("atoll-storage ") => Err(Error::new(
            ErrorKind::NotSupported,
            format!("{}: format {:?} is not one that this version of Atoll reads ({FORMAT:?})", path.display(), found),
        )),
        Ok(_) => Err(Error::new(ErrorKind::DataCorrupted, format!("{}: not a format file of Atoll", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("lsm").exists() {
                return Err(Error::new(
                    ErrorKind::DataCorrupted,
                    format!("{} is missing, although the directory holds data", path.display()),
                ));
            }
            let mut file = File::create_new(&path).map_err(|e| io_error("creating", &path, &e))?;
            file.write_all(FORMAT.as_bytes())
                .and_then(|()| file.sync_all())
                .and_then(|()| File::open(dir)?.sync_all())
                .map_err(|e| io_error("writing", &path, &e))
        }
        Err(e) => Err(io_error("reading", &path, &e)),
    }
}

fn open_tree(lsm: &Path, options: &StoreOptions) -> Result<(Database, Keyspace)> {
    let opening = |e| tree_error("opening", lsm, &e);
    let db = Database::builder(lsm)
        .cache_size(options.cache_bytes)
        .worker_threads(options.workers.max(1))
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .manual_journal_persist(true)
        .open()
        .map_err(opening)?;
    let own = db.keyspace("atoll", || KeyspaceCreateOptions::default().max_memtable_size(1 << 20)).map_err(opening)?;
    Ok((db, own))
}

impl Published {
    /// The stored form of a key, and the timestamp at its front. A key that is too long to be there is not asked for: the tree
    /// would panic.
    pub(crate) fn read(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>> {
        if key.len() > MAX_KEY {
            return Ok(None);
        }
        self.snapshot.get(&space.keyspace, key).map_err(|e| tree_error("reading", space.keyspace.path(), &e))
    }
}
