//! Tables as docker and kubectl draw them: no borders, headings in capitals, three spaces between columns.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

/// One column of a table of `T`.
pub struct Column<'a, T> {
    head: &'static str,
    wide: bool,
    right: bool,
    cell: Box<dyn Fn(&T) -> String + 'a>,
}

impl<T> std::fmt::Debug for Column<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.head)
    }
}

impl<'a, T> Column<'a, T> {
    pub fn new(head: &'static str, cell: impl Fn(&T) -> String + 'a) -> Self {
        Self {
            head,
            wide: false,
            right: false,
            cell: Box::new(cell),
        }
    }
    /// Shown with `-o wide` only.
    pub fn wide(mut self) -> Self {
        self.wide = true;
        self
    }
    /// Numbers stand right.
    pub fn right(mut self) -> Self {
        self.right = true;
        self
    }
}

/// The table. Where it is wider than `width`, cells are wrapped.
pub fn render<T>(items: &[T], columns: &[Column<'_, T>], wide: bool, width: Option<u16>) -> String {
    let columns: Vec<_> = columns.iter().filter(|c| wide || !c.wide).collect();
    let mut table = plain();
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().map(|c| c.head));
    for item in items {
        table.add_row(columns.iter().map(|c| clean(&(c.cell)(item))));
    }
    let last = columns.len().saturating_sub(1);
    for (i, (column, described)) in table.column_iter_mut().zip(&columns).enumerate() {
        column.set_padding((0, if i == last { 0 } else { 3 }));
        if described.right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// `NAME   value`, one a line; rows without a value are left out.
pub fn card(rows: &[(&str, String)]) -> String {
    let mut table = plain();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let value = value.lines().map(clean).collect::<Vec<_>>().join("\n");
        table.add_row([format!("{name}:"), value]);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == 0 { 2 } else { 0 }));
    }
    table.trim_fmt()
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table
}

/// `text` without control characters: names and messages come from containers and other machines, and none of them may
/// steer a terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Characters that change the direction or order of what stands around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(&'static str, u32, &'static str);

    fn columns() -> [Column<'static, Row>; 3] {
        [
            Column::new("NAME", |r: &Row| r.0.to_owned()),
            Column::new("SIZE", |r: &Row| r.1.to_string()).right(),
            Column::new("NOTE", |r: &Row| r.2.to_owned()).wide(),
        ]
    }

    #[test]
    fn columns_are_aligned_without_borders_or_trailing_spaces() {
        let rows = [Row("web", 7, "é"), Row("a-longer-name", 12345, "")];
        assert_eq!(
            render(&rows, &columns(), false, None),
            "NAME             SIZE\nweb                 7\na-longer-name   12345"
        );
        assert_eq!(
            render(&rows, &columns(), true, None),
            "NAME             SIZE   NOTE\nweb                 7   é\na-longer-name   12345"
        );
        assert_eq!(render(&[], &columns(), false, None), "NAME   SIZE");
    }

    #[test]
    fn a_narrow_terminal_wraps_cells() {
        let rows = [Row("web", 7, "one two three four five six seven eight nine ten")];
        let table = render(&rows, &columns(), true, Some(40));
        assert!(table.lines().all(|line| line.chars().count() <= 40), "{table}");
        assert!(table.lines().count() > 2, "{table}");
    }

    #[test]
    fn no_cell_steers_the_terminal() {
        let rows = [Row("\u{1b}[31mred\r\n", 1, "")];
        assert_eq!(render(&rows, &columns()[..1], false, None), "NAME\n\u{fffd}[31mred\u{fffd}\u{fffd}");
    }

    #[test]
    fn cards_leave_out_what_is_empty() {
        assert_eq!(
            card(&[("Name", "web".into()), ("Exit code", String::new()), ("Ports", "a\nb".into())]),
            "Name:   web\nPorts:  a\n        b"
        );
    }
}
