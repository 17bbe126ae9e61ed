//! The formats of group files. Pure; what is not understood is left out.

use std::collections::BTreeMap;

/// A number; `max` is the largest one.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Lines of a name and a number.
pub(crate) fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// `8:0` as two numbers.
pub(crate) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// One line of a `blkio.*` file: `8:0 Read 123`, or `8:0 123`. The line `Total 123` is left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlkioLine<'a> {
    pub(crate) device: (u64, u64),
    pub(crate) op: &'a str,
    pub(crate) value: u64,
}

pub(crate) fn blkio(text: &str) -> impl Iterator<Item = BlkioLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let device = device(fields.next()?)?;
        let second = fields.next()?;
        let (op, value) = match fields.next() {
            Some(value) => (second, value),
            None => ("", second),
        };
        Some(BlkioLine { device, op, value: value.parse().ok()? })
    })
}

/// Lines of a first word and `name=value` pairs, as `io.stat` and `rdma.current` have them.
pub(crate) fn nested(
    text: &str,
) -> impl Iterator<Item = (&str, impl Iterator<Item = (&str, u64)>)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next()?;
        let pairs = fields.filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name, number(value)?))
        });
        Some((first, pairs))
    })
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) avg10: f64,
    pub(crate) avg60: f64,
    pub(crate) avg300: f64,
    /// Microseconds.
    pub(crate) total: u64,
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`.
pub(crate) fn pressure(text: &str) -> (Option<Pressure>, Option<Pressure>) {
    let (mut some, mut full) = (None, None);
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let target = match fields.next() {
            Some("some") => &mut some,
            Some("full") => &mut full,
            _ => continue,
        };
        let mut pressure = Pressure::default();
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            // What is no finite number would not be one in JSON either.
            let share =
                || value.parse().ok().filter(|share: &f64| share.is_finite()).unwrap_or(0.0);
            match name {
                "avg10" => pressure.avg10 = share(),
                "avg60" => pressure.avg60 = share(),
                "avg300" => pressure.avg300 = share(),
                "total" => pressure.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        *target = Some(pressure);
    }
    (some, full)
}

/// Where a process is in each hierarchy: `/proc/<pid>/cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The group in the version 2 hierarchy.
    pub(crate) unified: Option<String>,
    /// The group by controller (`memory`, `name=systemd`) in the version 1 hierarchies.
    pub(crate) legacy: BTreeMap<String, String>,
}

/// `4:memory:/a` and `0::/b`. A path may hold colons.
pub(crate) fn membership(text: &str) -> Membership {
    let mut membership = Membership::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // The kernel marks a group that was removed under its process.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        if id == "0" && controllers.is_empty() {
            membership.unified = Some(path.to_owned());
            continue;
        }
        for controller in controllers.split(',').filter(|controller| !controller.is_empty()) {
            membership.legacy.insert(controller.to_owned(), path.to_owned());
        }
    }
    membership
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_numbers() {
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number("12\n"), Some(12));
        assert_eq!(number("-1"), None);
        let text = "nr_periods 3\nbad\nnr_throttled x\nusage_usec 7\n";
        assert_eq!(keyed(text).collect::<Vec<_>>(), [("nr_periods", 3), ("usage_usec", 7)]);
    }

    #[test]
    fn block_device_lines_come_with_and_without_an_operation() {
        let text = "8:0 Read 5\n8:16 9\nTotal 14\n";
        let lines: Vec<_> = blkio(text).collect();
        assert_eq!(
            lines,
            [
                BlkioLine { device: (8, 0), op: "Read", value: 5 },
                BlkioLine { device: (8, 16), op: "", value: 9 },
            ]
        );
    }

    #[test]
    fn pressure_has_two_lines() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=NaN total=1\n";
        let (some, full) = pressure(text);
        assert_eq!(some, Some(Pressure { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 }));
        assert_eq!(full, Some(Pressure { total: 1, ..Pressure::default() }));
    }

    #[test]
    fn a_process_is_found_in_each_hierarchy() {
        let text = "4:memory:/a:b\n2:cpu,cpuacct:/c\n1:name=systemd:/d\n0::/e (deleted)\n";
        let found = membership(text);
        assert_eq!(found.unified.as_deref(), Some("/e"));
        assert_eq!(found.legacy.get("memory").map(String::as_str), Some("/a:b"));
        assert_eq!(found.legacy.get("cpuacct").map(String::as_str), Some("/c"));
        assert_eq!(found.legacy.get("name=systemd").map(String::as_str), Some("/d"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-z0-9:=./ \n-]{0,300}") {
            let _ = keyed(&text).count();
            let _ = blkio(&text).count();
            let _ = nested(&text).map(|(_, pairs)| pairs.count()).sum::<usize>();
            let _ = pressure(&text);
            let _ = membership(&text);
            let _ = number(&text);
        }

        #[test]
        fn written_lines_are_read_back(values in proptest::collection::btree_map("[a-z_]{1,12}", any::<u64>(), 0..20)) {
            let text: String = values.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
            let read: std::collections::BTreeMap<String, u64> =
                keyed(&text).map(|(key, value)| (key.to_owned(), value)).collect();
            prop_assert_eq!(read, values);
        }
    }
}
