//! `kernel_details.csv`: one row per kernel and collective, with exact durations.

use std::io::Read;

use csv::ByteRecord;

use super::super::collect::{Collector, identifier};
use super::{KERNELS, collective, copies};
use crate::trace::decimal::{integer, micros_to_nanos};
use crate::trace::model::{Kind, RankTrace};

/// Reads a table of kernels.
///
/// # Errors
/// It lacks a column or holds no row that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut rank = Collector::new(KERNELS, file);
    let mut table = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let header = table.byte_headers().map_err(|e| format!("is no table: {e}"))?.clone();
    let column = |name: &str| {
        header.iter().position(|h| String::from_utf8_lossy(h).trim_matches('\u{feff}') == name)
    };
    let need = |name: &str| {
        column(name).ok_or_else(|| format!("line 1: is a kernel table without a column `{name}`"))
    };
    let (name, start, dur) = (need("Name")?, need("Start Time(us)")?, need("Duration(us)")?);
    let (stream, device, class) = (column("Stream ID"), column("Device_id"), column("Type"));
    let mut row = ByteRecord::new();
    loop {
        let at = table.position().byte();
        match table.read_byte_record(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => {
                rank.truncated(at, 0, &e.to_string());
                break;
            }
        }
        let cell = |column: Option<usize>| column.and_then(|c| row.get(c)).unwrap_or_default();
        let name = String::from_utf8_lossy(cell(Some(name))).trim().to_owned();
        let begin = micros_to_nanos(cell(Some(start)));
        let length = micros_to_nanos(cell(Some(dur)));
        let end = begin.zip(length).and_then(|(begin, length)| begin.checked_add(length));
        let copy = copies(&String::from_utf8_lossy(cell(class)));
        let kind = if copy { Kind::Memcpy } else { Kind::Kernel };
        if let Some(event) = rank.event(kind, &name, begin, end, at) {
            event.lane = identifier(integer(cell(stream)));
            event.device = integer(cell(device)).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
            collective(&mut rank, &name, "", -1, "");
        }
    }
    rank.finish()
}
