//! Ranks in the words of the PyTorch profiler's files.

use serde_json::{Map, Value as Json, json};

use crate::timeline::Process;
use crate::trace::header::{Device, RankHeader};

/// What the PyTorch profiler's file says about a rank.
pub(super) fn process(header: &RankHeader) -> Process {
    let mut about = Map::new();
    let devices: Vec<Json> = header.identity.devices.iter().map(device).collect();
    if !devices.is_empty() {
        about.insert("deviceProperties".into(), devices.into());
    }
    let mut info = Map::new();
    info.insert("rank".into(), header.rank.into());
    if let Some(size) = header.world_size {
        info.insert("world_size".into(), size.into());
    }
    if let Some(backend) = &header.identity.backend {
        info.insert("backend".into(), backend.as_str().into());
    }
    let groups: Vec<Json> = header
        .groups
        .iter()
        .map(|group| {
            json!({"pg_name": group.name, "pg_desc": group.description, "pg_size": group.size,
                   "ranks": group.ranks})
        })
        .collect();
    info.insert("pg_config".into(), groups.into());
    for version in &header.identity.software {
        if version.name == "nccl" {
            info.insert("nccl_version".into(), version.version.as_str().into());
        } else if let Some(key) = version_key(&version.name) {
            about.insert(key.into(), version.version.as_str().into());
        }
    }
    about.insert("distributedInfo".into(), info.into());
    Process { rank: header.rank, name: format!("rank {}", header.rank), about }
}

/// What the profiler calls a version.
fn version_key(name: &str) -> Option<&'static str> {
    Some(match name {
        "cuda_runtime" => "cuda_runtime_version",
        "cuda_driver" => "cuda_driver_version",
        "cupti" => "cupti_version",
        "hip_runtime" => "hip_runtime_version",
        "hip_driver" => "hip_driver_version",
        "roctracer" => "roctracer_version",
        _ => return None,
    })
}

fn device(device: &Device) -> Json {
    let mut value = json!({"id": device.id, "name": device.name});
    if let Some(bytes) = device.memory_bytes {
        value["totalGlobalMem"] = bytes.into();
    }
    if let Some((major, minor)) = device.compute.as_deref().and_then(|text| text.split_once('.'))
        && let (Ok(major), Ok(minor)) = (major.parse::<i64>(), minor.parse::<i64>())
    {
        value["computeMajor"] = major.into();
        value["computeMinor"] = minor.into();
    }
    if let Some(count) = device.multiprocessors {
        value["numSms"] = count.into();
    }
    value
}
