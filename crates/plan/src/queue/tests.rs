use super::*;
use proptest::prelude::*;

fn node(n: u32) -> NodeId {
    NodeId::parse(&format!("node_{n}_aaaaaaaaa")).unwrap()
}

fn job(n: i64) -> JobId {
    JobId::parse(&format!("job_{n}_aaaaaaaaa")).unwrap()
}

fn amount(cpu: u64, mib: u64) -> Amount {
    Amount { cpu, memory: mib << 20 }
}

fn worker(n: u32, cores: u32, mib: u64) -> Worker {
    let room = amount(u64::from(cores) * 1000, mib);
    Worker {
        node: node(n),
        cores,
        room,
        free: room,
        available_memory: None,
        pinned: BTreeSet::new(),
        starting: 0,
    }
}

fn waiting(n: i64, priority: i64, cpu: u64, mib: u64, tasks: u32) -> Waiting {
    Waiting {
        job: job(n),
        order: n,
        priority,
        need: amount(cpu, mib),
        cores: if cpu >= 1000 && cpu.is_multiple_of(1000) {
            u32::try_from(cpu / 1000).unwrap()
        } else {
            0
        },
        tasks,
        waited: 0,
        reserved: None,
    }
}

/// Who got how many.
fn counts(pass: &Pass) -> Vec<(JobId, usize)> {
    let mut out: BTreeMap<JobId, usize> = BTreeMap::new();
    for given in &pass.given {
        *out.entry(given.job.clone()).or_default() += 1;
    }
    out.into_iter().collect()
}

fn look(workers: &[Worker], jobs: &[Waiting]) -> Pass {
    pass(workers.to_vec(), jobs, BTreeMap::new())
}

#[test]
fn what_fits_is_given_and_no_more() {
    for (cpu, mib, tasks, expect) in [
        (500, 64, 2, 2),
        (500, 64, 100, 4),
        (1000, 64, 100, 2),
        (100, 512, 100, 2),
        (3000, 64, 1, 0),
        (100, 2048, 1, 0),
        (100, 8, 100, 16),
    ] {
        let found = look(&[worker(1, 2, 1024)], &[waiting(1, 50, cpu, mib, tasks)]);
        assert_eq!(found.given.len(), expect, "{cpu} {mib} {tasks}");
    }
}

#[test]
fn starts_are_spread_and_bounded() {
    let mut busy = worker(1, 64, 65_536);
    busy.starting = STARTS;
    let found = look(
        &[busy, worker(2, 64, 65_536), worker(3, 64, 65_536)],
        &[waiting(1, 50, 100, 64, 100)],
    );
    let on = |n| found.given.iter().filter(|g| g.node == node(n)).count();
    assert_eq!((on(1), on(2), on(3)), (0, 16, 16));
}

#[test]
fn what_is_free_stays_in_one_piece() {
    let mut used = worker(2, 4, 4096);
    used.free = amount(1500, 1024);
    let found = look(&[worker(1, 4, 4096), used], &[waiting(1, 50, 500, 256, 1)]);
    assert_eq!(found.given[0].node, node(2));
}

#[test]
fn whole_cores_are_bound_from_the_top_and_never_twice() {
    let mut w = worker(1, 4, 4096);
    w.pinned.insert(3);
    w.free = amount(3000, 4096);
    let found = look(
        &[w],
        &[waiting(1, 50, 2000, 64, 1), waiting(2, 50, 1000, 64, 2), waiting(3, 50, 500, 64, 1)],
    );
    let cores: Vec<&[u32]> = found.given.iter().map(|g| g.cores.as_slice()).collect();
    assert_eq!(cores, [&[1, 2][..], &[0]]);
}

#[test]
fn memory_in_use_counts() {
    let mut w = worker(1, 4, 4096);
    w.available_memory = Some(300 << 20);
    assert_eq!(look(&[w], &[waiting(1, 50, 100, 128, 9)]).given.len(), 2);
}

#[test]
fn classes_get_what_their_weights_say() {
    let workers = [worker(1, 30, 65_536), worker(2, 30, 65_536), worker(3, 30, 65_536)];
    // 45 starts at once: 101 to 51 to 1.
    let jobs = [
        waiting(1, 0, 1000, 64, 99),
        waiting(2, 50, 1000, 64, 99),
        waiting(3, 100, 1000, 64, 99),
    ];
    let found = look(&workers, &jobs);
    assert_eq!(counts(&found), [(job(1), 1), (job(2), 16), (job(3), 31)]);
    // What runs already counts.
    let used = BTreeMap::from([(100, amount(60_000, 0))]);
    let found = pass(workers.to_vec(), &jobs, used);
    assert_eq!(counts(&found)[..2], [(job(1), 1), (job(2), 36)]);
}

#[test]
fn within_a_class_the_first_comes_first_and_the_next_fills_gaps() {
    let jobs = [waiting(3, 50, 500, 64, 9), waiting(1, 50, 500, 64, 3), waiting(2, 50, 4000, 64, 1)];
    let found = look(&[worker(1, 2, 4096)], &jobs);
    assert_eq!(counts(&found), [(job(1), 3), (job(3), 1)]);
}

#[test]
fn a_large_task_that_waits_too_long_has_a_node_kept_for_it() {
    let mut one = worker(1, 2, 1024);
    one.free = amount(1000, 512);
    let mut two = worker(2, 2, 1024);
    two.free = amount(1500, 512);
    let small = waiting(2, 50, 500, 64, 99);
    let mut large = waiting(1, 50, 2000, 64, 1);
    // Not yet.
    let found = look(&[one.clone(), two.clone()], &[small.clone(), large.clone()]);
    assert_eq!((found.given.len(), found.reserved.len()), (5, 0));
    large.waited = RESERVE_AFTER;
    let found = look(&[one.clone(), two.clone()], &[small.clone(), large.clone()]);
    assert_eq!(found.reserved, BTreeMap::from([(job(1), node(2))]));
    assert!(found.given.iter().all(|g| g.node == node(1)));
    // It stays kept while its tasks end, also where others have used less.
    large.reserved = Some(node(2));
    let favoured = waiting(3, 100, 500, 64, 99);
    let found = look(&[one.clone(), two.clone()], &[favoured.clone(), large.clone()]);
    assert!(found.given.iter().all(|g| g.node == node(1)) && found.reserved.contains_key(&job(1)));
    // And goes to it before anything else once there is room.
    let found = look(&[one, worker(2, 2, 1024)], &[favoured, large.clone()]);
    assert_eq!((found.given[0].job.clone(), found.given[0].node.clone()), (job(1), node(2)));
    assert!(found.reserved.is_empty());
    // Nothing is kept for what will never fit.
    let mut never = waiting(1, 50, 3000, 64, 1);
    never.waited = RESERVE_AFTER;
    let mut full = worker(1, 2, 1024);
    full.free = amount(0, 0);
    assert!(look(&[full], &[never]).reserved.is_empty());
}

#[test]
fn a_node_is_kept_only_when_it_is_the_jobs_turn() {
    let mut full = worker(1, 2, 1024);
    full.free = amount(500, 512);
    let mut many = waiting(1, 0, 1000, 64, 9);
    many.waited = RESERVE_AFTER;
    let other = waiting(2, 100, 500, 64, 99);
    // Its class has had more than its share: the other one goes on.
    let used = BTreeMap::from([(0, amount(1500, 64))]);
    let found = pass(vec![full], &[many, other], used);
    assert_eq!(counts(&found), [(job(2), 1)]);
}

fn any_worker() -> impl Strategy<Value = (u32, u64, u64, u64, u32, u32)> {
    (1u32..9, 64u64..4096, 0u64..=100, 0u64..=100, 0u32..20, 0u32..4)
}

fn any_job() -> impl Strategy<Value = (i64, u64, u64, u32, i64, bool)> {
    (
        prop_oneof![Just(0), Just(50), Just(100)],
        prop_oneof![Just(100), Just(500), Just(1000), Just(2000), Just(4000)],
        16u64..2048,
        0u32..40,
        0i64..120_000,
        any::<bool>(),
    )
}

proptest! {
    #[test]
    fn nothing_is_given_twice_or_beyond_what_there_is(
        workers in prop::collection::vec(any_worker(), 0..5),
        jobs in prop::collection::vec(any_job(), 0..8),
    ) {
        let workers: Vec<Worker> = workers.into_iter().enumerate().map(|(i, (cores, mib, cpu, mem, starting, pinned))| {
            let mut w = worker(u32::try_from(i).unwrap(), cores, mib);
            let pinned = pinned.min(cores);
            w.pinned = (0..pinned).map(|core| cores - 1 - core).collect();
            let rest = u64::from(cores - pinned) * 1000;
            w.free = Amount { cpu: rest * cpu / 100, memory: w.room.memory * mem / 100 };
            w.starting = starting;
            w
        }).collect();
        let jobs: Vec<Waiting> = jobs.into_iter().enumerate().map(|(i, (priority, cpu, mib, tasks, waited, reserved))| {
            let mut w = waiting(i64::try_from(i).unwrap(), priority, cpu, mib, tasks);
            w.waited = waited;
            w.reserved = reserved.then(|| node(0));
            w
        }).collect();
        let found = look(&workers, &jobs);
        prop_assert_eq!(&found, &look(&workers, &jobs));
        for job in &jobs {
            prop_assert!(found.given.iter().filter(|g| g.job == job.job).count() <= job.tasks as usize);
        }
        for w in &workers {
            let here: Vec<_> = found.given.iter().filter(|g| g.node == w.node).collect();
            let mut sum = Amount::default();
            let mut cores = w.pinned.clone();
            for given in &here {
                let job = jobs.iter().find(|j| j.job == given.job).unwrap();
                sum.add(job.need);
                prop_assert_eq!(given.cores.len(), job.cores as usize);
                for core in &given.cores {
                    prop_assert!(*core < w.cores && cores.insert(*core), "core {} twice", core);
                }
            }
            prop_assert!(sum.cpu <= w.free.cpu && sum.memory <= w.free.memory);
            prop_assert!(here.is_empty() || w.starting as usize + here.len() <= STARTS as usize);
        }
        // Nobody waits for what is there.
        for job in &jobs {
            let left = job.tasks as usize - found.given.iter().filter(|g| g.job == job.job).count();
            let room = workers.iter().any(|w| {
                let mut after = w.clone();
                for given in found.given.iter().filter(|g| g.node == w.node) {
                    after.take(jobs.iter().find(|j| j.job == given.job).unwrap());
                }
                let kept = found.reserved.iter().any(|(holder, node)| *node == w.node && *holder != job.job);
                // A reservation that ended in this look was in force while it lasted.
                let was_kept = jobs.iter().any(|j| j.reserved.as_ref() == Some(&w.node));
                !kept && !was_kept && after.starting < STARTS && after.fits(job)
            });
            prop_assert!(left == 0 || !room, "{} waits for nothing", job.job);
        }
        // Nothing is kept for two, or for who does not wait.
        let nodes: BTreeSet<_> = found.reserved.values().collect();
        prop_assert_eq!(nodes.len(), found.reserved.len());
    }
}
