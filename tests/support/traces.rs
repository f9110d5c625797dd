//! Recorded traces for tests: those of the shared corpus, and made ones whose times are known.

use std::fmt::Write;
use std::path::PathBuf;

use trainyard::trace::import::import;
use trainyard::trace::model::RankTrace;

/// A file or folder of the corpus of real traces; `None`, with a message, where there is none.
#[allow(clippy::print_stderr)]
pub fn corpus(path: &str) -> Option<PathBuf> {
    let Some(shared) = super::shared() else {
        eprintln!("skipped: TRAINYARD_SHARED is not set, so there is no corpus of traces");
        return None;
    };
    let path = shared.join("corpus/traces").join(path);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

/// The ranks of a file or folder of the corpus.
pub fn corpus_ranks(path: &str) -> Option<Vec<RankTrace>> {
    Some(import(&[corpus(path)?], false).expect("the corpus can be read").traces.ranks)
}

/// A trace made event by event, in Trainyard's own format.
#[derive(Default)]
pub struct Made {
    format: &'static str,
    ranks: Vec<String>,
    windows: Vec<(String, i64, i64)>,
    groups: Vec<(String, String, Vec<u32>)>,
}

const COLUMNS: &str = "kind,name,start_ns,dur_ns,device,lane,correlation,dims,types,collective,\
                       group,dtype,in_elements,out_elements,group_size,peer\n";

impl Made {
    /// A trace of so many ranks, read from a format of this name, on H100.
    pub fn new(format: &'static str, ranks: usize) -> Self {
        Self { format, ranks: vec![COLUMNS.to_owned(); ranks], ..Self::default() }
    }

    /// A step of all ranks.
    pub fn step(&mut self, name: &str, start: i64, dur: i64) {
        self.windows.push((name.to_owned(), start, dur));
    }

    /// A process group.
    pub fn group(&mut self, name: &str, description: &str, ranks: &[u32]) {
        self.groups.push((name.to_owned(), description.to_owned(), ranks.to_vec()));
    }

    fn row(&mut self, rank: usize, cells: [&str; 16]) {
        writeln!(self.ranks[rank], "{}", cells.join(",")).expect("a string grows");
    }

    /// A kernel on stream 7, and its launch at `call` with an operator around it. `shape` is name,
    /// dimensions and types of the operator.
    pub fn kernel(
        &mut self,
        rank: usize,
        name: &str,
        (call, start, dur): (i64, i64, i64),
        shape: Option<(&str, &str, &str)>,
    ) {
        let correlation = format!("{}", call + 1);
        let (call, start, dur) = (call.to_string(), start.to_string(), dur.to_string());
        if let Some((op, dims, types)) = shape {
            let (dims, types) = (format!("\"{dims}\""), format!("\"{types}\""));
            let op =
                ["op", op, &call, "900", "", "1", "", &dims, &types, "", "", "", "", "", "", ""];
            self.row(rank, op);
        }
        let none = ["", "", "", "", "", "", "", "", ""];
        let launch = ["runtime", "cudaLaunchKernel", &call, "500", "", "1", &correlation];
        self.row(rank, [&launch[..], &none[..]].concat().try_into().expect("16 cells"));
        let kernel = ["kernel", name, &start, &dur, "0", "7", &correlation];
        self.row(rank, [&kernel[..], &none[..]].concat().try_into().expect("16 cells"));
    }

    /// A collective of float32 elements in group `g` of `size` ranks, or a transfer with a peer.
    pub fn collective(
        &mut self,
        rank: usize,
        op: &str,
        (call, start, dur): (i64, i64, i64),
        bytes: i64,
        (size, peer): (i32, Option<u32>),
    ) {
        let correlation = format!("{}", call + 1);
        let (call, start, dur) = (call.to_string(), start.to_string(), dur.to_string());
        let (elements, size) = ((bytes / 4).to_string(), size.to_string());
        let peer = peer.map_or(String::new(), |peer| peer.to_string());
        let none = ["", "", "", "", "", "", "", "", ""];
        let launch = ["runtime", "cudaLaunchKernel", &call, "500", "", "1", &correlation];
        self.row(rank, [&launch[..], &none[..]].concat().try_into().expect("16 cells"));
        self.row(
            rank,
            [
                "kernel",
                "ncclDevKernel",
                &start,
                &dur,
                "0",
                "7",
                &correlation,
                "",
                "",
                op,
                "g",
                "Float",
                &elements,
                &elements,
                &size,
                &peer,
            ],
        );
    }

    /// An operation of a job recorded operation by operation.
    pub fn operation(&mut self, rank: usize, name: &str, start: i64, dur: i64) {
        let (start, dur) = (start.to_string(), dur.to_string());
        let none = ["", "", "", "", "", "", "", "", "", ""];
        let cells = ["kernel", name, &start, &dur, "0", "0"];
        self.row(rank, [&cells[..], &none[..]].concat().try_into().expect("16 cells"));
    }

    /// Writes the trace into a folder.
    pub fn write(&self, folder: &std::path::Path) {
        let windows: Vec<serde_json::Value> = self
            .windows
            .iter()
            .map(|(name, start, dur)| {
                serde_json::json!({"name": name, "start_ns": start, "dur_ns": dur})
            })
            .collect();
        let mut ranks = Vec::new();
        for (rank, text) in self.ranks.iter().enumerate() {
            let file = format!("rank-{rank}.csv");
            std::fs::write(folder.join(&file), text).expect("a table is written");
            let groups: Vec<serde_json::Value> = self
                .groups
                .iter()
                .filter(|(_, _, ranks)| ranks.contains(&(rank as u32)))
                .map(|(name, description, ranks)| {
                    serde_json::json!({
                        "name": name, "description": description, "ranks": ranks,
                        "size": ranks.len(),
                    })
                })
                .collect();
            ranks.push(serde_json::json!({
                "events": {"file": file, "rows": text.lines().count() - 1},
                "about": {
                    "trace": "made", "rank": rank, "rank_source": "recorded",
                    "world_size": self.ranks.len(),
                    "source": {"format": self.format, "file": "made"},
                    "identity": {"devices": [
                        {"id": 0, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_029_158_912_u64}
                    ]},
                    "clock": {"base_unix_ns": 0, "resolution_ns": 1, "offset_ns": 0},
                    "windows": windows, "groups": groups, "losses": {},
                },
            }));
        }
        let header = serde_json::json!({
            "schema": "trainyard-trace", "schema_version": 1, "written_by": "a test",
            "ranks": ranks,
        });
        std::fs::write(folder.join("trace.json"), header.to_string()).expect("a header is written");
    }

    /// The ranks, as an import reads them.
    pub fn ranks(&self) -> Vec<RankTrace> {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path());
        let imported = import(&[folder.path().to_owned()], true).expect("a made trace is right");
        imported.traces.ranks
    }
}
