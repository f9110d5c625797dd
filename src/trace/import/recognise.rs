//! What a stream is, by its first bytes and never by its name.

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PyTorch profiler: JSON with `traceEvents`, or a bare array of events.
    Kineto,
    /// PyTorch execution trace: JSON of operators, shapes and no times.
    ExecutionTrace,
    /// Chakra execution trace as JSON.
    ChakraJson,
    /// Chakra execution trace as length-delimited protobuf.
    ChakraProtobuf,
    /// Ascend profiler, `trace_view.json`.
    AscendView,
    /// Ascend profiler, `kernel_details.csv`.
    AscendKernels,
    /// rocprof (version 1) JSON.
    RocprofV1,
    /// rocprofv3 JSON.
    RocprofV3,
    /// rocprofv3 tables of events.
    RocprofCsv,
    /// Primus pipeline log.
    Primus,
    /// An SQLite database: Nsight Systems or Ascend, which its tables tell.
    Sqlite,
    /// A Parquet table of Megatron-style operations.
    Operations,
}

/// What a stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Packed, gzip.
    Gzip,
    /// Packed, Zstandard.
    Zstd,
    /// An archive.
    Tar,
    /// A trace.
    Trace(Format),
    /// Recognised and not supported, or not recognised; the text completes "FILE: ...".
    Other(&'static str),
}

/// Looks at the first bytes of a stream.
#[must_use]
pub fn recognise(head: &[u8]) -> What {
    match head {
        [] => What::Other("is empty"),
        [0x1f, 0x8b, ..] => What::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => What::Zstd,
        _ if head.get(257..262) == Some(b"ustar") => What::Tar,
        _ if head.starts_with(b"SQLite format 3\0") => What::Trace(Format::Sqlite),
        _ if head.starts_with(b"PAR1") => What::Trace(Format::Operations),
        _ if head.starts_with(b"PK\x03\x04") => {
            What::Other("is a zip archive; unpack it or pack it as .tar.gz")
        }
        _ if is_chakra(head) => What::Trace(Format::ChakraProtobuf),
        _ => text(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start()),
    }
}

fn text(text: &[u8]) -> What {
    let has = |part: &str| memchr::memmem::find(text, part.as_bytes()).is_some();
    let begins = |key: &str| {
        let after = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
        after.is_some_and(|rest| rest.starts_with(key.as_bytes()))
    };
    match text.first() {
        Some(b'{') if begins("\"rocprofiler-sdk-tool\"") => What::Trace(Format::RocprofV3),
        Some(b'{') if begins("\"schema\"") => What::Trace(Format::ExecutionTrace),
        Some(b'{') if begins("\"workload_graph\"") => What::Trace(Format::ChakraJson),
        Some(b'{') if has("\"fwd_start\"") && has("\"total\"") => What::Trace(Format::Primus),
        Some(b'{')
            if begins("\"traceEvents\"") && (has("\"BeginNs\"") || has("\"CPU HIP API\"")) =>
        {
            What::Trace(Format::RocprofV1)
        }
        // The Ascend profiler writes a bare array, and times as text.
        Some(b'[') if has("\"ts\": \"") || has("\"ts\":\"") => What::Trace(Format::AscendView),
        Some(b'{' | b'[') => What::Trace(Format::Kineto),
        _ => table(text),
    }
}

fn table(text: &[u8]) -> What {
    let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
    let has = |part: &str| memchr::memmem::find(first, part.as_bytes()).is_some();
    if has("Start_Timestamp") && has("End_Timestamp") {
        What::Trace(Format::RocprofCsv)
    } else if has("Start Time(us)") && has("Duration(us)") && has("Name") {
        What::Trace(Format::AscendKernels)
    } else if has(",") && first.iter().all(|b| (b' '..0x7f).contains(b) || *b == b'\r') {
        What::Other("is a table without the times of events")
    } else {
        What::Other("is no trace format that is known")
    }
}

/// A length, then the global metadata: an attribute list whose first key is `schema`, or a node.
fn is_chakra(head: &[u8]) -> bool {
    let Some((length, rest)) = varint(head) else { return false };
    let named = memchr::memmem::find(&head[..head.len().min(64)], b"\n\x06schema").is_some();
    length > 0 && ((rest.first() == Some(&0x12) && named) || (length < 4096 && version(rest)))
}

/// Older writers put the version into the first field of the metadata.
fn version(message: &[u8]) -> bool {
    match message {
        [0x0a, length, rest @ ..] => {
            let text = rest.get(..usize::from(*length)).unwrap_or_default();
            text.len() >= 5 && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        }
        _ => false,
    }
}

/// A base-128 number and what follows it.
#[must_use]
pub fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        for (head, format) in [
            (&b"\xef\xbb\xbf \n {"[..], Format::Kineto),
            (b"[]", Format::Kineto),
            (b"SQLite format 3\0...", Format::Sqlite),
            (b"PAR1\x15", Format::Operations),
            (b"{ \"rocprofiler-sdk-tool\": [", Format::RocprofV3),
            (b"{ \"schema\": \"1.0.1\"", Format::ExecutionTrace),
            (b"{\"workload_graph\": [", Format::ChakraJson),
            (b"{\"1\": {\"total\": 1.0, \"fwd_start\": [", Format::Primus),
            (b"[{\"ph\": \"X\", \"ts\": \"17.1\"", Format::AscendView),
            (b"\"Kind\",\"Start_Timestamp\",\"End_Timestamp\"\n", Format::RocprofCsv),
            (b"Step Id,Name,Start Time(us),Duration(us)\r\n", Format::AscendKernels),
            (b"\x5e\x12\x10\n\x06schema\xea\x01\x051.0.1", Format::ChakraProtobuf),
        ] {
            assert_eq!(recognise(head), What::Trace(format), "{head:?}");
        }
        assert_eq!(recognise(b"\x1f\x8b\x08"), What::Gzip);
        assert!(matches!(recognise(b"hello"), What::Other(_)));
        assert!(matches!(recognise(b"Name,Calls\n"), What::Other(_)));
        assert!(matches!(recognise(b""), What::Other(_)));
    }
}
