//! What a transfer does, line by line.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api_grpc::transfer_types::Progress as News;
use client::transfer::OnProgress;

use crate::format;

/// Between two pictures on a terminal.
const INTERVAL: Duration = Duration::from_millis(100);

/// Width of names, and of bars.
const WIDTH: usize = 40;

/// How deep objects may stand below each other.
const MAX_DEPTH: usize = 16;

/// The state of one transfer. On a terminal it is redrawn; elsewhere it is told once, at the end.
pub(super) struct Progress(Arc<Mutex<Picture>>);

struct Picture {
    start: Instant,
    drawn: Option<Instant>,
    /// Lines that the last picture had.
    lines: usize,
    terminal: bool,
    status: String,
    /// Objects in the order of their first news.
    objects: Vec<News>,
    places: HashMap<String, usize>,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Arc::new(Mutex::new(Picture {
            start: Instant::now(),
            drawn: None,
            lines: 0,
            terminal: std::io::stdout().is_terminal(),
            status: String::new(),
            objects: Vec::new(),
            places: HashMap::new(),
        })))
    }

    /// What the client calls.
    pub(super) fn sink(&self) -> OnProgress<'static> {
        let picture = Arc::clone(&self.0);
        Box::new(move |news| {
            let mut picture = picture.lock().unwrap_or_else(PoisonError::into_inner);
            picture.take(news);
            let due = picture.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL);
            if picture.terminal && due {
                // A terminal that is gone is told by the next one who writes to it.
                let _ = picture.draw();
            }
        })
    }

    /// Draws the last picture.
    pub(super) fn finish(self) -> std::io::Result<()> {
        let mut picture = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if picture.status.is_empty() && picture.objects.is_empty() {
            return Ok(());
        }
        picture.draw()
    }
}

impl Picture {
    fn take(&mut self, mut news: News) {
        if news.name.is_empty() {
            self.status = news.event;
            return;
        }
        match self.places.get(&news.name) {
            Some(place) => {
                let known = &mut self.objects[*place];
                if news.parents.is_empty() {
                    news.parents = std::mem::take(&mut known.parents);
                }
                *known = news;
            }
            None => {
                self.places.insert(news.name.clone(), self.objects.len());
                self.objects.push(news);
            }
        }
    }

    fn draw(&mut self) -> std::io::Result<()> {
        let text = self.text();
        let mut stdout = std::io::stdout();
        for _ in 0..self.lines {
            stdout.write_all(b"\x1b[1A\x1b[2K\r")?;
        }
        self.lines = if self.terminal { text.lines().count() } else { 0 };
        self.drawn = Some(Instant::now());
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let roots: Vec<_> = self.children(None).collect();
        let total = self.draw_objects(&roots, "", 0, &mut text);
        for root in &roots {
            if let Some(target) = &root.desc {
                let _ = writeln!(text, "{} {}", target.media_type, target.digest);
            }
        }
        let passed = self.start.elapsed().as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "shown roughly"
        )]
        let rate = format::bytes((total as f64 / passed.max(0.001)) as i64);
        let total = format::bytes(total);
        let _ = writeln!(
            text,
            "{}\telapsed: {passed:<4.1}s\ttotal: {total:>7}\t({rate}/s)\t",
            self.status
        );
        text
    }

    /// The objects right below `parent`; those whose parents are not known stand at the top.
    fn children<'a>(&'a self, parent: Option<&'a str>) -> impl Iterator<Item = &'a News> {
        self.objects.iter().filter(move |object| {
            let known = object.parents.iter().find(|name| self.places.contains_key(*name));
            known.map(String::as_str) == parent
        })
    }

    fn draw_objects(
        &self,
        objects: &[&News],
        prefix: &str,
        depth: usize,
        text: &mut String,
    ) -> i64 {
        let mut total = 0;
        if depth > MAX_DEPTH {
            return total;
        }
        for (index, object) in objects.iter().enumerate() {
            let last = index + 1 == objects.len();
            let (branch, below) = match (depth, last) {
                (0, _) => ("", ""),
                (_, true) => ("└──", "   "),
                (_, false) => ("├──", "│  "),
            };
            total += object.progress;
            let name: String = format!("{prefix}{branch}{}", display_name(&object.name))
                .chars()
                .take(WIDTH)
                .collect();
            let event = object.event.as_str();
            let _ = match event {
                "downloading" | "uploading" | "extracting" => writeln!(
                    text,
                    "{name:<WIDTH$}\t{event:<11}\t{}\t{:>8}/{}\t",
                    bar(object.progress, object.total),
                    format::bytes(object.progress),
                    format::bytes(object.total)
                ),
                "resolving" | "waiting" => {
                    writeln!(text, "{name:<WIDTH$}\t{event:<11}\t{}\t", bar(0, 1))
                }
                "complete" | "extracted" => {
                    writeln!(text, "{name:<WIDTH$}\t{event:<11}\t{}\t", bar(1, 1))
                }
                _ => writeln!(text, "{name:<WIDTH$}\t{event}\t"),
            };
            let children: Vec<_> = self.children(Some(&object.name)).collect();
            total += self.draw_objects(&children, &format!("{prefix}{below}"), depth + 1, text);
        }
        total
    }
}

/// `|+++---|`, as long as names are wide.
fn bar(done: i64, total: i64) -> String {
    let inner = WIDTH - 2;
    let done = usize::try_from(done.max(0)).unwrap_or(usize::MAX);
    let total = usize::try_from(total.max(0)).unwrap_or(usize::MAX);
    let filled = (done.min(total) * inner).checked_div(total).unwrap_or(0);
    format!("|{}{}|", "+".repeat(filled), "-".repeat(inner - filled))
}

/// COMPAT: dashes of a name are shown as blanks, and digests are cut.
fn display_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('-').collect();
    let shown = parts.iter().map(|part| match part.split_once(':') {
        Some((algorithm, hex)) if hex.len() > 12 && algorithm.starts_with("sha") => &hex[..12],
        _ => part,
    });
    let mut name = shown.collect::<Vec<_>>().join(" ");
    if let Some((kind, rest)) = name.split_once(' ')
        && ["manifest", "index", "config", "layer"].contains(&kind)
    {
        name = format!("{kind} ({rest})");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_below_their_parents() {
        let progress = Progress::new();
        let mut sink = progress.sink();
        let news = |event: &str, name: &str, parents: &[&str]| News {
            event: event.to_owned(),
            name: name.to_owned(),
            parents: parents.iter().map(|parent| (*parent).to_owned()).collect(),
            ..News::default()
        };
        {
            // Not on a terminal: nothing is drawn by the way.
            progress.0.lock().unwrap().terminal = false;
        }
        sink(news("Importing", "", &[]));
        sink(news("saved", "docker.io/library/a:1", &[]));
        sink(news("waiting", "layer-sha256:0123456789abcdef", &["docker.io/library/a:1"]));
        sink(news("complete", "layer-sha256:0123456789abcdef", &[]));
        sink(news("Completed import", "", &[]));
        let text = progress.0.lock().unwrap().text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("{:<40}\tsaved\t", "docker.io/library/a:1"));
        assert!(lines[1].starts_with("└──layer (0123456789ab) "), "{text}");
        assert!(lines[1].contains("\tcomplete   \t|++"), "{text}");
        assert!(lines[2].starts_with("Completed import\telapsed: 0.0 s\ttotal:   0.0 B\t("));
    }

    #[test]
    fn bars_have_one_width() {
        for (done, total) in [(0, 0), (1, 3), (3, 3), (9, 3), (-1, 3)] {
            assert_eq!(bar(done, total).len(), WIDTH);
        }
    }
}
