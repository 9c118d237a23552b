//! What survives: for every file its device bytes, its unsynced changes and its page cache; for every directory
//! its synced entries and its unsynced changes.
//!
//! The rules are POSIX at its least generous: an unsynced write may survive in any of its sectors, in any order
//! with other unsynced writes; an unsynced directory change may survive without an earlier one; `fsync` of a file
//! says nothing about its name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Random;
use crate::disk::{Entry, EntryKind};

/// What a device writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What happens to unsynced changes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// All are lost.
    LoseUnsynced,
    /// All are kept: the device happened to be quick.
    KeepUnsynced,
    /// Kept, lost, torn at sectors and reordered as the seed decides.
    Seeded(u64),
}

/// One recorded mutating operation. Files are numbers, because names move.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Planned to fail without effect.
    Nothing,
    Create {
        path: PathBuf,
        file: usize,
    },
    CreateDirectory {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    Link {
        file: usize,
        new: PathBuf,
    },
    SyncDirectory {
        path: PathBuf,
    },
    Write {
        file: usize,
        offset: u64,
        bytes: Arc<[u8]>,
        durable: bool,
    },
    SetLen {
        file: usize,
        bytes: u64,
    },
    SyncData {
        file: usize,
    },
    SyncAll {
        file: usize,
    },
    SyncFailed {
        file: usize,
    },
    /// Damage from outside: device and cache at once.
    Replace {
        file: usize,
        bytes: Arc<[u8]>,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "failed without effect"),
            Self::Create { path, file } => write!(f, "create {} as file {file}", path.display()),
            Self::CreateDirectory { path } => write!(f, "create directory {}", path.display()),
            Self::Rename { from, to } => write!(f, "rename {} to {}", from.display(), to.display()),
            Self::Remove { path } => write!(f, "remove {}", path.display()),
            Self::Link { file, new } => write!(f, "link file {file} as {}", new.display()),
            Self::SyncDirectory { path } => write!(f, "sync directory {}", path.display()),
            Self::Write { file, offset, bytes, durable } => {
                let how = if *durable { " durably" } else { "" };
                write!(f, "write file {file}: {} bytes at {offset}{how}", bytes.len())
            }
            Self::SetLen { file, bytes } => write!(f, "set length of file {file} to {bytes}"),
            Self::SyncData { file } => write!(f, "sync data of file {file}"),
            Self::SyncAll { file } => write!(f, "sync file {file}"),
            Self::SyncFailed { file } => write!(f, "sync of file {file} failed"),
            Self::Replace { file, .. } => write!(f, "damage file {file}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    device: Vec<u8>,
    pending: Vec<Pending>,
    cache: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

/// A change to directories that is atomic, and durable once one of them is synced.
#[derive(Clone, Debug)]
struct Change {
    directories: Vec<PathBuf>,
    remove: Option<PathBuf>,
    insert: Option<(PathBuf, Node)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    files: Vec<FileState>,
    names: BTreeMap<PathBuf, Node>,
    synced_names: BTreeMap<PathBuf, Node>,
    changes: Vec<Change>,
}

impl Model {
    pub(super) fn file_at(&self, path: &Path) -> Option<usize> {
        match self.names.get(&clean(path))? {
            Node::File(file) => Some(*file),
            Node::Directory => None,
        }
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(&clean(path))
    }

    pub(super) fn has_parent(&self, path: &Path) -> bool {
        self.is_directory(&parent(&clean(path)))
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.names.get(path) == Some(&Node::Directory)
    }

    pub(super) fn entries_of(&self, directory: &Path) -> Option<Vec<Entry>> {
        let directory = clean(directory);
        if !self.is_directory(&directory) {
            return None;
        }
        let inside = self.names.iter().filter(|(path, _)| parent(path) == directory);
        let entries = inside.map(|(path, node)| Entry {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            kind: match node {
                Node::File(_) => EntryKind::File,
                Node::Directory => EntryKind::Directory,
            },
        });
        Some(entries.collect())
    }

    pub(super) fn next_file(&self) -> usize {
        self.files.len()
    }

    pub(super) fn cached(&self, file: usize) -> &[u8] {
        &self.files[file].cache
    }

    /// What the device holds once what is dirty in the cache was written to it.
    pub(super) fn on_device(&self, file: usize) -> Vec<u8> {
        self.files[file].with_pending()
    }

    pub(super) fn len_bytes(&self, file: usize) -> u64 {
        self.files[file].cache.len() as u64
    }

    pub(super) fn link_count(&self, file: usize) -> u64 {
        self.names.values().filter(|node| **node == Node::File(file)).count() as u64
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let named = self.names.values().filter_map(|node| match node {
            Node::File(file) => Some(self.len_bytes(*file)),
            Node::Directory => None,
        });
        named.sum()
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Nothing => {}
            Op::Create { path, file } => {
                assert_eq!(*file, self.files.len(), "files are numbered in the order of their creation");
                self.files.push(FileState::default());
                self.insert(path, Node::File(*file));
            }
            Op::CreateDirectory { path } => self.insert(path, Node::Directory),
            Op::Rename { from, to } => {
                let (from, to) = (clean(from), clean(to));
                let Some(node) = self.names.get(&from).copied() else { return };
                self.change(Change {
                    directories: vec![parent(&from), parent(&to)],
                    remove: Some(from),
                    insert: Some((to, node)),
                });
            }
            Op::Remove { path } => {
                let path = clean(path);
                self.change(Change { directories: vec![parent(&path)], remove: Some(path), insert: None });
            }
            Op::Link { file, new } => self.insert(new, Node::File(*file)),
            Op::SyncDirectory { path } => self.sync_directory(&clean(path)),
            Op::Write { file, offset, bytes, durable } => {
                self.files[*file].write(usize::try_from(*offset).expect("fits memory"), bytes, *durable);
            }
            Op::SetLen { file, bytes } => {
                let bytes = usize::try_from(*bytes).expect("fits memory");
                self.files[*file].cache.resize(bytes, 0);
                self.files[*file].pending.push(Pending::SetLen(bytes));
            }
            Op::SyncData { file } | Op::SyncAll { file } => self.files[*file].flush(),
            // The kernel reports the failure once, and calls the pages clean: they never reach the device.
            Op::SyncFailed { file } => self.files[*file].pending.clear(),
            Op::Replace { file, bytes } => {
                let state = &mut self.files[*file];
                state.pending.clear();
                state.device = bytes.to_vec();
                state.cache = bytes.to_vec();
            }
        }
    }

    fn insert(&mut self, path: &Path, node: Node) {
        let path = clean(path);
        self.change(Change { directories: vec![parent(&path)], remove: None, insert: Some((path, node)) });
    }

    fn change(&mut self, change: Change) {
        change.act_on(&mut self.names);
        self.changes.push(change);
    }

    fn sync_directory(&mut self, directory: &Path) {
        let (synced, open): (Vec<Change>, Vec<Change>) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| change.directories.iter().any(|one| one == directory));
        for change in synced {
            change.act_on(&mut self.synced_names);
        }
        self.changes = open;
    }

    /// What a read past the page cache sees becomes what the page cache holds.
    pub(super) fn drop_cache(&mut self, file: usize, range: Range<u64>) {
        let state = &mut self.files[file];
        let truth = state.with_pending();
        let end = truth.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
        let start = end.min(usize::try_from(range.start).unwrap_or(usize::MAX));
        state.cache.resize(truth.len(), 0);
        state.cache[start..end].copy_from_slice(&truth[start..end]);
    }

    /// The disk of the next boot. What is `under_way` was begun and not finished.
    pub(super) fn after_power_loss(&self, under_way: &[Op], choice: PowerLoss) -> Model {
        let mut random = Random::new(match choice {
            PowerLoss::Seeded(seed) => seed,
            PowerLoss::LoseUnsynced | PowerLoss::KeepUnsynced => 0,
        });
        let mut before = self.clone();
        for op in under_way {
            if let Op::Write { file, offset, bytes, durable: _ } = op {
                before.files[*file].write(usize::try_from(*offset).expect("fits memory"), bytes, false);
            }
        }
        let mut after = Model { names: before.synced_names.clone(), ..Model::default() };
        let style = Style::draw(choice, &mut random);
        for change in &before.changes {
            if style.keeps_change(&mut random) {
                change.act_on(&mut after.names);
            }
        }
        after.prune();
        after.synced_names = after.names.clone();
        for file in &before.files {
            let device = file.survive(style, &mut random);
            after.files.push(FileState { cache: device.clone(), device, pending: Vec::new() });
        }
        after
    }

    /// Drops names whose directory did not survive.
    fn prune(&mut self) {
        loop {
            let orphan = self.names.keys().find(|path| !self.is_directory(&parent(path))).cloned();
            let Some(orphan) = orphan else { return };
            self.names.remove(&orphan);
        }
    }
}

impl Change {
    fn act_on(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, node)) = &self.insert {
            names.insert(path.clone(), *node);
        }
    }
}

/// The character of one power loss; a mixture would hide rare extremes.
#[derive(Clone, Copy, Debug)]
enum Style {
    Lose,
    Keep,
    /// Whole writes survive or not, in order.
    WholeWrites(u64),
    /// Each sector of each write survives or not, and overlapping writes land in any order.
    Sectors(u64),
    /// The latest writes survive, the earlier ones do not: reordering at its worst.
    LatestFirst(u64),
}

impl Style {
    fn draw(choice: PowerLoss, random: &mut Random) -> Self {
        match choice {
            PowerLoss::LoseUnsynced => Self::Lose,
            PowerLoss::KeepUnsynced => Self::Keep,
            PowerLoss::Seeded(_) => {
                let percent = [10, 50, 90][random.below(3) as usize];
                match random.below(3) {
                    0 => Self::WholeWrites(percent),
                    1 => Self::Sectors(percent),
                    _ => Self::LatestFirst(1 + random.below(3)),
                }
            }
        }
    }

    fn keeps_change(self, random: &mut Random) -> bool {
        match self {
            Self::Lose => false,
            Self::Keep => true,
            Self::WholeWrites(percent) | Self::Sectors(percent) => random.percent(percent),
            Self::LatestFirst(_) => random.percent(50),
        }
    }
}

impl FileState {
    fn write(&mut self, offset: usize, bytes: &Arc<[u8]>, durable: bool) {
        put(&mut self.cache, offset, bytes);
        if !durable {
            self.pending.push(Pending::Write { offset, bytes: Arc::clone(bytes) });
            return;
        }
        // The kernel writes older dirty pages of the range, and the new length, before a synchronous direct write ends.
        // Keeping the older changes of other ranges open would be more exact, and weaker for no test here.
        self.flush();
        put(&mut self.device, offset, bytes);
    }

    fn flush(&mut self) {
        self.device = self.with_pending();
        self.pending.clear();
    }

    fn with_pending(&self) -> Vec<u8> {
        let mut bytes = self.device.clone();
        for pending in &self.pending {
            match pending {
                Pending::Write { offset, bytes: written } => put(&mut bytes, *offset, written),
                Pending::SetLen(len) => bytes.resize(*len, 0),
            }
        }
        bytes
    }

    fn survive(&self, style: Style, random: &mut Random) -> Vec<u8> {
        let mut order: Vec<&Pending> = self.pending.iter().collect();
        let mut bytes = self.device.clone();
        match style {
            Style::Lose => return bytes,
            Style::Keep => return self.with_pending(),
            Style::WholeWrites(_) => {}
            Style::Sectors(_) => {
                for last in (1..order.len()).rev() {
                    order.swap(last, random.below(last as u64 + 1) as usize);
                }
            }
            Style::LatestFirst(keep) => {
                let skip = order.len().saturating_sub(keep as usize);
                order.drain(..skip);
            }
        }
        for pending in order {
            match (pending, style) {
                (Pending::SetLen(len), Style::LatestFirst(_)) => bytes.resize(*len, 0),
                (Pending::SetLen(len), _) => {
                    if random.percent(50) {
                        bytes.resize(*len, 0);
                    }
                }
                (Pending::Write { offset, bytes: written }, Style::Sectors(percent)) => {
                    put_sectors(&mut bytes, *offset, written, percent, random);
                }
                (Pending::Write { offset, bytes: written }, Style::WholeWrites(percent)) => {
                    if random.percent(percent) {
                        put(&mut bytes, *offset, written);
                    }
                }
                (Pending::Write { offset, bytes: written }, _) => put(&mut bytes, *offset, written),
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

/// Writes each sector with the given chance; the file grows at least to the last sector that survived.
fn put_sectors(bytes: &mut Vec<u8>, offset: usize, written: &[u8], percent: u64, random: &mut Random) {
    let mut at = 0;
    while at < written.len() {
        let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
        let end = written.len().min(sector_end - offset);
        if random.percent(percent) {
            put(bytes, offset + at, &written[at..end]);
        }
        at = end;
    }
}

fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}
