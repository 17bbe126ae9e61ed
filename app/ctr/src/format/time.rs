//! Times and durations for people, as Go writes them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

fn date_time(time: &Timestamp) -> OffsetDateTime {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn formatted(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// RFC 3339 in UTC with all nanoseconds that are not zero at the end. No time is the zero time.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> String {
    match time {
        Some(time) => formatted(date_time(time)),
        None => "0001-01-01T00:00:00Z".to_owned(),
    }
}

/// RFC 3339 in UTC, in whole seconds.
pub(crate) fn rfc3339_seconds(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    formatted(time.replace_nanosecond(0).unwrap_or(time))
}

/// RFC 3339 with the offset of this machine, in whole seconds.
pub(crate) fn local_seconds(time: Option<&Timestamp>) -> String {
    let time = date_time(&time.cloned().unwrap_or_default());
    let offset = UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC);
    formatted(time.replace_nanosecond(0).unwrap_or(time).to_offset(offset))
}

/// `2026-11-22 00:28:30.3056 +0000 UTC`, as Go prints a time.
pub(crate) fn go_time(time: Option<&Timestamp>) -> String {
    let text = rfc3339(time);
    let text = text.strip_suffix('Z').unwrap_or(&text).replace('T', " ");
    format!("{text} +0000 UTC")
}

/// The time now for the name of a checkpoint: `11-22-2026-00:28:30`, of this machine.
pub(crate) fn checkpoint_time() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.to_offset(UtcOffset::local_offset_at(now).unwrap_or(UtcOffset::UTC));
    let (month, (hour, minute, second)) = (u8::from(now.month()), now.to_hms());
    format!("{month:02}-{:02}-{:04}-{hour:02}:{minute:02}:{second:02}", now.day(), now.year())
}

/// How long ago it was.
pub(crate) fn since(time: Option<&Timestamp>) -> Duration {
    let then = SystemTime::from(date_time(&time.cloned().unwrap_or_default()));
    SystemTime::now().duration_since(then).unwrap_or_default()
}

/// About how long: `3 minutes`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 30 * 60) / (60 * 60);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 60 / 60 / 24 / 365),
    }
}

/// Reads `1h30m`, `1.5s`, `200ms`, `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(bad());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (number, tail) = rest.split_at(digits.ok_or_else(bad)?);
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_go_writes_them() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (180, "3 minutes"),
            (3540, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 24 * 3600, "2 weeks"),
            (60 * 24 * 3600, "2 months"),
            (730 * 24 * 3600, "2 years"),
        ];
        for (seconds, text) in table {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn durations_as_go_reads_them() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "1x", "-1s", "1..2s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_as_go_writes_them() {
        let time = Timestamp { seconds: 1_795_307_313, nanos: 428_658_560 };
        assert_eq!(rfc3339(Some(&time)), "2026-11-22T00:28:33.42865856Z");
        assert_eq!(go_time(Some(&time)), "2026-11-22 00:28:33.42865856 +0000 UTC");
        assert_eq!(go_time(None), "0001-01-01 00:00:00 +0000 UTC");
        let whole = Timestamp { seconds: 1_795_307_313, nanos: 0 };
        assert_eq!(go_time(Some(&whole)), "2026-11-22 00:28:33 +0000 UTC");
    }
}
