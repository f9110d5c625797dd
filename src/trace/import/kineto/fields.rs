//! One Chrome trace event, as slices of the input.

use super::super::json::{Cursor, Raw, Stop};

/// What a profiler category means to us. Names changed case and wording over the years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Category {
    /// No category.
    #[default]
    None,
    /// Device kernel.
    Kernel,
    /// Device copy.
    Memcpy,
    /// Device fill.
    Memset,
    /// CUDA or HIP runtime call.
    Runtime,
    /// CUDA driver call.
    Driver,
    /// Framework operator.
    Op,
    /// User annotation on the host.
    Annotation,
    /// Synchronisation record.
    Sync,
    /// Profiler overhead.
    Overhead,
    /// Arrow between forward and backward.
    Autograd,
    /// Written by the Ascend profiler only.
    Ascend,
    /// Left out on purpose; the index is a position in [`LEFT_OUT`].
    LeftOut(usize),
    /// Not known.
    Unknown,
}

/// Categories that are left out: how they are called, and why they are not needed.
pub const LEFT_OUT: [(&str, &str); 15] = [
    ("metadata", "process and thread labels"),
    ("instant", "instant events and memory counters"),
    ("python_function", "Python call stacks"),
    ("ac2g", "arrows from launch to kernel, which the correlation already gives"),
    ("gpu_user_annotation", "device copies of host annotations"),
    ("Trace", "the profiler's own span"),
    ("mtia_runtime", "not a CUDA or HIP device"),
    ("mtia_ccp_events", "not a CUDA or HIP device"),
    ("xpu_runtime", "not a CUDA or HIP device"),
    ("xpu_driver", "not a CUDA or HIP device"),
    ("privateuse1_runtime", "not a CUDA or HIP device"),
    ("privateuse1_driver", "not a CUDA or HIP device"),
    ("cuda_profiler_range", "hardware counters"),
    ("critical_path", "another tool's overlay"),
    ("meeting", "arrows between the members of a collective, which its metadata give"),
];
/// Position of `metadata` in [`LEFT_OUT`].
pub const METADATA: usize = 0;
/// Position of `instant` in [`LEFT_OUT`].
pub const INSTANT: usize = 1;
const LAUNCH_FLOW: usize = 3;

impl Category {
    /// The category of a name.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        // Chrome's categories are lists; the profiler's own comes first.
        let end = memchr::memchr(b',', name).unwrap_or(name.len());
        match &name[..end] {
            b"kernel" | b"Kernel" => Self::Kernel,
            b"cpu_op" | b"Operator" | b"operator" => Self::Op,
            b"cuda_runtime" | b"Runtime" | b"runtime" | b"hip_runtime" => Self::Runtime,
            b"python_function" => Self::LeftOut(2),
            b"ac2g" | b"async_cpu_to_gpu" | b"async" | b"async_gpu" => Self::LeftOut(LAUNCH_FLOW),
            b"fwdbwd" | b"forward_backward" => Self::Autograd,
            b"gpu_memcpy" | b"Memcpy" | b"memcpy" => Self::Memcpy,
            b"gpu_memset" | b"Memset" | b"memset" => Self::Memset,
            b"user_annotation" => Self::Annotation,
            b"gpu_user_annotation" => Self::LeftOut(4),
            b"cuda_driver" | b"hip_driver" => Self::Driver,
            b"cuda_sync" => Self::Sync,
            b"overhead" | b"Overhead" => Self::Overhead,
            b"Trace" => Self::LeftOut(5),
            b"async_npu" | b"HostToDevice" | b"async_task_queue" => Self::Ascend,
            b"" => Self::None,
            other => LEFT_OUT
                .iter()
                .position(|(name, _)| name.as_bytes().eq_ignore_ascii_case(other))
                .map_or(Self::Unknown, Self::LeftOut),
        }
    }

    const fn wants_args(self) -> bool {
        !matches!(
            self,
            Self::None
                | Self::LeftOut(_)
                | Self::Unknown
                | Self::Ascend
                | Self::Autograd
                | Self::Overhead
        )
    }
}

macro_rules! args {
    ($($(#[$doc:meta])* $field:ident: $($key:literal)|+),+ $(,)?) => {
        /// The arguments that are used; empty where absent.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Args<'a> {
            $($(#[$doc])* pub $field: &'a [u8],)+
        }

        impl<'a> Args<'a> {
            fn set(&mut self, key: &[u8], value: &'a [u8]) {
                match key {
                    $($($key)|+ => self.$field = value,)+
                    _ => {}
                }
            }
        }
    };
}

args! {
    /// Launch correlation.
    correlation: b"correlation",
    /// Operator correlation.
    external: b"External id" | b"external id",
    /// Device ordinal.
    device: b"device",
    /// Stream.
    stream: b"stream",
    /// Bytes copied.
    bytes: b"bytes" | b"size",
    /// Blocks.
    grid: b"grid",
    /// Threads per block.
    block: b"block",
    /// Shared memory.
    shared: b"shared memory",
    /// Registers.
    registers: b"registers per thread",
    /// Autograd sequence number.
    sequence: b"Sequence number",
    /// Forward thread.
    forward_thread: b"Fwd thread id",
    /// Input dimensions.
    dims: b"Input Dims" | b"Input dims",
    /// Input types.
    types: b"Input type",
    /// Stream waited for.
    wait_stream: b"wait_on_stream",
    /// Event waited for.
    wait_event: b"wait_on_cuda_event_id",
    /// Correlation of the record waited for.
    wait_correlation: b"wait_on_cuda_event_record_corr_id",
    /// Collective operation.
    collective: b"Collective name",
    /// Elements in.
    in_elements: b"In msg nelems",
    /// Elements out.
    out_elements: b"Out msg nelems",
    /// Group size.
    group_size: b"Group size",
    /// Element type.
    dtype: b"dtype",
    /// Input splits.
    in_split: b"In split size",
    /// Output splits.
    out_split: b"Out split size",
    /// Group name.
    group: b"Process Group Name" | b"Process Group ID",
    /// Group description.
    group_description: b"Process Group Description",
    /// Group members.
    group_ranks: b"Process Group Ranks",
    /// First member of an evenly spaced group.
    group_start: b"Global rank start",
    /// Spacing of an evenly spaced group.
    group_stride: b"Global rank stride",
    /// Source of a transfer.
    source_rank: b"Src Rank",
    /// Destination of a transfer.
    destination_rank: b"Dst Rank",
    /// Sequence number of a collective.
    group_sequence: b"Seq" | b"Collective seq",
}

impl<'a> Args<'a> {
    /// Reads an object of arguments.
    pub fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Stop> {
        let mut args = Self::default();
        if cursor.peek()? != b'{' {
            // `"args": null` and the like: nothing to use.
            cursor.value()?;
            return Ok(args);
        }
        cursor.expect(b'{')?;
        while let Some(key) = cursor.key()? {
            let value = cursor.value()?;
            args.set(key, value.text);
        }
        Ok(args)
    }
}

/// The fields of an event that are used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// Phase: `X`, `M`, `i`, `s`, `f`, ...; zero where absent.
    pub phase: u8,
    /// Category.
    pub category: Category,
    /// Name.
    pub name: Raw<'a>,
    /// Process; the device ordinal for device work.
    pub pid: &'a [u8],
    /// Thread; the stream for device work.
    pub tid: &'a [u8],
    /// Start, microseconds as text.
    pub ts: &'a [u8],
    /// Duration, microseconds as text.
    pub dur: &'a [u8],
    /// Identifier of an arrow.
    pub id: &'a [u8],
    /// Arguments.
    pub args: Args<'a>,
}

impl<'a> Fields<'a> {
    /// Reads an event object. Events that are left out are passed without looking at the rest.
    pub fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Stop> {
        let mut fields = Self::default();
        let mut deferred: Option<usize> = None;
        let base = cursor.clone();
        cursor.expect(b'{')?;
        while let Some(key) = cursor.key()? {
            match key {
                b"ph" => {
                    let phase = cursor.value()?.text;
                    fields.phase = if phase.len() == 1 { phase[0] } else { b'?' };
                    if matches!(fields.phase, b'M' | b'i' | b'I') {
                        let index = if fields.phase == b'M' { METADATA } else { INSTANT };
                        fields.category = Category::LeftOut(index);
                        cursor.close(b'{')?;
                        return Ok(fields);
                    }
                }
                b"cat" => {
                    fields.category = Category::of(cursor.value()?.text);
                    if matches!(fields.category, Category::LeftOut(_)) {
                        if fields.phase == 0 {
                            fields.phase = b'X';
                        }
                        cursor.close(b'{')?;
                        return Ok(fields);
                    }
                }
                b"name" => fields.name = cursor.value()?,
                b"pid" => fields.pid = cursor.value()?.text,
                b"tid" => fields.tid = cursor.value()?.text,
                b"ts" => fields.ts = cursor.value()?.text,
                b"dur" => fields.dur = cursor.value()?.text,
                b"id" => fields.id = cursor.value()?.text,
                b"args" if fields.category.wants_args() => fields.args = Args::parse(cursor)?,
                b"args" => {
                    deferred = Some(cursor.pos);
                    cursor.value()?;
                }
                _ => {
                    cursor.value()?;
                }
            }
        }
        // Some writers put the category behind the arguments.
        if let (true, Some(pos)) = (fields.category.wants_args(), deferred) {
            let mut again = base;
            again.pos = pos;
            fields.args = Args::parse(&mut again)?;
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Fields<'_> {
        Fields::parse(&mut Cursor::new(text.as_bytes())).unwrap()
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let a = parse(
            r#"{"ph":"X","cat":"kernel","name":"k","ts":1.5,"dur":2,"args":{"stream":7,"grid":[1,2,3]}}"#,
        );
        let b = parse(
            r#"{"args":{"grid":[1,2,3],"x":{"stream":9},"stream":7},"dur":2,"ts":1.5,"name":"k","cat":"Kernel","ph":"X"}"#,
        );
        for fields in [a, b] {
            assert_eq!(fields.category, Category::Kernel);
            assert_eq!((fields.name.text, fields.ts), (&b"k"[..], &b"1.5"[..]));
            assert_eq!((fields.args.stream, fields.args.grid), (&b"7"[..], &b"[1,2,3]"[..]));
        }
    }

    #[test]
    fn left_out_events_are_passed_whole() {
        let text =
            r#"{"ph":"X","cat":"python_function","name":"f } ","args":{"a":{"b":"}"}}} rest"#;
        let mut cursor = Cursor::new(text.as_bytes());
        let fields = Fields::parse(&mut cursor).unwrap();
        assert_eq!(fields.category, Category::LeftOut(2));
        assert_eq!(&text[cursor.pos..], " rest");
    }

    #[test]
    fn old_and_new_category_names_mean_the_same() {
        for (old, new) in [
            ("Kernel", "kernel"),
            ("Runtime", "cuda_runtime"),
            ("Operator", "cpu_op"),
            ("Memcpy", "gpu_memcpy"),
            ("Memset", "gpu_memset"),
            ("async_cpu_to_gpu", "ac2g"),
        ] {
            assert_eq!(Category::of(old.as_bytes()), Category::of(new.as_bytes()));
        }
    }
}
