//! Topologies: what generators build, what they refuse, and how routes run over them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::BTreeSet;

use trainyard::network::topology::generators::{
    NAMES, by_name, clos, dragonfly, hccs, nvswitch, two_sites,
};
use trainyard::network::topology::materials::count;
use trainyard::network::topology::routing::Router;
use trainyard::network::topology::svg;

#[test]
fn every_name_builds_a_sound_network_and_a_drawing() {
    for (name, _) in NAMES {
        let nodes = if matches!(name, "nvswitch" | "nvl72" | "mi250x" | "mi300x" | "hccs" | "pcie")
        {
            1
        } else {
            16
        };
        let topology = by_name(name, nodes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(topology.endpoints.len() >= 8, "{name}");
        let drawing = svg::draw(&topology);
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"), "{name}");
        assert!(!drawing.contains("NaN"), "{name}");
        assert_eq!(drawing, svg::draw(&topology), "{name}");
    }
}

#[test]
fn impossible_networks_are_refused() {
    let message = |result: trainyard::error::Result<trainyard::network::topology::Topology>| {
        result.and_then(|t| t.check().map(|()| t)).unwrap_err().to_string()
    };
    assert!(message(by_name("rail-optimized", 4)).contains("did you mean rail-optimised"));
    assert!(message(by_name("nvswitch", 2)).contains("not connected"));
    assert!(message(by_name("fat-tree", 0)).contains("no nodes"));
    assert!(message(by_name("cloudmatrix", 49)).contains("do not fit"));
    assert!(message(by_name("rail-optimised", 300)).contains("two tiers of radix-64"));
    let too_many = clos::Parameters::fat_tree(70_000, 8, 64, 50e9);
    assert!(message(clos::build(&too_many)).contains("more than the 65536"));
    let narrow =
        clos::Parameters { oversubscription: 0.5, ..clos::Parameters::fat_tree(64, 8, 8, 1e9) };
    assert!(message(clos::build(&narrow)).contains("oversubscription"));
    let dark = clos::Parameters::fat_tree(64, 8, 8, 0.0);
    assert!(message(clos::build(&dark)).contains("no bandwidth"));
    let wide = nvswitch::Parameters { switches: 20, ..nvswitch::Parameters::dgx_h100() };
    assert!(message(nvswitch::build(&wide, 1)).contains("cannot reach"));
    let crowded =
        dragonfly::Parameters { global_cables: 400, ..dragonfly::Parameters::slingshot(1000) };
    assert!(message(dragonfly::build(&crowded)).contains("global ports"));
    let mesh = hccs::Mesh { devices: 1, pair_rate: 1e9 };
    assert!(message(hccs::build_mesh(&mesh, 1)).contains("no link"));
    let alone = two_sites::Parameters { nodes: [4, 0], ..two_sites::Parameters::example(8) };
    assert!(message(two_sites::build(&alone)).contains("at least one node"));
}

/// A leaf of a 2:1 tree has half as many cables up as down, and so have the counts.
#[test]
fn oversubscription_saves_spines_and_cables() {
    let of = |oversubscription: f64, per_leaf: u32| {
        let p = clos::Parameters {
            oversubscription,
            cards_per_leaf: Some(per_leaf),
            ..clos::Parameters::fat_tree(1024, 8, 64, 50e9)
        };
        let t = clos::build(&p).unwrap();
        t.check().unwrap();
        count(&t)
    };
    let (full, half) = (of(1.0, 32), of(2.0, 32));
    assert_eq!((full.switches[&1], full.switches[&2]), (32, 16));
    assert_eq!((half.switches[&1], half.switches[&2]), (32, 8));
    assert_eq!(full.transceivers, 2 * (1024 + 1024));
    assert_eq!(half.transceivers, 2 * (1024 + 512));
}

#[test]
fn cloudmatrix_has_the_published_switches() {
    let m = count(&by_name("cloudmatrix", 48).unwrap());
    assert_eq!((m.devices, m.scale_up_switches, m.total_switches()), (384, 336, 112));
}

/// Cards of one rail meet below their leaf; other pairs cross a spine.
#[test]
fn rails_are_local() {
    let t = by_name("rail-optimised", 16).unwrap();
    let mut router = Router::new(&t);
    let card = |node: usize, rail: usize| t.endpoints[node * 8 + rail];
    let same = router.route(card(0, 3), card(9, 3), 1).unwrap();
    assert_eq!((same.hops.len(), same.rail_local(&t)), (2, true));
    let other = router.route(card(0, 3), card(9, 4), 1).unwrap();
    assert_eq!((other.hops.len(), other.rail_local(&t)), (4, false));
    assert!(other.latency(&t).get() > same.latency(&t).get());
}

/// Without a spine the way to another rail leads through the sender's own scale-up domain.
#[test]
fn rail_only_traffic_changes_rail_inside_the_domain() {
    let t = by_name("rail-only-64", 4).unwrap();
    let mut router = Router::new(&t);
    let route = router.route(t.endpoints[0], t.endpoints[8 + 5], 0).unwrap();
    assert!(route.rail_local(&t));
    // Device, switch of the domain, device of the rail, its card, the rail's switch, card, device.
    assert_eq!(route.hops.len(), 6);
}

/// Equal-cost paths are all used, the same flow always takes the same one, and both directions of a
/// link are told apart.
#[test]
fn flows_spread_over_equal_paths_and_stay_there() {
    let t = clos::build(&clos::Parameters::fat_tree(2048, 8, 64, 50e9)).unwrap();
    let mut router = Router::new(&t);
    let (a, b) = (t.endpoints[0], t.endpoints[2000]);
    let route = router.route(a, b, 7).unwrap();
    assert_eq!(route, router.route(a, b, 7).unwrap());
    let used: BTreeSet<_> =
        (0..256).map(|label| router.route(a, b, label).unwrap().hops[1]).collect();
    assert!(used.len() >= 30, "{} of 32 spines", used.len());
    let back = router.route(b, a, 7).unwrap();
    let there: BTreeSet<_> = route.hops.iter().map(|h| h.index()).collect();
    assert!(back.hops.iter().all(|h| !there.contains(&h.index())));
}
