//! The table.

use std::fmt;

use e2e::Maker;

/// What a value is counted in, which says how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Events in a second.
    PerSecond,
    /// Bytes in a second.
    BytesPerSecond,
}

/// What architecture and specification promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    /// Nothing; the row is for information.
    None,
    /// Ours is at most this many times theirs.
    AtMost(f64),
    /// Ours is at least this many times theirs.
    AtLeast(f64),
    /// Ours is at most that much, whatever theirs is.
    Within(f64),
    /// Ours is at least that much, whatever theirs is.
    NotBelow(f64),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What the values are.
    pub unit: Unit,
    /// The medians.
    pub values: Vec<(Maker, f64)>,
    /// What is promised.
    pub promise: Promise,
}

impl Row {
    fn value(&self, maker: Maker) -> Option<f64> {
        self.values.iter().find(|(who, _)| *who == maker).map(|(_, value)| *value)
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.value(Maker::Ours)? / self.value(Maker::Forky)?)
    }

    /// Whether the promise is kept; nothing where there is none.
    #[must_use]
    pub fn kept(&self) -> Option<bool> {
        match self.promise {
            Promise::None => None,
            Promise::AtMost(limit) => Some(self.ratio()? <= limit),
            Promise::AtLeast(limit) => Some(self.ratio()? >= limit),
            Promise::Within(limit) => Some(self.value(Maker::Ours)? <= limit),
            Promise::NotBelow(limit) => Some(self.value(Maker::Ours)? >= limit),
        }
    }

    fn show(&self, maker: Maker) -> String {
        self.value(maker).map_or_else(|| "-".to_owned(), |value| show(self.unit, value))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let promise = match self.promise {
            Promise::None => "-".to_owned(),
            Promise::AtMost(limit) => format!("at most {limit:.2}x"),
            Promise::AtLeast(limit) => format!("at least {limit:.1}x"),
            Promise::Within(limit) => format!("at most {}", show(self.unit, limit)),
            Promise::NotBelow(limit) => format!("at least {}", show(self.unit, limit)),
        };
        let kept = self.kept().map_or("-", |kept| if kept { "kept" } else { "**missed**" });
        let [ours, forky, bookworm] =
            [Maker::Ours, Maker::Forky, Maker::Bookworm].map(|maker| self.show(maker));
        let what = &self.what;
        write!(
            formatter,
            "| {what} | {ours} | {forky} | {ratio} | {promise} | {kept} | {bookworm} |"
        )
    }
}

/// `value` with its unit, three digits.
fn show(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Bytes => format!("{} MiB", digits(value / 1_048_576.0)),
        Unit::BytesPerSecond => format!("{} MiB/s", digits(value / 1_048_576.0)),
        Unit::PerSecond => format!("{}/s", digits(value)),
        Unit::Seconds if value >= 1.0 => format!("{} s", digits(value)),
        Unit::Seconds if value >= 1e-3 => format!("{} ms", digits(value * 1e3)),
        Unit::Seconds => format!("{} us", digits(value * 1e6)),
    }
}

fn digits(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// The whole.
#[derive(Clone, Debug)]
pub struct Report {
    facts: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Measures that gave no numbers, and why.
    pub failures: Vec<String>,
    /// The machine's load when all was done.
    pub load_at_end: String,
}

impl Report {
    /// An empty table below `facts`.
    #[must_use]
    pub fn new(facts: Vec<String>) -> Report {
        Report { facts, rows: Vec::new(), failures: Vec::new(), load_at_end: String::new() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fact in &self.facts {
            writeln!(formatter, "{fact}  ")?;
        }
        writeln!(formatter, "Load at the end: {}", self.load_at_end)?;
        writeln!(formatter)?;
        writeln!(
            formatter,
            "| what | ours | containerd 2.1 | ratio | promise | | containerd 1.6 |"
        )?;
        writeln!(formatter, "| --- | ---: | ---: | ---: | --- | --- | ---: |")?;
        for row in &self.rows {
            writeln!(formatter, "{row}")?;
        }
        if !self.failures.is_empty() {
            writeln!(formatter, "\nWithout numbers:\n")?;
            for failure in &self.failures {
                writeln!(formatter, "- {failure}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Promise, Row, Unit, show};
    use e2e::Maker;

    fn row(ours: f64, theirs: f64, promise: Promise) -> Row {
        let values = vec![(Maker::Ours, ours), (Maker::Forky, theirs)];
        Row { what: "x".to_owned(), unit: Unit::Seconds, values, promise }
    }

    #[test]
    fn promises_are_judged_by_the_ratio_or_the_value() {
        assert_eq!(row(1.0, 4.0, Promise::AtMost(0.3)).kept(), Some(true));
        assert_eq!(row(1.0, 2.0, Promise::AtMost(0.3)).kept(), Some(false));
        assert_eq!(row(3.0, 2.0, Promise::AtLeast(1.5)).kept(), Some(true));
        assert_eq!(row(2.0, 2.0, Promise::AtLeast(1.5)).kept(), Some(false));
        assert_eq!(row(0.2, 0.0, Promise::Within(0.1)).kept(), Some(false));
        assert_eq!(row(1.0, 1.0, Promise::None).kept(), None);
        assert_eq!(
            row(1.0, 4.0, Promise::AtMost(0.3)).to_string(),
            "| x | 1.00 s | 4.00 s | 0.25 | at most 0.30x | kept | - |"
        );
    }

    #[test]
    fn values_have_three_digits_and_a_unit() {
        assert_eq!(show(Unit::Bytes, 1_572_864.0), "1.50 MiB");
        assert_eq!(show(Unit::Seconds, 0.0123), "12.3 ms");
        assert_eq!(show(Unit::Seconds, 0.000_045), "45.0 us");
        assert_eq!(show(Unit::PerSecond, 1234.4), "1234/s");
        assert_eq!(show(Unit::BytesPerSecond, 1_572_864.0), "1.50 MiB/s");
    }
}
