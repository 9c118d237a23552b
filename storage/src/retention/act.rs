//! Carrying the decision out.

use std::collections::BTreeSet;

use matchtape_schemas::{AcceptedTime, BodyRef, Kind, KindMask, Sequence};

use super::choose::{Advisory, RetentionChoice, Situation, choose};
use super::policy::RetentionPolicy;
use crate::disk::{Disk, DiskError};
use crate::flush::{FlushError, Flusher};
use crate::manifest::{Contents, Edit};
use crate::pins::{PinKind, PinView, Pins};
use crate::read::view::Shared;
use crate::read::{Query, ReadError, Reader};
use crate::snapshot::{Snapshot, SnapshotMeta};
use crate::sstable::TableError;

/// Why old files could not be dropped. Whatever went before stays gone; what is kept is whole.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// What there is could not be read.
    #[error("cannot decide what goes: {0}")]
    Read(#[from] ReadError),
    /// The manifest could not be changed.
    #[error("cannot drop old files: {0}")]
    Flush(#[from] FlushError),
}

impl From<TableError> for RetentionError {
    fn from(error: TableError) -> Self {
        Self::Read(error.into())
    }
}

/// What a run looks at besides the manifest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub reader: &'a Reader,
    pub shared: &'a Shared,
    pub policy: &'a RetentionPolicy,
    pub now: AcceptedTime,
}

struct Run<'a> {
    policy: &'a RetentionPolicy,
    day_ends: Vec<Sequence>,
    now: AcceptedTime,
}

impl<'a> Run<'a> {
    fn new(scope: &Scope<'a>) -> Result<Self, ReadError> {
        let policy = scope.policy;
        let day_ends = if policy.trading_days.is_some() { day_ends(scope.reader)? } else { Vec::new() };
        Ok(Self { policy, day_ends, now: scope.now })
    }

    /// Chooses; or names a snapshot that the choice would rely on and that was not read back yet.
    fn choose(
        &self,
        contents: &Contents,
        pins: &[PinView],
        trust: &Trust,
    ) -> Result<RetentionChoice, SnapshotMeta> {
        let situation =
            Situation { contents, day_ends: &self.day_ends, unusable: &trust.unusable, now: self.now };
        let pins: Vec<PinView> = pins.iter().cloned().chain(holds(contents)).collect();
        let mut choice = choose(&situation, self.policy, &pins);
        // What drops nothing relies on nothing.
        if choice.dropped.is_empty() && choice.broken().is_empty() {
            choice.advisories.extend(trust.advisories.iter().cloned());
            return Ok(choice);
        }
        let before = Sequence(choice.first_kept).previous();
        let usable = || contents.snapshots.iter().rev().filter(|meta| !trust.unusable.contains(&meta.number));
        let first = usable().filter(|meta| meta.sequence() == before);
        let unread = usable().take(2).chain(first).find(|meta| !trust.good.contains(&meta.number));
        if let Some(meta) = unread {
            return Err(*meta);
        }
        choice.advisories.extend(trust.advisories.iter().cloned());
        Ok(choice)
    }
}

/// Which snapshots can be relied on.
#[derive(Debug, Default)]
struct Trust {
    unusable: Vec<u64>,
    good: BTreeSet<u64>,
    advisories: Vec<Advisory>,
}

impl Trust {
    /// Leaves out snapshots that lack a section that another one has: a run with fewer projections wrote them, and to
    /// keep only them would lose the others' state for good.
    fn new(disk: &dyn Disk, contents: &Contents, abandoned: &[String]) -> Result<Self, TableError> {
        let mut trust = Self::default();
        let mut all = BTreeSet::new();
        let mut names = Vec::new();
        for meta in &contents.snapshots {
            match Snapshot::section_names(disk, meta) {
                Ok(sections) => {
                    all.extend(sections.iter().cloned());
                    names.push((meta, sections));
                }
                Err(error) => trust.distrust(meta, damage_of(error)?),
            }
        }
        for (meta, sections) in names {
            if let Some(name) = all.iter().find(|name| !sections.contains(name) && !abandoned.contains(name))
            {
                trust.distrust(meta, format!("it lacks section {name:?}, which another snapshot has"));
            }
        }
        Ok(trust)
    }

    fn distrust(&mut self, meta: &SnapshotMeta, what: String) {
        self.unusable.push(meta.number);
        let file = meta.file().path().display().to_string();
        self.advisories.push(Advisory::SnapshotUnusable { file, what });
    }

    /// Reads a snapshot back.
    fn check(&mut self, disk: &dyn Disk, meta: &SnapshotMeta) -> Result<(), TableError> {
        match Snapshot::load(disk, meta) {
            Ok(_) => {
                self.good.insert(meta.number);
            }
            Err(error) => self.distrust(meta, damage_of(error)?),
        }
        Ok(())
    }
}

/// What is wrong with a file; an error of the disk other than its absence stays one.
fn damage_of(error: TableError) -> Result<String, TableError> {
    match error {
        TableError::Damage(damage) => Ok(damage.to_string()),
        TableError::Version(version) => Ok(version.to_string()),
        TableError::Feature(feature) => Ok(feature.to_string()),
        TableError::Disk(error) if error.is_missing() => Ok(error.to_string()),
        TableError::Disk(error) => Err(error.into()),
    }
}

fn holds(contents: &Contents) -> impl Iterator<Item = PinView> {
    contents.holds.iter().map(|hold| PinView {
        name: hold.name.clone(),
        kind: PinKind::LegalHold,
        from: hold.from.0,
        broken: false,
    })
}

/// The last event of each closed trading day, oldest first. A day may close several sessions: the last counts.
fn day_ends(reader: &Reader) -> Result<Vec<Sequence>, ReadError> {
    let query = Query { kinds: KindMask::of(&[Kind::SessionClosed]), ..Query::default() };
    let mut ends: Vec<(u32, Sequence)> = Vec::new();
    for event in reader.query(&query)? {
        let event = event?;
        let handle = event.event();
        let BodyRef::SessionClosed(closed) = handle.body() else { continue };
        let day = closed.trading_day.to_native();
        match ends.iter_mut().find(|(known, _)| *known == day) {
            Some((_, end)) => *end = event.sequence(),
            None => ends.push((day, event.sequence())),
        }
    }
    ends.sort_unstable_by_key(|(_, end)| *end);
    Ok(ends.into_iter().map(|(_, end)| end).collect())
}

/// Decides without doing anything. Of a store that another process writes, the pins of that process are not known.
pub(crate) fn plan(
    scope: &Scope<'_>,
    contents: &Contents,
    pins: &[PinView],
) -> Result<RetentionChoice, ReadError> {
    let disk = &*scope.shared.disk;
    let run = Run::new(scope)?;
    let mut trust = Trust::new(disk, contents, &run.policy.abandoned_sections)?;
    loop {
        match run.choose(contents, pins, &trust) {
            Ok(choice) => return Ok(choice),
            Err(unread) => trust.check(disk, &unread)?,
        }
    }
}

/// Decides and acts: the manifest, then readers, then the files.
pub(crate) fn retain(
    scope: &Scope<'_>,
    flusher: &Flusher,
    pins: &Pins,
    files_go_before_the_manifest: bool,
) -> Result<RetentionChoice, RetentionError> {
    let disk = &*scope.shared.disk;
    let run = Run::new(scope)?;
    // Snapshots may be long: they are read here, and not while flushes and merges wait. Their files are kept, and not the
    // view, which would keep memory.
    let (contents, snapshots) =
        flusher.with_contents(|contents| (contents.clone(), scope.shared.view().snapshots.clone()));
    let mut trust = Trust::new(disk, &contents, &run.policy.abandoned_sections)?;
    while let Err(unread) = run.choose(&contents, &pins.list(), &trust) {
        trust.check(disk, &unread)?;
    }
    drop(snapshots);
    // What somebody still reads goes later.
    flusher.decide_files(scope.shared, |now| {
        // One that was written meanwhile is not needed yet.
        let before = &contents.snapshots;
        trust
            .unusable
            .extend(now.snapshots.iter().filter(|meta| !before.contains(meta)).map(|meta| meta.number));
        let contents = now;
        let choice = loop {
            // Nothing is read while the board is locked.
            let decided = pins.decide(|board| match run.choose(contents, &board.list(), &trust) {
                Ok(choice) => {
                    let (broken, floor) = (choice.broken(), Sequence(choice.first_kept));
                    (Ok(choice), broken, floor)
                }
                Err(unread) => (Err(unread), Vec::new(), Sequence::ZERO),
            });
            match decided {
                Ok(choice) => break choice,
                Err(unread) => trust.check(disk, &unread)?,
            }
        };
        if files_go_before_the_manifest {
            remove(disk, &choice).map_err(FlushError::from)?;
        }
        let mut edits: Vec<Edit> =
            choice.dropped.iter().map(|file| Edit::Remove(file.table.number)).collect();
        if choice.first_kept > choice.first_kept_before {
            edits.push(Edit::FirstKept(Sequence(choice.first_kept)));
        }
        Ok((choice, edits))
    })
}

/// The mistake: removes the files at once.
fn remove(disk: &dyn Disk, choice: &RetentionChoice) -> Result<(), DiskError> {
    choice.dropped.iter().try_for_each(|file| disk.remove(&file.table.path()))
}
