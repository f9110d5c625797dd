//! From the words of a measurement to a request the model can answer.
//!
//! A table row says "H100 SXM 80GB", "GPUDirect-TCPXO 8x200G": accelerator and fabric in the
//! source's words. The catalogue knows fragments of such names ([`DeviceLinks::matches`],
//! [`Transport::matches`]), and rates are read from the text. Nothing here knows a system: a
//! system that has never been seen is described by the same words. What the text does not state
//! is filled with what the device's usual server has, and listed in [`Described::assumed`].

use super::rows::Row;
use crate::error::{Error, Result};
use crate::hardware::{Catalogue, CollectiveLibrary, DeviceLinks, Harness, ScaleUpKind, Transport};
use crate::network::collective::{Algorithm, GroupShape, Links, Operation, Protocol, Request};
use crate::units::{Bytes, BytesPerSecond};

/// Card rate per device where neither accelerator nor network is stated, GB/s: the median of the
/// catalogue's devices.
const MEDIAN_CARD: f64 = 25.0;

/// A row in the model's terms.
#[derive(Clone, Debug)]
pub struct Described<'a> {
    /// Its collective library.
    pub library: &'a CollectiveLibrary,
    /// Its way out of the node; `None` inside one node.
    pub transport: Option<&'a Transport>,
    /// The program that measured it.
    pub harness: Option<&'a Harness>,
    /// The collective.
    pub request: Request,
    /// What the row does not state and was filled in.
    pub assumed: Vec<String>,
}

/// Words of a text, lower case, separated and surrounded by single blanks.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(' ');
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() {
            out.push(c);
        } else if !out.ends_with(' ') {
            out.push(' ');
        }
    }
    if !out.ends_with(' ') {
        out.push(' ');
    }
    out
}

/// Where the first of the fragments stands in a text of [`words`], and its length.
fn find(text: &str, fragments: &[String]) -> Option<(usize, usize)> {
    fragments
        .iter()
        .filter_map(|f| text.find(&words(f)).map(|at| (at, f.len())))
        .min_by_key(|(at, len)| (*at, usize::MAX - len))
}

/// The item one of whose fragments stands first; the longest among those that start there.
fn first_match<'a, T>(
    text: &str,
    items: impl Iterator<Item = &'a T>,
    fragments: impl Fn(&T) -> &[String],
) -> Option<&'a T> {
    items
        .filter_map(|item| find(text, fragments(item)).map(|found| (found, item)))
        .min_by_key(|((at, len), _)| (*at, usize::MAX - len))
        .map(|(_, item)| item)
}

/// NCCL 2.18 and newer, as the text says; `None` where it names no version.
fn current_generation(library: &str) -> Option<bool> {
    let text = library.to_lowercase();
    let rest = text.split_once("ccl ")?.1;
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let mut parts = version.split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let minor: u32 = parts.next().and_then(|m| m.parse().ok()).unwrap_or(0);
    // RCCL is dated or numbered by ROCm; its catalogue has one generation.
    Some(major > 2 || (major == 2 && minor >= 18))
}

/// Finds library and device of a row.
fn library_of<'a>(
    catalogue: &'a Catalogue,
    row: &Row,
    assumed: &mut Vec<String>,
) -> Result<(&'a CollectiveLibrary, &'a DeviceLinks)> {
    let device_in = |text: &str| {
        catalogue
            .collectives
            .values()
            .flat_map(|entry| entry.item.devices.iter().map(move |d| (&entry.item, d)))
            .filter_map(|(library, device)| {
                find(text, &device.matches).map(|(at, len)| (at, len, library, device))
            })
            .min_by_key(|(at, len, _, _)| (*at, usize::MAX - len))
            .map(|(_, _, library, device)| (library, device))
    };
    // "8xMI300X" is eight of "MI300X".
    let loose = |text: &str| {
        let text = words(text);
        device_in(&text).or_else(|| {
            let without_counts: String = text
                .split(' ')
                .map(|w| {
                    w.trim_start_matches(|c: char| c.is_ascii_digit())
                        .strip_prefix('x')
                        .filter(|rest| rest.len() > 2)
                        .unwrap_or(w)
                })
                .collect::<Vec<_>>()
                .join(" ");
            device_in(&without_counts)
        })
    };
    let found = loose(&row.accelerator).or_else(|| {
        let found = loose(&row.system);
        if found.is_some() {
            assumed.push("accelerator read from the system's name".into());
        }
        found
    });
    let (library, device) = match found {
        Some(found) => found,
        None if row.accelerator.is_empty() || row.accelerator.contains("not stated") => {
            assumed.push("accelerator not stated: a Hopper device assumed".into());
            device_in(" h100 ").ok_or_else(|| {
                Error::Missing("the catalogue has no collective library for h100".into())
            })?
        }
        None => {
            return Err(Error::UnknownName {
                what: "device of a collective library",
                name: row.accelerator.clone(),
                nearest: crate::error::nearest_names(
                    &row.accelerator,
                    catalogue
                        .collectives
                        .values()
                        .flat_map(|e| e.item.devices.iter())
                        .flat_map(|d| d.matches.iter().map(String::as_str)),
                ),
            });
        }
    };
    // The same device may have constants of two library generations.
    let wants_legacy = current_generation(&row.library).map_or(
        // An unstated version of an old architecture is an old one: its measurements are.
        catalogue
            .collectives
            .values()
            .any(|e| e.item.legacy && e.item.architecture == library.architecture),
        |current| !current,
    );
    let chosen = catalogue
        .collectives
        .values()
        .map(|entry| &entry.item)
        .filter(|item| item.architecture == library.architecture)
        .min_by_key(|item| item.legacy != wants_legacy)
        .unwrap_or(library);
    let device = chosen.devices.iter().find(|d| d.matches == device.matches).unwrap_or(device);
    Ok((chosen, device))
}

/// Card rate and count in a text: `8x400G` is eight of 50 GB/s, `HDR` one of 25 GB/s per device.
fn nic_rate(text: &str) -> Option<(f64, Option<f64>)> {
    let text = words(text);
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let gigabits = |token: &str| -> Option<f64> {
        let token = token.trim_end_matches("bps").trim_end_matches("b/s");
        let digits = token.strip_suffix('g').or_else(|| token.strip_suffix("gb"))?;
        digits.parse::<f64>().ok().filter(|g| *g >= 10.0)
    };
    for token in &tokens {
        if let Some((count, rate)) = token.split_once('x')
            && let (Ok(count), Some(rate)) = (count.parse::<f64>(), gigabits(rate))
            && count >= 1.0
        {
            return Some((rate / 8.0, Some(count)));
        }
    }
    if let Some(rate) = tokens.iter().find_map(|t| gigabits(t)) {
        return Some((rate / 8.0, None));
    }
    // Generations whose name is a rate.
    [
        (" edr ", 12.5),
        (" hdr ", 25.0),
        (" ndr ", 50.0),
        (" xdr ", 100.0),
        (" slingshot 11 ", 25.0),
        (" slingshot ", 25.0),
        (" efav4 ", 50.0),
    ]
    .into_iter()
    .find(|(name, _)| text.contains(name))
    .map(|(_, rate)| (rate, None))
}

/// Algorithm and protocol a measurement was forced to, from its own words.
fn forced(row: &Row, request: &mut Request) {
    let text = format!("{} {}", row.system, row.mode).to_lowercase();
    if let Some((_, value)) = text.split_once("nccl_algo=") {
        request.algorithm = match value.split(|c: char| !c.is_alphanumeric()).next() {
            Some("tree") => Some(Algorithm::Tree),
            Some("ring") => Some(Algorithm::Ring),
            _ => None,
        };
    }
    if let Some((_, value)) = text.split_once("nccl_proto=") {
        request.protocol = match value.split(|c: char| !c.is_alphanumeric()).next() {
            Some("ll") => Some(Protocol::Ll),
            Some("ll128") => Some(Protocol::Ll128),
            Some("simple") => Some(Protocol::Simple),
            _ => None,
        };
    }
    let mode = row.mode.to_lowercase();
    if mode.contains("nvls off") {
        request.no_in_switch = true;
    } else if mode == "ring" {
        request.algorithm = Some(Algorithm::Ring);
    }
}

/// Translates a row.
///
/// # Errors
/// The operation, the accelerator, the size or the group's layout is unknown.
pub fn describe<'a>(catalogue: &'a Catalogue, row: &Row) -> Result<Described<'a>> {
    let mut assumed = Vec::new();
    let operation = Operation::parse(&row.collective).ok_or_else(|| Error::UnknownName {
        what: "collective",
        name: row.collective.clone(),
        nearest: crate::error::nearest_names(
            &row.collective,
            Operation::ALL.iter().map(|o| o.as_str()),
        ),
    })?;
    let bytes = row
        .bytes
        .filter(|b| *b > 0.0)
        .ok_or_else(|| Error::Unsupported("the row has no size".into()))?;
    let (library, device) = library_of(catalogue, row, &mut assumed)?;
    let group = group_of(row, device, &mut assumed)?;

    let fabric = words(&row.fabric);
    let system = words(&row.system);
    let pairwise = system.contains("pairwise") || fabric.contains("pairwise");
    let pcie_only = (fabric.contains(" pcie") || system.contains(" pcie"))
        && !fabric.contains("nvlink")
        && !fabric.contains("xgmi");
    let over_pcie = pcie_only || (pairwise && group.max_per_node > 2);
    let (kind, rate) = if over_pcie {
        (ScaleUpKind::Pcie, device.pcie.value)
    } else {
        (device.scale_up_kind, device.group_bandwidth(group.max_per_node))
    };

    let unknown = assumed.iter().any(|a| a.starts_with("accelerator not stated"));
    let mut transport = None;
    let mut nic = BytesPerSecond::ZERO;
    if group.nodes > 1 {
        let named = |text: &str| {
            first_match(text, catalogue.transports.values().map(|e| &e.item), |t| &t.matches)
        };
        let found = named(&system).or_else(|| named(&fabric));
        transport = Some(match found {
            Some(transport) => transport,
            None => {
                let usual = device.usual_transport.as_str();
                assumed.push(format!("network not stated: {usual} assumed"));
                catalogue.transport(usual)?
            }
        });
        let (rate, count) =
            nic_rate(&row.fabric).or_else(|| nic_rate(&row.system)).unwrap_or_else(|| {
                let usual = if unknown { MEDIAN_CARD } else { device.usual_nic.value.get() / 1e9 };
                assumed.push(format!("card rate not stated: {usual} GB/s per device assumed"));
                (usual, None)
            });
        let members = f64::from(group.max_per_node);
        let per_rank = count.map_or(rate, |count| rate * (count / members).min(1.0));
        nic = BytesPerSecond(per_rank * 1e9);
    }
    let mut request = Request::new(
        operation,
        Bytes(bytes),
        group,
        Links { scale_up: kind, scale_up_bandwidth: rate, nic_bandwidth: nic },
    );
    forced(row, &mut request);
    let harness_text = words(&format!("{} | {} | {}", row.system, row.mode, row.library));
    let harness = catalogue
        .harnesses
        .values()
        .map(|e| &e.item)
        .filter(|h| h.matches.iter().any(|f| harness_text.contains(&words(f))))
        // The more specific program wins: superbench runs nccl-tests.
        .max_by_key(|h| h.matches.iter().all(|f| !f.contains("tests")));
    Ok(Described { library, transport, harness, request, assumed })
}

fn group_of(row: &Row, device: &DeviceLinks, assumed: &mut Vec<String>) -> Result<GroupShape> {
    let group = match (row.n_ranks, row.n_nodes, row.ranks_per_node) {
        (Some(ranks), Some(nodes), _) if nodes >= 1 && ranks >= nodes => {
            let (low, rest) = (ranks / nodes, ranks % nodes);
            GroupShape { ranks, nodes, min_per_node: low, max_per_node: low + u32::from(rest > 0) }
        }
        (Some(ranks), None, Some(per_node)) if per_node >= 1 => {
            let per_node = per_node.min(ranks.max(1));
            GroupShape {
                ranks,
                nodes: ranks.div_ceil(per_node),
                min_per_node: if ranks % per_node == 0 { per_node } else { ranks % per_node },
                max_per_node: per_node,
            }
        }
        (Some(ranks), None, None) if ranks >= 1 => {
            assumed.push("node layout not stated: full usual nodes assumed".into());
            let per_node = device.usual_node.min(ranks);
            GroupShape {
                ranks,
                nodes: ranks.div_ceil(per_node),
                min_per_node: if ranks % per_node == 0 { per_node } else { ranks % per_node },
                max_per_node: per_node,
            }
        }
        (None, None, Some(per_node)) if per_node >= 1 => {
            assumed.push("number of ranks not stated: one node assumed".into());
            GroupShape::uniform(1, per_node)
        }
        (None, Some(nodes), Some(per_node)) if nodes >= 1 && per_node >= 1 => {
            GroupShape::uniform(nodes, per_node)
        }
        _ => {
            return Err(Error::Unsupported("the row does not say how many ranks there are".into()));
        }
    };
    // Racks are one scale-up domain over several trays (NVL72): the link kind decides.
    if words(&row.fabric).contains(" mnnvl ") && group.nodes > 1 {
        return Ok(GroupShape::uniform(1, group.ranks));
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(accelerator: &str, fabric: &str, ranks: u32, nodes: u32, library: &str) -> Row {
        Row {
            system: "some cluster".into(),
            accelerator: accelerator.into(),
            n_ranks: Some(ranks),
            n_nodes: Some(nodes),
            fabric: fabric.into(),
            collective: "all_reduce".into(),
            bytes: Some(1e6),
            mode: "out-of-place".into(),
            library: library.into(),
            ..Row::default()
        }
    }

    #[test]
    fn an_unseen_system_is_described_by_its_words() {
        let catalogue = Catalogue::load(None).unwrap();
        let d = describe(
            &catalogue,
            &row("H200 SXM", "NVLink4 NVSwitch + EFAv3 16x200G", 32, 4, "NCCL 2.27.7"),
        )
        .unwrap();
        assert_eq!(d.library.name, "nccl-hopper");
        assert_eq!(d.transport.unwrap().name, "efa");
        assert_eq!(d.request.links.nic_bandwidth, BytesPerSecond(25e9));
        assert!(d.assumed.is_empty(), "{:?}", d.assumed);
        let d = describe(&catalogue, &row("8xMI300X", "xGMI + 8x400G RoCE", 16, 2, "RCCL"));
        let d = d.unwrap();
        assert_eq!(d.library.name, "rccl-cdna3");
        assert_eq!(d.transport.unwrap().name, "roce");
    }

    #[test]
    fn four_cards_for_eight_devices_are_shared() {
        let catalogue = Catalogue::load(None).unwrap();
        let d = describe(
            &catalogue,
            &row("H100 SXM 80GB", "GPUDirect-TCPX 4x200G", 16, 2, "NCCL/RCCL nccl-tests"),
        )
        .unwrap();
        assert_eq!(d.transport.unwrap().name, "tcpx");
        assert_eq!(d.request.links.nic_bandwidth, BytesPerSecond(12.5e9));
    }

    #[test]
    fn library_generations_are_told_apart() {
        let catalogue = Catalogue::load(None).unwrap();
        let name = |library: &str| {
            describe(&catalogue, &row("A100-SXM4-40GB", "NVLink3", 8, 1, library))
                .unwrap()
                .library
                .name
                .clone()
        };
        assert_eq!(name("NCCL 2.27.3"), "nccl-ampere");
        assert_eq!(name("NCCL 2.10"), "nccl-legacy-ampere");
        assert_eq!(name("nccl-tests"), "nccl-legacy-ampere");
    }

    #[test]
    fn what_is_not_stated_is_listed() {
        let catalogue = Catalogue::load(None).unwrap();
        let d = describe(&catalogue, &row("a100", "inter-node", 16, 2, "NCCL")).unwrap();
        assert_eq!(d.assumed.len(), 2, "{:?}", d.assumed);
        assert!(describe(&catalogue, &row("TPU v9", "ICI", 16, 2, "")).is_err());
    }
}
