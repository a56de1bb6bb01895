//! Text in columns.

/// A table of texts: the first column to the left, numbers to the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    heads: usize,
}

impl Table {
    /// Begins with the names of the columns, on as many lines as they need.
    pub(super) fn new<const N: usize>(heads: &[[&str; N]]) -> Self {
        let rows = heads.iter().map(|names| names.map(str::to_owned).into()).collect();
        Self { rows, heads: heads.len() }
    }

    /// Adds a row below.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Lays the columns out, two spaces apart, with a line below the heads.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut lines: Vec<_> = self.rows.iter().map(|row| line(row, &widths)).collect();
        let ruler: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        lines.insert(self.heads, line(&ruler, &widths));
        lines.join("\n")
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        if column == 0 {
            line = format!("{cell:<width$}");
        } else {
            line = format!("{line}  {cell:>width$}");
        }
    }
    line.trim_end().to_owned()
}

/// Writes a whole number with its thousands apart: `12,345`.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[["", "tps", "ms"], ["mode", "", ""]]);
        table.row(["simple".to_owned(), "12,345".to_owned(), "0.5".to_owned()]);
        table.row(["x".to_owned(), "9".to_owned(), "10.25".to_owned()]);
        assert_eq!(
            table.render(),
            "           tps     ms\n\
             mode\n\
             ------  ------  -----\n\
             simple  12,345    0.5\n\
             x            9  10.25"
        );
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in
            [(0.0, "0"), (999.4, "999"), (999.5, "1,000"), (12345.6, "12,346"), (1e6, "1,000,000")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
