//! The table of SDKs and flows.

use super::{FLOWS, Outcome, Row};

/// A row per SDK and a column per flow, with narrow columns to fit a screen.
pub(super) fn render(rows: &[Row]) -> String {
    let mut cells = vec![header()];
    for row in rows {
        let mut line = vec![vec![row.name.to_owned(), row.version.clone()]];
        for flow in FLOWS {
            let text = match row.flows.get(flow) {
                Some((Outcome::Pass, _)) => "pass",
                Some((Outcome::Fail, _)) => "FAIL",
                Some((Outcome::Lacks, _)) => "SDK\nlacks it",
                None => "",
            };
            line.push(text.lines().map(str::to_owned).collect());
        }
        cells.push(line);
    }
    draw(&cells)
}

fn header() -> Vec<Vec<String>> {
    let mut header = vec![Vec::new()];
    for flow in FLOWS {
        header.push(flow.split('_').map(str::to_owned).collect());
    }
    header
}

/// Rows of cells; each cell is a list of lines.
fn draw(cells: &[Vec<Vec<String>>]) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let lines = cells.iter().filter_map(|row| row.get(column)).flatten();
            lines.map(String::len).max().unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for row in cells {
        let height = row.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            let mut text = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let word = cell.get(line).map_or("", String::as_str);
                text.push_str(&format!("{word:<width$}  "));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_line_cells_are_aligned() {
        let cell = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let drawn = draw(&[
            vec![cell(""), cell("jwt\nscope"), cell("web")],
            vec![cell("java\n1"), cell("SDK\nlacks it"), cell("pass")],
        ]);
        assert_eq!(
            drawn,
            "      jwt       web\n      scope\n\njava  SDK       pass\n1     lacks it\n\n"
        );
    }
}
