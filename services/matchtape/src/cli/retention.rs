//! What a running node does for its disk by itself: snapshots of a quiet tape, dropping what nobody keeps, telling what the
//! scrub has found.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use matchtape_node::Node;
use matchtape_schemas::AcceptedTime;
use matchtape_storage::{
    Advisory, DropReason, DroppedFile, EventStore, Finding, PinLimit, PinLimits, Restraint, RetentionChoice,
    RetentionPolicy,
};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::upkeep::now;

const HOUR: u64 = 60 * 60;

/// What of the tape stays. A rule that is 0 drops nothing; each other one is a reason to drop, unless a consumer, a legal
/// hold, an upload or a backup still needs it. `matchtape retain` with the same rules shows what would go.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetentionSection {
    /// Drop what was accepted longer ago than this. 0: however old.
    pub keep_hours: u64,
    /// Keep so many closed trading days and the running one. 0: all.
    pub keep_trading_days: u32,
    /// Drop the oldest events until tables and snapshots take at most this of the local disk. 0: whatever they take. Event tables in
    /// the cold tier do not count, and while the oldest are there nothing is dropped for this.
    pub keep_bytes: u64,
    /// Sections of snapshots that nobody will ask for again.
    pub abandoned_sections: Vec<String>,
    /// What a durable consumer has not acknowledged stays, but at most so many bytes of event tables: beyond that it is told what it
    /// lost, for a reader that is gone must not fill the disk. 0: without a limit. So for a standby.
    pub consumer_bytes_max: u64,
    /// And at most for so long after it was accepted. 0: without a limit.
    pub consumer_hours_max: u64,
    /// The same for a backup that is being taken.
    pub backup_bytes_max: u64,
    pub backup_hours_max: u64,
    /// The same for an upload to the cold tier.
    pub upload_bytes_max: u64,
    pub upload_hours_max: u64,
    /// A legal hold is never broken: beyond this there is an alarm. 0: never.
    pub hold_bytes_alarm: u64,
    pub hold_hours_alarm: u64,
    /// So often the node looks.
    pub interval_seconds: u64,
}

impl Default for RetentionSection {
    fn default() -> Self {
        let policy = RetentionPolicy::default();
        let bytes = |limit: PinLimit| limit.bytes.unwrap_or(0);
        let hours = |limit: PinLimit| limit.age.map_or(0, |age| age.as_secs() / HOUR);
        let limits = policy.pin_limits;
        Self {
            keep_hours: 0,
            keep_trading_days: 0,
            keep_bytes: 0,
            abandoned_sections: policy.abandoned_sections,
            consumer_bytes_max: bytes(limits.consumer),
            consumer_hours_max: hours(limits.consumer),
            backup_bytes_max: bytes(limits.backup),
            backup_hours_max: hours(limits.backup),
            upload_bytes_max: bytes(limits.archive),
            upload_hours_max: hours(limits.archive),
            hold_bytes_alarm: bytes(limits.legal_hold),
            hold_hours_alarm: hours(limits.legal_hold),
            interval_seconds: 60,
        }
    }
}

impl RetentionSection {
    /// As the store wants it.
    pub(super) fn policy(&self) -> RetentionPolicy {
        RetentionPolicy {
            age: after(self.keep_hours),
            trading_days: (self.keep_trading_days > 0).then_some(self.keep_trading_days),
            bytes: (self.keep_bytes > 0).then_some(self.keep_bytes),
            pin_limits: PinLimits {
                standby: limit(self.consumer_bytes_max, self.consumer_hours_max),
                consumer: limit(self.consumer_bytes_max, self.consumer_hours_max),
                archive: limit(self.upload_bytes_max, self.upload_hours_max),
                backup: limit(self.backup_bytes_max, self.backup_hours_max),
                legal_hold: limit(self.hold_bytes_alarm, self.hold_hours_alarm),
            },
            abandoned_sections: self.abandoned_sections.clone(),
            ..RetentionPolicy::default()
        }
    }

    /// The limits in bytes, by key.
    pub(super) fn bytes_of_pins(&self) -> [(&'static str, u64); 4] {
        [
            ("retention.consumer_bytes_max", self.consumer_bytes_max),
            ("retention.backup_bytes_max", self.backup_bytes_max),
            ("retention.upload_bytes_max", self.upload_bytes_max),
            ("retention.hold_bytes_alarm", self.hold_bytes_alarm),
        ]
    }
}

fn after(hours: u64) -> Option<Duration> {
    (hours > 0).then(|| Duration::from_secs(hours.saturating_mul(HOUR)))
}

fn limit(bytes: u64, hours: u64) -> PinLimit {
    PinLimit { bytes: (bytes > 0).then_some(bytes), age: after(hours) }
}

/// Snapshots beside those that every full memtable leaves.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SnapshotSection {
    /// Events wait in memory for so long at most, before they go to tables and into a snapshot. 0: until it is full.
    pub interval_minutes: u64,
}

impl Default for SnapshotSection {
    fn default() -> Self {
        Self { interval_minutes: 30 }
    }
}

/// What is done at each look, and what was said before.
struct Keeper {
    policy: RetentionPolicy,
    snapshot_after: Option<Duration>,
    /// What there were advisories about at the last look: they are told once while they hold.
    said: BTreeSet<String>,
    /// Files that were known to be damaged at the last look.
    damaged: BTreeSet<String>,
}

impl Keeper {
    fn new(config: &Config) -> Self {
        let minutes = config.snapshot.interval_minutes;
        let snapshot_after = (minutes > 0).then(|| Duration::from_secs(minutes.saturating_mul(60)));
        let (said, damaged) = (BTreeSet::new(), BTreeSet::new());
        Self { policy: config.retention.policy(), snapshot_after, said, damaged }
    }

    /// One look. What fails is told and tried again at the next; nothing is lost by waiting.
    fn look(&mut self, node: &Node, now: AcceptedTime) {
        let store = node.store();
        if let Some(after) = self.snapshot_after {
            match store.snapshot_if_due(after, now) {
                Ok(Some(through)) => {
                    tracing::info!("a snapshot of the quiet tape, through sequence {through}")
                }
                Ok(None) => {}
                Err(error) => tracing::error!("a snapshot of the quiet tape: {error}"),
            }
        }
        match store.retain(&self.policy, now) {
            Ok(choice) => self.tell(&choice),
            Err(error) => tracing::error!("{error}; what is kept is whole"),
        }
        for Finding { file, offset, what } in self.newly_damaged(node.gauge().scrub().damaged) {
            let place = offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
            tracing::error!(
                "damaged: {file}{place}: {what}; `matchtape verify` says whether anything else is"
            );
        }
    }

    /// The damage that was not known at the last look.
    fn newly_damaged(&mut self, found: Vec<Finding>) -> Vec<Finding> {
        let before = std::mem::take(&mut self.damaged);
        self.damaged = found.iter().map(|finding| finding.file.clone()).collect();
        found.into_iter().filter(|finding| !before.contains(&finding.file)).collect()
    }

    /// Before the first look: whoever has misjudged a rule, or has started the node on a tape that was away for long, can still stop
    /// it.
    fn announce(&self, store: &EventStore, now: AcceptedTime, interval: Duration) {
        match store.plan_retention(&self.policy, now) {
            Ok(choice) if choice.first_kept > choice.first_kept_before => {
                let (first, last) = (choice.first_kept_before, choice.first_kept - 1);
                let whole = match choice.restraints.contains(&Restraint::NewestTable) {
                    true => "; the rules ask for the whole tape to go, only the newest event table stays",
                    false => "",
                };
                tracing::warn!(
                    "in {interval:?} sequences {first} to {last} are dropped, {} bytes, as [retention] says{whole}",
                    choice.dropped_bytes
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!("{error}; what is kept is whole"),
        }
    }

    fn tell(&mut self, choice: &RetentionChoice) {
        for file in &choice.dropped {
            tracing::info!("dropped {}", in_words(file));
        }
        if choice.first_kept > choice.first_kept_before {
            let (from, before) = (choice.first_kept, choice.first_kept_before);
            tracing::info!("the tape begins at sequence {from} now (before: {before})");
        }
        for advisory in self.news(&choice.advisories) {
            tracing::warn!("{advisory}");
        }
    }

    /// The advisories about what there was none about at the last look.
    fn news<'a>(&mut self, advisories: &'a [Advisory]) -> Vec<&'a Advisory> {
        let before = std::mem::take(&mut self.said);
        self.said = advisories.iter().map(subject).collect();
        advisories.iter().filter(|advisory| !before.contains(&subject(advisory))).collect()
    }
}

/// A file that goes, and why if that is not its age.
pub(super) fn in_words(file: &DroppedFile) -> String {
    let why = match file.reason {
        DropReason::Old => "",
        DropReason::Thinned => ": a snapshot close to others",
    };
    format!("{} ({} bytes){why}", file.file, file.bytes)
}

/// What an advisory is about. Its numbers change from look to look.
fn subject(advisory: &Advisory) -> String {
    match advisory {
        Advisory::PinBroken { pin, .. } => format!("broken {} {}", pin.kind, pin.name),
        Advisory::HoldOverLimit { hold, .. } => format!("{} {}", hold.kind, hold.name),
        Advisory::SnapshotUnusable { file, .. } => file.clone(),
    }
}

/// Looks at intervals until the other end of `stopped` goes. The first look comes an interval after the start: whoever was
/// reading old events before a restart has had the chance to pin them again.
pub(super) fn keep(node: &Node, config: &Config, stopped: &mpsc::Receiver<()>) {
    let interval = Duration::from_secs(config.retention.interval_seconds.max(1));
    let mut keeper = Keeper::new(config);
    keeper.announce(node.store(), now(), interval);
    while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        keeper.look(node, now());
    }
}

#[cfg(test)]
mod tests {
    use matchtape_market::projections;
    use matchtape_node::NodeOptions;
    use matchtape_schemas::event::OrderAccepted;
    use matchtape_schemas::{
        Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Sequence, Stage,
    };
    use matchtape_storage::{Excess, PinKind, PinView};

    use super::*;

    fn node(folder: &tempfile::TempDir) -> Node {
        let mut options = NodeOptions::default();
        options.store.compaction.small_event_table_bytes = 0;
        Node::open(folder.path(), options, projections()).unwrap()
    }

    fn publish(node: &Node, count: u64) -> Sequence {
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let from = publisher.last().map_or(0, |last| last.get()) + 1;
        let mut last = Sequence::ZERO;
        for number in from..from + count {
            let body = OrderAccepted { order_id: OrderId(number), ..Default::default() };
            let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body);
            last = publisher.publish(&event).unwrap().sequence();
        }
        node.wait(last, Stage::Visible).unwrap();
        last
    }

    fn tables(node: &Node, count: usize) {
        for _ in 0..count {
            publish(node, 100);
            node.store().flush().unwrap();
        }
    }

    fn first_kept(node: &Node) -> u64 {
        node.store().inspect().event_tables[0].first_sequence
    }

    #[test]
    fn without_a_rule_nothing_goes() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        tables(&node, 5);
        Keeper::new(&Config::default()).look(&node, now());
        assert_eq!((first_kept(&node), node.store().inspect().event_tables.len()), (1, 5));
        node.close().unwrap();
    }

    #[test]
    fn what_a_rule_drops_goes_as_far_as_nothing_is_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        tables(&node, 5);
        let mut config = Config::default();
        config.retention.keep_bytes = 1;
        let pin = node.store().pin(PinKind::Consumer, "risk", Sequence(250)).unwrap();
        Keeper::new(&config).look(&node, now());
        let kept = first_kept(&node);
        assert!(kept > 1 && kept <= 250, "{kept}");
        drop(pin);
        Keeper::new(&config).look(&node, now());
        assert!(first_kept(&node) > 250);
        node.close().unwrap();
    }

    #[test]
    fn a_consumer_further_behind_than_its_limit_holds_nothing_back_and_without_limits_everything() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        tables(&node, 5);
        let pin = node.store().pin(PinKind::Consumer, "risk", Sequence(1)).unwrap();
        let mut config = Config::default();
        config.retention.keep_bytes = 1;
        let much_later = AcceptedTime(now().0 + 200 * 3600 * 1_000_000_000);
        (config.retention.consumer_bytes_max, config.retention.consumer_hours_max) = (0, 0);
        Keeper::new(&config).look(&node, much_later);
        assert!(first_kept(&node) == 1 && !pin.is_broken());
        config.retention.consumer_hours_max = 201;
        Keeper::new(&config).look(&node, much_later);
        assert!(first_kept(&node) == 1 && !pin.is_broken());
        config.retention.consumer_hours_max = 199;
        Keeper::new(&config).look(&node, much_later);
        assert!(first_kept(&node) > 1 && pin.is_broken(), "beyond its age");

        let from = first_kept(&node);
        let pin = node.store().pin(PinKind::Consumer, "risk", Sequence(from)).unwrap();
        let bytes: u64 = node.store().inspect().event_tables.iter().map(|table| table.bytes).sum();
        tables(&node, 3);
        (config.retention.consumer_bytes_max, config.retention.consumer_hours_max) = (bytes * 100, 0);
        Keeper::new(&config).look(&node, much_later);
        assert!(first_kept(&node) == from && !pin.is_broken());
        config.retention.consumer_bytes_max = bytes / 2;
        Keeper::new(&config).look(&node, much_later);
        assert!(first_kept(&node) > from && pin.is_broken(), "beyond its bytes");
        node.close().unwrap();
    }

    #[test]
    fn a_quiet_tape_has_its_snapshot_when_it_is_due_and_none_where_that_is_off() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let last = publish(&node, 10);
        let later = |minutes: i64| AcceptedTime(now().0 + minutes * 60_000_000_000);
        let mut config = Config::default();
        config.snapshot.interval_minutes = 0;
        Keeper::new(&config).look(&node, later(1_000_000));
        config.snapshot.interval_minutes = 30;
        Keeper::new(&config).look(&node, later(20));
        assert_eq!(node.store().flushed_through(), Sequence::ZERO);
        Keeper::new(&config).look(&node, later(31));
        assert_eq!(node.store().flushed_through(), last);
        node.close().unwrap();
    }

    #[test]
    fn an_advisory_is_told_once_while_it_holds_though_its_numbers_change_and_again_when_it_comes_back() {
        let hold = |name: &str, seconds| Advisory::HoldOverLimit {
            hold: PinView { name: name.into(), kind: PinKind::LegalHold, from: 1, broken: false },
            excess: Excess::Age { seconds, limit_seconds: 1 },
        };
        let mut keeper = Keeper::new(&Config::default());
        let mut news = |advisories: &[Advisory]| keeper.news(advisories).len();
        assert_eq!(news(&[hold("a", 2)]), 1);
        assert_eq!(news(&[hold("a", 3)]), 0);
        assert_eq!(news(&[hold("a", 4), hold("b", 4)]), 1);
        assert_eq!(news(&[]), 0);
        assert_eq!(news(&[hold("a", 6)]), 1);
    }

    #[test]
    fn damage_is_told_once_while_it_is_there() {
        let found = |files: &[&str]| -> Vec<Finding> {
            let finding = |file: &&str| Finding { file: (*file).into(), offset: Some(1), what: "x".into() };
            files.iter().map(finding).collect()
        };
        let mut keeper = Keeper::new(&Config::default());
        let mut told = |files: &[&str]| keeper.newly_damaged(found(files)).len();
        assert_eq!([told(&["a"]), told(&["a"]), told(&["a", "b"]), told(&[]), told(&["a"])], [1, 0, 1, 0, 1]);
    }

    #[test]
    fn it_ends_at_once_in_the_middle_of_a_long_pause() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let mut config = Config::default();
        config.retention.interval_seconds = 86_400;
        let (stop, stopped) = mpsc::channel();
        let (done, ended) = mpsc::channel();
        std::thread::scope(|scope| {
            let (node, config) = (&node, &config);
            scope.spawn(move || {
                keep(node, config, &stopped);
                done.send(()).unwrap();
            });
            drop(stop);
            ended.recv_timeout(Duration::from_secs(30)).expect("it ends long before its day is over");
        });
        node.close().unwrap();
    }
}
