//! Another number of replicas for a recording of kernels.
//!
//! Collectives change by the network model where nodes (and the fabric between them) are named and
//! the recording has message sizes, else by the steps and the volume of a ring.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::hardware::{Catalogue, LibraryGeneration};
use crate::network::placement::{Placement, Strategy};
use crate::network::{Choices, CollectiveTimes, Fitted, Levels, Sites, TransferEngine};
use crate::program::{Collective, CollectiveCall, Family, Groups};
use crate::replay::Durations;
use crate::trace::collectives::CommOp;
use crate::trace::model::RankTrace;
use crate::trace::program::{Moved, RecordedProgram};

use super::WhatIf;
use super::kernels::communication;
use super::network::Split;

/// Operations of all ranks that a recording can be made to have.
const MOST_OPERATIONS: usize = 1 << 25;

/// Makes the data-parallel groups of a recording `replicas` wide: collectives of reduction and
/// gathering among all recorded ranks, or of a group whose name says data parallelism. Where the
/// recorded ranks are the replicas, more or fewer of them take part.
pub(super) fn widen(
    ranks: &[RankTrace],
    now: &mut RecordedProgram,
    durations: &mut Durations,
    split: &Split,
    (what_if, replicas): (&WhatIf, u32),
    assumed: &mut Vec<String>,
) -> Result<()> {
    let cluster = Cluster::of(what_if)?;
    let count = ranks.len() as u32;
    let data = |moved: &Moved| {
        let reduces =
            matches!(moved.op, CommOp::AllReduce | CommOp::ReduceScatter | CommOp::AllGather);
        reduces && is_data(ranks, &moved.group)
    };
    let sizes: BTreeSet<u32> = communication(now, durations)
        .filter(|(moved, _)| data(moved))
        .filter_map(|(moved, _)| moved.ranks)
        .collect();
    let sizes: Vec<u32> = sizes.into_iter().filter(|size| *size > 1).collect();
    let &[recorded] = sizes.as_slice() else {
        return Err(Error::Unsupported(if sizes.is_empty() {
            "no data-parallel collective of a known group size is in the recording".into()
        } else {
            format!("data-parallel groups of several sizes were recorded: {sizes:?}")
        }));
    };
    // Where the group is all recorded ranks, an all-to-all among them grows with it.
    let whole = recorded == count;
    let grows = |moved: &Moved| {
        moved.ranks == Some(recorded) && (data(moved) || (whole && moved.op != CommOp::SendRecv))
    };
    let mut by_ring = 0_u64;
    let mut resized = |moved: &Moved, ns: i64, alone: bool| -> Result<i64> {
        let (latency, transfer, waiting) = split.parts(moved, ns, alone);
        match cluster.as_ref().and_then(|cluster| Some((cluster, moved.bytes?))) {
            Some((cluster, bytes)) => {
                let (before, after) = (
                    cluster.seconds(moved.op, bytes, recorded)?,
                    cluster.seconds(moved.op, bytes, replicas)?,
                );
                let time = (latency + transfer) as f64 * after / before.max(f64::MIN_POSITIVE);
                Ok((time.round() as i64).saturating_add(waiting))
            }
            None => {
                by_ring += 1;
                Ok(split.in_group(moved, ns, alone, recorded, replicas))
            }
        }
    };
    for (origin, time) in now.origins.iter().zip(&mut durations.kernels) {
        if let Some(moved) = origin.moved.as_ref().filter(|moved| grows(moved)) {
            time.0 = resized(moved, time.0, false)?;
        }
    }
    for table in &mut durations.meetings {
        for (call, times) in table.iter_mut().enumerate() {
            if grows(&now.moved[call]) {
                for time in times {
                    time.0 = resized(&now.moved[call], time.0, true)?;
                }
            }
        }
    }
    match &cluster {
        Some(cluster) => assumed.push(format!(
            "data-parallel collectives of {recorded} ranks become {replicas}: recorded times the \
             network model's ratio on {}, ranks filling nodes in order{}",
            cluster.name(),
            if by_ring == 0 {
                String::new()
            } else {
                format!("; {by_ring} without a recorded size by a ring's steps and volume")
            },
        )),
        None => assumed.push(format!(
            "data-parallel collectives of {recorded} ranks become {replicas} by a ring's steps and \
             volume, on the recorded network (its fabric is not known; name it with --node and \
             --fabric)"
        )),
    }
    if !whole {
        assumed.push(
            "the ranks that were not recorded arrive with the recorded ones; sharded states keep \
             their size"
                .into(),
        );
        return Ok(());
    }
    let operations: usize = now.program.templates.iter().map(|template| template.ops.len()).sum();
    let most = MOST_OPERATIONS / operations.max(1) * ranks.len();
    if replicas as usize > most.max(ranks.len()) {
        return Err(Error::Unsupported(format!(
            "{replicas} replicas of this recording are more than fit; {most} do"
        )));
    }
    // The recorded ranks are the replicas: more of them do what those did.
    let templates = &now.program.template_of_rank;
    now.program.template_of_rank =
        (0..replicas as usize).map(|rank| templates[rank % ranks.len()]).collect();
    let whole_family =
        |family: &Family| family.groups.len() == 1 && family.groups.get(0).len() == ranks.len();
    for family in &mut now.program.families {
        family.groups = if whole_family(family) {
            Groups::new([(0..replicas).collect()])
        } else {
            // Smaller groups are copied with their ranks, as far as all of their members are there.
            let groups: Vec<Vec<u32>> = (0..replicas.div_ceil(count))
                .flat_map(|copy| {
                    family.groups.iter().map(move |group| {
                        group.iter().map(|rank| rank + copy * count).collect::<Vec<u32>>()
                    })
                })
                .map(|group| group.into_iter().filter(|rank| *rank < replicas).collect())
                .collect();
            Groups::new(groups)
        };
    }
    durations.group_class =
        now.program.families.iter().map(|family| vec![0; family.groups.len()]).collect();
    assumed.push(format!(
        "each new rank does what the recorded rank of its number modulo {count} did; the batch \
         grows with the ranks"
    ));
    Ok(())
}

/// Whether a process group is one of data parallelism.
fn is_data(ranks: &[RankTrace], group: &str) -> bool {
    let known = ranks.iter().flat_map(|rank| &rank.header.groups).find(|known| known.name == group);
    let text = known.map_or(String::new(), |known| known.description.to_ascii_lowercase());
    let says = |part: &str| text.contains(part) || group.to_ascii_lowercase().contains(part);
    if ["tensor", "pipeline", "expert", "context", "model_parallel"].iter().any(|part| says(part)) {
        return false;
    }
    let all = known.is_none_or(|known| known.ranks.len() == ranks.len());
    ["data", "dp", "fsdp", "default", "ddp"].iter().any(|part| says(part)) || all
}

/// The machines that collectives are timed on.
struct Cluster<'a> {
    catalogue: &'a Catalogue,
    node: &'a crate::hardware::Node,
    fabric: Option<&'a crate::hardware::Fabric>,
}

impl<'a> Cluster<'a> {
    /// The named one, if any.
    ///
    /// # Errors
    /// The catalogue does not have it.
    fn of(what_if: &'a WhatIf) -> Result<Option<Self>> {
        let Some((name, catalogue)) = what_if.node.as_ref().zip(what_if.catalogue.as_deref())
        else {
            return Ok(None);
        };
        let node = catalogue.node(name)?;
        let fabric = what_if.fabric.as_ref().map(|name| catalogue.fabric(name)).transpose()?;
        Ok(Some(Self { catalogue, node, fabric }))
    }

    fn name(&self) -> String {
        match self.fabric {
            Some(fabric) => format!("{} with {}", self.node.name, fabric.name),
            None => self.node.name.clone(),
        }
    }

    /// Predicted time of a collective of the first `ranks` devices.
    ///
    /// # Errors
    /// They are on several nodes, and no fabric is named.
    fn seconds(&self, op: CommOp, bytes: i64, ranks: u32) -> Result<f64> {
        let collective = match op {
            CommOp::AllReduce => Collective::AllReduce,
            CommOp::ReduceScatter => Collective::ReduceScatter,
            CommOp::AllGather => Collective::AllGather,
            CommOp::AllToAll => Collective::AllToAll,
            _ => Collective::Broadcast,
        };
        if ranks < 2 {
            return Ok(0.0);
        }
        let nodes = ranks.div_ceil(self.node.devices.max(1));
        let placement = Placement::new(Strategy::Block, ranks, nodes, self.node.devices)?;
        let uneven = !self.node.scale_up.links.is_empty();
        let sites = Sites::block(placement, self.node.scale_up.domain, uneven);
        let place = sites.place(&(0..ranks).collect::<Vec<u32>>());
        let call = CollectiveCall {
            name: op.name().to_owned(),
            collective,
            bytes: u64::try_from(bytes).unwrap_or(0),
            messages: 1,
            fanout: None,
            recorded: None,
        };
        let library = self.catalogue.library_of(&self.node.accelerator, LibraryGeneration::Current);
        let transport =
            self.fabric.map(|fabric| self.catalogue.transport(&fabric.transport)).transpose()?;
        let unnamed = |error: Error| match error {
            Error::MissingFigure { .. } if self.fabric.is_none() && nodes > 1 => {
                Error::Missing(format!(
                    "{ranks} replicas fill {nodes} nodes of {}, and nothing says what network is \
                     between them\n  help: name it with --fabric NAME (trainyard hw list)",
                    self.node.name
                ))
            }
            other => other,
        };
        let time = match library {
            Some(library) => {
                let choices = Choices::default();
                Fitted::new(self.node, self.fabric, library, transport, choices).time(&call, &place)
            }
            None => Levels::new(self.node, self.fabric, TransferEngine::Kernel).time(&call, &place),
        };
        Ok(time.map_err(unnamed)?.time.0)
    }
}
