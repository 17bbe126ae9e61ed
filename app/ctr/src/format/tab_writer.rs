//! Columns as Go's `text/tabwriter` lays them out: a cell ends with a tab, and a column is as wide
//! as the widest of the cells that stand below each other without a gap.

/// Collects lines and lays them out.
#[derive(Debug)]
pub(crate) struct TabWriter {
    min_width: usize,
    tab_width: usize,
    padding: usize,
    pad: char,
    lines: Vec<Vec<String>>,
}

impl TabWriter {
    /// A writer with Go's parameters: least width of a cell, width of a tab, padding, and what it
    /// is made of.
    pub(crate) fn new(min_width: usize, tab_width: usize, padding: usize, pad: char) -> Self {
        TabWriter { min_width, tab_width, padding, pad, lines: vec![vec![String::new()]] }
    }

    /// The narrow layout of most lists.
    pub(crate) fn narrow() -> Self {
        Self::new(1, 8, 1, ' ')
    }

    /// The wide layout of containers, tasks and plugins.
    pub(crate) fn wide() -> Self {
        Self::new(4, 8, 4, ' ')
    }

    /// Adds text; tabs end cells, newlines end lines.
    pub(crate) fn text(&mut self, text: &str) {
        for letter in text.chars() {
            let Some(line) = self.lines.last_mut() else { return };
            match letter {
                '\n' => self.lines.push(vec![String::new()]),
                '\t' => line.push(String::new()),
                letter => {
                    if let Some(cell) = line.last_mut() {
                        cell.push(letter);
                    }
                }
            }
        }
    }

    /// Adds one line.
    pub(crate) fn line(&mut self, line: &str) {
        self.text(line);
        self.text("\n");
    }

    /// All lines, laid out.
    pub(crate) fn finish(self) -> String {
        let mut output = String::new();
        let count = self.lines.len();
        self.block(&mut output, &mut Vec::new(), 0, count);
        output
    }

    /// Writes the result to the standard output.
    pub(crate) fn print(self) -> std::io::Result<()> {
        use std::io::Write as _;
        std::io::stdout().write_all(self.finish().as_bytes())
    }

    /// Lays out the lines from `from` to `to`, whose columns up to here have `widths`.
    fn block(&self, output: &mut String, widths: &mut Vec<usize>, from: usize, to: usize) {
        let column = widths.len();
        // The last cell of a line belongs to no column.
        let has_cell = |line: usize| column + 1 < self.lines[line].len();
        let mut written = from;
        let mut line = from;
        while line < to {
            if !has_cell(line) {
                line += 1;
                continue;
            }
            self.lines_out(output, widths, written, line);
            let start = line;
            let mut width = self.min_width;
            while line < to && has_cell(line) {
                let cell = self.lines[line][column].chars().count();
                width = width.max(cell + self.padding);
                line += 1;
            }
            widths.push(width);
            self.block(output, widths, start, line);
            widths.pop();
            written = line;
        }
        self.lines_out(output, widths, written, to);
    }

    fn lines_out(&self, output: &mut String, widths: &[usize], from: usize, to: usize) {
        for index in from..to {
            for (column, cell) in self.lines[index].iter().enumerate() {
                output.push_str(cell);
                if let Some(width) = widths.get(column) {
                    self.fill(output, cell.chars().count(), *width);
                }
            }
            if index + 1 < self.lines.len() {
                output.push('\n');
            }
        }
    }

    fn fill(&self, output: &mut String, cell: usize, width: usize) {
        let count = if self.pad == '\t' {
            let width = width.div_ceil(self.tab_width) * self.tab_width;
            (width - cell).div_ceil(self.tab_width)
        } else {
            width.saturating_sub(cell)
        };
        output.extend(std::iter::repeat_n(self.pad, count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(mut writer: TabWriter, lines: &[&str]) -> String {
        for line in lines {
            writer.line(line);
        }
        writer.finish()
    }

    #[test]
    fn tables_of_containerd() {
        assert_eq!(
            laid_out(TabWriter::wide(), &["TASK\tPID\tSTATUS\t", "f2\t3418\tSTOPPED"]),
            "TASK    PID     STATUS    \nf2      3418    STOPPED\n"
        );
        assert_eq!(
            laid_out(TabWriter::narrow(), &["NAME\tLABELS\t", "default\t\t", "n1\ta=b\t"]),
            "NAME    LABELS \ndefault        \nn1      a=b    \n"
        );
        assert_eq!(laid_out(TabWriter::narrow(), &["KEY\tPARENT\tKIND\t"]), "KEY PARENT KIND \n");
        assert_eq!(
            laid_out(
                TabWriter::new(1, 8, 1, '\t'),
                &["DIGEST\tSIZE\tAGE\tLABELS", "sha256:0\t1.997MB\t1 second\t-"]
            ),
            "DIGEST\t\tSIZE\tAGE\t\tLABELS\nsha256:0\t1.997MB\t1 second\t-\n"
        );
    }

    #[test]
    fn a_gap_ends_a_column() {
        let lines = ["a\tb\t", "plain", "long cell\tb\t"];
        assert_eq!(laid_out(TabWriter::narrow(), &lines), "a b \nplain\nlong cell b \n");
        // The parts of `plugins ls -d`: blocks within a block.
        let lines =
            ["Type:\t t", "Exports:\t", "\t root \t /x", "\t longer \t /y", "\t\t\t", "Type:\t u"];
        assert_eq!(
            laid_out(TabWriter::wide(), &lines),
            "Type:        t\nExports:    \n             root        /x\n             longer      /y\n\
             \u{20}                           \nType:        u\n"
        );
    }
}
