//! Tables as `ctr` prints them.

use anyhow::{Context, Result};

/// Columns are found by where their heads begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The heads.
    pub heads: Vec<String>,
    /// The cells, row by row; a row has as many cells as there are heads.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads `text`: one line of heads, then one line for each row.
    ///
    /// # Errors
    ///
    /// There is no line of heads.
    pub fn parse(text: &str) -> Result<Table> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let head = lines.next().context("no line of heads")?;
        let starts = starts(head);
        let rows = lines.map(|line| cells(line, &starts)).collect();
        Ok(Table { heads: cells(head, &starts), rows })
    }

    /// The number of the column with that head.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn column(&self, head: &str) -> Result<usize> {
        self.heads
            .iter()
            .position(|name| name == head)
            .with_context(|| format!("no column {head} in {:?}", self.heads))
    }

    /// The row whose first cell is `key`.
    #[must_use]
    pub fn row(&self, key: &str) -> Option<&[String]> {
        self.rows.iter().find(|row| row[0] == key).map(Vec::as_slice)
    }

    /// The cell in the row `key` below `head`.
    ///
    /// # Errors
    ///
    /// There is no such row or column.
    pub fn cell(&self, key: &str, head: &str) -> Result<&str> {
        let row = self.row(key).with_context(|| format!("no row {key} in {self:?}"))?;
        Ok(&row[self.column(head)?])
    }

    /// The cells below `head`.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn cells(&self, head: &str) -> Result<Vec<&str>> {
        let column = self.column(head)?;
        Ok(self.rows.iter().map(|row| row[column].as_str()).collect())
    }
}

/// Where the columns begin: at each letter with two blanks, a tab or nothing before it, and, as
/// heads are single words, after a single blank as well.
fn starts(head: &str) -> Vec<usize> {
    let letters: Vec<char> = head.chars().collect();
    (0..letters.len())
        .filter(|&at| !letters[at].is_whitespace() && (at == 0 || letters[at - 1].is_whitespace()))
        .collect()
}

/// Cuts `line`; a cell that is wider than its column pushes the others to the right, which shows
/// as a letter before a start: then words are counted instead.
fn cells(line: &str, starts: &[usize]) -> Vec<String> {
    let letters: Vec<char> = line.chars().collect();
    let fits = starts.iter().skip(1).all(|&start| {
        start == 0 || letters.get(start - 1).is_none_or(|letter| letter.is_whitespace())
    });
    let mut cells: Vec<String> = if fits {
        let ends = starts.iter().skip(1).copied().chain([letters.len()]);
        starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| {
                let end = end.min(letters.len());
                letters[start.min(end)..end].iter().collect::<String>().trim().to_owned()
            })
            .collect()
    } else {
        line.split_whitespace().map(str::to_owned).collect()
    };
    cells.resize(starts.len(), String::new());
    cells
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn empty_cells_and_wide_ones() {
        let table = Table::parse("NAME  LABELS  TYPE\na             x\nbb    k=v     y\n").unwrap();
        assert_eq!(table.heads, ["NAME", "LABELS", "TYPE"]);
        assert_eq!(table.cell("a", "LABELS").unwrap(), "");
        assert_eq!(table.cell("a", "TYPE").unwrap(), "x");
        assert_eq!(table.cells("LABELS").unwrap(), ["", "k=v"]);
        assert!(table.row("c").is_none());
        assert!(Table::parse("").is_err());
    }
}
