//! The time table of collections: containerd's rules, without clocks and tasks.
//!
//! A collection runs at the next tick after something was deleted, or after enough changes; ticks
//! are so far apart that collections take at most `pause_threshold` of the time. Requests and
//! `deletion_threshold` do not wait for a tick, only for `schedule_delay`. Beyond containerd's rules,
//! what expires by time alone is collected at its time. While there is nothing to do, there are no
//! ticks.

use std::time::{Duration, Instant};

/// The least time that a collection counts as when the interval is computed; as containerd.
const MIN_COLLECTION: Duration = Duration::from_millis(5);

/// The interval before anything was measured, and by how much a failure adds to it; as containerd.
const SECOND: Duration = Duration::from_secs(1);

/// The longest wait after failures.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// The scheduler's keys.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The share of time that collections may take; 0 leaves the interval at a second.
    pub(super) pause: f64,
    /// Deletions that do not wait for a tick; 0 means that all do.
    pub(super) deletions: u64,
    /// Changes after which a tick collects; 0 means never for changes alone.
    pub(super) mutations: u64,
    /// How long after its trigger a collection runs that does not wait for a tick.
    pub(super) delay: Duration,
    /// When the first collection runs; zero leaves it to the first trigger.
    pub(super) startup: Duration,
}

/// When the next collection runs, and why.
#[derive(Debug)]
pub(super) struct Plan {
    table: Table,
    interval: Duration,
    back_off: Duration,
    next: Option<Instant>,
    last: Option<Instant>,
    /// A request came, or a collection failed.
    triggered: bool,
    expired: bool,
    deletions: u64,
    mutations: u64,
    total: Duration,
    collections: u32,
}

impl Plan {
    pub(super) fn new(table: Table, now: Instant) -> Self {
        let next = (!table.startup.is_zero()).then(|| now + table.startup);
        Plan {
            table,
            interval: SECOND,
            back_off: Duration::ZERO,
            next,
            last: None,
            triggered: false,
            expired: false,
            deletions: 0,
            mutations: 0,
            total: Duration::ZERO,
            collections: 0,
        }
    }

    /// When [`Plan::due`] has to be asked; `None` as long as nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    fn sooner(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// A client waits for a collection.
    pub(super) fn requested(&mut self, now: Instant) {
        self.triggered = true;
        self.sooner(now + self.table.delay);
    }

    /// So much was deleted and changed since the last collection began.
    pub(super) fn changed(&mut self, deletions: u64, mutations: u64, now: Instant) {
        self.deletions = deletions;
        self.mutations = mutations;
        let many = self.table.mutations > 0 && mutations >= self.table.mutations;
        let first = self.next.is_none() && self.last.is_none();
        let at_once = self.table.deletions > 0 && deletions >= self.table.deletions;
        if at_once || first && (many || self.table.deletions == 0 && deletions > 0) {
            self.sooner(now + self.table.delay);
        } else if self.next.is_none() && (many || deletions > 0) {
            self.next = Some(now + self.interval);
        }
    }

    /// Something has expired.
    pub(super) fn expired(&mut self, now: Instant) {
        self.expired = true;
        // Not more often than ticks are.
        if self.next.is_none() {
            self.next = Some(self.last.map_or(now, |last| now.max(last + self.interval)));
        }
    }

    /// Whether a collection has to run now. If so, [`Plan::collected`] or [`Plan::failed`] follows.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.next = None;
        let many = self.table.mutations > 0 && self.mutations >= self.table.mutations;
        self.last.is_none() || self.triggered || self.expired || self.deletions > 0 || many
    }

    /// A collection, which took `elapsed`, is over.
    pub(super) fn collected(&mut self, elapsed: Duration, now: Instant) {
        self.over(now);
        self.triggered = false;
        self.back_off = Duration::ZERO;
        self.total += elapsed;
        self.collections = self.collections.saturating_add(1);
        if self.table.pause > 0.0 {
            let average = (self.total / self.collections).max(MIN_COLLECTION);
            self.interval = average.div_f64(self.table.pause).saturating_sub(average);
        }
    }

    /// A collection has failed: the next attempt comes later each time.
    pub(super) fn failed(&mut self, now: Instant) {
        self.over(now);
        self.triggered = true;
        self.back_off = (self.back_off + SECOND).min(MAX_BACK_OFF);
        self.next = Some(now + self.interval + self.back_off);
    }

    fn over(&mut self, now: Instant) {
        self.last = Some(now);
        self.next = None;
        self.expired = false;
        self.deletions = 0;
        self.mutations = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const DEFAULT: Table = Table {
        pause: 0.02,
        deletions: 0,
        mutations: 100,
        delay: Duration::ZERO,
        startup: Duration::from_millis(100),
    };

    /// A plan whose first collection, of 5 ms, has run; and the time after it.
    fn running(table: Table) -> (Plan, Instant) {
        let start = Instant::now();
        let mut plan = Plan::new(Table { startup: 100 * MS, ..table }, start);
        let now = start + 100 * MS;
        assert!(plan.due(now));
        plan.collected(5 * MS, now);
        (plan, now)
    }

    #[test]
    fn startup_delay_is_when_the_first_collection_runs() {
        let start = Instant::now();
        let mut plan = Plan::new(DEFAULT, start);
        assert_eq!(plan.next(), Some(start + 100 * MS));
        assert!(!plan.due(start + 99 * MS));
        assert!(plan.due(start + 100 * MS), "also when nothing has changed");
    }

    #[test]
    fn without_startup_delay_the_first_deletion_triggers() {
        let start = Instant::now();
        let mut plan = Plan::new(Table { startup: Duration::ZERO, ..DEFAULT }, start);
        assert_eq!(plan.next(), None);
        plan.changed(0, 99, start);
        assert_eq!(plan.next(), None);
        plan.changed(1, 99, start);
        assert_eq!(plan.next(), Some(start));
    }

    #[test]
    fn pause_threshold_is_the_share_of_time_for_collections() {
        let (mut plan, now) = running(DEFAULT);
        plan.changed(1, 1, now);
        // 5 ms are 2 % of 250 ms.
        assert_eq!(plan.next(), Some(now + 245 * MS));
        let (mut plan, now) = running(Table { pause: 0.5, ..DEFAULT });
        plan.changed(1, 1, now);
        assert_eq!(plan.next(), Some(now + 5 * MS));
        let (mut plan, now) = running(Table { pause: 0.0, ..DEFAULT });
        plan.changed(1, 1, now);
        assert_eq!(plan.next(), Some(now + SECOND));
    }

    #[test]
    fn longer_collections_come_less_often() {
        let (mut plan, now) = running(DEFAULT);
        plan.requested(now);
        assert!(plan.due(now));
        plan.collected(95 * MS, now);
        plan.changed(1, 1, now);
        // The average of 5 and 95 ms is 50 ms.
        assert_eq!(plan.next(), Some(now + 2450 * MS));
    }

    #[test]
    fn a_deletion_waits_for_the_next_tick() {
        let (mut plan, now) = running(Table { delay: 3 * MS, ..DEFAULT });
        plan.changed(1, 1, now);
        plan.changed(2, 2, now + MS);
        assert_eq!(plan.next(), Some(now + 245 * MS));
        assert!(plan.due(now + 245 * MS));
    }

    #[test]
    fn deletion_threshold_does_not_wait() {
        let (mut plan, now) = running(Table { deletions: 2, delay: 3 * MS, ..DEFAULT });
        plan.changed(1, 1, now);
        assert_eq!(plan.next(), Some(now + 245 * MS));
        plan.changed(2, 2, now);
        assert_eq!(plan.next(), Some(now + 3 * MS), "but for schedule_delay");
    }

    #[test]
    fn mutation_threshold_counts_changes() {
        let (mut plan, now) = running(DEFAULT);
        plan.changed(0, 99, now);
        assert_eq!(plan.next(), None, "nothing is worth a tick");
        plan.changed(0, 100, now);
        assert!(plan.due(now + 245 * MS));
        let (mut plan, now) = running(Table { mutations: 0, ..DEFAULT });
        plan.changed(0, 1_000_000, now);
        assert_eq!(plan.next(), None);
    }

    #[test]
    fn schedule_delay_is_between_a_request_and_its_collection() {
        let (mut plan, now) = running(Table { delay: 30 * MS, ..DEFAULT });
        plan.requested(now);
        assert!(!plan.due(now + 29 * MS));
        plan.requested(now + 29 * MS);
        assert!(plan.due(now + 30 * MS), "a second request does not put the first off");
    }

    #[test]
    fn a_tick_without_reason_collects_nothing() {
        let (mut plan, now) = running(DEFAULT);
        plan.next = Some(now);
        assert!(!plan.due(now));
        assert_eq!(plan.next(), None);
    }

    #[test]
    fn what_expires_is_collected_at_its_time_but_not_more_often_than_ticks() {
        let (mut plan, now) = running(DEFAULT);
        plan.expired(now + 10 * MS);
        assert_eq!(plan.next(), Some(now + 245 * MS));
        assert!(plan.due(now + 245 * MS));
        plan.collected(5 * MS, now + 245 * MS);
        let late = now + 60 * SECOND;
        plan.expired(late);
        assert!(plan.due(late));
    }

    #[test]
    fn a_failure_is_tried_again_later_and_later() {
        let (mut plan, now) = running(DEFAULT);
        plan.failed(now);
        assert_eq!(plan.next(), Some(now + 245 * MS + SECOND));
        let now = now + 2 * SECOND;
        assert!(plan.due(now));
        plan.failed(now);
        assert_eq!(plan.next(), Some(now + 245 * MS + 2 * SECOND));
        for _ in 0..100 {
            plan.failed(now);
        }
        assert_eq!(plan.next(), Some(now + 245 * MS + MAX_BACK_OFF));
        assert!(plan.due(now + 2 * MAX_BACK_OFF));
        plan.collected(5 * MS, now);
        plan.failed(now);
        assert_eq!(plan.next(), Some(now + 245 * MS + SECOND));
    }
}
