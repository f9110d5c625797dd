//! From the names that sources use to entries of the catalogue.
//!
//! A name is first looked up as it stands (names and aliases of the catalogue). Where that fails
//! its words are compared: an entry matches if all words of its name or of one of its aliases stand
//! in the row's text, and the one with the most words wins. So `NVIDIA H100 80GB HBM3 (Eos)` is
//! `h100-sxm` without an alias of its own.

use crate::error::{Error, nearest_names};
use crate::hardware::{Accelerator, Catalogue, CatalogueItem, Fabric, Node, Shelf, Stack};

use super::Reject;
use super::row::RowSpec;

/// Words of a text, lower case; `80 GB` and `80G` are the word `80gb`.
pub(super) fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let mut all: Vec<String> = Vec::new();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        let number = |w: &str| w.bytes().all(|b| b.is_ascii_digit());
        match all.last_mut() {
            Some(last) if matches!(word, "gb" | "gib" | "g") && number(last) => last.push_str("gb"),
            _ if word.len() > 2 && word.ends_with('g') && number(&word[..word.len() - 1]) => {
                all.push(format!("{word}b"));
            }
            _ => all.push(word.to_owned()),
        }
    }
    all
}

/// The entry with most words in `text`, and how many characters they have.
fn by_words<'a, T: CatalogueItem>(
    shelf: &'a Shelf<T>,
    text: &[String],
    wanted: impl Fn(&T, &[String]) -> bool,
) -> Option<(&'a T, usize)> {
    let mut best: Option<(&T, usize)> = None;
    for entry in shelf.values() {
        let names = std::iter::once(entry.item.name())
            .chain(entry.item.aliases().iter().map(String::as_str));
        for name in names {
            let name_words = words(name);
            if name_words.is_empty()
                || !name_words.iter().all(|w| text.contains(w))
                || !wanted(&entry.item, &name_words)
            {
                continue;
            }
            let size = name_words.len() * 100 + name_words.iter().map(String::len).sum::<usize>();
            if best.is_none_or(|(_, most)| size > most) {
                best = Some((&entry.item, size));
            }
        }
    }
    best
}

/// A word that stands for a model of device: letters and digits, `h100`, `mi300x`, `910b`.
fn is_model_word(word: &str) -> bool {
    word.len() >= 2
        && word.bytes().any(|b| b.is_ascii_digit())
        && word.bytes().any(|b| b.is_ascii_alphabetic())
        && !word.ends_with("gb")
}

/// Boards that share a chip's name and not its speed.
const OTHER_BOARDS: [&str; 4] = ["pcie", "nvl", "cnx", "mig"];

/// The accelerator a row names.
pub(super) fn accelerator<'a>(
    catalogue: &'a Catalogue,
    text: &str,
    assumed: &mut Vec<String>,
) -> Result<&'a Accelerator, Reject> {
    if text.is_empty() {
        return Err(Reject::Invalid("column `accelerator`: is empty".into()));
    }
    let unknown = match catalogue.accelerator(text) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    if let Ok(node) = catalogue.node(text)
        && let Ok(found) = catalogue.accelerator(&node.accelerator)
    {
        return Ok(found);
    }
    let row_words = words(text);
    let found = by_words(&catalogue.accelerators, &row_words, |item, name| {
        name.iter().any(|w| is_model_word(w))
            && OTHER_BOARDS.iter().all(|board| {
                let named = |text: &[String]| text.iter().any(|w| w == board);
                named(&row_words) == named(name) || named(&words(&item.title)) == named(&row_words)
            })
    });
    if let Some((found, _)) = found {
        assumed.push(format!("accelerator `{text}` read as {}", found.name));
        return Ok(found);
    }
    let near = match unknown {
        Error::UnknownName { nearest, .. } if !nearest.is_empty() => nearest,
        _ => {
            let all = || {
                catalogue.accelerators.values().flat_map(|e| {
                    std::iter::once(e.item.name.as_str())
                        .chain(e.item.aliases.iter().map(String::as_str))
                })
            };
            let mut near: Vec<String> = row_words
                .iter()
                .filter(|w| is_model_word(w))
                .flat_map(|w| nearest_names(w, all()))
                .take(3)
                .collect();
            near.dedup();
            near
        }
    };
    let hint = if near.is_empty() {
        "`trainyard hw list accelerators` shows the known ones".to_owned()
    } else {
        format!("nearest: {}", near.join(", "))
    };
    Err(Reject::Invalid(format!(
        "column `accelerator`: no accelerator named `{}`; {hint}",
        super::table::cut(text)
    )))
}

/// A year and month as one number, for comparison.
fn month(year: u32, month: u32) -> u32 {
    year * 12 + month.clamp(1, 12) - 1
}

/// The first date in a text: `2024`, `2024-03`, `25.04` (a release of that month).
pub(super) fn date(text: &str) -> Option<u32> {
    let numbers: Vec<&str> =
        text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).collect();
    for (i, number) in numbers.iter().enumerate() {
        let next = numbers.get(i + 1).and_then(|n| n.parse::<u32>().ok());
        let value: u32 = number.parse().unwrap_or(0);
        let next = next.filter(|m| (1..=12).contains(m));
        match (number.len(), next) {
            (4, next) if (2015..2100).contains(&value) => {
                return Some(month(value, next.unwrap_or(6)));
            }
            (2, Some(next)) if (20..40).contains(&value) && numbers[i + 1].len() == 2 => {
                return Some(month(2000 + value, next));
            }
            _ => {}
        }
    }
    None
}

/// The software stack of a row.
///
/// A framework whose releases are several stacks is told apart by the row's date: the last stack
/// of the lineage that existed then.
pub(super) fn stack<'a>(
    catalogue: &'a Catalogue,
    spec: &RowSpec,
    accelerator: &Accelerator,
    assumed: &mut Vec<String>,
    extrapolated: &mut Vec<String>,
) -> Result<&'a Stack, Reject> {
    let text = spec.framework.as_str();
    if text.is_empty() {
        let name = default_stack(spec, accelerator);
        let found = catalogue.stack(name).map_err(|e| Reject::Unsupported(e.to_string()))?;
        assumed.push(format!("framework not stated: {name}"));
        extrapolated.push("software stack is not stated".into());
        return Ok(found);
    }
    let row_words = words(text);
    let exact = catalogue.stack(text).ok();
    let named = exact.map(|s| (s, 10_000)).or_else(|| {
        by_words(&catalogue.stacks, &row_words, |_, name| name.iter().any(|w| w.len() > 2))
    });
    // A lineage's name without a release: the stack that existed at the time.
    let lineage = catalogue
        .stacks
        .values()
        .filter_map(|e| e.item.lineage.as_deref())
        .filter(|name| words(name).iter().all(|w| row_words.contains(w)))
        .max_by_key(|name| words(name).len());
    if let Some(lineage) = lineage {
        let bare = words(lineage).len() == row_words.len();
        let when = date(&spec.date).or_else(|| date(text));
        if (bare || named.is_none())
            && let Some(when) = when
        {
            let mut of_lineage: Vec<(u32, &Stack)> = catalogue
                .stacks
                .values()
                .filter(|e| e.item.lineage.as_deref() == Some(lineage))
                .map(|e| (e.item.since.as_deref().and_then(date).unwrap_or(0), &e.item))
                .collect();
            of_lineage.sort_by_key(|(since, stack)| (*since, stack.name.clone()));
            let chosen =
                of_lineage.iter().rev().find(|(since, _)| *since <= when).or(of_lineage.first());
            if let Some((_, chosen)) = chosen {
                assumed.push(format!("`{text}` of that date read as {}", chosen.name));
                return Ok(chosen);
            }
        }
    }
    if let Some((found, _)) = named {
        if exact.is_none() {
            assumed.push(format!("framework `{text}` read as {}", found.name));
        }
        return Ok(found);
    }
    let kin = catalogue
        .stacks
        .values()
        .flat_map(|e| e.item.stands_in_for.iter().map(move |name| (name, &e.item)))
        .filter(|(name, _)| words(name).iter().all(|w| row_words.contains(w)))
        .max_by_key(|(name, _)| words(name).len());
    if let Some((_, found)) = kin {
        assumed.push(format!("framework `{text}` is not in the catalogue: {} instead", found.name));
        extrapolated.push("another software stack stands in".into());
        return Ok(found);
    }
    let near = nearest_names(
        text,
        catalogue.stacks.values().flat_map(|e| {
            std::iter::once(e.item.name.as_str()).chain(e.item.aliases.iter().map(String::as_str))
        }),
    );
    let hint = if near.is_empty() {
        "`trainyard hw list stacks` shows the known ones".to_owned()
    } else {
        format!("nearest: {}", near.join(", "))
    };
    Err(Reject::Unsupported(format!(
        "column `framework`: no software stack named `{}`; {hint}",
        super::table::cut(text)
    )))
}

fn default_stack(spec: &RowSpec, accelerator: &Accelerator) -> &'static str {
    let sharding = spec.sharding.to_lowercase();
    if accelerator.architecture.starts_with("tpu") {
        "maxtext"
    } else if accelerator.architecture == "davinci" {
        "mindspeed"
    } else if sharding.contains("fsdp") || sharding.contains("hsdp") {
        "torch-fsdp"
    } else {
        "megatron-core"
    }
}

/// Devices per node that a row states: in its options, or as `64x8`.
pub(super) fn devices_per_node(spec: &RowSpec) -> Option<u32> {
    spec.option("gpus_per_node").and_then(|v| v.parse().ok()).filter(|n| *n > 0).or_else(|| {
        let (_, right) = split_nodes(&spec.nodes)?;
        Some(right)
    })
}

/// `64x8 GCDs` as 64 and 8.
pub(super) fn split_nodes(text: &str) -> Option<(u32, u32)> {
    let lower = text.to_lowercase();
    let (left, right) = lower.split_once(['x', '×', '*'])?;
    let right = right.trim_start();
    let end = right.find(|c: char| !c.is_ascii_digit()).unwrap_or(right.len());
    let pair = (left.trim().parse().ok()?, right[..end].parse().ok()?);
    (pair.0 > 0 && pair.1 > 0).then_some(pair)
}

/// Gb/s of one node's network cards, as far as a text says.
pub(super) fn node_gigabits(text: &str, devices: u32) -> Option<f64> {
    let lower = text.to_lowercase().replace("gbit", "gb").replace("gbps", "gb/s");
    let bytes: Vec<char> = lower.chars().collect();
    let mut numbers: Vec<(f64, String, String)> = Vec::new(); // value, text before, text after
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i].is_ascii_digit() {
            let start = i;
            while i < bytes.len() && (bytes[i].is_ascii_digit() || matches!(bytes[i], '.' | ',')) {
                i += 1;
            }
            let value: String = bytes[start..i].iter().filter(|c| **c != ',').collect();
            if let Ok(value) = value.trim_end_matches('.').parse() {
                let before: String = bytes[..start].iter().collect();
                let after: String = bytes[i..].iter().collect();
                numbers.push((value, before, after));
            }
        } else {
            i += 1;
        }
    }
    let per_device =
        ["per gpu", "per device", "/gpu", "per npu", "per die", "per chip", "per rank"]
            .iter()
            .any(|w| lower.contains(w));
    let times = |after: &str| {
        let after = after.trim_start();
        after.starts_with(['x', '×', '*']) && !after.starts_with("x-")
    };
    let count = numbers
        .iter()
        .find(|(value, _, after)| times(after) && *value >= 1.0 && *value <= 64.0)
        .map(|n| n.0);
    let rate = numbers.iter().find_map(|(value, before, after)| {
        let after = after.trim_start();
        let before = before.trim_end();
        let unit = after.starts_with("gb") || after.starts_with("g ") || after == "g";
        let bytes_per_second = after.starts_with("gb/s") && text.contains("GB/s");
        let generation = ["hdr", "ndr", "xdr", "edr", "fdr", "slingshot", "slingshot-"]
            .iter()
            .any(|g| before.ends_with(g));
        let fits = unit || (generation && *value >= 40.0);
        fits.then_some(if bytes_per_second { value * 8.0 } else { *value })
    });
    let generations = [("xdr", 800.0), ("ndr", 400.0), ("hdr", 200.0), ("edr", 100.0)];
    let rate = rate.or_else(|| {
        generations.iter().find(|(name, _)| lower.contains(name)).map(|(_, rate)| *rate)
    })?;
    let total = match (count, per_device) {
        (Some(count), _) => count * rate,
        (None, true) => rate * f64::from(devices),
        (None, false) => rate,
    };
    (total > 0.0).then_some(total)
}

/// Gb/s of a node's cards together.
fn nic_total(node: &Node) -> f64 {
    f64::from(node.nic.count) * node.nic.bandwidth.value.0 * 8.0 / 1e9
}

/// Node type and network of a row.
pub(super) fn node_and_fabric<'a>(
    catalogue: &'a Catalogue,
    spec: &RowSpec,
    accelerator: &Accelerator,
    devices: u32,
    assumed: &mut Vec<String>,
    extrapolated: &mut Vec<String>,
) -> Result<(&'a Node, Option<&'a Fabric>), Reject> {
    let mut nodes: Vec<&Node> = catalogue
        .nodes
        .values()
        .map(|e| &e.item)
        .filter(|node| {
            catalogue.accelerator(&node.accelerator).is_ok_and(|a| a.name == accelerator.name)
        })
        .collect();
    if nodes.is_empty() {
        return Err(Reject::Unsupported(format!(
            "no node type with {} in the catalogue",
            accelerator.name
        )));
    }
    let per_node = devices_per_node(spec);
    if let Some(size) = per_node {
        let same: Vec<&Node> = nodes.iter().copied().filter(|n| n.devices == size).collect();
        if same.is_empty() {
            // Fewer devices than a node has are a part of one node.
            if devices > size {
                extrapolated.push(format!("no node type of {size} {}", accelerator.name));
            }
        } else {
            nodes = same;
        }
    }
    let place = format!("{} {}", spec.accelerator, spec.inter);
    let place_words = words(&place);
    let named = nodes
        .iter()
        .copied()
        .filter_map(|node| {
            // A node's own words, without those of its accelerator.
            let size = std::iter::once(node.name.as_str())
                .chain(node.aliases.iter().map(String::as_str))
                .map(words)
                .filter(|w| !w.is_empty() && w.iter().all(|w| place_words.contains(w)))
                .map(|w| w.len())
                .max()?;
            Some((size, node))
        })
        .max_by_key(|(size, node)| (*size, node.usual, std::cmp::Reverse(node.name.clone())))
        .map(|(_, node)| node);
    let size = per_node.unwrap_or_else(|| nodes[0].devices);
    let gigabits = node_gigabits(&spec.inter, size);
    let kind = FabricKind::of(&spec.inter);
    let chosen = named.unwrap_or_else(|| {
        let mut ranked = nodes.clone();
        ranked.sort_by(|a, b| {
            let distance =
                |node: &Node| gigabits.map_or(0.0, |rate| (nic_total(node) / rate).ln().abs());
            let kin = |node: &Node| {
                let usual = node.usual_fabric.as_deref().and_then(|f| catalogue.fabric(f).ok());
                u8::from(kind.is_none() || usual.map(FabricKind::of_fabric) != Some(kind))
            };
            distance(a)
                .total_cmp(&distance(b))
                .then(kin(a).cmp(&kin(b)))
                .then(b.usual.cmp(&a.usual))
                .then(a.name.cmp(&b.name))
        });
        ranked[0]
    });
    let chosen =
        chosen.rows_use.as_deref().and_then(|name| catalogue.node(name).ok()).unwrap_or(chosen);
    let alone = devices <= chosen.devices.max(chosen.scale_up.domain);
    if named.is_none() {
        assumed.push(format!("node {}", chosen.name));
    }
    if let Some(rate) = gigabits
        && !(0.8..=1.25).contains(&(nic_total(chosen) / rate))
        && !alone
    {
        extrapolated.push(format!(
            "network of {rate} Gb/s per node, and {} has {}",
            chosen.name,
            nic_total(chosen)
        ));
    }
    if alone && spec.inter.is_empty() {
        return Ok((chosen, None));
    }
    let fabric = fabric(catalogue, spec, chosen, kind, assumed);
    match fabric {
        Some(fabric) => Ok((chosen, Some(fabric))),
        None if alone => Ok((chosen, None)),
        None => Err(Reject::Unsupported(format!(
            "the network between nodes is not stated, and {} has no usual one",
            chosen.name
        ))),
    }
}

/// Technology of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FabricKind {
    InfiniBand,
    Ethernet,
    Efa,
    OmniPath,
    Slingshot,
    Tcpx,
}

impl FabricKind {
    fn of(text: &str) -> Option<Self> {
        let words = words(text);
        let has = |all: &[&str]| words.iter().any(|w| all.iter().any(|a| w.starts_with(a)));
        if has(&["omni", "opa", "omnipath"]) {
            Some(Self::OmniPath)
        } else if has(&["slingshot", "dragonfly", "cassini"]) {
            Some(Self::Slingshot)
        } else if has(&["efa", "srd"]) {
            Some(Self::Efa)
        } else if has(&["tcpx", "gpudirect"]) {
            Some(Self::Tcpx)
        } else if has(&["infiniband", "hdr", "ndr", "xdr", "edr", "fdr", "quantum"])
            || words.iter().any(|w| w == "ib")
        {
            Some(Self::InfiniBand)
        } else if has(&["roce", "ethernet", "rdma", "spectrum"]) {
            Some(Self::Ethernet)
        } else {
            None
        }
    }

    fn of_fabric(fabric: &Fabric) -> Option<Self> {
        Self::of(&format!("{} {}", fabric.name.replace('-', " "), fabric.title))
    }
}

/// Network of a row: by name, else by technology and port rate, else what the node usually has.
fn fabric<'a>(
    catalogue: &'a Catalogue,
    spec: &RowSpec,
    node: &Node,
    kind: Option<FabricKind>,
    assumed: &mut Vec<String>,
) -> Option<&'a Fabric> {
    if let Ok(found) = catalogue.fabric(&spec.inter) {
        return Some(found);
    }
    let usual = node.usual_fabric.as_deref().and_then(|name| catalogue.fabric(name).ok());
    if let Some(kind) = kind {
        if usual.is_some_and(|u| FabricKind::of_fabric(u) == Some(kind)) {
            return usual;
        }
        let card = node.nic.bandwidth.value.0;
        let plain = |fabric: &Fabric| {
            fabric.topology.is.joins_rails
                && !fabric.topology.is.line
                && fabric.oversubscription.value.0 <= 1.0
        };
        let mut alike: Vec<&Fabric> = catalogue
            .fabrics
            .values()
            .map(|e| &e.item)
            .filter(|f| FabricKind::of_fabric(f) == Some(kind) && plain(f))
            .collect();
        alike.sort_by(|a, b| {
            let distance = |f: &Fabric| (f.link_bandwidth.value.0 / card).ln().abs();
            distance(a).total_cmp(&distance(b)).then(a.name.cmp(&b.name))
        });
        if let Some(found) = alike.first() {
            assumed.push(format!("network {}", found.name));
            return Some(found);
        }
    }
    if let Some(found) = usual {
        assumed.push(format!("network {}", found.name));
    }
    usual
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_rates_per_node() {
        for (text, gigabits) in [
            ("1600 Gbps node-node (RoCE)", Some(1600.0)),
            ("4x100Gb RoCE per node", Some(400.0)),
            ("4x 100 Gb/s Omni-Path per node", Some(400.0)),
            ("8x HDR200 InfiniBand per node", Some(1600.0)),
            ("RDMA 400 Gb/s per GPU (CX-7)", Some(3200.0)),
            ("800 Gb/s per node", Some(800.0)),
            ("2x Mellanox ConnectX-5 Ex 100Gb/s Ethernet", Some(200.0)),
            ("3,200 Gbps EFA", Some(3200.0)),
            ("8x NDR InfiniBand", Some(3200.0)),
            ("InfiniBand NDR400 per GPU", Some(3200.0)),
            ("25 GB/s per GPU Slingshot-11", Some(1600.0)),
            ("Slingshot", None),
            ("", None),
        ] {
            assert_eq!(node_gigabits(text, 8), gigabits, "{text}");
        }
    }

    #[test]
    fn dates_of_releases() {
        assert_eq!(date("2024-07-20"), Some(month(2024, 7)));
        assert_eq!(date("26.04.01 NeMo Container"), Some(month(2026, 4)));
        assert_eq!(date("NeMo 24.03.01"), Some(month(2024, 3)));
        assert_eq!(date("2021"), Some(month(2021, 6)));
        assert_eq!(date("MLPerf v3.0"), None);
    }

    #[test]
    fn nodes_times_devices() {
        assert_eq!(split_nodes("64x8 GCDs"), Some((64, 8)));
        assert_eq!(split_nodes("1x8"), Some((1, 8)));
        assert_eq!(split_nodes("2 slices x 256 chips"), None);
    }
}
