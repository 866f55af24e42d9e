//! Tables for people: no borders, stable columns, colour only where it was asked for.

use comfy_table::{ContentArrangement, Table as Comfy};

/// How a cell should strike the eye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Like text.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Not yet, or not quite.
    Watch,
    /// Somebody has to do something.
    Bad,
    /// Of little interest.
    Faint,
}

impl Tone {
    const fn escape(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("\u{1b}[32m"),
            Self::Watch => Some("\u{1b}[33m"),
            Self::Bad => Some("\u{1b}[31m"),
            Self::Faint => Some("\u{1b}[2m"),
        }
    }
}

/// One cell. Texts of others are made harmless: a control character could rewrite the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone; an empty text becomes `-`, so that columns can be counted.
    pub fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = harmless(text.as_ref().trim());
        Self {
            text: if text.is_empty() {
                "-".to_owned()
            } else {
                text
            },
            tone,
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text.to_string(), Tone::Plain)
    }
}

/// `text` with every control character replaced, on one line.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A table that is being filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty one with these columns.
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Takes the last row out.
    pub fn pop(&mut self) {
        self.rows.pop();
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, without the header when `headers` is false. A table without rows has no lines.
    pub fn lines(&self, headers: bool, colour: bool) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let mut comfy = Comfy::new();
        // Lines are never wrapped: `grep` and `awk` see one line for one object.
        comfy.set_content_arrangement(ContentArrangement::Disabled);
        comfy.load_style(comfy_table::presets::NOTHING);
        if headers {
            comfy.set_header(self.header.clone());
        }
        comfy.add_rows(
            self.rows
                .iter()
                .map(|row| row.iter().map(|cell| &cell.text)),
        );
        for column in comfy.column_iter_mut() {
            column.set_padding((0, 3));
        }
        let mut lines: Vec<String> = comfy
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        if colour {
            let first = usize::from(headers);
            for (line, row) in lines.iter_mut().skip(first).zip(&self.rows) {
                *line = coloured(line, row);
            }
        }
        lines
    }
}

/// The cells stand in the line one after another with only spaces between, so each is found where
/// the one before ended.
fn coloured(line: &str, row: &[Cell]) -> String {
    let mut done = String::with_capacity(line.len() + 16);
    let mut rest = line;
    for cell in row {
        let Some(at) = rest.find(&cell.text) else {
            break;
        };
        let (gap, from_cell) = rest.split_at(at);
        done.push_str(gap);
        match cell.tone.escape() {
            Some(escape) => {
                done.push_str(escape);
                done.push_str(&cell.text);
                done.push_str("\u{1b}[0m");
            },
            None => done.push_str(&cell.text),
        }
        rest = &from_cell[cell.text.len()..];
    }
    done.push_str(rest);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["web".into(), Cell::new("ok", Tone::Good)]);
        table.row(vec!["a-longer-name".into(), Cell::new("", Tone::Bad)]);
        table
    }

    #[test]
    fn columns_line_up_without_borders() {
        assert_eq!(
            sample().lines(true, false),
            [
                "NAME            STATE",
                "web             ok",
                "a-longer-name   -"
            ]
        );
        assert_eq!(
            sample().lines(false, false),
            ["web             ok", "a-longer-name   -"]
        );
    }

    #[test]
    fn colour_changes_no_column() {
        assert_eq!(
            sample().lines(true, true)[1],
            "web             \u{1b}[32mok\u{1b}[0m"
        );
        assert_eq!(
            sample().lines(false, true)[1],
            "a-longer-name   \u{1b}[31m-\u{1b}[0m"
        );
    }

    #[test]
    fn an_empty_table_has_no_lines() {
        assert!(Table::new(&["NAME"]).lines(true, true).is_empty());
    }

    #[test]
    fn texts_of_others_cannot_write_to_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb c");
    }
}
