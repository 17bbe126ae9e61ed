//! The log of events: kept in a file, replayed to whoever asks, then told live.
//!
//! ```text
//! <state_dir>/events.log   0644; one JSON object a line: id, type, timestamp, pid, status
//! ```
//!
//! The layout is 0.2's. Unlike 0.2, which truncated the file when it started, the log goes on after
//! any end of the daemon: lines are appended, and a shortened log takes the place of the long one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base_ident::timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::ApiError;

/// The file in the state folder.
const FILE: &str = "events.log";
/// Events that may wait for one subscriber; as in 0.2.
const MAX_QUEUED: usize = 2048;
/// Subscribers at once; each costs a queue.
const MAX_SUBSCRIBERS: usize = 4096;
/// The most bytes of one line: two names and a few numbers.
const MAX_LINE: usize = 64 << 10;
/// The most events that are kept where the configuration says "all".
const MAX_RETAINED: usize = 1 << 20;
/// The status of an exit whose status cannot be one; as in 0.2.
const UNKNOWN_STATUS: u32 = 255;

/// What happened. The names are 0.2's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The container runs.
    StartContainer,
    /// An exec runs.
    StartProcess,
    /// All processes were frozen.
    Pause,
    /// All processes were thawed.
    Resume,
    /// A process has ended.
    Exit,
    /// The kernel killed for want of memory.
    Oom,
}

impl Kind {
    /// The name on the wire and in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::StartContainer => "start-container",
            Kind::StartProcess => "start-process",
            Kind::Pause => "pause",
            Kind::Resume => "resume",
            Kind::Exit => "exit",
            Kind::Oom => "oom",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The container.
    pub id: String,
    /// What happened; a name that this version does not know stays as it was written.
    pub kind: String,
    /// When; no two events of a log have the same time.
    pub time: SystemTime,
    /// The name of the process, empty where there is none.
    pub process: String,
    /// How the process ended.
    pub status: u32,
}

/// An event as a line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default)]
    id: String,
    #[serde(default, rename = "type")]
    kind: String,
    timestamp: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pid: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    status: i64,
}

fn is_zero(status: &i64) -> bool {
    *status == 0
}

impl Event {
    fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Line {
            id: self.id.clone(),
            kind: self.kind.clone(),
            timestamp: timestamp::format(self.time),
            pid: self.process.clone(),
            status: i64::from(self.status),
        })?;
        line.push(b'\n');
        Ok(line)
    }

    fn from_line(line: &[u8]) -> Option<Self> {
        let line: Line = serde_json::from_slice(line).ok()?;
        let time = timestamp::parse(&line.timestamp).ok()?;
        let status = u32::try_from(line.status).ok().filter(|status| *status <= UNKNOWN_STATUS);
        Some(Event {
            id: line.id,
            kind: line.kind,
            time,
            process: line.pid,
            status: status.unwrap_or(UNKNOWN_STATUS),
        })
    }
}

/// The log of all events of one state folder.
pub struct EventLog {
    path: PathBuf,
    retain: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    stored: Vec<Event>,
    /// Lines in the file.
    lines: usize,
    /// The open file; none before the first event, and after a failure.
    file: Option<File>,
    last: SystemTime,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    queue: mpsc::Sender<Event>,
    /// Only events of this container; empty means all.
    id: String,
    dropped: u64,
}

impl EventLog {
    /// Reads the log of `folder`, of which the newest `retain` events are kept; zero keeps all.
    /// Lines that are no events are left out.
    ///
    /// # Errors
    /// [`ApiError::File`] if there is a file that cannot be read.
    pub fn open(folder: &Path, retain: usize) -> Result<Self, ApiError> {
        let path = folder.join(FILE);
        let retain = if retain == 0 { MAX_RETAINED } else { retain };
        let mut stored = read(&path).map_err(|error| ApiError::file("open", &path, error))?;
        let lines = stored.len();
        if stored.len() > retain {
            stored.drain(..stored.len() - retain);
        }
        let last = stored.iter().map(|event| event.time).max().unwrap_or(SystemTime::UNIX_EPOCH);
        let inner = Inner { stored, lines, file: None, last, subscribers: Vec::new() };
        Ok(EventLog { path, retain, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event of now, and tells it to all who listen. Never waits for them.
    pub fn append(&self, kind: Kind, id: &str, process: &str, status: u32) {
        let mut inner = self.lock();
        // Replay begins strictly after a time: two events of one time could not be told apart.
        let time = SystemTime::now().max(inner.last + Duration::from_nanos(1));
        inner.last = time;
        let event = Event {
            id: id.to_owned(),
            kind: kind.name().to_owned(),
            time,
            process: process.to_owned(),
            status,
        };
        inner.stored.push(event.clone());
        // DURABILITY: what a subscriber sees is in the file, so that it is seen again on replay.
        if let Err(error) = self.write(&mut inner, &event) {
            inner.file = None;
            tracing::error!(path = %self.path.display(), %error, "recording an event");
        }
        inner.subscribers.retain_mut(|subscriber| subscriber.offer(&event));
    }

    fn write(&self, inner: &mut Inner, event: &Event) -> io::Result<()> {
        if inner.lines >= self.retain {
            // As in 0.2: rewritten once for so many events, not with each.
            let keep = self.retain.saturating_sub(1).max(1);
            let surplus = inner.stored.len().saturating_sub(keep);
            inner.stored.drain(..surplus);
            inner.file = Some(self.rewrite(&inner.stored)?);
            inner.lines = 0;
            return Ok(());
        }
        if inner.file.is_none() {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = OpenOptions::new();
            file.append(true).create(true).mode(0o644);
            inner.file = Some(file.open(&self.path)?);
        }
        if let Some(file) = &mut inner.file {
            // One call, so that a line is there whole or not at all.
            file.write_all(&event.to_line()?)?;
        }
        inner.lines += 1;
        Ok(())
    }

    fn rewrite(&self, events: &[Event]) -> io::Result<File> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        let mut text = Vec::new();
        for event in events {
            text.extend(event.to_line()?);
        }
        file.write_all(&text)?;
        fs::rename(&temporary, &self.path)?;
        Ok(file)
    }

    /// The events strictly after `from`, and a queue with all that come after those: nothing is
    /// missing and nothing double. Without `from` nothing is replayed. Only events of the container
    /// `id`, unless it is empty.
    ///
    /// # Errors
    /// [`ApiError::TooMany`].
    pub fn subscribe(
        &self,
        from: Option<SystemTime>,
        id: &str,
    ) -> Result<(Vec<Event>, mpsc::Receiver<Event>), ApiError> {
        let (queue, events) = mpsc::channel(MAX_QUEUED);
        let mut inner = self.lock();
        inner.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        if inner.subscribers.len() >= MAX_SUBSCRIBERS {
            return Err(ApiError::TooMany("subscribers of events"));
        }
        let replay = inner.since(from, id);
        inner.subscribers.push(Subscriber { queue, id: id.to_owned(), dropped: 0 });
        Ok((replay, events))
    }

    /// The events strictly after `from`, of the container `id` or of all.
    #[must_use]
    pub fn stored(&self, from: Option<SystemTime>, id: &str) -> Vec<Event> {
        self.lock().since(from, id)
    }

    /// How many subscribers there are.
    pub(crate) fn subscribers(&self) -> usize {
        self.lock().subscribers.iter().filter(|subscriber| !subscriber.queue.is_closed()).count()
    }

    /// True if `kind` of a process was told at `after` or later.
    pub(crate) fn has(&self, kind: Kind, id: &str, process: &str, after: SystemTime) -> bool {
        let inner = self.lock();
        let told = |event: &&Event| event.kind == kind.name() && event.time >= after;
        inner
            .stored
            .iter()
            .rev()
            .filter(told)
            .any(|event| event.id == id && event.process == process)
    }
}

impl Inner {
    fn since(&self, from: Option<SystemTime>, id: &str) -> Vec<Event> {
        let Some(from) = from else { return Vec::new() };
        let wanted = |event: &&Event| event.time > from && (id.is_empty() || event.id == id);
        self.stored.iter().filter(wanted).cloned().collect()
    }
}

impl Subscriber {
    /// Queues `event`; false if nobody listens any more.
    fn offer(&mut self, event: &Event) -> bool {
        if !self.id.is_empty() && self.id != event.id {
            return !self.queue.is_closed();
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                if self.dropped.is_power_of_two() {
                    tracing::warn!(dropped = self.dropped, "event channel full, dropping event");
                }
                true
            }
        }
    }
}

/// The events of a file; none if there is no file.
fn read(path: &Path) -> io::Result<Vec<Event>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut events = Vec::new();
    let mut damaged = 0_usize;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        match Event::from_line(&line) {
            Some(event) if line.len() <= MAX_LINE => events.push(event),
            _ if line.is_empty() => {}
            _ => damaged += 1,
        }
    }
    if damaged > 0 {
        tracing::warn!(path = %path.display(), damaged, "lines that are no events are left out");
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    fn all(log: &EventLog) -> Vec<Event> {
        log.stored(Some(SystemTime::UNIX_EPOCH), "")
    }

    #[test]
    fn events_come_back_after_a_restart_in_order() {
        let folder = folder();
        let log = EventLog::open(folder.path(), 500).unwrap();
        log.append(Kind::StartContainer, "a", "", 0);
        log.append(Kind::Exit, "a", "init", 137);
        let before = all(&log);
        // No goodbye: the daemon was killed.
        drop(log);
        let log = EventLog::open(folder.path(), 500).unwrap();
        assert_eq!(all(&log), before);
        log.append(Kind::Exit, "b", "init", 0);
        assert_eq!(all(&log).len(), 3);
        assert!(all(&log).windows(2).all(|pair| pair[0].time < pair[1].time));
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&first["id"], &first["type"]), (&"a".into(), &"start-container".into()));
        assert!(first.get("pid").is_none() && first.get("status").is_none());
    }

    #[test]
    fn a_log_of_0_2_is_read_and_damage_costs_lines() {
        let folder = folder();
        let text = "{\"id\":\"a\",\"type\":\"exit\",\"timestamp\":\"2017-03-04T05:06:07.089+02:00\",\
                    \"pid\":\"init\",\"status\":-1}\ngarbage\n\n{\"id\":\"b\",\"type\":\"live\",\
                    \"timestamp\":\"2017-03-04T05:06:08Z\"}\n{\"id\":\"c\",\"type\":\"exit\",\"timesta";
        fs::write(folder.path().join(FILE), text).unwrap();
        let events = all(&EventLog::open(folder.path(), 500).unwrap());
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].status, events[0].process.as_str()), (255, "init"));
        assert_eq!(events[1].kind, "live");
    }

    #[test]
    fn the_log_stays_bounded_in_memory_and_on_disk() {
        let folder = folder();
        let log = EventLog::open(folder.path(), 10).unwrap();
        for number in 0..1000_u32 {
            log.append(Kind::Exit, &number.to_string(), "init", 0);
        }
        let events = all(&log);
        assert!((9..=20).contains(&events.len()), "{}", events.len());
        assert_eq!(events.last().unwrap().id, "999");
        let again = EventLog::open(folder.path(), 10).unwrap();
        let kept = all(&again);
        assert!((9..=10).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last().unwrap().id, "999");
        let lines = fs::read_to_string(folder.path().join(FILE)).unwrap().lines().count();
        assert!(lines <= 20, "{lines}");
    }

    #[tokio::test]
    async fn replay_is_strictly_after_a_time_and_goes_on_live() {
        let folder = folder();
        let log = EventLog::open(folder.path(), 500).unwrap();
        for id in ["a", "b", "c"] {
            log.append(Kind::Oom, id, "", 0);
        }
        let first = all(&log)[0].time;
        let (replay, mut live) = log.subscribe(Some(first), "").unwrap();
        log.append(Kind::Oom, "d", "", 0);
        let ids: Vec<&str> = replay.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["b", "c"]);
        assert_eq!(live.recv().await.unwrap().id, "d");
        let (replay, mut live) = log.subscribe(None, "e").unwrap();
        assert!(replay.is_empty());
        log.append(Kind::Oom, "d", "", 0);
        log.append(Kind::Oom, "e", "", 0);
        assert_eq!(live.recv().await.unwrap().id, "e");
    }

    #[test]
    fn a_subscriber_that_does_not_read_loses_its_own_events() {
        let folder = folder();
        let log = EventLog::open(folder.path(), 500).unwrap();
        let (_, mut slow) = log.subscribe(None, "").unwrap();
        let (_, mut quick) = log.subscribe(None, "").unwrap();
        for number in 0..MAX_QUEUED + 5 {
            log.append(Kind::Oom, &number.to_string(), "", 0);
            assert_eq!(quick.try_recv().unwrap().id, number.to_string());
        }
        let mut seen = 0;
        while slow.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(seen, MAX_QUEUED);
        drop((slow, quick));
        log.append(Kind::Oom, "last", "", 0);
        assert!(log.lock().subscribers.is_empty());
    }

    #[test]
    fn an_exit_is_found_again() {
        let folder = folder();
        let log = EventLog::open(folder.path(), 500).unwrap();
        let before = SystemTime::now();
        log.append(Kind::Exit, "a", "e1", 3);
        assert!(log.has(Kind::Exit, "a", "e1", before));
        assert!(!log.has(Kind::StartProcess, "a", "e1", before));
        assert!(!log.has(Kind::Exit, "a", "init", before));
        let later = SystemTime::now() + Duration::from_secs(1);
        assert!(!log.has(Kind::Exit, "a", "e1", later));
    }
}
