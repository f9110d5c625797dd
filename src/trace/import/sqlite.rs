//! SQLite databases of profilers: opened without writing a byte, and read table by table with the
//! columns that this version of the schema has.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

/// Largest packed database that is unpacked into memory.
const LARGEST_PACKED: u64 = 2 << 30;

/// Opens a database: in place where it is a file of its own, else in memory.
///
/// # Errors
/// It cannot be read; the text completes "FILE: ...".
pub fn open(path: Option<&Path>, reader: impl Read) -> Result<Connection, String> {
    let connection = match path {
        Some(path) => {
            // Immutable: no journal is looked for and no file is made beside it.
            let mut uri = String::from("file:");
            for byte in path.as_os_str().as_encoded_bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                        uri.push(char::from(*byte));
                    }
                    other => {
                        let _ = write!(uri, "%{other:02X}");
                    }
                }
            }
            uri.push_str("?immutable=1");
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_URI
                | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(uri, flags).map_err(|e| damaged(&e))?
        }
        None => {
            let mut bytes = Vec::new();
            let read = reader.take(LARGEST_PACKED + 1).read_to_end(&mut bytes);
            read.map_err(|e| format!("cannot be unpacked: {e}"))?;
            if bytes.len() as u64 > LARGEST_PACKED {
                return Err("is a packed database of more than 2 GiB; unpack it first".into());
            }
            let mut connection = Connection::open_in_memory().map_err(|e| damaged(&e))?;
            connection
                .deserialize_read_exact("main", &bytes[..], bytes.len(), true)
                .map_err(|e| damaged(&e))?;
            connection
        }
    };
    let trusted = "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON;";
    connection.execute_batch(trusted).map_err(|e| damaged(&e))?;
    Ok(connection)
}

fn damaged(error: &rusqlite::Error) -> String {
    format!("is a damaged SQLite database: {error}")
}

/// Whether there is such a table. A view is none: it can compute anything.
#[must_use]
pub fn has_table(connection: &Connection, table: &str) -> bool {
    let count = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name = ?1",
        [table],
        |row| row.get::<_, i64>(0),
    );
    count.is_ok_and(|count| count > 0)
}

/// Passes every row of a table to `take`: the wanted columns in order, NULL where this schema has
/// no such column. False, and nothing passed, where there is no such table; a damaged table gives
/// the rows in front of the damage and then `Err`.
///
/// # Errors
/// What SQLite says.
pub fn rows(
    connection: &Connection,
    table: &str,
    columns: &[&str],
    mut take: impl FnMut(&Fields<'_, '_>),
) -> Result<bool, String> {
    if !has_table(connection, table) {
        return Ok(false);
    }
    let present = {
        let mut statement = connection
            .prepare("SELECT name FROM pragma_table_info(?1)")
            .map_err(|e| e.to_string())?;
        let names = statement.query_map([table], |row| row.get::<_, String>(0));
        let names: Result<Vec<String>, _> = names.map_err(|e| e.to_string())?.collect();
        names.map_err(|e| e.to_string())?
    };
    let list: Vec<String> = columns
        .iter()
        .map(|column| {
            let known = present.iter().any(|name| name == column);
            if known { format!("\"{column}\"") } else { "NULL".into() }
        })
        .collect();
    let text = format!("SELECT {} FROM \"{table}\"", list.join(", "));
    let mut statement = connection.prepare(&text).map_err(|e| e.to_string())?;
    let mut rows = statement.query([]).map_err(|e| e.to_string())?;
    loop {
        match rows.next() {
            Ok(Some(row)) => take(&Fields { row }),
            Ok(None) => return Ok(true),
            Err(e) => return Err(format!("table {table}: {e}")),
        }
    }
}

/// The columns of one row.
pub struct Fields<'r, 's> {
    row: &'r Row<'s>,
}

impl Fields<'_, '_> {
    /// A whole number; text that is one counts.
    pub fn int(&self, column: usize) -> Option<i64> {
        match self.row.get_ref(column).ok()? {
            ValueRef::Integer(value) => Some(value),
            ValueRef::Real(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Some(value as i64)
            }
            ValueRef::Text(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
            _ => None,
        }
    }

    /// Text.
    pub fn text(&self, column: usize) -> Option<&str> {
        match self.row.get_ref(column).ok()? {
            ValueRef::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}
