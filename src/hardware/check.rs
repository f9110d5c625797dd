//! What the numbers of a catalogue entry have to satisfy beyond their types.

use super::stack::Stack;
use super::types::{Accelerator, Fabric, Node};

/// A key and what is wrong with it.
pub(super) type Problem = (&'static str, &'static str);

/// The first key whose number is not above zero.
fn above_zero<const N: usize>(figures: [(&'static str, f64); N]) -> Result<(), Problem> {
    match figures.into_iter().find(|(_, value)| *value <= 0.0) {
        Some((key, _)) => Err((key, "must be above 0")),
        None => Ok(()),
    }
}

pub(super) fn accelerator(item: &Accelerator) -> Result<(), Problem> {
    let peak = &item.peak;
    for (key, rate) in [
        ("peak.bf16", &peak.bf16),
        ("peak.fp16", &peak.fp16),
        ("peak.fp8", &peak.fp8),
        ("peak.fp4", &peak.fp4),
        ("peak.tf32", &peak.tf32),
        ("peak.fp32", &peak.fp32),
    ] {
        if let Some(rate) = rate {
            above_zero([(key, rate.value.0)])?;
        }
    }
    if let Some(tiles) = &item.kernels.tiles {
        if tiles.shapes.is_empty()
            || tiles.shapes.iter().any(|tile| tile.rows.min(tile.columns).min(tile.units) == 0)
        {
            return Err(("kernels.tiles.shapes", "needs tiles of at least 1 x 1 on 1 unit"));
        }
        above_zero([
            ("kernels.tiles.saturated", tiles.saturated.value.0),
            ("kernels.tiles.memory", tiles.memory.value.0),
        ])?;
    }
    for constants in item.kernels.attention.values() {
        for pass in [&constants.forward, &constants.backward] {
            above_zero([("kernels.attention", pass.causal.value.0)])?;
        }
    }
    if let Some(units) = &item.compute_units {
        above_zero([("compute_units", units.value.0)])?;
    }
    above_zero([
        ("memory.capacity", item.memory.capacity.value.0),
        ("memory.bandwidth", item.memory.bandwidth.value.0),
        ("kernels.memory", item.kernels.memory.value.0),
        ("kernels.attention_head_64", item.kernels.attention_head_64.value.0),
    ])
}

pub(super) fn node(item: &Node) -> Result<(), Problem> {
    above_zero([
        ("devices", f64::from(item.devices)),
        ("scale_up.domain", f64::from(item.scale_up.domain)),
        ("scale_up.bandwidth", item.scale_up.bandwidth.value.0),
        ("scale_up.achieved", item.scale_up.achieved.value.0),
        ("nic.count", f64::from(item.nic.count)),
        ("nic.bandwidth", item.nic.bandwidth.value.0),
    ])?;
    for link in &item.scale_up.links {
        let rate = link.measured.as_ref().unwrap_or(&link.bandwidth);
        above_zero([("scale_up.links", rate.value.0)])?;
    }
    if let Some(copies) = &item.scale_up.copies {
        if item.scale_up.links.is_empty() {
            return Err(("scale_up.copies", "needs [[scale_up.links]], the links that differ"));
        }
        above_zero([
            ("scale_up.copies.measured_at", copies.measured_at.value.0),
            ("scale_up.copies.half_rate_at", copies.half_rate_at.value.0),
            ("scale_up.copies.relayed", copies.relayed.value.0),
            ("scale_up.copies.engine", copies.engine.value.0),
        ])?;
    }
    Ok(())
}

pub(super) fn fabric(item: &Fabric) -> Result<(), Problem> {
    above_zero([
        ("link_bandwidth", item.link_bandwidth.value.0),
        ("achieved", item.achieved.value.0),
        ("oversubscription", item.oversubscription.value.0),
    ])?;
    if item.switch.ports.value.0 < 2.0 {
        return Err(("switch.ports", "must be at least 2"));
    }
    match (&item.wan, item.topology.is.line) {
        (Some(wan), true) => above_zero([("wan.bandwidth", wan.bandwidth.value.0)])?,
        (None, true) => return Err(("topology", "needs [wan], the line between the sites")),
        (Some(_), false) => return Err(("wan", "needs topology = \"two_sites\"")),
        (None, false) => {}
    }
    Ok(())
}

pub(super) fn stack(item: &Stack) -> Result<(), Problem> {
    above_zero([
        ("in_training.kernels", item.in_training.kernels.value.0),
        ("in_training.collectives", item.in_training.collectives.value.0),
    ])
}
