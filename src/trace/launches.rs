//! Which call launched which device work, and in which step.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::header::StepWindow;
use super::model::{Kind, NO_INDEX, RankTrace};

/// The launch call of every device event of a rank.
#[derive(Clone, Debug, Default)]
pub struct Launches {
    call: Vec<u32>,
}

impl Launches {
    /// Links device work to calls by correlation. One call may launch many kernels (a graph).
    #[must_use]
    pub fn of(trace: &RankTrace) -> Self {
        let mut by_correlation: HashMap<i64, u32, FixedState> = HashMap::default();
        for (index, event) in trace.events.iter().enumerate() {
            if let (true, Some(id)) = (event.kind.is_call(), event.correlation()) {
                by_correlation.entry(id).or_insert(index as u32);
            }
        }
        let call = trace
            .events
            .iter()
            .map(|event| {
                if !event.kind.is_device() {
                    return NO_INDEX;
                }
                let call = event.correlation().and_then(|id| by_correlation.get(&id));
                call.copied().unwrap_or(NO_INDEX)
            })
            .collect();
        Self { call }
    }

    /// Index of the call that launched the device event at `index`; `None` for orphans, which were
    /// mostly launched before recording began.
    #[must_use]
    pub fn call(&self, index: usize) -> Option<usize> {
        self.call.get(index).filter(|call| **call != NO_INDEX).map(|call| *call as usize)
    }

    /// The step that launched the device event at `index`; for orphans the step it starts in.
    #[must_use]
    pub fn step<'a>(&self, trace: &'a RankTrace, index: usize) -> Option<&'a StepWindow> {
        let at = self.call(index).unwrap_or(index);
        window_at(&trace.header.windows, trace.events[at].start_ns)
    }
}

/// The window that holds a time; windows are ordered by start.
#[must_use]
pub fn window_at(windows: &[StepWindow], at_ns: i64) -> Option<&StepWindow> {
    let end = windows.partition_point(|window| window.start_ns <= at_ns);
    let window = windows.get(end.checked_sub(1)?)?;
    (at_ns - window.start_ns < window.dur_ns).then_some(window)
}

/// Whether a call makes its thread wait for the device.
#[must_use]
pub fn is_blocking_call(name: &str) -> bool {
    name.contains("Synchronize") || name.contains("StreamSync") || name.contains("DeviceSync") || {
        // A copy that is not asynchronous returns when it is done.
        name.contains("Memcpy") && !name.contains("Async")
    }
}

/// Whether an event is a call that launches work.
#[must_use]
pub fn is_graph_launch(kind: Kind, name: &str) -> bool {
    kind.is_call() && name.contains("GraphLaunch")
}
