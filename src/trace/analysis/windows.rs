//! Where the time of a rank went, per window, to the nanosecond.
//!
//! Per device: compute is the union of kernels that do not communicate, communication the union of
//! those that do, memory the union of copies and fills. Exposed communication is communication
//! minus compute, exposed memory is memory minus both, idle is the rest of the window. Always:
//! span = compute + exposed communication + exposed memory + idle.

use std::collections::BTreeSet;

use serde::Serialize;

use super::intervals::Intervals;
use crate::trace::launches::{Launches, window_at};
use crate::trace::model::RankTrace;

/// How a window was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WindowKind {
    /// From the first start to the last end of device work.
    #[serde(rename = "gpu_first_to_last")]
    GpuFirstToLast,
    /// A step as the profiled program marked it on the host; device work is clipped to it.
    #[serde(rename = "cpu_ProfilerStep")]
    CpuProfilerStep,
}

/// The time of one device in one window; ns and counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// `ALL`, or the number of the step.
    pub name: String,
    /// How it was chosen.
    pub kind: WindowKind,
    /// Device ordinal.
    pub device: i32,
    /// Start on the rank's clock.
    pub start_ns: i64,
    /// Length.
    pub span_ns: i64,
    /// Kernels that do not communicate.
    pub compute_ns: i64,
    /// Kernels that communicate.
    pub comm_ns: i64,
    /// Communication while nothing computes.
    pub comm_exposed_ns: i64,
    /// Copies and fills.
    pub mem_ns: i64,
    /// Copies and fills while no kernel runs.
    pub mem_exposed_ns: i64,
    /// Nothing on the device.
    pub idle_ns: i64,
    /// Communication while something computes.
    pub overlap_ns: i64,
    /// Kernels of either kind that touch the window.
    pub kernels: u64,
    /// Kernels that communicate and touch the window.
    pub comm_kernels: u64,
    /// Copies and fills that touch the window.
    pub mem_ops: u64,
    /// Streams that the device used in the whole recording.
    pub streams: u64,
    /// Sum of kernel durations inside the window.
    pub kernel_sum_ns: i64,
    /// Kernels that a call inside the step launched; a device runs behind its host. Steps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launched_kernels: Option<u64>,
    /// From the first start to the last end of the device work launched inside the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launched_span_ns: Option<i64>,
}

/// Starts and ends of some events, to count and add up those that touch a window.
#[derive(Default)]
struct Touching {
    starts: Vec<i64>,
    ends: Vec<i64>,
    /// Sums of the starts and of the ends up to each, from the front.
    start_sums: Vec<i128>,
    end_sums: Vec<i128>,
    /// Starts of events that take no time.
    instants: Vec<i64>,
}

impl Touching {
    fn add(&mut self, start: i64, end: i64) {
        self.starts.push(start);
        self.ends.push(end);
        if start == end {
            self.instants.push(start);
        }
    }

    fn settle(&mut self) {
        for list in [&mut self.starts, &mut self.ends, &mut self.instants] {
            list.sort_unstable();
        }
        let sums = |list: &[i64]| {
            let mut total = 0_i128;
            let sum = |value: &i64| {
                total += i128::from(*value);
                total
            };
            list.iter().map(sum).collect()
        };
        self.start_sums = sums(&self.starts);
        self.end_sums = sums(&self.ends);
    }

    /// Sum of the durations inside `[start, end)`.
    fn sum(&self, start: i64, end: i64) -> i64 {
        // Up to a time t, an event that began has run t - start, less t - end once it is over.
        let until = |t: i64| {
            let part = |list: &[i64], sums: &[i128]| {
                let count = list.partition_point(|value| *value < t);
                let sum = count.checked_sub(1).map_or(0, |last| sums[last]);
                i128::from(t) * count as i128 - sum
            };
            part(&self.starts, &self.start_sums) - part(&self.ends, &self.end_sums)
        };
        i64::try_from(until(end) - until(start)).unwrap_or(i64::MAX)
    }

    /// Events that overlap `[start, end)`, or take no time and lie in it.
    fn count(&self, start: i64, end: i64) -> u64 {
        let below = |list: &[i64], at: i64| list.partition_point(|t| *t < at);
        let begun = below(&self.starts, end);
        let over = self.ends.partition_point(|t| *t <= start);
        let at_start = below(&self.instants, start + 1) - below(&self.instants, start);
        (begun - (over - at_start).min(begun)) as u64
    }
}

/// Device work of one device, ready for questions about windows.
struct DeviceTime {
    device: i32,
    compute: Intervals,
    kernels: Intervals,
    communication: Intervals,
    memory: Intervals,
    all: Intervals,
    kernel_counts: Touching,
    comm_counts: Touching,
    mem_counts: Touching,
    streams: u64,
    first_ns: i64,
    last_ns: i64,
}

impl DeviceTime {
    fn of(trace: &RankTrace, device: i32) -> Self {
        let mut compute = Vec::new();
        let mut communication = Vec::new();
        let mut memory = Vec::new();
        let mut streams = BTreeSet::new();
        let mut time = Self {
            device,
            compute: Intervals::default(),
            kernels: Intervals::default(),
            communication: Intervals::default(),
            memory: Intervals::default(),
            all: Intervals::default(),
            kernel_counts: Touching::default(),
            comm_counts: Touching::default(),
            mem_counts: Touching::default(),
            streams: 0,
            first_ns: i64::MAX,
            last_ns: i64::MIN,
        };
        for event in &trace.events {
            if !event.kind.is_device() || event.device != device {
                continue;
            }
            let span = (event.start_ns, event.end_ns());
            time.first_ns = time.first_ns.min(span.0);
            time.last_ns = time.last_ns.max(span.1);
            streams.insert(event.lane);
            if event.kind.is_memory() {
                memory.push(span);
                time.mem_counts.add(span.0, span.1);
                continue;
            }
            time.kernel_counts.add(span.0, span.1);
            if event.communicates {
                communication.push(span);
                time.comm_counts.add(span.0, span.1);
            } else {
                compute.push(span);
            }
        }
        time.streams = streams.len() as u64;
        time.compute = Intervals::union_of(compute);
        time.communication = Intervals::union_of(communication);
        time.memory = Intervals::union_of(memory);
        time.kernels = time.compute.union(&time.communication);
        time.all = time.kernels.union(&time.memory);
        for counts in [&mut time.kernel_counts, &mut time.comm_counts, &mut time.mem_counts] {
            counts.settle();
        }
        time
    }

    fn window(&self, name: String, kind: WindowKind, start: i64, span: i64) -> Window {
        let end = start.saturating_add(span);
        let compute = self.compute.length_in(start, end);
        let kernels = self.kernels.length_in(start, end);
        let communication = self.communication.length_in(start, end);
        let all = self.all.length_in(start, end);
        let whole = kind == WindowKind::GpuFirstToLast;
        let count = |counts: &Touching| {
            if whole { counts.starts.len() as u64 } else { counts.count(start, end) }
        };
        Window {
            name,
            kind,
            device: self.device,
            start_ns: start,
            span_ns: span,
            compute_ns: compute,
            comm_ns: communication,
            comm_exposed_ns: kernels - compute,
            mem_ns: self.memory.length_in(start, end),
            mem_exposed_ns: all - kernels,
            idle_ns: span - all,
            overlap_ns: communication - (kernels - compute),
            kernels: count(&self.kernel_counts),
            comm_kernels: count(&self.comm_counts),
            mem_ops: count(&self.mem_counts),
            streams: self.streams,
            kernel_sum_ns: self.kernel_counts.sum(start, end),
            launched_kernels: None,
            launched_span_ns: None,
        }
    }
}

/// Devices of a rank that get windows, and windows of a rank in all. No machine comes near either;
/// they bound what a damaged file can cost.
const MOST_DEVICES: usize = 128;
const MOST_WINDOWS: usize = 200_000;

/// The devices that a rank used, in order; at most 128.
#[must_use]
pub fn devices(trace: &RankTrace) -> Vec<i32> {
    let devices: BTreeSet<i32> =
        trace.events.iter().filter(|e| e.kind.is_device()).map(|e| e.device).collect();
    devices.into_iter().take(MOST_DEVICES).collect()
}

/// The windows of a rank: for each device the whole recording and every step.
#[must_use]
pub fn windows(trace: &RankTrace, launches: &Launches) -> Vec<Window> {
    let mut windows = Vec::new();
    let devices = devices(trace);
    let most = MOST_WINDOWS / devices.len().max(1);
    let steps = &trace.header.windows;
    let steps = if steps.len() > most { &[] } else { steps.as_slice() };
    for device in devices {
        let time = DeviceTime::of(trace, device);
        let span = time.last_ns - time.first_ns;
        windows.push(time.window("ALL".into(), WindowKind::GpuFirstToLast, time.first_ns, span));
        let mut launched = vec![(0_u64, i64::MAX, i64::MIN); steps.len()];
        for (index, event) in trace.events.iter().enumerate() {
            if !event.kind.is_device() || event.device != device {
                continue;
            }
            let Some(call) = launches.call(index) else { continue };
            let at = trace.events[call].start_ns;
            let Some(step) = window_at(steps, at) else { continue };
            let place = steps.partition_point(|w| w.start_ns <= at) - 1;
            debug_assert_eq!(&steps[place], step);
            let (kernels, first, last) = &mut launched[place];
            *kernels += u64::from(!event.kind.is_memory());
            *first = (*first).min(event.start_ns);
            *last = (*last).max(event.end_ns());
        }
        for (step, (kernels, first, last)) in steps.iter().zip(launched) {
            let kind = WindowKind::CpuProfilerStep;
            let mut window = time.window(step.name.clone(), kind, step.start_ns, step.dur_ns);
            window.launched_kernels = Some(kernels);
            window.launched_span_ns = (last >= first).then(|| last - first);
            windows.push(window);
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::{Event, Kind};

    fn kernel(trace: &mut RankTrace, name: &str, stream: i64, start: i64, dur: i64) {
        let name = trace.names.intern(name);
        let mut event = Event::new(Kind::Kernel, name, start, dur);
        event.device = 0;
        event.lane = stream;
        trace.events.push(event);
    }

    #[test]
    fn a_window_is_compute_exposed_communication_exposed_memory_and_idle() {
        let mut trace = RankTrace::default();
        kernel(&mut trace, "gemm", 7, 0, 10);
        kernel(&mut trace, "ncclDevKernel_AllReduce", 9, 5, 10);
        kernel(&mut trace, "gemm", 7, 20, 0);
        kernel(&mut trace, "gemm", 7, 20, 5);
        let name = trace.names.intern("Memcpy DtoH");
        let mut copy = Event::new(Kind::Memcpy, name, 14, 3);
        copy.device = 0;
        trace.events.push(copy);
        trace.header.windows.push(crate::trace::header::StepWindow {
            name: "1".into(),
            start_ns: 8,
            dur_ns: 12,
        });
        crate::trace::collectives::resolve(&mut trace);
        trace.settle();
        let windows = windows(&trace, &Launches::of(&trace));
        let all = &windows[0];
        assert_eq!((all.span_ns, all.compute_ns, all.comm_ns), (25, 15, 10));
        assert_eq!((all.comm_exposed_ns, all.mem_exposed_ns, all.idle_ns), (5, 2, 3));
        assert_eq!((all.kernels, all.comm_kernels, all.streams), (4, 1, 3));
        let step = &windows[1];
        assert_eq!((step.span_ns, step.compute_ns, step.comm_exposed_ns), (12, 2, 5));
        assert_eq!((step.mem_exposed_ns, step.idle_ns, step.overlap_ns), (2, 3, 2));
        assert_eq!((step.kernels, step.kernel_sum_ns), (2, 9));
    }
}
