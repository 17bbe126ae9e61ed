//! Numbers of bytes for people.

/// Largest unit first reached by dividing.
fn scaled(mut size: f64, base: f64, units: &[&'static str]) -> (f64, &'static str) {
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    (size, units[unit])
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn float(size: i64) -> f64 {
    size as f64
}

/// `1.9 MiB`: one digit after the point, units of 1024.
pub(crate) fn bytes(size: i64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
    let (size, unit) = scaled(float(size), 1024.0, &units);
    format!("{size:.1} {unit}")
}

/// `1.997MB`: four digits at most, units of 1000.
pub(crate) fn human_size(size: i64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
    let (size, unit) = scaled(float(size), 1000.0, &units);
    format!("{}{unit}", four_digits(size))
}

/// As `%.4g` writes it: four digits that count, without zeros at the end.
fn four_digits(value: f64) -> String {
    let before = if value < 10.0 {
        1
    } else if value < 100.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.*}", 4 - before);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_go_writes_them() {
        let table = [(0, "0.0 B"), (1023, "1023.0 B"), (1024, "1.0 KiB"), (1_997_459, "1.9 MiB")];
        for (size, text) in table {
            assert_eq!(bytes(size), text);
        }
        let table = [
            (0, "0B"),
            (422, "422B"),
            (1000, "1kB"),
            (1_996_800, "1.997MB"),
            (1_083_743, "1.084MB"),
            (12_345_678, "12.35MB"),
            (999_960_000, "1000MB"),
            (1_500_000_000, "1.5GB"),
        ];
        for (size, text) in table {
            assert_eq!(human_size(size), text);
        }
    }
}
