//! What a collective takes, by algorithm and protocol, on links of its own.
//!
//! # The equation
//!
//! A branch (algorithm and protocol) of a group of `n` ranks on `N` nodes takes
//!
//! ```text
//! T     = (L^q + B^q)^(1/q)
//! L     = base + k_up step + c/(c + chunk) (fill + k_up fill_step)        inside the node
//!       + net_base + k_net hop + (N - 2) per_node                        across nodes
//! B     = max( W / (e_up b_up),  (m + f m/(m + f)) / (e_net b_nic) ),   m = E/r
//! ```
//!
//! `k_up` and `k_net` are the algorithm's steps inside and between nodes, `W` the bytes one rank
//! sends over scale-up links, `E` the bytes that leave one node over the cards of its `r` ranks,
//! `c` the bytes of one step, `f` the bytes a card loses while the pipeline between nodes fills. `base`, `step`, `fill`, `fill_step`, `chunk`, `e_up` and `q` are
//! properties of the library on an accelerator architecture
//! ([`crate::hardware::CollectiveLibrary`]), the rest of the transport
//! ([`crate::hardware::Transport`]). `fill` is the time in which a pipeline's first chunks travel
//! before all links are busy: it grows with the bytes of a step until the library's buffers are
//! full. `q` says
//! how far latency and transfer overlap: their sum at 1, their maximum at infinity.
//!
//! A single latency and bandwidth does not describe a collective because the library changes
//! algorithm and protocol with size. The change is modelled as the library makes it
//! ([`tuner`]: an argmin over the published constants of its tuner), not as the
//! fastest branch: libraries do switch to a slower branch, and the jump is measured (8xH100
//! all-gather from 16 to 32 MiB).
//!
//! Steps and bytes by algorithm (`S` is the size as nccl-tests counts it: the larger buffer):
//!
//! | algorithm | steps | `W` | `E` |
//! |---|---|---|---|
//! | ring all-reduce | 2(n-1), of which 2(N-1) between nodes | 2S(n-1)/n | 2S(n-1)/n |
//! | ring all-gather, reduce-scatter | n-1, of which N-1 | S(n-1)/n | S(n-1)/n |
//! | ring broadcast, reduce | n-1, of which N-1 | S | S |
//! | double binary tree (Sanders et al. 2009) | 2(r-1) and 2 log2 N | 2S | S for N = 2, else 2S |
//! | in-switch reduction, one node | none | S | none |
//! | in-switch reduction and tree | 2 log2 N | S | as tree |
//! | hierarchical ring | 2(r-1) and 2(N-1) | 2S(r-1)/r | 2S(N-1)/N |
//! | all-to-all | n-1 messages | S(r-1)/n | rS(n-r)/n |
//! | all-to-all, items of `k` copies sent once per node and rank | n-1 messages | S D(n)(r-1)/(r k) | rS D(N')(N-1)/(N k) |
//!
//! `D(x) = x (1 - (1 - 1/x)^k)` is the expected number of distinct places among `k` destinations
//! that are spread evenly over `x`; `N' = min(N, node limit)`.
//!
//! The ring step count is the reason why a group's time grows with its ranks although the ring's
//! volume does not (2,046 steps at 1,024 ranks); `per_node` is what measurements of large groups
//! need beyond it.

mod duration;
mod model;
pub mod tuner;

pub use duration::{Prediction, predict};
pub use model::{BranchModel, LibraryModel, TransportModel, TunerModel};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hardware::ScaleUpKind;
use crate::program::Fanout;
use crate::units::{Bytes, BytesPerSecond, Nanos, Seconds};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Every rank gets the sum.
    AllReduce,
    /// Every rank gets every shard; the size is that of the gathered buffer.
    AllGather,
    /// Every rank gets its shard of the sum; the size is that of the unreduced buffer.
    ReduceScatter,
    /// Every rank sends a share to every other; the size is that of one rank's send buffer.
    AllToAll,
    /// One rank's buffer to all.
    Broadcast,
    /// The sum to one rank.
    Reduce,
    /// One rank's buffer to one other.
    SendReceive,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 7] = [
        Self::AllReduce,
        Self::AllGather,
        Self::ReduceScatter,
        Self::AllToAll,
        Self::Broadcast,
        Self::Reduce,
        Self::SendReceive,
    ];

    /// The name used in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::SendReceive => "send_receive",
        }
    }

    /// Reads the names that measurements use; `None` for an unknown one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_lowercase().replace(['-', '_', ' '], "");
        let name = name.strip_suffix("perf").unwrap_or(&name);
        Some(match name {
            "allreduce" => Self::AllReduce,
            "allgather" => Self::AllGather,
            "reducescatter" => Self::ReduceScatter,
            "alltoall" | "all2all" => Self::AllToAll,
            "broadcast" | "bcast" => Self::Broadcast,
            "reduce" => Self::Reduce,
            "sendrecv" | "sendreceive" | "p2p" => Self::SendReceive,
            _ => return None,
        })
    }

    /// Bus bandwidth over algorithm bandwidth, as nccl-tests defines it.
    #[must_use]
    pub fn bus_factor(self, ranks: u32) -> f64 {
        let n = f64::from(ranks.max(1));
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::AllGather | Self::ReduceScatter | Self::AllToAll => (n - 1.0) / n,
            Self::Broadcast | Self::Reduce | Self::SendReceive => 1.0,
        }
    }
}

/// How it is done.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// One ring through all ranks (several in parallel, one per channel).
    Ring,
    /// Double binary tree between nodes, chain inside.
    Tree,
    /// Reduction in the scale-up switch (NVLS).
    InSwitch,
    /// Reduction in the scale-up switch, tree between nodes (NVLS-tree).
    InSwitchTree,
    /// Reduce-scatter inside the node, ring along each rail, all-gather inside the node.
    Hierarchical,
    /// The same with the levels working on different chunks at the same time (HO-Ring, PaRO,
    /// arXiv 2310.06003).
    HierarchicalOverlapped,
    /// Direct messages between all pairs.
    Direct,
    /// Inside the node to the right rail first, then along the rail; one after the other.
    TwoHop,
}

impl Algorithm {
    /// The name used in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Tree => "tree",
            Self::InSwitch => "in-switch",
            Self::InSwitchTree => "in-switch-tree",
            Self::Hierarchical => "hierarchical",
            Self::HierarchicalOverlapped => "hierarchical-overlapped",
            Self::Direct => "direct",
            Self::TwoHop => "two-hop",
        }
    }
}

/// How bytes and flags travel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// 4 bytes of data with 4 bytes of flag: lowest latency, half the bandwidth.
    Ll,
    /// 120 bytes of data with 8 bytes of flag.
    Ll128,
    /// Bulk transfer with separate synchronisation.
    Simple,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Ll, Self::Ll128, Self::Simple];

    /// The name used in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ll => "LL",
            Self::Ll128 => "LL128",
            Self::Simple => "Simple",
        }
    }

    /// Data over data and flags.
    #[must_use]
    pub fn payload(self) -> f64 {
        match self {
            Self::Ll => 0.5,
            Self::Ll128 => 120.0 / 128.0,
            Self::Simple => 1.0,
        }
    }
}

/// Where the members of a group sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupShape {
    /// Members.
    pub ranks: u32,
    /// Nodes (scale-up domains) they sit on.
    pub nodes: u32,
    /// Members on the node that has fewest.
    pub min_per_node: u32,
    /// Members on the node that has most.
    pub max_per_node: u32,
}

impl GroupShape {
    /// `per_node` members on each of `nodes` nodes.
    #[must_use]
    pub fn uniform(nodes: u32, per_node: u32) -> Self {
        Self { ranks: nodes * per_node, nodes, min_per_node: per_node, max_per_node: per_node }
    }

    /// Members by node; nodes without members do not count.
    #[must_use]
    pub fn uneven(per_node: &[u32]) -> Self {
        let used = || per_node.iter().copied().filter(|count| *count > 0);
        Self {
            ranks: used().sum(),
            nodes: used().count() as u32,
            min_per_node: used().min().unwrap_or(0),
            max_per_node: used().max().unwrap_or(0),
        }
    }

    fn check(self) -> Result<()> {
        let sensible = self.nodes >= 1
            && self.min_per_node >= 1
            && self.max_per_node >= self.min_per_node
            && u64::from(self.ranks) >= u64::from(self.nodes) * u64::from(self.min_per_node)
            && u64::from(self.ranks) <= u64::from(self.nodes) * u64::from(self.max_per_node);
        if sensible {
            Ok(())
        } else {
            Err(Error::Unsupported(format!(
                "a group of {} ranks on {} nodes with {} to {} ranks per node does not exist",
                self.ranks, self.nodes, self.min_per_node, self.max_per_node
            )))
        }
    }
}

/// The links a group uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// Kind of the links inside a node.
    pub scale_up: ScaleUpKind,
    /// Specified bandwidth of one device inside the node, one direction. For PCI Express the rate
    /// of its slot.
    pub scale_up_bandwidth: BytesPerSecond,
    /// Card bandwidth one member can use, one direction: the node's cards shared out over the
    /// members it has in groups that communicate at the same time. Zero where there is no way out.
    pub nic_bandwidth: BytesPerSecond,
}

/// What the paths between the nodes of a group add to the latency of a step, one way, beyond the
/// short path that the constants of transports include.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PathLatency {
    /// Mean over the pairs that exchange messages.
    pub mean: Nanos,
    /// Of the longest path.
    pub longest: Nanos,
}

impl PathLatency {
    /// Of so many steps between nodes one after the other: a chunk that goes round takes every path
    /// in turn; one that goes there and back takes the longest at least once each way.
    #[must_use]
    pub fn over(self, steps: f64) -> Seconds {
        (self.mean.seconds() * steps).max(self.longest.seconds() * steps.min(2.0))
    }
}

/// Fewer bytes on the wire at the price of kernels before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Bytes on the wire over bytes of the buffer: 0.5 for 8 bits from 16, plus block scales.
    pub wire_factor: f64,
}

/// A collective to be timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// Size as nccl-tests counts it, see [`Operation`].
    pub bytes: Bytes,
    /// Where the members sit.
    pub group: GroupShape,
    /// The links they use.
    pub links: Links,
    /// Algorithm instead of the library's choice.
    pub algorithm: Option<Algorithm>,
    /// Protocol instead of the library's choice.
    pub protocol: Option<Protocol>,
    /// In-switch reduction is switched off (`NCCL_NVLS_ENABLE=0`).
    pub no_in_switch: bool,
    /// Compressed on the wire.
    pub compression: Option<Compression>,
    /// Items of an all-to-all cross once per node.
    pub fanout: Option<Fanout>,
    /// What the paths between its nodes add to latency.
    pub path: PathLatency,
    /// Time of a pair's message inside a node by the route that it takes, where that is known: it
    /// has the reached rate and the filling of the pipeline in it.
    pub routed: Option<Seconds>,
}

impl Request {
    /// A request with the library's own choices.
    #[must_use]
    pub fn new(operation: Operation, bytes: Bytes, group: GroupShape, links: Links) -> Self {
        Self {
            operation,
            bytes,
            group,
            links,
            algorithm: None,
            protocol: None,
            no_in_switch: false,
            compression: None,
            fanout: None,
            path: PathLatency::default(),
            routed: None,
        }
    }
}
