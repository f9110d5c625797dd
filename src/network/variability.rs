//! Links that differ: seeded distributions of the rate a link or a job really gets.
//!
//! A factor in (0, 1] multiplies a link's capacity. It is a function of (seed, replica, entity)
//! alone ([`crate::disturbance::random`]), so adding a link changes no other's.

use serde::{Deserialize, Serialize};

use super::topology::Topology;
use crate::disturbance::random::Stream;
use crate::error::{Error, Result};

/// How rates are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Variability {
    /// Every link at its rate.
    None,
    /// A dedicated cluster: every link loses a few percent, half-normal with this sigma.
    Healthy {
        /// Sigma of the loss.
        sigma: f64,
    },
    /// A cluster shared with other jobs: log-normal around a median.
    Shared {
        /// Median factor.
        median: f64,
        /// Sigma of the logarithm.
        sigma: f64,
    },
    /// Some are slow, the rest are not: the same job on the same machines in two modes.
    Bimodal {
        /// Share that is slow.
        share: f64,
        /// Factor of the slow ones.
        slow: f64,
        /// Half-normal loss on top of both.
        sigma: f64,
    },
}

impl Variability {
    /// Losses of 1.2 % (half-normal): GPUs and links of an accepted cluster stay within the 3.5 %
    /// at which Azure's acceptance test warns (three sigma; assumed, 0.5 to 2 %).
    #[must_use]
    pub fn healthy() -> Self {
        Self::Healthy { sigma: 0.012 }
    }

    /// Median 0.45, sigma 0.6: all-reduce on 4 to 64 nodes of a shared H100 cluster has a band of
    /// 12 to 219 GB/s around means of 33 to 160 (Hugging Face, ultra-scale playbook; read off a
    /// figure).
    #[must_use]
    pub fn shared_cluster() -> Self {
        Self::Shared { median: 0.45, sigma: 0.6 }
    }

    /// Four of ten a third slower, as reported of repeated runs on one cluster.
    #[must_use]
    pub fn bimodal() -> Self {
        Self::Bimodal { share: 0.4, slow: 2.0 / 3.0, sigma: 0.012 }
    }

    /// Checks its parameters.
    ///
    /// # Errors
    /// A share or factor is outside of (0, 1], or a sigma is negative.
    pub fn check(&self) -> Result<()> {
        let fraction = |name: &str, x: f64, low: bool| {
            if x.is_finite() && x <= 1.0 && (x > 0.0 || (low && x == 0.0)) {
                Ok(())
            } else {
                Err(Error::Unsupported(format!("variability: {name} {x} is outside of 0 to 1")))
            }
        };
        let sigma = |x: f64| {
            if x.is_finite() && (0.0..=3.0).contains(&x) {
                Ok(())
            } else {
                Err(Error::Unsupported(format!("variability: sigma {x} is outside of 0 to 3")))
            }
        };
        match *self {
            Self::None => Ok(()),
            Self::Healthy { sigma: s } => sigma(s),
            Self::Shared { median, sigma: s } => fraction("median", median, false).and(sigma(s)),
            Self::Bimodal { share, slow, sigma: s } => {
                fraction("share", share, true).and(fraction("slow", slow, false)).and(sigma(s))
            }
        }
    }

    /// Factor of an entity (a link, a node, a job) in a replica. Three numbers are drawn whatever
    /// the kind, so that kinds compare on the same draws.
    #[must_use]
    pub fn factor(&self, seed: u64, replica: u64, entity: u64) -> f64 {
        let mut stream = Stream::new(seed, replica, entity, "link-rate");
        let mode = stream.uniform();
        let normal = stream.normal();
        let loss = |sigma: f64| (1.0 - sigma * normal.abs()).max(0.05);
        match *self {
            Self::None => 1.0,
            Self::Healthy { sigma } => loss(sigma),
            Self::Shared { median, sigma } => (median * (sigma * normal).exp()).clamp(0.02, 1.0),
            Self::Bimodal { share, slow, sigma } => {
                loss(sigma) * if mode < share { slow } else { 1.0 }
            }
        }
    }

    /// Multiplies the capacity of every link that leaves a server; links inside have none of this.
    pub fn apply(&self, topology: &mut Topology, seed: u64, replica: u64) {
        for edge in topology.graph.edge_indices() {
            if topology.graph[edge].kind == super::topology::LinkKind::Backplane {
                continue;
            }
            let factor = self.factor(seed, replica, edge.index() as u64);
            if let Some(link) = topology.graph.edge_weight_mut(edge) {
                link.capacity = link.capacity * factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_reproducible_and_bounded() {
        for kind in [
            Variability::None,
            Variability::healthy(),
            Variability::shared_cluster(),
            Variability::bimodal(),
        ] {
            kind.check().unwrap();
            for entity in 0..500 {
                let f = kind.factor(1, 0, entity);
                assert!(f > 0.0 && f <= 1.0, "{kind:?} {f}");
                assert_eq!(f, kind.factor(1, 0, entity));
            }
        }
        assert!(Variability::Shared { median: 0.0, sigma: 0.1 }.check().is_err());
        assert!(Variability::Healthy { sigma: f64::NAN }.check().is_err());
    }

    #[test]
    fn shares_are_what_they_are_called() {
        let kind = Variability::bimodal();
        let slow = (0..5000).filter(|e| kind.factor(9, 0, *e) < 0.8).count();
        assert!((slow as f64 / 5000.0 - 0.4).abs() < 0.03, "{slow}");
        let shared = Variability::shared_cluster();
        let below = (0..5000).filter(|e| shared.factor(9, 0, *e) < 0.45).count();
        assert!((below as f64 / 5000.0 - 0.5).abs() < 0.03, "{below}");
    }
}
