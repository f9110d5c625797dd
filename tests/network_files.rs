//! Networks, placements and measured rates from files that a scenario names: what they do to a
//! step, and what is said where they are wrong.

mod support;

use std::path::Path;

use support::{catalogue, repository, trainyard};
use tempfile::TempDir;
use trainyard::error::Result;
use trainyard::input::Document;
use trainyard::outcome::{CallInfo, Options, RunResult, simulate};
use trainyard::scenario::resolve;

const NETWORK: &str = "networks/two-halls.toml";
const PLACEMENT: &[&str] =
    &["network.placement=from_file", "network.placement_file=networks/alternating.toml"];
const MATRIX: &str = "network.bandwidth_matrix=networks/two-halls.csv";

/// The scenario of the two halls and its files in a folder, with one piece of a file replaced.
fn changed(file: &str, from: &str, to: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("networks")).expect("a folder");
    for name in ["two-halls.toml", NETWORK, "networks/alternating.toml", "networks/two-halls.csv"] {
        let mut text = std::fs::read_to_string(repository("scenarios").join(name)).expect("text");
        if name == file {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

fn try_run(folder: &Path, assignments: &[&str]) -> Result<RunResult> {
    let mut document = Document::read(&folder.join("two-halls.toml"))?;
    for assignment in assignments {
        document.set(assignment)?;
    }
    let options = Options { network: true, ..Options::default() };
    simulate(&resolve(&document, catalogue())?, catalogue(), options)
}

fn run(folder: &Path, assignments: &[&str]) -> RunResult {
    try_run(folder, assignments).unwrap_or_else(|error| panic!("{error}\nwith {assignments:?}"))
}

/// The slowest call between nodes.
fn gradients(result: &RunResult) -> &CallInfo {
    let calls = result.network.calls.as_ref().expect("calls were asked for");
    let between = calls.iter().filter(|call| call.domains > 1);
    between.max_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("calls between nodes")
}

/// Runs the binary on a folder's scenario and checks what it says is wrong; never a panic.
fn fails(folder: &TempDir, assignments: &[&str], wanted: &[&str]) {
    let mut command = trainyard();
    command.arg("run").arg(folder.path().join("two-halls.toml"));
    for assignment in assignments {
        command.args(["--set", assignment]);
    }
    let output = command.output().expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{assignments:?}: {message}");
    assert!(output.stdout.is_empty(), "{assignments:?} printed a result");
    assert!(!message.contains("panicked"), "{message}");
    for part in wanted {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
}

/// Line of the first place of a text in a file of the two halls, as messages show it.
fn place_of(file: &str, text: &str) -> String {
    let all = std::fs::read_to_string(repository("scenarios").join(file)).expect("text");
    let line = all.lines().position(|line| line.contains(text)).expect("a line") + 1;
    format!("{}:{line}:", file.trim_start_matches("networks/"))
}

/// The ring over four servers crosses 100 GB/s each way with the traffic of eight devices, of which
/// each can send 50 GB/s: a quarter. Tolerance: shares are told apart in steps of 1.1 %.
#[test]
fn links_of_the_file_set_the_rate() {
    let folder = changed("", "", "");
    let result = run(folder.path(), &[]);
    let share = gradients(&result).share_of_rate;
    assert!((share / 0.25 - 1.0).abs() <= 0.006, "{share}");
    assert!(result.network.contention_seconds > 0.0);
    // Every edge of the ring crosses, two each way: an eighth.
    let share = gradients(&run(folder.path(), PLACEMENT)).share_of_rate;
    assert!((share / 0.125 - 1.0).abs() <= 0.006, "{share}");
    // Cables wide enough for all: everybody has the cards' rate, as on the fabric's own leaves.
    let wide = changed(NETWORK, "\"100 GB/s\"", "\"400 GB/s\"");
    let (wide, own) = (run(wide.path(), &[]), support_run_on_fabric());
    assert_eq!(gradients(&wide).share_of_rate, 1.0);
    let (a, b) = (gradients(&wide).seconds, gradients(&own).seconds);
    // Only the 2 us between the halls are on top, in 2 of 4 edges of 62 steps in each of two rings.
    assert!(a > b && (a / b - 1.0) < 0.03, "{a} against {b}");
}

fn support_run_on_fabric() -> RunResult {
    let text = std::fs::read_to_string(repository("scenarios/two-halls.toml")).expect("text");
    let text = text.replace("topology = \"networks/two-halls.toml\"", "");
    let options = Options { network: true, ..Options::default() };
    support::simulate_with(catalogue(), &text, &[], options).unwrap_or_else(|e| panic!("{e}"))
}

/// 5 ms between the halls are on the way of every chunk that goes round the ring at least once.
#[test]
fn latencies_of_the_file_are_on_the_way() {
    let near = changed("", "", "");
    let far = changed(NETWORK, "\"2 us\"", "\"5 ms\"");
    let (near, far) = (run(near.path(), &[]), run(far.path(), &[]));
    let more = gradients(&far).seconds - gradients(&near).seconds;
    assert!(more > 4.9e-3, "{more}");
    assert!(far.step.seconds > near.step.seconds + 5e-3);
}

/// Links of the file are those that are reported as busy, and their parts draw the power.
#[test]
fn links_of_the_file_are_reported() {
    let folder = changed("", "", "");
    let result = run(folder.path(), &[]);
    let worst = &result.network.worst_links.as_ref().expect("links were asked for")[0];
    assert!(worst.link.contains("switch-a > switch-b"), "{worst:?}");
    assert!(worst.utilisation > 0.01 && worst.utilisation <= 1.0, "{worst:?}");
    let fewer = changed(NETWORK, "kind = \"optical\"", "kind = \"copper\"");
    let fewer = run(fewer.path(), &[]);
    assert!(fewer.energy.network_kwh < result.energy.network_kwh);
}

/// A ring gets what its slowest pair was measured to reach. Rates were measured with the losses of
/// the transport, so they are not taken off again. Tolerance: steps of 1.1 %.
#[test]
fn measured_pairs_cap_a_group() {
    let folder = changed("", "", "");
    let plain = ["network.topology=networks/two-halls.toml"];
    let without = run(folder.path(), &plain);
    let with = run(folder.path(), &[MATRIX]);
    let efficiency = catalogue().transport("infiniband").expect("a transport").efficiency.value.0;
    let (share, expected) = (gradients(&with).share_of_rate, 96.0 / (400.0 * efficiency));
    let solved = gradients(&without).share_of_rate;
    assert!((share / expected.min(solved) - 1.0).abs() <= 0.012, "{share} {expected} {solved}");
    // Faster pairs than links change nothing; slower ones slow every ring that they are in.
    let slow = changed("networks/two-halls.csv", "310", "31");
    let slow = gradients(&run(slow.path(), &[MATRIX])).share_of_rate;
    assert!((slow / (31.0 / (400.0 * efficiency)) - 1.0).abs() <= 0.012, "{slow}");
}

/// The result names the files it depends on, with hashes of what was in them.
#[test]
fn files_are_inputs() {
    let assignments = [PLACEMENT, &[MATRIX]].concat();
    let inputs = |folder: &TempDir| -> Vec<(String, String)> {
        let result = run(folder.path(), &assignments);
        result.inputs.into_iter().map(|input| (input.name, input.hash)).collect()
    };
    let (before, after) =
        (inputs(&changed("", "", "")), inputs(&changed(NETWORK, "\"2 us\"", "\"3 us\"")));
    for (kind, file, differs) in [
        ("topology", NETWORK, true),
        ("placement", "networks/alternating.toml", false),
        ("bandwidth matrix", "networks/two-halls.csv", false),
    ] {
        let name = format!("{kind} {file}");
        let hash = |inputs: &[(String, String)]| {
            inputs.iter().find(|(n, _)| *n == name).map(|(_, hash)| hash.clone())
        };
        let (a, b) = (hash(&before), hash(&after));
        assert!(a.is_some() && (a != b) == differs, "{name}: {a:?} {b:?}");
    }
}

#[test]
fn wrong_networks_are_refused() {
    let place = |text: &str| place_of(NETWORK, text);
    let folder = changed(NETWORK, "\"100 GB/s\"", "\"0 GB/s\"");
    fails(&folder, &[], &[&place("\"100 GB/s\""), "links[4].bandwidth", "without bandwidth"]);
    let folder = changed(NETWORK, "[\"b2\", \"switch-b\"]", "[\"b2\", \"switch-c\"]");
    fails(&folder, &[], &[&place("[\"b2\","), "no node named `switch-c`", "did you mean"]);
    let folder = changed(NETWORK, "[\"switch-a\", \"switch-b\"]", "[\"a1\", \"switch-a\"]");
    fails(&folder, &[], &["two-halls.toml", "a1 and b1 are not connected"]);
    let folder = changed(NETWORK, "switch_ports = 32", "switch_ports = 16");
    fails(&folder, &[], &["switch-a has 18 cables and 16 ports"]);
    let folder = changed(NETWORK, "switch_ports", "switch_port");
    fails(&folder, &[], &[&place("switch_ports"), "did you mean `switch_ports`?"]);
    // More ranks than ports.
    let folder = changed("", "", "");
    let five = ["cluster.nodes=5", "training.global_batch=160"];
    fails(&folder, &five, &["network.topology", "has ports for 4 nodes, and the cluster has 5"]);
    let folder = changed("two-halls.toml", "nodes = 4", "nodes = 8");
    fails(&folder, &[], &[&place_of("two-halls.toml", "topology = "), "has ports for 4 nodes"]);
    let missing = ["network.topology=networks/three-halls.toml"];
    fails(&folder, &missing, &["network.topology", "three-halls.toml", "No such file"]);
    let folder = changed(NETWORK, "switch_ports = 32", "endpoints_per_node = 4");
    fails(&folder, &[], &["servers", "4 servers are named, and the endpoints are those of 1"]);
}

#[test]
fn wrong_placements_are_refused() {
    let file = "networks/alternating.toml";
    let folder = changed(file, "\"hall-b-1\"", "\"hal-b-1\"");
    let wanted = [&place_of(file, "nodes = ")[..], "no node named `hal-b-1`", "`hall-b-1`?"];
    fails(&folder, PLACEMENT, &wanted);
    let folder = changed(file, "\"hall-b-1\"", "\"hall-a-1\"");
    fails(&folder, PLACEMENT, &[&place_of(file, "nodes = "), "`hall-a-1` is named twice"]);
    let folder = changed(file, ", \"hall-b-2\"", "");
    fails(&folder, PLACEMENT, &["3 nodes of 8 devices have no room for 32 ranks"]);
    let folder = changed("", "", "");
    fails(&folder, &PLACEMENT[..1], &["network.placement", "needs network.placement_file"]);
    fails(&folder, &PLACEMENT[1..], &["network.placement_file", "from_file"]);
}

#[test]
fn wrong_matrices_are_refused() {
    let file = "networks/two-halls.csv";
    let (first, worn) = (place_of(file, "  0, 370"), place_of(file, "worn"));
    let folder = changed(file, "  0, 370,  96,  96", "  0, 370,  96");
    fails(&folder, &[MATRIX], &[&first, "has 3 columns, and the cluster has 4 nodes"]);
    let folder = changed(file, " 96,  96, 370,   0\n", "");
    fails(&folder, &[MATRIX], &["two-halls.csv", "has 3 rows, and the cluster has 4 nodes"]);
    let folder = changed(file, "310", "0");
    fails(&folder, &[MATRIX], &[&worn, "column 4: `0` is no rate in GB/s"]);
    let folder = changed(file, "310", "fast");
    fails(&folder, &[MATRIX], &[&worn, "column 4: `fast` is no rate in GB/s"]);
    let folder = changed("", "", "");
    fails(&folder, &["network.bandwidth_matrix=networks"], &["is a directory", "a CSV file"]);
}

#[test]
fn files_without_effect_are_refused() {
    let folder = changed("", "", "");
    let one = ["cluster.nodes=1", "training.global_batch=32"];
    let has_no = "all devices are in one scale-up domain";
    fails(&folder, &one, &["network.topology", has_no]);
    fails(&folder, &["network.oversubscription=2"], &["network.oversubscription", "topology"]);
}
