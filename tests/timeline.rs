//! When operations start: by hand for a program of a few operations, and golden for a whole step of
//! a tiny pipeline. Whole nanoseconds: no tolerance.

mod support;

use std::fmt::Write as _;

use support::{SMALL, setup};
use trainyard::outcome::{program_of, time_program};
use trainyard::program::{
    Action, CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, HostWork,
    Kernel, KernelClass, KernelId, LaneId, LaneKind, Op, OpId, Phase, Program, TemplateBuilder,
    TemplateId, Work,
};
use trainyard::replay::{Category, Durations, HostTimes, Lumping, Sweep};
use trainyard::units::Nanos;

const HOST: LaneId = LaneId(0);
const COMPUTE: LaneId = LaneId(1);
const LINK: LaneId = LaneId(2);

/// Two ranks: the first runs a kernel of 100 ns and sends, the second receives and runs one of 30 ns.
fn pair() -> Program {
    let lanes = || {
        [
            ("host", LaneKind::Host),
            ("compute", LaneKind::Compute),
            ("link", LaneKind::Communication),
        ]
        .map(|(name, kind)| (name.to_owned(), kind))
        .to_vec()
    };
    let op =
        |action, lane| Op { action, lane, phase: Phase::Forward, micro_batch: Op::NO_MICRO_BATCH };
    let meet = Action::Meet { family: FamilyId(0), call: CallId(0) };
    let mut sender = TemplateBuilder::new("sender".into(), lanes());
    sender.push(op(Action::HostWork(HostWork::Step), HOST), &[]);
    let kernel = sender.push(op(Action::Kernel(KernelId(0)), COMPUTE), &[]);
    sender.push(op(meet, LINK), &[kernel]);
    let mut receiver = TemplateBuilder::new("receiver".into(), lanes());
    receiver.push(op(Action::HostWork(HostWork::Step), HOST), &[]);
    let receive = receiver.push(op(meet, LINK), &[]);
    receiver.push(op(Action::Kernel(KernelId(1)), COMPUTE), &[receive]);
    let kernel = |name: &str| Kernel {
        name: name.to_owned(),
        class: KernelClass::Other,
        work: Work::Stream { bytes: 1, launches: 1 },
    };
    Program {
        templates: vec![sender.finish(), receiver.finish()],
        template_of_rank: vec![TemplateId(0), TemplateId(1)],
        families: vec![Family {
            name: "pair".into(),
            dimension: Dimension::Pipeline,
            groups: Groups::new([vec![0, 1]]),
        }],
        kernels: vec![kernel("long"), kernel("short")],
        calls: vec![CollectiveCall {
            name: "send".into(),
            collective: Collective::SendRecv,
            bytes: 1,
            messages: 1,
            fanout: None,
            recorded: None,
        }],
    }
}

fn durations(host: HostTimes) -> Durations {
    Durations {
        kernels: vec![Nanos(100), Nanos(30)],
        meetings: vec![vec![vec![Nanos(20)]]],
        group_class: vec![vec![0]],
        issue: Vec::new(),
        host,
    }
}

fn host(per_operation: i64, per_step: i64, launch_latency: i64) -> HostTimes {
    HostTimes {
        per_operation: Nanos(per_operation),
        per_micro_batch: Nanos::ZERO,
        per_step: Nanos(per_step),
        launch_latency: Nanos(launch_latency),
        queue_depth: 0,
        dispatch_gap: Nanos::ZERO,
    }
}

#[test]
fn a_meeting_starts_when_its_last_member_is_ready() {
    let (program, durations) = (pair(), durations(host(0, 0, 0)));
    program.check().expect("well formed");
    let lumping = Lumping::coarsest(&program, &durations);
    let sweep = Sweep::run(&program, &durations, &lumping).expect("a replay");
    let times = |rank, op| {
        let (start, end) = sweep.times(rank, OpId(op));
        (start.0, end.0)
    };
    assert_eq!(times(0, 1), (0, 100));
    // Both ends of the transfer, and nothing of the 100 ns of waiting is in it (invariant 7).
    assert_eq!(times(0, 2), (100, 120));
    assert_eq!(times(1, 1), (100, 120));
    assert_eq!(times(1, 2), (120, 150));
    assert_eq!(sweep.step(), Nanos(150));
    let outcome = sweep.outcome();
    let booked = |rank: usize, category| outcome.by_template[rank].1.get(category).0;
    assert_eq!(booked(0, Category::Compute), 100);
    assert_eq!(booked(0, Category::Pipeline), 20);
    assert_eq!(booked(0, Category::Bubble), 30);
    assert_eq!(booked(1, Category::Bubble), 100);
    assert_eq!(booked(1, Category::Pipeline), 20);
    assert_eq!(booked(1, Category::Compute), 30);
}

#[test]
fn waiting_is_found_again_when_durations_change() {
    let program = pair();
    for kernel in [0, 1, 50, 1000] {
        let mut durations = durations(host(0, 0, 0));
        durations.kernels[0] = Nanos(kernel);
        let lumping = Lumping::coarsest(&program, &durations);
        let sweep = Sweep::run(&program, &durations, &lumping).expect("a replay");
        assert_eq!(sweep.step(), Nanos(kernel + 20 + 30));
    }
}

#[test]
fn the_host_issues_in_order_and_the_device_waits_for_it() {
    let (program, durations) = (pair(), durations(host(7, 40, 3)));
    let lumping = Lumping::coarsest(&program, &durations);
    let sweep = Sweep::run(&program, &durations, &lumping).expect("a replay");
    // Data loading 40, one operation issued 7, launched 3.
    assert_eq!(sweep.times(0, OpId(1)).0, Nanos(50));
    assert_eq!(sweep.times(0, OpId(2)), (Nanos(150), Nanos(170)));
    assert_eq!(sweep.step(), Nanos(200));
    let outcome = sweep.outcome();
    assert_eq!(outcome.by_template[0].1.get(Category::Host), Nanos(50));
}

#[test]
fn ranks_that_wait_for_each_other_are_an_error() {
    // The sender sends twice, the receiver receives once.
    let mut program = pair();
    let mut again = TemplateBuilder::new("sender".into(), program.templates[0].lanes.clone());
    for op in &program.templates[0].ops {
        again.push(*op, &[]);
    }
    again.push(program.templates[0].ops[2], &[]);
    program.templates[0] = again.finish();
    assert!(program.check().expect_err("malformed").to_string().contains("different calls"));
    let durations = durations(host(0, 0, 0));
    let lumping = Lumping::coarsest(&program, &durations);
    let error = Sweep::run(&program, &durations, &lumping).expect_err("nobody is there");
    assert!(error.to_string().contains("sender waits at operation 3 for family `pair`"), "{error}");
}

/// Golden: every operation of a step of two stages, two micro-batches, one layer each.
#[test]
fn a_tiny_pipeline() {
    let setup = setup(
        SMALL,
        &[
            "model.shape.layers=2",
            "cluster.devices=2",
            "plan.pipeline_parallel=2",
            "training.global_batch=2",
            "plan.recompute=selective",
            "model.shape.tied_embeddings=true",
        ],
    );
    let program = program_of(&setup);
    let durations = time_program(&setup, &program).expect("times").durations;
    let lumping = Lumping::coarsest(&program, &durations);
    let sweep = Sweep::run(&program, &durations, &lumping).expect("a replay");
    let mut text = String::from("rank  start ns    end ns  lane                       operation\n");
    for rank in 0..2 {
        let template = &program.templates[program.template_of_rank[rank as usize].index()];
        for (i, op) in template.ops.iter().enumerate() {
            let (start, end) = sweep.times(rank, OpId(i as u32));
            let name = match op.action {
                Action::Kernel(kernel) => program.kernels[kernel.index()].name.clone(),
                Action::Meet { family, call } => {
                    let family = &program.families[family.index()].name;
                    format!("{} ({family})", program.calls[call.index()].name)
                }
                Action::HostWork(work) => format!("host: {work:?}"),
                Action::HostWait => "host waits".to_owned(),
            };
            let lane = &template.lanes[op.lane.index()].0;
            let _ = writeln!(text, "{rank:4} {:9} {:9}  {lane:25}  {name}", start.0, end.0);
        }
    }
    let _ = writeln!(text, "step {}", sweep.step());
    insta::assert_snapshot!(text);
}
