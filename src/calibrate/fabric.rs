//! A transport from a user's own nccl-tests logs.

use std::collections::BTreeMap;

use super::collectives::{fit_one_transport, transport_file};
use super::nccl_log::Log;
use crate::error::{Error, Result};
use crate::hardware::{Catalogue, CollectiveLibrary, DeviceLinks};
use crate::network::collective::{GroupShape, Links, Request};
use crate::units::{Bytes, BytesPerSecond};
use crate::validate::collectives::score::Case;

/// What came out of it.
#[derive(Clone, Debug)]
pub struct FabricFit {
    /// The transport file, complete.
    pub file: String,
    /// Rows used.
    pub rows: usize,
    /// Measured seconds, predicted seconds, size and log of every row.
    pub residuals: Vec<(f64, f64, f64, String)>,
}

/// Library and device of a log: by the catalogue name given, or by the device names it prints.
fn library_of<'a>(
    catalogue: &'a Catalogue,
    log: &Log,
    wanted: Option<&str>,
) -> Result<(&'a CollectiveLibrary, &'a DeviceLinks)> {
    let printed = log.devices.join(" ").to_lowercase().replace(['-', '_'], " ");
    let named = |library: &'a CollectiveLibrary| {
        library
            .devices
            .iter()
            .find(|d| d.matches.iter().any(|m| printed.contains(&m.replace('_', " "))))
            .map(|device| (library, device))
    };
    if let Some(name) = wanted {
        let library = catalogue.collective_library(name)?;
        let device = named(library).map(|found| found.1).or_else(|| library.devices.first());
        return device
            .map(|device| (library, device))
            .ok_or_else(|| Error::Internal(format!("collective library `{name}` has no device")));
    }
    catalogue
        .collectives
        .values()
        .map(|entry| &entry.item)
        .filter(|library| !library.legacy)
        .find_map(named)
        .ok_or_else(|| {
            Error::Missing(format!(
                "{}: no collective library of the catalogue knows the device `{}`\n  help: name \
                 one with --library",
                log.origin,
                log.devices.join(", ")
            ))
        })
}

/// Fits the transport `name` to logs of groups that cross nodes; `nic` is the card rate one rank
/// has, where it is not that of the device's usual server.
///
/// # Errors
/// No log crosses nodes, a device is unknown, or there are too few rows.
pub fn calibrate(
    catalogue: &Catalogue,
    name: &str,
    logs: &[Log],
    library: Option<&str>,
    nic: Option<BytesPerSecond>,
    date: &str,
) -> Result<FabricFit> {
    let mut cases = Vec::new();
    for log in logs {
        if log.nodes < 2 {
            return Err(Error::Missing(format!(
                "{}: its {} ranks sit on one node, which says nothing about a fabric\n  help: \
                 give logs of groups that cross nodes",
                log.origin, log.ranks
            )));
        }
        let (library, device) = library_of(catalogue, log, library)?;
        let per_node = log.ranks / log.nodes;
        let group = GroupShape {
            ranks: log.ranks,
            nodes: log.nodes,
            min_per_node: per_node,
            max_per_node: per_node + u32::from(log.ranks % log.nodes > 0),
        };
        let links = Links {
            scale_up: device.scale_up_kind,
            scale_up_bandwidth: device.group_bandwidth(group.max_per_node),
            nic_bandwidth: nic.unwrap_or(device.usual_nic.value),
        };
        for timing in log.timings.iter().filter(|t| t.bytes >= 512.0) {
            cases.push(Case {
                row: cases.len() + 1,
                system: log.origin.clone(),
                several_nodes: true,
                library: library.name.clone(),
                transport: Some(name.to_owned()),
                harness: None,
                request: Request::new(log.operation, Bytes(timing.bytes), group, links),
                measured: Some(timing.seconds),
                assumed: Vec::new(),
                scored: true,
                not_scored: None,
                noisy: false,
            });
        }
    }
    if cases.len() < 8 {
        return Err(Error::Missing(format!(
            "{} timings from 512 B up are too few for a fit\n  help: let the test run over sizes, \
             such as -b 1K -e 8G -f 2",
            cases.len()
        )));
    }
    let (model, residuals) = fit_one_transport(catalogue, name, &cases)?;
    let mut by_log: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (case, predicted) in cases.iter().zip(&residuals) {
        let measured = case.measured.unwrap_or(f64::NAN);
        by_log.entry(&case.system).or_default().push((predicted / measured - 1.0).abs() * 100.0);
    }
    Ok(FabricFit {
        file: transport_file(name, &model, &by_log, &cases, date),
        rows: cases.len(),
        residuals: cases
            .iter()
            .zip(residuals)
            .map(|(case, predicted)| {
                (
                    case.measured.unwrap_or(f64::NAN),
                    predicted,
                    case.request.bytes.get(),
                    case.system.clone(),
                )
            })
            .collect(),
    })
}
