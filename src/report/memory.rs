//! Device memory as text: by class at the peak, by stage, and over the step.

use std::fmt::Write as _;

use crate::outcome::{MemoryInfo, MomentInfo};
use crate::units::Seconds;

use super::{GIB, bar, human_time, significant};

/// Moments at the start and at the end of a step that are drawn one by one.
const ENDS: [usize; 2] = [16, 10];

/// The memory of a result: at the peak and, where it is there, over the step.
pub(super) fn memory_text(memory: &MemoryInfo, stages: u32) -> String {
    let mut t = String::new();
    let gib = |bytes: f64| format!("{} GiB", significant(bytes / GIB, 3));
    let verdict = if memory.fits { "fits" } else { "DOES NOT FIT" };
    let stage =
        if stages > 1 { format!("on stage {}, ", memory.peak_stage) } else { String::new() };
    let shown = if memory.fits {
        format!("; a driver tool shows {}", gib(memory.reserved_bytes_per_device))
    } else {
        String::new()
    };
    let _ = writeln!(
        t,
        "\nMemory {} of {} per device: {verdict} (peak {stage}{}{shown})",
        gib(memory.peak_bytes_per_device),
        gib(memory.capacity_bytes),
        memory.peak_moment,
    );
    let classes = &memory.by_class;
    for (name, bytes) in [
        ("weights", classes.weights),
        ("quantised weights", classes.quantised_weights),
        ("gradients", classes.gradients),
        ("optimizer states", classes.optimizer),
        ("activations", classes.activations),
        ("logits", classes.logits),
        ("communication buffers", classes.communication),
        ("context and workspaces", classes.context),
        ("fragmentation allowance", classes.fragmentation),
    ] {
        if bytes > 0.0 {
            let share = bar(bytes / memory.capacity_bytes);
            let _ = writeln!(t, "  {name:30} {:>9}           {share}", gib(bytes));
        }
    }
    if let Some(timeline) = &memory.timeline {
        t.push_str(&stages_text(memory));
        t.push_str(&course_text(memory, timeline));
    }
    t
}

fn stages_text(memory: &MemoryInfo) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "\nMemory by pipeline stage, GiB");
    let _ = writeln!(t, "  stage  allocated  driver shows  when most is allocated");
    for stage in &memory.by_stage {
        let _ = writeln!(
            t,
            "  {:>5}  {:>9}  {:>12}  {}",
            stage.stage,
            significant(stage.peak_bytes / GIB, 3),
            significant(stage.reserved_bytes / GIB, 3),
            stage.peak_moment,
        );
    }
    t
}

fn course_text(memory: &MemoryInfo, moments: &[MomentInfo]) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "\nMemory over the step on stage {}, GiB allocated", memory.peak_stage);
    let mut line = |at: &str, moment: &str, bytes: f64| {
        let _ = writeln!(
            t,
            "  {at:>9}  {moment:34} {:>5}  {}",
            significant(bytes / GIB, 3),
            bar(bytes / memory.capacity_bytes)
        );
    };
    let [head, tail] = ENDS;
    // A line for what is left out has to leave out more than itself.
    let left_out = if moments.len() > head + tail + 1 {
        head..moments.len() - tail
    } else {
        moments.len()..moments.len()
    };
    for (i, moment) in moments.iter().enumerate() {
        if i == left_out.start {
            let most = moments[left_out.clone()].iter().map(|m| m.bytes).fold(0.0, f64::max);
            line("...", &format!("{} more passes, at most", left_out.len()), most);
        }
        if !left_out.contains(&i) {
            line(&human_time(Seconds(moment.seconds)), &moment.moment, moment.bytes);
        }
    }
    t
}
