//! The binary encoding: length-delimited messages, the global metadata first.

use std::io::{BufReader, Read};

use prost::Message;

use super::super::collect::Collector;
use super::{Class, FORMAT, Node, collective_name, settle};
use crate::trace::model::RankTrace;

/// Largest message that is looked at; a node has hundreds of bytes to kilobytes.
const LARGEST: u64 = 16 << 20;

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, optional, tag = "7")]
    int32: Option<i32>,
    #[prost(int64, optional, tag = "9")]
    int64: Option<i64>,
    #[prost(uint32, optional, tag = "11")]
    uint32: Option<u32>,
    #[prost(uint64, optional, tag = "13")]
    uint64: Option<u64>,
    #[prost(bool, optional, tag = "27")]
    bool: Option<bool>,
}

impl Attribute {
    fn number(&self) -> Option<i64> {
        self.int64
            .or_else(|| self.int32.map(i64::from))
            .or_else(|| self.uint32.map(i64::from))
            .or_else(|| self.uint64.and_then(|n| i64::try_from(n).ok()))
    }
}

/// A node; what is not listed is passed over without being stored.
#[derive(Clone, PartialEq, Message)]
struct Encoded {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(int64, tag = "3")]
    class: i64,
    #[prost(uint64, repeated, tag = "4")]
    ctrl_deps: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    data_deps: Vec<u64>,
    #[prost(uint64, tag = "6")]
    start_us: u64,
    #[prost(uint64, tag = "7")]
    duration_us: u64,
    #[prost(message, repeated, tag = "10")]
    attributes: Vec<Attribute>,
}

/// Reads a trace.
///
/// # Errors
/// It holds no node that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut rank = Collector::new(FORMAT, file);
    let mut reader = Counting { inner: BufReader::with_capacity(64 << 10, reader), at: 0 };
    let mut nodes = Vec::new();
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        let at = reader.at;
        let length = match reader.varint() {
            Ok(Some(length)) => length,
            Ok(None) => break,
            Err(cause) => {
                rank.truncated(at, 0, &cause);
                break;
            }
        };
        if length > LARGEST {
            rank.truncated(at, 0, "a length that no message has");
            break;
        }
        buffer.clear();
        let read = (&mut reader).take(length).read_to_end(&mut buffer);
        if read.is_err() || (buffer.len() as u64) < length {
            rank.truncated(reader.at, buffer.len() as u64, "");
            break;
        }
        // The global metadata says nothing that is kept.
        if std::mem::take(&mut first) {
            continue;
        }
        match Encoded::decode(&buffer[..]) {
            Ok(encoded) => match node(encoded, at) {
                Some(node) => nodes.push(node),
                None => rank.left_out("nodes that hold metadata", 1),
            },
            Err(_) => rank.unusable("nodes that are damaged", at),
        }
    }
    settle(rank, nodes)
}

fn node(encoded: Encoded, at: u64) -> Option<Node> {
    let class = Class::of(encoded.class)?;
    let attribute = |name: &str| encoded.attributes.iter().find(|a| a.name == name);
    let number = |name: &str| attribute(name).and_then(Attribute::number);
    let on_host = attribute("is_cpu_op").map(|a| a.bool.unwrap_or(a.number() == Some(1)));
    let mut deps = encoded.data_deps;
    deps.extend(&encoded.ctrl_deps);
    Some(Node {
        id: encoded.id,
        class,
        on_host: on_host.unwrap_or(false),
        start_us: i64::try_from(encoded.start_us).unwrap_or(-1),
        duration_us: i64::try_from(encoded.duration_us).unwrap_or(-1),
        deps,
        collective: number("comm_type").and_then(collective_name),
        bytes: number("comm_size").unwrap_or(-1),
        peer: number("comm_dst")
            .or_else(|| number("comm_src"))
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(-1),
        name: encoded.name,
        at,
    })
}

/// A reader that knows how far it is.
struct Counting<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Read> Counting<R> {
    /// A base-128 number; `None` at the end.
    fn varint(&mut self) -> Result<Option<u64>, String> {
        let mut value = 0_u64;
        for shift in 0..10 {
            let mut byte = [0];
            match self.read(&mut byte) {
                Ok(0) if shift == 0 => return Ok(None),
                Ok(0) => return Err("the file ends inside a length".into()),
                Ok(_) => {}
                Err(e) => return Err(e.to_string()),
            }
            value |= u64::from(byte[0] & 0x7f) << (7 * shift).min(63);
            if byte[0] & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err("a length that is no number".into())
    }
}
