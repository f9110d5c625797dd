//! What predictions of rows depend on, and how well the committed rows are predicted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;
use trainyard::hardware::Catalogue;
use trainyard::validate::{EMBEDDED, Outcome, Prediction, Status, Tables, run, scores};

fn rows(text: &str) -> Tables {
    let mut tables = Tables::default();
    tables.add_bytes("test", text.as_bytes());
    tables
}

fn predict(text: &str, catalogue: &Catalogue) -> BTreeMap<String, Prediction> {
    run(rows(text).rows, catalogue)
        .into_iter()
        .map(|outcome| (outcome.labels.id, outcome.prediction))
        .collect()
}

fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| Catalogue::load(None).expect("the embedded catalogue loads"))
}

fn committed() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| {
        let mut tables = Tables::default();
        for (name, text) in EMBEDDED {
            tables.add_bytes(name, text.as_bytes());
        }
        assert_eq!(tables.problems, Vec::<String>::new());
        run(tables.rows, catalogue())
    })
}

/// Rewrites a table column by column.
fn rewritten(text: &str, keep: impl Fn(&str) -> bool, reverse: bool, most: usize) -> String {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().expect("header").clone();
    let mut columns: Vec<usize> = (0..header.len()).filter(|&i| keep(&header[i])).collect();
    if reverse {
        columns.reverse();
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|&i| &header[i])).expect("writes");
    for record in reader.records().take(most) {
        let record = record.expect("row");
        writer.write_record(columns.iter().map(|&i| &record[i])).expect("writes");
    }
    String::from_utf8(writer.into_inner().expect("ends")).expect("text")
}

#[test]
fn measured_columns_cannot_reach_the_predictor() {
    const HIDDEN: [&str; 12] = [
        "source",
        "source_group",
        "metric_name",
        "metric_value",
        "metric_unit",
        "memory_gb",
        "mfu",
        "hfu",
        "tflops_per_device",
        "step_time_s",
        "tokens_per_s_per_device",
        "notes",
    ];
    let all = rewritten(EMBEDDED[0].1, |_| true, false, 120);
    let blind = rewritten(EMBEDDED[0].1, |c| !HIDDEN.contains(&c), false, 120);
    assert_ne!(all, blind);
    assert_eq!(predict(&all, catalogue()), predict(&blind, catalogue()));
}

#[test]
fn the_order_of_columns_does_not_matter() {
    let plain = rewritten(EMBEDDED[1].1, |_| true, false, usize::MAX);
    let reversed = rewritten(EMBEDDED[1].1, |_| true, true, usize::MAX);
    assert_eq!(predict(&plain, catalogue()), predict(&reversed, catalogue()));
}

#[test]
fn most_scoreable_rows_of_every_family_are_covered() {
    let scores = scores(committed());
    for family in [
        "NVIDIA-A100",
        "NVIDIA-H100",
        "NVIDIA-Blackwell",
        "AMD-MI250X",
        "AMD-MI300",
        "Huawei-Ascend",
    ] {
        let score = scores
            .iter()
            .find(|s| s.family == family && s.source.is_empty())
            .unwrap_or_else(|| panic!("{family}"));
        let coverage = score.coverage().expect("scoreable rows");
        assert!(coverage >= 0.85, "{family}: {coverage}");
    }
}

/// Medians of today with room for a tenth of it: a change that makes a family worse is seen.
#[test]
fn family_medians_do_not_get_worse() {
    let scores = scores(committed());
    let mut report = String::new();
    for (family, bound) in BOUNDS {
        let score = scores
            .iter()
            .find(|s| s.family == family && s.source.is_empty())
            .unwrap_or_else(|| panic!("{family}"));
        let errors = score.errors.expect("scored");
        if errors.median > bound {
            report += &format!("{family}: {:.3} above {bound}\n", errors.median);
        }
        let null = score.null.expect("null model");
        let beaten = ["NVIDIA-A100", "Huawei-Ascend"].contains(&family);
        if beaten && errors.median > null.median {
            report += &format!("{family}: {:.3}, null {:.3}\n", errors.median, null.median);
        }
    }
    assert_eq!(report, "");
}

// Blackwell was 0.15 while collectives were a latency and a bandwidth per level. With the library's
// measured exchanges between experts inside an NVL72 domain the mean error falls (26.1 to 23.0 %),
// and the median rises (13.0 to 16.3 %): rows of GB300 whose compute is predicted too slow had their
// error hidden by exchanges that were too fast.
const BOUNDS: [(&str, f64); 4] = [
    ("NVIDIA-A100", 0.155),
    ("NVIDIA-H100", 0.21),
    ("NVIDIA-Blackwell", 0.17),
    ("Huawei-Ascend", 0.09),
];

const HEADER: &str = "id,accelerator,nodes_x_gpus_per_node,n_devices,interconnect_inter,model_key,\
                      seq_len,precision,tp,pp,dp,zero_stage_or_fsdp,micro_batch,global_batch,\
                      framework,step_time_s,row_kind,scoreable\n";

fn one(row: &str, catalogue: &Catalogue) -> Prediction {
    let all = predict(&format!("{HEADER}{row}\n"), catalogue);
    all.into_values().next().expect("a row")
}

/// A copy of a catalogue file under another name and without aliases.
fn copy(folder: &Path, kind: &str, from: &str, to: &str, edit: impl Fn(&mut toml::Table)) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hw-models").join(kind);
    let text = fs::read_to_string(source.join(format!("{from}.toml"))).expect("reads");
    let mut table: toml::Table = text.parse().expect("TOML");
    table.remove("aliases");
    table.insert("name".into(), to.into());
    edit(&mut table);
    let target = folder.join(kind);
    fs::create_dir_all(&target).expect("folder");
    let text = toml::to_string(&table).expect("TOML");
    fs::write(target.join(format!("{to}.toml")), text).expect("writes");
}

#[test]
fn a_new_accelerator_stack_and_model_are_one_file_each() {
    let folder = TempDir::new().expect("folder");
    copy(folder.path(), "accelerators", "h100-sxm", "x900", |_| {});
    copy(folder.path(), "nodes", "dgx-h100", "x900-8", |table| {
        table.insert("accelerator".into(), "x900".into());
    });
    copy(folder.path(), "stacks", "torchtitan", "quicktrain", |_| {});
    copy(folder.path(), "models", "llama-3-8b", "tiny-9b", |table| {
        table["shape"]["layers"] = 36.into();
    });
    let row =
        "n,Maker X900 80GB,2x8,16,,tiny-9b,8192,bf16,1,1,16,FSDP,1,32,quicktrain,,measured,no";
    assert_ne!(one(row, catalogue()).status, Status::Ok);
    let extended = Catalogue::load(Some(folder.path())).expect("loads");
    let prediction = one(row, &extended);
    assert_eq!(prediction.status, Status::Ok, "{}", prediction.reason);
    assert_eq!(prediction.accelerator.as_deref(), Some("x900"));
    assert_eq!(prediction.stack.as_deref(), Some("quicktrain"));
    assert!(prediction.step_s.is_some_and(|s| s > 0.0));
}

#[test]
fn fit_rows_are_never_scored() {
    let folder = TempDir::new().expect("folder");
    copy(folder.path(), "stacks", "torchtitan", "torchtitan", |table| {
        let fit: toml::Table = [("ids".to_owned(), vec!["a"].into())].into_iter().collect();
        table.insert("fit".into(), fit.into());
        table.insert("aliases".into(), vec!["torchtitan"].into());
    });
    let text = format!(
        "{HEADER}a,H100,1x8,8,,llama-3-8b,8192,bf16,1,1,8,FSDP,1,16,torchtitan,2.0,measured,yes\n\
         b,H100,2x8,16,,llama-3-8b,8192,bf16,1,1,16,FSDP,1,32,torchtitan,2.0,measured,yes\n"
    );
    let extended = Catalogue::load(Some(folder.path())).expect("loads");
    let outcomes = run(rows(&text).rows, &extended);
    assert!(outcomes.iter().all(|o| o.prediction.status == Status::Ok), "{outcomes:#?}");
    let scores = scores(&outcomes);
    assert_eq!((scores[0].fitted, scores[0].errors.map(|e| e.bases)), (1, Some(1)));
}

#[test]
fn names_that_no_alias_has_are_found_by_their_words() {
    for (accelerator, inter, framework, wanted) in [
        (
            "NVIDIA H100 SXM5 80GB HBM3 (Eos)",
            "8x NDR400 InfiniBand",
            "Megatron-LM core 0.9",
            "h100-sxm",
        ),
        ("A100-SXM4-40GB (AWS p4d)", "400 Gbps EFA", "PyTorch FSDP (OLMo)", "a100-40"),
        ("Ascend 910B NPU", "200 Gb/s RoCE per NPU", "MindSpeed-LLM 2.0", "ascend-910b"),
        ("AMD Instinct MI300X OAM", "RoCE 400 Gb/s per GPU", "Megatron-LM (ROCm)", "mi300x"),
        ("AMD MI250X (LUMI-G)", "Slingshot-11 4x200 Gb/s", "GPT-NeoX", "mi250x-gcd"),
    ] {
        let row = format!(
            "n,{accelerator},2x8,16,{inter},llama-2-7b,4096,bf16,1,1,16,FSDP,1,64,{framework},,,no"
        );
        let prediction = one(&row, catalogue());
        assert_eq!(prediction.status, Status::Ok, "{accelerator}: {}", prediction.reason);
        assert_eq!(prediction.accelerator.as_deref(), Some(wanted));
    }
    let pcie = "n,NVIDIA H100 PCIe,2x8,16,,llama-2-7b,4096,bf16,1,1,16,FSDP,1,64,torchtitan,,,no";
    assert_eq!(one(pcie, catalogue()).status, Status::Invalid);
}

#[test]
fn nothing_is_invented_for_shape_sequence_and_batch() {
    let base = "n,H100,1x8,8,,llama-2-7b,4096,bf16,1,1,8,FSDP,1,64,torchtitan,,,no";
    assert_eq!(one(base, catalogue()).status, Status::Ok);
    for (old, new, why) in [
        ("llama-2-7b", "unheard-of-7b", "shape incomplete"),
        (",4096,", ",,", "seq_len is not stated"),
        (",1,64,", ",,,", "neither micro_batch nor global_batch"),
    ] {
        let prediction = one(&base.replace(old, new), catalogue());
        assert_eq!(prediction.status, Status::Unsupported);
        assert!(prediction.reason.contains(why), "{}", prediction.reason);
    }
}

#[test]
fn contradicting_degrees_give_way_to_the_devices() {
    let row = "n,H100,1x8,8,,llama-2-7b,4096,bf16,4,4,2,,1,64,Megatron-Core,,,no";
    let prediction = one(row, catalogue());
    assert_eq!(prediction.status, Status::Ok, "{}", prediction.reason);
    let assumed = prediction.assumed.join("; ");
    assert!(assumed.contains("warning") && assumed.contains("which wins"), "{assumed}");
}
