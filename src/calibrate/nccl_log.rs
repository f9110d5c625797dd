//! Output of nccl-tests and rccl-tests.
//!
//! The programs print `#` comments (the devices, the column heads) and one line per size: size,
//! count, type, reduction, root, then time, algorithm and bus bandwidth and errors, out of place
//! and in place. All-gather and its kin print no reduction or root in some versions; the column
//! heads say which columns there are.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, InputError, Result};
use crate::network::collective::Operation;

/// A timing of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Size, bytes.
    pub bytes: f64,
    /// Seconds.
    pub seconds: f64,
    /// Source and destination buffer are the same.
    pub in_place: bool,
}

/// What a log says.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Where it was read from.
    pub origin: String,
    /// What was measured.
    pub operation: Operation,
    /// Ranks in the group.
    pub ranks: u32,
    /// Hosts in the group.
    pub nodes: u32,
    /// Names of the devices, without repetition.
    pub devices: Vec<String>,
    /// Its timings, in the order of the log.
    pub timings: Vec<Timing>,
}

/// Reads a log.
///
/// # Errors
/// The file cannot be read or is not the output of nccl-tests or rccl-tests; the message says
/// what is missing and what the format is.
pub fn read(path: &Path) -> Result<Log> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    parse(&path.display().to_string(), &String::from_utf8_lossy(&bytes))
}

fn error(origin: &str, line: Option<(usize, &str)>, message: String, hint: &str) -> Error {
    InputError {
        origin: origin.to_owned(),
        position: line.map(|(number, _)| (number, 1)),
        line_text: line.map(|(_, text)| text.to_owned()),
        message,
        hint: Some(hint.to_owned()),
        ..InputError::default()
    }
    .into()
}

const FORMAT: &str = "give the text that nccl-tests or rccl-tests prints (all_reduce_perf and its \
                      kin), with its `#` lines";

/// As [`read`], from text; `origin` names it in messages.
///
/// # Errors
/// As for [`read`].
pub fn parse(origin: &str, text: &str) -> Result<Log> {
    // A launcher's "[1,0]<stdout>:" starts with a bracket as well.
    let head = text.trim_start();
    if head.starts_with('{')
        || head.strip_prefix('[').is_some_and(|h| h.trim_start().starts_with('{'))
    {
        return Err(error(
            origin,
            None,
            "is JSON, not the text output of nccl-tests".into(),
            FORMAT,
        ));
    }
    let mut hosts = BTreeSet::new();
    let mut devices = BTreeSet::new();
    let mut ranks = BTreeSet::new();
    let mut operation = None;
    let mut columns: Option<Columns> = None;
    let mut timings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = Some((index + 1, line));
        // Launchers put "[1,0]<stdout>:" or "0: " before a line.
        let body = strip_launcher(line);
        if let Some(comment) = body.strip_prefix('#') {
            if let Some((rank, host, device)) = device_line(comment) {
                ranks.insert(rank);
                hosts.insert(host);
                devices.insert(device);
            } else if let Some(found) = Columns::of(comment) {
                columns = Some(found);
            }
            if operation.is_none() {
                operation = operation_in(comment);
            }
            continue;
        }
        if operation.is_none() {
            operation = operation_in(body);
        }
        let fields: Vec<&str> = body.split_whitespace().collect();
        let Some(bytes) = fields.first().and_then(|f| f.parse::<f64>().ok()) else { continue };
        let Some(columns) = &columns else { continue };
        if fields.len() < columns.count {
            return Err(error(
                origin,
                at,
                format!("has {} of {} columns", fields.len(), columns.count),
                "the log may be cut off or two ranks may have written into one line",
            ));
        }
        for (position, in_place) in columns.times.iter().zip([false, true]) {
            let field = fields[*position];
            if field == "N/A" {
                continue;
            }
            let time: f64 = field
                .parse()
                .ok()
                .filter(|t: &f64| t.is_finite() && *t > 0.0)
                .ok_or_else(|| error(origin, at, format!("`{field}` is no time"), FORMAT))?;
            if bytes > 0.0 {
                timings.push(Timing { bytes, seconds: time * 1e-6, in_place });
            }
        }
    }
    if columns.is_none() {
        return Err(error(
            origin,
            None,
            "has no line of column heads (`# size count type ... time algbw busbw`)".into(),
            FORMAT,
        ));
    }
    if timings.is_empty() {
        return Err(error(origin, None, "has column heads but no timings".into(), FORMAT));
    }
    if ranks.is_empty() {
        return Err(error(
            origin,
            None,
            "does not list its devices (`# Rank 0 ... on HOST device 0 ...`)".into(),
            "keep the `# Using devices` lines: the number of ranks and nodes is read from them",
        ));
    }
    let operation = operation.or_else(|| operation_in(origin)).ok_or_else(|| {
        error(
            origin,
            None,
            "does not say which collective it measured".into(),
            "keep the line `# Collective test starting: all_reduce_perf`, or name the file after \
             it, such as all_reduce_perf.log",
        )
    })?;
    Ok(Log {
        origin: origin.to_owned(),
        operation,
        ranks: ranks.len() as u32,
        nodes: hosts.len() as u32,
        devices: devices.into_iter().collect(),
        timings,
    })
}

fn strip_launcher(line: &str) -> &str {
    let line = line.trim();
    if let Some((prefix, rest)) = line.split_once(':')
        && (prefix.ends_with("<stdout>") || prefix.chars().all(|c| c.is_ascii_digit()))
        && !prefix.is_empty()
    {
        return rest.trim_start();
    }
    line
}

/// `Rank  0 Group  0 Pid 12 on host-a device  0 [0x07] NVIDIA A100-SXM4-40GB`
fn device_line(comment: &str) -> Option<(u32, String, String)> {
    let words: Vec<&str> = comment.split_whitespace().collect();
    if words.first() != Some(&"Rank") {
        return None;
    }
    let rank = words.get(1)?.parse().ok()?;
    let on = words.iter().position(|w| *w == "on")?;
    let host = (*words.get(on + 1)?).to_owned();
    let device = words.iter().position(|w| *w == "device")?;
    let name = words.get(device + 3..).map(|w| w.join(" ")).unwrap_or_default();
    Some((rank, host, name))
}

fn operation_in(text: &str) -> Option<Operation> {
    // The longest names first: "reduce" is part of most.
    [
        ("reduce_scatter", Operation::ReduceScatter),
        ("all_reduce", Operation::AllReduce),
        ("all_gather", Operation::AllGather),
        ("alltoall", Operation::AllToAll),
        ("broadcast", Operation::Broadcast),
        ("sendrecv", Operation::SendReceive),
        ("reduce", Operation::Reduce),
    ]
    .into_iter()
    .find(|(name, _)| {
        text.contains(&format!("{name}_perf")) || text.contains(&format!("{name}_bench"))
    })
    .map(|(_, operation)| operation)
}

/// Where the times stand in a data line.
struct Columns {
    count: usize,
    times: Vec<usize>,
}

impl Columns {
    fn of(comment: &str) -> Option<Self> {
        let heads: Vec<&str> = comment.split_whitespace().collect();
        if heads.first() != Some(&"size") || !heads.contains(&"time") {
            return None;
        }
        let times: Vec<usize> =
            heads.iter().enumerate().filter(|(_, h)| **h == "time").map(|(i, _)| i).collect();
        Some(Self { count: times.last().map_or(0, |last| last + 1), times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
# nThread 1 nGpus 1 minBytes 8 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20
# Collective test starting: all_reduce_perf
# Using devices
#  Rank  0 Group  0 Pid  101 on      alpha device  0 [0x07] NVIDIA A100-SXM4-40GB
#  Rank  1 Group  0 Pid  102 on       beta device  0 [0x07] NVIDIA A100-SXM4-40GB
#
#                                                       out-of-place                 in-place
#       size   count    type   redop  root   time   algbw   busbw #wrong   time   algbw   busbw #wrong
#        (B)  (elements)                     (us)  (GB/s)  (GB/s)          (us)  (GB/s)  (GB/s)
        1024     256   float     sum    -1   21.5    0.05    0.05      0   20.9    0.05    0.05      0
     1048576  262144   float     sum    -1  120.0    8.74    8.74      0  119.0    8.81    8.81    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 4.4
";

    #[test]
    fn reads_what_nccl_tests_print() {
        let log = parse("x.log", LOG).unwrap();
        assert_eq!((log.ranks, log.nodes), (2, 2));
        assert_eq!(log.operation, Operation::AllReduce);
        assert_eq!(log.timings.len(), 4);
        assert!((log.timings[3].seconds - 119e-6).abs() < 1e-12);
        assert_eq!(log.devices, ["NVIDIA A100-SXM4-40GB"]);
    }

    #[test]
    fn other_formats_are_named_as_such() {
        let message = |text: &str| parse("x.log", text).unwrap_err().to_string();
        assert!(message("{\"a\": 1}").contains("is JSON"));
        assert!(message("hello\n1 2 3\n").contains("no line of column heads"));
        let without_devices: String =
            LOG.lines().filter(|l| !l.contains("Rank")).map(|l| format!("{l}\n")).collect();
        assert!(message(&without_devices).contains("does not list its devices"));
        let cut = LOG.replace("119.0    8.81    8.81    N/A", "").replace("8.74      0  ", "");
        let text = message(&cut);
        assert!(text.contains("columns") && text.contains("x.log:11"), "{text}");
        let unnamed = LOG.replace("all_reduce_perf", "something");
        assert!(message(&unnamed).contains("which collective"));
        assert!(parse("all_gather_perf.log", &unnamed).is_ok());
    }

    #[test]
    fn launcher_prefixes_are_stripped() {
        let prefixed: String = LOG.lines().map(|l| format!("[1,0]<stdout>:{l}\n")).collect();
        assert_eq!(parse("x", &prefixed).unwrap().timings, parse("x", LOG).unwrap().timings);
    }
}
