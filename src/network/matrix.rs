//! How fast every pair of nodes is, where somebody has measured it.

use std::collections::BTreeMap;

use super::contention::{Pattern, flows};
use super::sites::Sites;
use crate::error::{Error, InputError, Result};
use crate::units::BytesPerSecond;

/// Slowest rate that is read, GB/s, as in topology files: slower links are mistyped ones.
const SLOWEST: f64 = 1e-3;

/// Measured bandwidth of every pair of nodes, one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct BandwidthMatrix {
    nodes: usize,
    rates: Vec<f64>,
}

impl BandwidthMatrix {
    /// Reads rows of comma-separated rates in GB/s, one row per sending node; `#` starts a comment
    /// and the diagonal is ignored. `origin` names the text in messages.
    ///
    /// # Errors
    /// The matrix is not `nodes` by `nodes`, or a rate is no positive number; with the line.
    pub fn parse(origin: &str, text: &str, nodes: usize) -> Result<Self> {
        let error = |line: usize, message: String, hint: Option<String>| -> Error {
            InputError {
                origin: origin.to_owned(),
                position: (line > 0).then_some((line, 1)),
                message,
                hint,
                ..InputError::default()
            }
            .into()
        };
        let mut rates = Vec::with_capacity(nodes.saturating_mul(nodes).min(text.len()));
        let mut rows = 0;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            if fields.len() != nodes {
                return Err(error(
                    index + 1,
                    format!("has {} columns, and the cluster has {nodes} nodes", fields.len()),
                    Some("give one row and one column per node".into()),
                ));
            }
            for (column, field) in fields.iter().enumerate() {
                if column == rows {
                    rates.push(f64::INFINITY);
                    continue;
                }
                let rate: f64 = field
                    .parse()
                    .ok()
                    .filter(|r: &f64| r.is_finite() && *r >= SLOWEST)
                    .ok_or_else(|| {
                        error(
                            index + 1,
                            format!("column {}: `{field}` is no rate in GB/s", column + 1),
                            Some(
                                "write at least 0.001 (1 MB/s); only the diagonal is not read"
                                    .into(),
                            ),
                        )
                    })?;
                rates.push(rate * 1e9);
            }
            rows += 1;
        }
        if rows != nodes {
            return Err(error(
                0,
                format!("has {rows} rows, and the cluster has {nodes} nodes"),
                Some("give one row and one column per node".into()),
            ));
        }
        Ok(Self { nodes, rates })
    }

    /// Rate from one node to another; unlimited inside a node, `None` for a node outside.
    #[must_use]
    pub fn rate(&self, from: u32, to: u32) -> Option<BytesPerSecond> {
        let (from, to) = (from as usize, to as usize);
        (from < self.nodes && to < self.nodes)
            .then(|| BytesPerSecond(self.rates[from * self.nodes + to]))
    }

    /// What a group gets between nodes: the slowest link of its ring or pair; of an exchange the
    /// rate of the slowest sender, whose messages to all nodes follow one another. `None` where it
    /// does not leave its domain.
    #[must_use]
    pub fn slowest(
        &self,
        sites: &Sites,
        group: &[u32],
        pattern: Pattern,
    ) -> Option<BytesPerSecond> {
        let per_node = sites.placement.per_node.max(1);
        let mut slowest: Option<BytesPerSecond> = None;
        let mut take = |rate: BytesPerSecond| {
            slowest = Some(slowest.map_or(rate, |s: BytesPerSecond| s.min(rate)));
        };
        if pattern != Pattern::Exchange {
            for (from, to, _) in flows(sites, group, pattern) {
                take(self.rate(from / per_node, to / per_node)?);
            }
            return slowest;
        }
        // Members by node; nodes of one domain reach each other inside it.
        let mut members: BTreeMap<u32, u32> = BTreeMap::new();
        for rank in group {
            *members.entry(sites.device(*rank) / per_node).or_default() += 1;
        }
        let domain = |node: u32| node * per_node / sites.domain;
        for from in members.keys() {
            let (mut sent, mut time) = (0.0, 0.0);
            for (to, count) in members.iter().filter(|(to, _)| domain(**to) != domain(*from)) {
                sent += f64::from(*count);
                time += f64::from(*count) / self.rate(*from, *to)?.get();
            }
            if sent > 0.0 {
                take(BytesPerSecond(sent / time));
            }
        }
        slowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::placement::{Placement, Strategy};

    #[test]
    fn matrices_have_the_size_of_the_cluster() {
        let m = BandwidthMatrix::parse("m.csv", "0, 40, 20 # a\n40,0,30\n20,30,0\n", 3).unwrap();
        assert_eq!(m.rate(0, 2), Some(BytesPerSecond(20e9)));
        let placement = Placement::new(Strategy::Block, 6, 3, 2).unwrap();
        let sites = Sites::block(placement, 2, false);
        let slowest = |group: &[u32], pattern| {
            m.slowest(&sites, group, pattern).map(|rate| rate.get().round())
        };
        assert_eq!(slowest(&[0, 2, 4], Pattern::Ring), Some(20e9));
        assert_eq!(slowest(&[0, 2], Pattern::Pair), Some(40e9));
        assert_eq!(slowest(&[0, 1], Pattern::Ring), None);
        // The last node sends as much at 20 as at 30: 24 on average.
        assert_eq!(slowest(&[0, 2, 4], Pattern::Exchange), Some(24e9));
        assert_eq!(m.rate(3, 0), None);
        let wide = BandwidthMatrix::parse("m.csv", "0,1,2\n1,0,2\n", 2).unwrap_err().to_string();
        assert!(wide.contains("m.csv:1") && wide.contains("3 columns"), "{wide}");
        let short = BandwidthMatrix::parse("m.csv", "0,1\n", 2).unwrap_err().to_string();
        assert!(short.contains("1 rows"), "{short}");
        let zero = BandwidthMatrix::parse("m.csv", "0,0\n1,0\n", 2).unwrap_err().to_string();
        assert!(zero.contains("no rate"), "{zero}");
    }
}
