//! Timestamps of clients, with the rules and texts of Go's library.

use std::time::SystemTime;

use prost_types::Timestamp;

use crate::ApiError;

/// The first second of the year 1: Go's zero time.
const FIRST: i64 = -62_135_596_800;
/// The first second of the year 10000.
const BEYOND: i64 = 253_402_300_800;

/// The time after which a client wants events replayed, `None` if it wants none.
///
/// COMPAT: 0.2's `ctr` sends the zero time when it was given none.
///
/// # Errors
/// [`ApiError::Timestamp`] if it is no time.
pub(crate) fn replay_from(time: Option<Timestamp>) -> Result<Option<SystemTime>, ApiError> {
    let Some(time) = time else { return Ok(None) };
    let mut shown = String::new();
    if time.seconds != 0 {
        shown.push_str(&format!("seconds:{} ", time.seconds));
    }
    if time.nanos != 0 {
        shown.push_str(&format!("nanos:{} ", time.nanos));
    }
    let refuse = |reason: &str| Err(ApiError::Timestamp(format!("{shown}{reason}")));
    if time.seconds < FIRST {
        return refuse(" before 0001-01-01");
    }
    if time.seconds >= BEYOND {
        return refuse(" after 10000-01-01");
    }
    if !(0..1_000_000_000).contains(&time.nanos) {
        return refuse(": nanos not in range [0, 1e9)");
    }
    if time.seconds == FIRST && time.nanos == 0 {
        return Ok(None);
    }
    match SystemTime::try_from(time) {
        Ok(time) => Ok(Some(time)),
        Err(_) => refuse(" is out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanos: i32) -> Result<Option<SystemTime>, String> {
        replay_from(Some(Timestamp { seconds, nanos })).map_err(|error| error.to_string())
    }

    #[test]
    fn no_time_and_the_zero_time_mean_no_replay() {
        assert!(replay_from(None).unwrap().is_none());
        assert_eq!(at(FIRST, 0), Ok(None));
        assert_eq!(at(0, 0), Ok(Some(SystemTime::UNIX_EPOCH)));
        assert!(at(-5, 7).unwrap().unwrap() < SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn bad_times_are_refused_in_gos_words() {
        assert_eq!(
            at(1, -5).unwrap_err(),
            "timestamp: seconds:1 nanos:-5 : nanos not in range [0, 1e9)"
        );
        assert!(at(1, 1_000_000_000).is_err());
        assert!(at(FIRST - 1, 0).unwrap_err().ends_with(" before 0001-01-01"));
        assert!(at(BEYOND, 0).unwrap_err().ends_with(" after 10000-01-01"));
        assert!(at(i64::MIN, i32::MIN).is_err());
        assert!(at(i64::MAX, i32::MAX).is_err());
    }
}
