//! Device work by name.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::trace::model::{Kind, RankTrace};

/// What a device event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelType {
    /// A kernel that does not communicate.
    Compute,
    /// A kernel that communicates.
    Communication,
    /// A copy.
    Memcpy,
    /// A fill.
    Memset,
}

/// All device events of one name in a trace; ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelStats {
    /// Name as recorded.
    pub name: String,
    /// What it is for.
    #[serde(rename = "type")]
    pub kernel_type: KernelType,
    /// How often it ran, over all ranks.
    pub count: u64,
    /// Sum of durations over all ranks.
    pub total_ns: i64,
    /// Shortest.
    pub min_ns: i64,
    /// Median.
    pub median_ns: i64,
    /// Longest.
    pub max_ns: i64,
}

/// Device work by name, longest total first.
pub(super) fn kernels(ranks: &[RankTrace]) -> Vec<KernelStats> {
    let mut durations: BTreeMap<(&str, KernelType), Vec<i64>> = BTreeMap::new();
    for rank in ranks {
        // Names are compared once per rank and not once per event.
        let mut by_name: BTreeMap<(u32, KernelType), Vec<i64>> = BTreeMap::new();
        for event in &rank.events {
            let kernel_type = match event.kind {
                Kind::Kernel if event.communicates => KernelType::Communication,
                Kind::Kernel => KernelType::Compute,
                Kind::Memcpy => KernelType::Memcpy,
                Kind::Memset => KernelType::Memset,
                _ => continue,
            };
            by_name.entry((event.name.0, kernel_type)).or_default().push(event.dur_ns);
        }
        for ((name, kernel_type), list) in by_name {
            let name = rank.names.get(crate::trace::names::NameId(name));
            durations.entry((name, kernel_type)).or_default().extend(list);
        }
    }
    let mut kernels: Vec<KernelStats> = durations
        .into_iter()
        .map(|((name, kernel_type), mut list)| {
            let total_ns = list.iter().fold(0_i64, |sum, d| sum.saturating_add(*d));
            let median_ns = crate::trace::align::median(&mut list);
            KernelStats {
                name: name.to_owned(),
                kernel_type,
                count: list.len() as u64,
                total_ns,
                min_ns: list.first().copied().unwrap_or(0),
                median_ns,
                max_ns: list.last().copied().unwrap_or(0),
            }
        })
        .collect();
    kernels.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    kernels
}
