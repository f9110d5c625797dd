//! Topologies: what generators build, what they refuse, and how routes run over them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::BTreeSet;

use trainyard::network::topology::generators::{
    REGISTRY, Unit, by_name, clos, dragonfly, hccs, nvswitch, presets, two_sites,
};
use trainyard::network::topology::materials::count;
use trainyard::network::topology::routing::Router;
use trainyard::network::topology::{LinkKind, Topology, svg};

#[test]
fn every_name_builds_a_sound_network_and_a_drawing() {
    for (generator, preset) in presets() {
        let name = preset.name;
        let nodes = if generator.one_server { 1 } else { 16 };
        let topology = by_name(name, nodes, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
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
    assert!(message(by_name("rail-optimized", 4, &[])).contains("did you mean rail-optimised"));
    assert!(message(by_name("nvswitch", 2, &[])).contains("not connected"));
    assert!(message(by_name("fat-tree", 0, &[])).contains("no nodes"));
    assert!(message(by_name("cloudmatrix", 49, &[])).contains("do not fit"));
    assert!(message(by_name("rail-optimised", 300, &[])).contains("two tiers of radix-64"));
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

fn built(name: &str, nodes: u32, settings: &[&str]) -> Topology {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    by_name(name, nodes, &settings).unwrap_or_else(|e| panic!("{name} {settings:?}: {e}"))
}

/// Closed forms (Al-Fares et al. 2008) at other radices than the defaults: `R^2/2` cards fill two
/// tiers with `3N/R` switches and `2N` cables, `R^3/4` three with `5N/R` and `3N`.
#[test]
fn full_trees_of_any_radix_have_the_closed_forms() {
    for radix in [4_u32, 8, 16, 24] {
        for (tiers, cards) in [(2_u64, radix * radix / 2), (3, radix * radix * radix / 4)] {
            let radix_is = format!("radix={radix}");
            let t = built("fat-tree", cards, &["cards_per_node=1", &radix_is]);
            let m = count(&t);
            let n = u64::from(cards);
            assert_eq!(m.total_switches(), (2 * tiers - 1) * n / u64::from(radix), "radix {radix}");
            assert_eq!(m.cables.values().sum::<u64>(), tiers * n, "radix {radix}");
            assert_eq!(m.transceivers, 2 * tiers * n, "radix {radix}");
        }
    }
}

/// A rail is a tree of its own over one card of every domain: one switch where they fit, `3N/R`
/// where they fill two tiers.
#[test]
fn rails_of_any_domain_and_radix_have_the_closed_forms() {
    for (domain, domains, radix, per_rail) in
        [(4_u64, 32_u64, 32_u64, 1), (4, 512, 32, 48), (16, 128, 16, 24), (72, 128, 128, 1)]
    {
        let settings = [format!("domain={domain}"), format!("radix={radix}")];
        let t = by_name("rail-only-64", domains as u32, &settings).unwrap();
        let m = count(&t);
        assert_eq!(m.total_switches(), domain * per_rail, "{settings:?}");
        let tiers = if per_rail == 1 { 1 } else { 2 };
        assert_eq!(m.transceivers, 2 * tiers * domain * domains, "{settings:?}");
    }
}

/// Groups of a dragonfly are full meshes of switches, and so are groups among each other.
#[test]
fn dragonflies_of_any_size_have_the_closed_forms() {
    for (switches, cards, cables) in [(4_u64, 4_u64, 2_u64), (8, 8, 4), (16, 8, 1)] {
        let groups = 5;
        let nodes = groups * switches * cards / 4;
        let t = built(
            "dragonfly",
            nodes as u32,
            &[
                &format!("switches_per_group={switches}"),
                &format!("cards_per_switch={cards}"),
                &format!("global_cables={cables}"),
            ],
        );
        let m = count(&t);
        assert_eq!(m.total_switches(), groups * switches);
        let inside = groups * (switches * (switches - 1) / 2 + switches * cards);
        assert_eq!(m.cables[&LinkKind::Copper], inside);
        assert_eq!(m.cables[&LinkKind::Optical], groups * (groups - 1) / 2 * cables);
    }
}

/// Every parameter of every generator changes the network, and an unknown one is an error that names
/// the nearest.
#[test]
fn every_parameter_changes_the_network() {
    let picture = |t: &Topology| {
        let links: Vec<String> = t.graph.edge_references().map(|e| format!("{e:?}")).collect();
        (t.graph.node_count(), t.radix, links)
    };
    for generator in REGISTRY {
        let preset = &generator.presets[0];
        let nodes = if generator.one_server { 1 } else { 40 };
        for parameter in generator.parameters {
            let value = match (parameter.key, parameter.unit) {
                ("radix", _) => "96",
                ("links", _) => "20",
                ("second", _) => "56",
                ("first", _) => "14",
                ("first_site", _) => "10",
                // Below what the cluster needs, so that it shows as a refusal.
                ("most_nodes", _) => "39",
                ("tiers", _) => "3",
                ("global_cables", _) => "3",
                // Of 160 cards, a switch then has three instead of five.
                ("cards_per_switch", _) => "3",
                ("cards_per_leaf", _) => "16",
                (_, Unit::Count | Unit::CountOrAuto | Unit::CountOrNone) => "6",
                (_, Unit::Factor) => "3",
                (_, Unit::Rate) => "7 GB/s",
                (_, Unit::Time) => "3 ms",
                (_, Unit::Flag) => "true",
            };
            let setting = format!("{}={value}", parameter.key);
            // A dragonfly of one group has no cables between groups.
            let nodes = if parameter.key == "global_cables" { 400 } else { nodes };
            let before = picture(&built(preset.name, nodes, &[]));
            let after = by_name(preset.name, nodes, std::slice::from_ref(&setting));
            match after {
                Ok(after) => assert!(picture(&after) != before, "{}: {setting}", preset.name),
                Err(error) => assert!(parameter.key == "most_nodes", "{setting}: {error}"),
            }
        }
        let near = format!("{}x=1", generator.parameters[0].key);
        let message = by_name(preset.name, nodes, &[near]).unwrap_err().to_string();
        let wanted = format!("did you mean {}", generator.parameters[0].key);
        assert!(message.contains("no parameter") && message.contains(&wanted), "{message}");
    }
}

/// Values that are none, and sizes that nobody can hold in memory.
#[test]
fn impossible_parameters_are_refused() {
    let message = |name: &str, nodes: u32, setting: &str| {
        by_name(name, nodes, &[setting.to_owned()]).unwrap_err().to_string()
    };
    assert!(message("fat-tree", 4, "radix=0").contains("whole number from 1 to 65535"));
    assert!(message("fat-tree", 4, "radix=many").contains("is no count"));
    assert!(message("fat-tree", 4, "port_rate=50").contains("has no unit"));
    assert!(message("fat-tree", 4, "port_rate=0 GB/s").contains("no bandwidth"));
    assert!(message("fat-tree", 4, "oversubscription=0.5").contains("at least 1"));
    assert!(message("fat-tree", 4, "rails=maybe").contains("true or false"));
    assert!(message("fat-tree", 4, "radix").contains("write key=value"));
    assert!(message("two-sites", 4, "first_site=4").contains("at least one node"));
    for (name, setting) in [
        ("dragonfly", "cards_per_node=65535"),
        ("fat-tree", "cards_per_node=65535"),
        ("rail-only-64", "domain=65535"),
        ("cloudmatrix", "second=65535"),
    ] {
        assert!(message(name, 262_144, setting).contains("too large"), "{name}");
    }
    assert!(message("mi300x", 1, "devices=65535").contains("too large"));
}

#[test]
fn cloudmatrix_has_the_published_switches() {
    let m = count(&by_name("cloudmatrix", 48, &[]).unwrap());
    assert_eq!((m.devices, m.scale_up_switches, m.total_switches()), (384, 336, 112));
}

/// Cards of one rail meet below their leaf; other pairs cross a spine.
#[test]
fn rails_are_local() {
    let t = by_name("rail-optimised", 16, &[]).unwrap();
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
    let t = by_name("rail-only-64", 4, &[]).unwrap();
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

/// Spread over all shortest paths, what leaves a node has arrived there, the whole flow arrives, and
/// equal paths get equal parts: exactly, up to the last bits of sums.
#[test]
fn packets_divide_evenly_over_equal_paths() {
    for (name, settings) in [
        ("fat-tree", &["radix=16"][..]),
        ("rail-optimised", &["radix=40", "oversubscription=3"]),
        ("rail-optimised-3", &["radix=16"]),
        ("rail-only-64", &["radix=8"]),
        ("dragonfly", &["switches_per_group=4", "cards_per_switch=4"]),
        ("two-sites", &[]),
    ] {
        let t = built(name, 24, settings);
        let mut router = Router::new(&t);
        for (from, to) in [(0, 1), (0, t.endpoints.len() - 1), (5, t.endpoints.len() / 2)] {
            let (from, to) = (t.endpoints[from], t.endpoints[to]);
            let spread = router.spread(from, to).unwrap();
            assert!(spread.uses.windows(2).all(|pair| pair[0].0 < pair[1].0), "{name}");
            let mut balance = vec![0.0_f64; t.graph.node_count()];
            for (link, part) in &spread.uses {
                let (a, b) = t.graph.edge_endpoints((link / 2).into()).unwrap();
                let (a, b) = if link % 2 == 0 { (a, b) } else { (b, a) };
                balance[a.index()] -= part;
                balance[b.index()] += part;
            }
            balance[from.index()] += 1.0;
            balance[to.index()] -= 1.0;
            assert!(balance.iter().all(|left| left.abs() < 1e-12), "{name}: {balance:?}");
            // As long as the longest of the paths that hashes draw, which are all equal in hops.
            let longest = (0..64)
                .map(|label| router.route(from, to, label).unwrap().latency(&t).get())
                .fold(0.0, f64::max);
            assert!((spread.latency.get() - longest).abs() < 1e-12, "{name}");
        }
    }
    let t = clos::build(&clos::Parameters::fat_tree(2048, 8, 64, 50e9)).unwrap();
    let spread = Router::new(&t).spread(t.endpoints[0], t.endpoints[2000]).unwrap();
    let parts: Vec<f64> = spread.uses.iter().map(|(_, part)| *part).collect();
    assert_eq!(parts.iter().filter(|part| **part == 1.0).count(), 2, "{parts:?}");
    assert_eq!(parts.iter().filter(|part| **part == 1.0 / 32.0).count(), 64, "{parts:?}");
}

/// The part of a flow on a link is the mean of what hashes draw: of 4,000 of them, within four
/// standard deviations.
#[test]
fn spreading_is_the_mean_of_hashing() {
    let t = built("rail-optimised", 24, &["radix=40", "oversubscription=3"]);
    let mut router = Router::new(&t);
    let (from, to) = (t.endpoints[0], t.endpoints[t.endpoints.len() - 1]);
    let spread = router.spread(from, to).unwrap();
    let draws = 4000;
    let mut drawn = vec![0_u32; t.graph.edge_count() * 2];
    for label in 0..draws {
        for hop in router.route(from, to, label).unwrap().hops {
            drawn[hop.index()] += 1;
        }
    }
    let used = drawn.iter().filter(|count| **count > 0).count();
    assert_eq!(used, spread.uses.len());
    for (link, part) in spread.uses {
        let mean = f64::from(drawn[link as usize]) / draws as f64;
        let deviation = (part * (1.0 - part) / draws as f64).sqrt();
        assert!((mean - part).abs() <= 4.0 * deviation + 1e-12, "{link}: {mean} for {part}");
    }
}
