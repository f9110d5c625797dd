//! `trainyard topo show` and `list`: what a network costs with what is known, and what is said where
//! it cannot be shown.

mod support;

use support::trainyard;

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = trainyard().arg("topo").args(arguments).output().expect("the binary runs");
    (
        output.status.code().expect("an exit code"),
        String::from_utf8(output.stdout).expect("UTF-8"),
        String::from_utf8(output.stderr).expect("UTF-8"),
    )
}

fn shown(arguments: &[&str]) -> String {
    let (code, out, error) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

/// Fails with this on standard error and nothing on standard output.
fn refused(arguments: &[&str], wanted: &str) {
    let (code, out, error) = run(arguments);
    assert_eq!(code, 3, "{arguments:?}: {error}");
    assert!(out.is_empty(), "{arguments:?} printed {out}");
    assert!(error.contains(wanted) && !error.contains("panicked"), "`{wanted}` is not in {error}");
}

/// 256 cards on leaves of 26 ports down and 13 up make 8 rails, 2 leaves each.
#[test]
fn a_bill_follows_the_parameters() {
    let settings =
        ["--set", "radix=40", "--set", "oversubscription=2", "--set", "port_rate=200 Gb/s"];
    let mut arguments = vec!["show", "rail-optimised", "--nodes", "32", "--fabric", "hdr200-clos"];
    arguments.extend(settings);
    let text = shown(&arguments);
    for line in
        ["tier 1           16 switches", "tier 2           6 switches", "optical at 25.0 GB/s"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // 16 leaves with 13 cables up each beside one per card, two modules to a cable.
    assert!(text.contains("transceivers     928"), "{text}");
    // 22 switches at 18 kUSD and 350 W, 928 modules at 400 USD and 5.5 W.
    assert!(
        text.contains("price            767 kUSD") && text.contains("power            12.8 kW"),
        "{text}"
    );
    assert!(text.contains("cables are not priced"), "{text}");
    assert!(!text.contains("note "), "{text}");
    let other = shown(&["show", "fat-tree", "--nodes", "32", "--fabric", "hdr200-clos"]);
    assert!(other.contains("switches here have 64 ports"), "{other}");
}

/// Watts are known where dollars are not.
#[test]
fn a_missing_price_hides_no_power() {
    let text = shown(&["show", "--fabric", "slingshot-11", "--nodes", "128"]);
    assert!(text.contains("not known: slingshot-11 has no price of a switch"), "{text}");
    assert!(text.contains("power            8.00 kW"), "{text}");
}

/// The graph of a catalogue fabric is that of its cards and switches.
#[test]
fn a_fabric_is_shown_as_scenarios_use_it() {
    let text =
        shown(&["show", "--fabric", "ndr400-rail-only", "--node", "dgx-h100", "--nodes", "32"]);
    assert!(text.contains("endpoints        256 on 32 nodes"), "{text}");
    assert!(text.contains("tier 1           8 switches"), "{text}");
    refused(&["show", "--fabric", "ndr400-rail-only"], "name one with --node");
    refused(&["show", "--fabric", "ndr400-clo", "--nodes", "4"], "did you mean ndr400-clos");
    refused(&["show", "--fabric", "hdr200-clos", "--set", "radx=3"], "did you mean radix");
}

#[test]
fn parameters_are_listed_with_default_and_unit() {
    let text = shown(&["list", "two-sites"]);
    for part in ["wan_latency", "5000 us", "100 GB/s", "auto: half of them"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let all = shown(&["list", "--parameters"]);
    assert!(all.contains("global_cables") && all.contains("pair_rate"), "{all}");
    refused(&["list", "two-site"], "did you mean two-sites");
}

#[test]
fn what_cannot_be_shown_is_said_before_anything_is_printed() {
    refused(&["show", "fat-tree", "--nodes", "4", "--fabric", "no-such"], "no-such");
    refused(&["show", "fat-tree", "--set", "rails=maybe"], "write true or false");
    refused(
        &["show", "scenarios/networks/two-halls.toml", "--set", "radix=3"],
        "--set has no effect",
    );
    refused(&["show", "no/such.toml"], "no/such.toml");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    refused(&["show", "pcie", "--svg", &path], "is a directory");
    refused(&["show", "pcie", "--svg", &format!("{path}/no/x.svg")], "there is no directory");
    // Nothing is left beside the directory, or in it.
    let beside = format!("{path}.partial");
    assert!(!std::path::Path::new(&beside).exists());
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    shown(&["show", "pcie", "--svg", &format!("{path}/x.svg")]);
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(names.len(), 1);
}
