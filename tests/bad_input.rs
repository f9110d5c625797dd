//! Whatever is wrong with an input is said with its place and the nearest right thing, and the
//! exit code tells it from a wrong command line.

mod support;

use std::path::Path;

use support::{catalogue, trainyard};
use tempfile::TempDir;

const QUICKSTART: &str = "scenarios/quickstart.toml";

/// Runs the binary and checks exit code and what stands in the message; never a panic.
fn fails(arguments: &[&str], code: i32, wanted: &[&str]) {
    let output = trainyard().args(arguments).output().expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    for part in wanted {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
}

/// Quickstart with a piece of text replaced, in a file called `scenario.toml`.
fn changed(from: &str, to: &str) -> (TempDir, String) {
    let text = std::fs::read_to_string(support::repository(QUICKSTART)).expect("quickstart");
    assert!(text.contains(from), "{from}");
    written(text.replacen(from, to, 1).as_bytes())
}

fn written(bytes: &[u8]) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("scenario.toml");
    std::fs::write(&path, bytes).expect("a file");
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

/// Line and column of the first place where `text` stands in quickstart, as messages show it.
fn place_of(text: &str) -> String {
    let all = std::fs::read_to_string(support::repository(QUICKSTART)).expect("quickstart");
    let line = all.lines().position(|line| line.starts_with(text)).expect("a line") + 1;
    format!("scenario.toml:{line}:1: ")
}

#[test]
fn unknown_key() {
    let (_folder, path) = changed("micro_batch = 1", "micro_bath = 1");
    let place = place_of("micro_batch");
    // The keys that are valid are those of the table, and end where the table's do.
    let all = ["plan.micro_bath", "did you mean `micro_batch`?", "reduce_bits, rank_order)"];
    fails(&["run", &path], 3, &[&[&place[..]], &all[..]].concat());
}

#[test]
fn unknown_table() {
    let (_folder, path) = changed("[account]", "[acount]");
    fails(&["run", &path], 3, &[&place_of("[account]")[..16], "did you mean `account`?"]);
}

#[test]
fn unknown_value() {
    let (_folder, path) = changed("recompute = \"full\"", "recompute = \"ful\"");
    fails(&["run", &path], 3, &[&place_of("recompute"), "plan.recompute", "did you mean `full`?"]);
}

#[test]
fn wrong_unit() {
    let overlay = tempfile::tempdir().expect("a folder");
    let folder = overlay.path().join("accelerators");
    std::fs::create_dir(&folder).expect("a folder");
    let text = catalogue().accelerators["h100-sxm"].document.text();
    let line = text.lines().position(|l| l.contains("unit = \"GB/s\"")).expect("a bandwidth") + 1;
    std::fs::write(folder.join("h100-sxm.toml"), text.replacen("\"GB/s\"", "\"GBs\"", 1))
        .expect("a file");
    fails(
        &["run", QUICKSTART, "--hw-models", &overlay.path().to_string_lossy()],
        3,
        &[
            &format!("h100-sxm.toml:{line}:"),
            "`GBs` is not a unit of bandwidth",
            "units that are: B/s, MB/s, GB/s, TB/s",
        ],
    );
}

#[test]
fn wrong_type() {
    let (_folder, path) = changed("micro_batch = 1", "micro_batch = \"one\"");
    let wanted = [
        &place_of("micro_batch")[..],
        "plan.micro_batch: invalid type",
        "a whole number up to 4,294,967,295\n",
    ];
    fails(&["run", &path], 3, &wanted);
}

#[test]
fn negative_number() {
    let (_folder, path) = changed("micro_batch = 1", "micro_batch = -1");
    fails(&["run", &path], 3, &[&place_of("micro_batch"), "`-1` is negative"]);
}

#[test]
fn not_a_number() {
    let (_folder, path) = changed("tokens = 20e9", "tokens = nan");
    fails(&["run", &path], 3, &[&place_of("tokens"), "not a finite number"]);
    let (_folder, path) = changed("tokens = 20e9", "tokens = inf");
    fails(&["run", &path], 3, &[&place_of("tokens"), "not a finite number"]);
}

#[test]
fn zero_where_something_is_needed() {
    for (key, constraint) in [
        ("training.sequence_length", "at least 1"),
        ("training.global_batch", "at least 1"),
        ("cluster.nodes", "at least 1"),
        ("cluster.devices", "between 1 and 8"),
        ("plan.tensor_parallel", "at least 1"),
        ("plan.pipeline_parallel", "at least 1"),
        ("plan.data_parallel", "at least 1"),
        ("plan.virtual_stages", "at least 1"),
        ("plan.micro_batch", "at least 1"),
        ("plan.shard_group", "at least 1"),
        ("plan.parameter_shard", "at least 1"),
        ("plan.gradient_shard", "at least 1"),
        ("plan.optimizer_shard", "at least 1"),
        ("model.shape.layers", "at least 1"),
        ("model.shape.heads", "at least 1"),
        ("model.shape.kv_heads", "at least 1"),
        ("model.shape.head_dim", "at least 1"),
        ("model.shape.ffn_hidden", "at least 1"),
        ("model.shape.vocab", "at least 1"),
        ("run.tokens", "between 1 and"),
        ("account.lifetime_years", "between 0.01 and 1000"),
        ("account.pue", "between 1 and 10"),
    ] {
        fails(&["run", QUICKSTART, "--set", &format!("{key}=0")], 3, &[key, constraint]);
    }
}

#[test]
fn missing_hardware() {
    let (_folder, path) = changed("node = \"dgx-h100\"", "node = \"dgx-h10\"");
    let wanted = [&place_of("node")[..], "no node named `dgx-h10`", "did you mean dgx-h100"];
    fails(&["run", &path], 3, &wanted);
    for (key, what) in [
        ("cluster.fabric", "fabric"),
        ("software.stack", "software stack"),
        ("model.preset", "model"),
        ("account.grid", "grid"),
        ("account.prices", "price sheet"),
    ] {
        let assignment = format!("{key}=no-such-thing");
        let wanted = [key, &format!("no {what} named `no-such-thing`")];
        fails(&["run", QUICKSTART, "--set", &assignment], 3, &wanted);
    }
    fails(&["hw", "show", "h100-sxn"], 3, &["h100-sxn", "did you mean h100-sxm"]);
}

#[test]
fn missing_fabric_between_nodes() {
    let wanted = ["no fabric is named", "trainyard hw list fabrics"];
    fails(&["run", QUICKSTART, "--set", "cluster.nodes=2"], 3, &wanted);
}

#[test]
fn missing_key() {
    let (_folder, path) = changed("global_batch = 16\n", "");
    fails(&["run", &path], 3, &[&place_of("[training]")[..16], "`global_batch` is missing"]);
}

/// `[network]` in a file: place, key and what is wrong.
#[test]
fn networks_that_cannot_be() {
    // Text of the table, the line of it that is wrong, and what the message says.
    for (table, wrong, wanted) in [
        (
            "node_order = [0, 2]",
            "node_order",
            &["network.node_order", "there is no node 2: the cluster has nodes 0 to 1"][..],
        ),
        ("node_order = [0, 0]", "node_order", &["network.node_order", "named twice"]),
        ("node_order = [1]", "node_order", &["network.node_order", "no room for 16 ranks"]),
        (
            "placement = \"strided\"\nnode_order = [1, 0]",
            "node_order",
            &["network.node_order", "placement = \"block\""],
        ),
        ("placement_group = 4", "placement_group", &["network.placement_group", "rail_aware"]),
        (
            "placement = \"rail_aware\"\nplacement_group = 3",
            "placement_group",
            &["network.placement_group", "do not fill nodes of 8"],
        ),
        (
            "oversubscription = 0",
            "oversubscription",
            &["network.oversubscription", "must be between 1"],
        ),
        (
            "oversubscription = 0.5",
            "oversubscription",
            &["network.oversubscription", "must be between 1"],
        ),
        (
            "transport = \"infinband\"",
            "transport",
            &["network.transport", "no transport named `infinband`", "did you mean infiniband"],
        ),
        (
            "all_reduce = \"two-hop\"",
            "all_reduce",
            &[
                "network.all_reduce",
                "two-hop is no algorithm of an all-reduce",
                "one of ring, tree",
            ],
        ),
        ("all_reduce = \"rings\"", "all_reduce", &["network.all_reduce", "did you mean `ring`?"]),
        (
            "gather_scatter = \"tree\"",
            "gather_scatter",
            &["network.gather_scatter", "tree is no algorithm of an all-gather"],
        ),
        (
            "all_to_all = \"ring\"",
            "all_to_all",
            &["network.all_to_all", "ring is no algorithm", "direct, two-hop"],
        ),
        (
            "model = \"levels\"\nprotocol = \"ll\"",
            "protocol",
            &["network.protocol", "no effect where collectives are timed by levels"],
        ),
        (
            "all_reduce = \"in-switch\"\nin_switch_reduction = false",
            "in_switch_reduction",
            &["network.in_switch_reduction", "asks for reduction in the switch"],
        ),
    ] {
        let with =
            format!("nodes = 2\nfabric = \"ndr400-clos\"\n\n[network]\n{table}\n\n[software]");
        let (_folder, path) = changed("[software]", &with);
        let text = std::fs::read_to_string(&path).expect("text");
        let line = text.lines().position(|line| line.starts_with(wrong)).expect("a line") + 1;
        fails(&["run", &path], 3, &[&[&format!("scenario.toml:{line}:1: ")[..]], wanted].concat());
    }
}

/// More ranks than the fabric's switches have ports for, and keys that nothing would come of.
#[test]
fn networks_that_do_not_fit() {
    let set = |assignments: &[&str], wanted: &[&str]| {
        let mut arguments = vec!["run", QUICKSTART];
        for assignment in assignments {
            arguments.extend(["--set", assignment]);
        }
        fails(&arguments, 3, wanted);
    };
    let many = ["cluster.fabric=hdr200-clos", "cluster.nodes=4096", "training.global_batch=32768"];
    set(
        &many,
        &["cluster.fabric", "4096 nodes do not fit on hdr200-clos", "radix-40", "more ports"],
    );
    let no_fabric = "has no effect, since no fabric is named";
    set(&["network.routing=hashed"], &["network.routing", no_fabric]);
    set(&["network.variability=bimodal"], &["network.variability", no_fabric]);
    set(&["network.oversubscription=2"], &["network.oversubscription", no_fabric]);
    set(&["network.transport=efa"], &["network.transport", no_fabric]);
    set(&["network.all_reduce=tree"], &["network.all_reduce", "all devices are in one"]);
    let rails =
        ["cluster.nodes=2", "cluster.fabric=ndr400-rail-only", "network.oversubscription=2"];
    set(&rails, &["network.oversubscription", "no effect on ndr400-rail-only"]);
    let ampere = ["cluster.node=dgx-a100", "network.all_reduce=in-switch"];
    set(&ampere, &["network.all_reduce", "cannot reduce"]);
    let unknown = ["cluster.node=tpu-v5p-host", "network.model=algorithms"];
    set(&unknown, &["network.model", "no collective library for tpu-v5p"]);
    set(&["software.dispatch=per_node"], &["software.dispatch", "has no effect"]);
}

/// What no group of a step can use is said, since it is known only when the step is built.
#[test]
fn algorithms_that_no_group_uses() {
    let arguments = ["run", QUICKSTART, "--format", "json", "--set", "network.all_to_all=two-hop"];
    let output = trainyard().args(arguments).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let warnings = result["warnings"].to_string();
    assert!(warnings.contains("network.all_to_all = two-hop has no effect"), "{warnings}");
}

#[test]
fn plan_that_does_not_multiply_out() {
    let (_folder, path) = changed("micro_batch = 1", "micro_batch = 1\ntensor_parallel = 16");
    fails(
        &["run", &path],
        3,
        &["scenario.toml:", "impossible plan", "the nearest plan that works"],
    );
    fails(
        &["run", QUICKSTART, "--set", "plan.data_parallel=4"],
        3,
        &["plan.data_parallel", "is not the 8 devices", "data_parallel = 8"],
    );
    fails(
        &["run", QUICKSTART, "--set", "training.global_batch=12"],
        3,
        &["not a multiple of data 8 x micro-batch 1", "training.global_batch = 16"],
    );
}

#[test]
fn heads_that_tensor_parallelism_does_not_divide() {
    fails(
        &["run", QUICKSTART, "--set", "plan.tensor_parallel=3"],
        3,
        &[
            "plan.tensor_parallel",
            "32 attention heads are not divisible by 3",
            "tensor_parallel = 2",
        ],
    );
}

#[test]
fn layers_that_stages_do_not_divide() {
    let change = ["run", QUICKSTART, "--set", "model.shape.layers=31"];
    let mut arguments = change.to_vec();
    arguments.extend(["--set", "plan.pipeline_parallel=2"]);
    let wanted = ["31 layers are not divisible by 2 stages", "layers_per_stage = [", "uneven"];
    fails(&arguments, 3, &wanted);
    // The uneven split that the message offers is accepted.
    arguments.extend(["--set", "plan.layers_per_stage=[15, 16]"]);
    trainyard().args(&arguments).assert().success();
    // One that does not add up is not.
    arguments.extend(["--set", "plan.layers_per_stage=[15, 15]"]);
    fails(&arguments, 3, &["plan.layers_per_stage", "add up to 30", "31 layers"]);
}

#[test]
fn interleaving_that_micro_batches_do_not_fill() {
    fails(
        &[
            "run",
            QUICKSTART,
            "--set",
            "plan.pipeline_parallel=4",
            "--set",
            "plan.virtual_stages=2",
            "--set",
            "training.global_batch=12",
        ],
        3,
        &["a multiple of the 4 stages", "training.global_batch = 8"],
    );
}

#[test]
fn shard_groups_that_do_not_nest() {
    fails(
        &["run", QUICKSTART, "--set", "plan.parameter_shard=8", "--set", "plan.gradient_shard=2"],
        3,
        &["shard groups must nest"],
    );
    fails(
        &["run", QUICKSTART, "--set", "plan.shard_group=3"],
        3,
        &["does not divide data x context = 8"],
    );
}

#[test]
fn memory_that_does_not_fit() {
    let arguments =
        ["run", QUICKSTART, "--set", "plan.recompute=none", "--set", "plan.sharding=none"];
    // A verdict ...
    let output = trainyard().args(arguments).args(["--format", "json"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["memory"]["fits"], false);
    assert!(result["warnings"][0].as_str().expect("text").contains("does not fit"), "{result}");
    // ... and an error on request.
    let arguments = [&arguments[..], &["--require-fit"]].concat();
    fails(&arguments, 3, &["the plan needs", "GiB per device", "plan.sharding"]);
}

#[test]
fn not_utf8() {
    let (_folder, path) = written(b"name = \"caf\xe9\"\n");
    fails(
        &["run", &path],
        3,
        &["scenario.toml", "is not UTF-8", "line 1", "save the file as UTF-8"],
    );
}

#[test]
fn directory_instead_of_a_file() {
    fails(&["run", "scenarios"], 3, &["scenarios", "is a directory", "a TOML file is expected"]);
}

#[test]
fn file_that_is_missing() {
    fails(&["run", "no/such/scenario.toml"], 3, &["no/such/scenario.toml", "No such file"]);
}

#[test]
fn file_that_is_empty() {
    let (_folder, path) = written(b"");
    fails(&["run", &path], 3, &["scenario.toml", "required key `name` is missing"]);
}

#[test]
fn file_that_is_not_toml() {
    let (_folder, path) = changed("micro_batch = 1", "micro_batch = = 1");
    fails(&["run", &path], 3, &[&place_of("micro_batch")[..17]]);
}

#[test]
fn overrides_that_are_wrong() {
    let set = |assignment: &str, wanted: &[&str]| {
        fails(&["run", QUICKSTART, "--set", assignment], 3, wanted);
    };
    set("plan.micro_bach=2", &["--set", "plan.micro_bach", "did you mean `micro_batch`?"]);
    set("plan.micro_batch", &["has no `=`"]);
    set("=2", &["empty key"]);
    set("name.x=2", &["`name` is a string, not a table"]);
    set("plan.micro_batch=two", &["--set", "plan.micro_batch"]);
    set("plan.micro_batch=-2", &["--set", "is negative"]);
}

#[test]
fn output_folder_that_is_a_file() {
    fails(&["run", QUICKSTART, "--out", "Cargo.toml"], 3, &["Cargo.toml", "create directory"]);
}

#[test]
fn hardware_folder_that_is_missing() {
    fails(&["run", QUICKSTART, "--hw-models", "no/such"], 3, &["no/such", "read directory"]);
}

#[test]
fn precision_that_a_device_lacks() {
    fails(
        &["run", QUICKSTART, "--set", "cluster.node=dgx-a100", "--set", "training.precision=fp8"],
        3,
        &["missing figure", "no Fp8 peak rate", "choose a precision it supports"],
    );
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        &["run"][..],
        &["fly"],
        &["run", QUICKSTART, "--format", "yaml"],
        &["run", QUICKSTART, "--engine", "warp"],
        &["run", QUICKSTART, "--no-such-option"],
        &["schema", "nothing"],
        &[],
    ] {
        fails(arguments, 2, &[]);
    }
}

#[test]
fn what_was_asked_for_exits_with_0() {
    for arguments in
        [&["--help"][..], &["--version"], &["run", QUICKSTART], &["hw", "list"], &["run", "--help"]]
    {
        trainyard().args(arguments).assert().code(0);
    }
}

#[test]
fn results_are_written_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("deep/er");
    let path = out.to_string_lossy().into_owned();
    trainyard().args(["run", QUICKSTART, "--out", &path]).assert().code(0);
    let files = |folder: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    // Nothing under a temporary name is left behind.
    assert_eq!(files(&out), ["result.json", "result.txt"]);
    let text = std::fs::read_to_string(out.join("result.json")).expect("text");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["schema"], "trainyard.run/1");
}
