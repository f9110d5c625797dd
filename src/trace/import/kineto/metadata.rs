//! What is taken from the metadata of a trace: the allow-list of identity and process groups.

use serde_json::Value;

use super::super::json::Raw;
use super::build::Builder;
use super::fields::Args;
use super::text_of;
use crate::trace::decimal::integer;
use crate::trace::header::{Device, ProcessGroup, RankSource, Version};
use crate::trace::redact;

/// Metadata keys whose value is a version.
const VERSIONS: [(&[u8], &str); 6] = [
    (b"cuda_runtime_version", "cuda_runtime"),
    (b"cuda_driver_version", "cuda_driver"),
    (b"cupti_version", "cupti"),
    (b"hip_runtime_version", "hip_runtime"),
    (b"hip_driver_version", "hip_driver"),
    (b"roctracer_version", "roctracer"),
];

impl Builder {
    /// Whether a top-level key is understood.
    pub fn knows(key: &[u8]) -> bool {
        matches!(key, b"deviceProperties" | b"distributedInfo" | b"baseTimeNanoseconds")
            || VERSIONS.iter().any(|(name, _)| *name == key)
    }

    /// Takes what is on the allow-list from a top-level value.
    pub fn metadata(&mut self, key: &[u8], value: Raw<'_>) {
        match key {
            b"baseTimeNanoseconds" => match integer(value.text) {
                Some(base) => self.trace.header.clock.base_unix_ns = base,
                None => self.unusable("base times that are no whole number", self.last_offset),
            },
            b"deviceProperties" => {
                if let Ok(Value::Array(devices)) = serde_json::from_slice(value.text) {
                    self.trace.header.identity.devices =
                        devices.iter().filter_map(device).collect();
                }
            }
            b"distributedInfo" => {
                if let Ok(info) = serde_json::from_slice(value.text) {
                    self.distributed(&info);
                }
            }
            _ => {
                let known = VERSIONS.iter().find(|(name, _)| *name == key);
                if let (Some((_, name)), Some(version)) = (known, redact::label(&text_of(value))) {
                    self.version(name, version);
                }
            }
        }
    }

    fn version(&mut self, name: &str, version: String) {
        let software = &mut self.trace.header.identity.software;
        if version.len() <= 32 && !software.iter().any(|known| known.name == name) {
            software.push(Version { name: name.into(), version });
            software.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    fn distributed(&mut self, info: &Value) {
        let header = &mut self.trace.header;
        if let Some(rank) = whole(&info["rank"]).and_then(|n| u32::try_from(n).ok()) {
            header.rank = rank;
            header.rank_source = RankSource::Recorded;
        }
        header.world_size = whole(&info["world_size"]).and_then(|n| u32::try_from(n).ok());
        header.identity.backend = info["backend"].as_str().and_then(redact::label);
        if let Some(version) = info["nccl_version"].as_str().and_then(redact::label) {
            self.version("nccl", version);
        }
        for group in info["pg_config"].as_array().into_iter().flatten() {
            let name = match &group["pg_name"] {
                Value::Number(n) => Some(n.to_string()),
                other => other.as_str().and_then(redact::label),
            };
            let Some(name) = name else { continue };
            let ranks: Vec<u32> = group["ranks"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|rank| whole(rank).and_then(|n| u32::try_from(n).ok()))
                .collect();
            let size = whole(&group["pg_size"])
                .or(whole(&group["group_size"]))
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(if ranks.is_empty() { -1 } else { ranks.len() as i32 });
            // A list that was cut short by the writer is worse than none.
            let ranks = if size >= 0 && ranks.len() != size as usize { Vec::new() } else { ranks };
            let description = group["pg_desc"].as_str().and_then(redact::label).unwrap_or_default();
            self.groups.insert(name.clone(), ProcessGroup { name, description, ranks, size });
        }
    }

    /// Members of a group: as listed, or as an evenly spaced range where the list was cut short.
    pub(super) fn learn_group(&mut self, name: &str, args: &Args<'_>) {
        let known = self.groups.get(name);
        if known.is_some_and(|group| !group.ranks.is_empty()) {
            return;
        }
        let number = |text: &[u8]| integer(text).and_then(|n| u32::try_from(n).ok());
        let size = number(args.group_size);
        let listed: Option<Vec<u32>> = args
            .group_ranks
            .strip_prefix(b"[")
            .and_then(|text| text.strip_suffix(b"]"))
            .filter(|text| !text.is_empty())
            .and_then(|text| text.split(|b| *b == b',').map(number).collect());
        let ranks = match (listed, size) {
            (Some(ranks), Some(size)) if ranks.len() == size as usize => ranks,
            (Some(ranks), None) => ranks,
            (_, Some(size)) if size <= 1 << 20 => {
                match (number(args.group_start), number(args.group_stride)) {
                    (Some(start), Some(stride)) => {
                        (0..size).map_while(|i| i.checked_mul(stride)?.checked_add(start)).collect()
                    }
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let size = size.and_then(|n| i32::try_from(n).ok()).unwrap_or(if ranks.is_empty() {
            -1
        } else {
            ranks.len() as i32
        });
        let description = known
            .map(|group| group.description.clone())
            .filter(|text| !text.is_empty())
            .or_else(|| plain(args.group_description))
            .unwrap_or_default();
        let group = ProcessGroup { name: name.to_owned(), description, ranks, size };
        self.groups.insert(name.to_owned(), group);
    }
}

/// A whole number that may have been written as text.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn device(value: &Value) -> Option<Device> {
    let major = whole(&value["computeMajor"]);
    let minor = whole(&value["computeMinor"]);
    Some(Device {
        id: whole(&value["id"])?,
        name: value["name"].as_str().and_then(redact::label).unwrap_or_default(),
        memory_bytes: whole(&value["totalGlobalMem"]).and_then(|n| u64::try_from(n).ok()),
        compute: major.zip(minor).map(|(major, minor)| format!("{major}.{minor}")),
        multiprocessors: whole(&value["numSms"]).and_then(|n| u32::try_from(n).ok()),
    })
}

/// A short plain label of a raw string.
pub fn plain(text: &[u8]) -> Option<String> {
    std::str::from_utf8(text).ok().and_then(redact::label)
}
