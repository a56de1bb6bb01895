//! What people read, and what programs read.

use std::fmt::Write as _;

use super::console::{Answer, Column};

/// Writes an answer as a JSON array of objects, one to a line.
pub fn json(answer: &Answer) -> String {
    let mut out = String::from("[");
    for (at, row) in answer.rows.iter().enumerate() {
        out.push_str(if at == 0 { "\n  {" } else { ",\n  {" });
        for (at, (column, value)) in answer.columns.iter().zip(row).enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            quote(&mut out, &column.name);
            out.push_str(": ");
            match value {
                None => out.push_str("null"),
                Some(flag) if is_flag(column) => {
                    out.push_str(if flag == "1" { "true" } else { "false" });
                }
                Some(number) if is_number(column, number) => out.push_str(number),
                Some(text) => quote(&mut out, text),
            }
        }
        out.push('}');
    }
    out.push_str(if answer.rows.is_empty() { "]\n" } else { "\n]\n" });
    out
}

/// Whether a column says yes or no, as 1 and 0: its name asks.
fn is_flag(column: &Column) -> bool {
    column.is_number && (column.name.starts_with("is_") || column.name.contains("_is_"))
}

/// Whether a value may stand in JSON as it is: not what only PostgreSQL calls a number.
fn is_number(column: &Column, value: &str) -> bool {
    column.is_number && value.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Appends a JSON string. Source: RFC 8259, section 7.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\0'..='\x1f' => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// Lays out columns for people; the last one is as long as it is.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widths = cells.map(|cell| cell.chars().count());
        widths.chain(head.get(at).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &[&str]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let width = *width;
            // Writing to a string does not fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(head);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    out
}

/// Writes a count of bytes for people.
pub fn bytes(count: f64) -> String {
    let mut count = count;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if count < 1024.0 {
            return if unit == "B" {
                format!("{count:.0} B")
            } else {
                format!("{count:.1} {unit}")
            };
        }
        count /= 1024.0;
    }
    format!("{count:.1} TiB")
}

/// Writes a time for people.
pub fn time(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.0} h", seconds / 3600.0)
    } else {
        format!("{:.0} d", seconds / 86_400.0)
    }
}

/// The columns of [`status`].
const STATUS: [&str; 8] =
    ["DATABASE", "SECONDARY", "STATE", "LAG", "CHANGES", "BYTES", "SINCE", "LAST ERROR"];

/// Lays out SHOW SECONDARIES for people.
pub fn status(answer: &Answer) -> String {
    let row = |at: usize| {
        let text = |column| answer.get(at, column).unwrap_or_default().to_owned();
        let estimate = if answer.get(at, "lag_is_estimate") == Some("1") { "~" } else { "" };
        let number = |column, write: fn(f64) -> String| {
            answer.number(at, column).map_or_else(|| "-".to_owned(), write)
        };
        let last = if text("state") == "copying" { copied(answer, at) } else { None };
        vec![
            text("database"),
            text("secondary"),
            text("state"),
            number("lag_seconds", time),
            format!("{estimate}{}", number("lag_changes", |count| format!("{count:.0}"))),
            format!("{estimate}{}", number("lag_bytes", bytes)),
            text("since"),
            last.unwrap_or_else(|| text("last_error")),
        ]
    };
    let rows: Vec<_> = (0..answer.rows.len()).map(row).collect();
    table(&STATUS, &rows)
}

/// Says how far a copy is, if one is under way.
pub fn copied(answer: &Answer, row: usize) -> Option<String> {
    let number = |column| answer.number(row, column);
    if let (Some(done), Some(all)) = (number("copy_objects_done"), number("copy_objects")) {
        return Some(format!("{done:.0} of {all:.0} indexes, constraints and others"));
    }
    let (done, all) = (number("copy_tables_done")?, number("copy_tables")?);
    let (rows, size) = (number("copy_rows")?, number("copy_bytes")?);
    let estimate = number("copy_bytes_estimate")?.max(size);
    let mut text = format!(
        "{done:.0} of {all:.0} tables, {rows:.0} rows, {} of about {}",
        bytes(size),
        bytes(estimate)
    );
    if let Some(seconds) = number("copy_seconds").filter(|seconds| *seconds > 0.0)
        && size > 0.0
    {
        let speed = size / seconds;
        let _ = write!(text, ", {}/s", bytes(speed));
        if estimate > size {
            let _ = write!(text, ", {} left", time((estimate - size) / speed));
        }
    }
    Some(text)
}

/// Says how far a verification is, if one is under way.
pub fn verified(answer: &Answer, row: usize) -> Option<String> {
    let number = |column| answer.number(row, column);
    let (done, all) = (number("verify_tables_done")?, number("verify_tables")?);
    let mut text = format!(
        "{done:.0} of {all:.0} tables, {:.0} of about {:.0} rows, {:.0} different",
        number("verify_rows")?,
        number("verify_rows_estimate")?,
        number("verify_rows_different")?,
    );
    if let Some(left) = number("verify_seconds_left") {
        let _ = write!(text, ", {} left", time(left));
    }
    if let Some(table) = answer.get(row, "verify_table") {
        let _ = write!(text, " ({table})");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &[&str], rows: &[&[Option<&str>]]) -> Answer {
        let own = |text: &&str| (*text).to_owned();
        let row = |row: &&[Option<&str>]| row.iter().map(|cell| cell.as_ref().map(own)).collect();
        let is_text = |name: &str| ["state", "last_error"].contains(&name);
        let column = |name: &&str| Column { name: own(name), is_number: !is_text(name) };
        Answer {
            columns: columns.iter().map(column).collect(),
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn programs_get_json() {
        assert_eq!(json(&Answer::default()), "[]\n");
        let answer = answer(
            &["state", "lag_changes", "last_error", "is_leader", "lag_seconds"],
            &[
                &[Some("paused"), Some("5"), Some("a \"b\"\n\\\u{1}ä"), Some("1"), Some("0.25")],
                &[Some("7"), None, None, Some("0"), Some("NaN")],
            ],
        );
        assert_eq!(
            json(&answer),
            "[\n  {\"state\": \"paused\", \"lag_changes\": 5, \"last_error\": \
             \"a \\\"b\\\"\\n\\\\\\u0001ä\", \"is_leader\": true, \"lag_seconds\": 0.25},\n  \
             {\"state\": \"7\", \"lag_changes\": null, \"last_error\": null, \"is_leader\": false, \
             \"lag_seconds\": \"NaN\"}\n]\n"
        );
    }

    #[test]
    fn people_get_columns() {
        let rows = [vec!["app".to_owned(), "in_sync".to_owned()], vec![String::new(), "x".into()]];
        assert_eq!(table(&["DB", "STATE"], &rows), "DB   STATE\napp  in_sync\n     x\n");
    }

    #[test]
    fn sizes_and_times() {
        let check = |count, expected: &str| assert_eq!(bytes(count), expected);
        check(0.0, "0 B");
        check(1023.0, "1023 B");
        check(1536.0, "1.5 KiB");
        check(5e12, "4.5 TiB");
        let check = |seconds, expected: &str| assert_eq!(time(seconds), expected);
        check(0.04, "0.0 s");
        check(59.6, "60 s");
        check(600.0, "10 min");
        check(86_400.0, "24 h");
        check(864_000.0, "10 d");
    }

    #[test]
    fn how_far_a_copy_is() {
        let columns = [
            "copy_tables_done",
            "copy_tables",
            "copy_rows",
            "copy_bytes",
            "copy_bytes_estimate",
            "copy_seconds",
        ];
        let row = ["1", "3", "10", "1024", "3072", "2"].map(Some);
        let known = answer(&columns, &[&row]);
        let expected = "1 of 3 tables, 10 rows, 1.0 KiB of about 3.0 KiB, 512 B/s, 4.0 s left";
        assert_eq!(copied(&known, 0).as_deref(), Some(expected));
        assert_eq!(copied(&answer(&columns, &[&[None; 6]]), 0), None);
    }
}
