use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const G: u64 = 1 << 30;

fn candidate(name: &str, labels: &[(&str, &str)]) -> Candidate {
    let labels = labels.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
    Candidate {
        node: NodeId::parse(&format!("node_1_{name:0>9}")).unwrap(),
        name: name.to_owned(),
        labels: Labels(labels),
        ready: true,
        cordoned: false,
        arch: Some("x86_64".into()),
        os: Some("linux".into()),
        capacity: Some(Amount { cpu: 4000, memory: 8 * G }),
        promised: Amount::default(),
        available_memory: None,
        ports: Vec::new(),
        name_taken: false,
        kin: 0,
        barred: None,
    }
}

fn request(more: &str) -> Request {
    Request::of(&serde_json::from_str::<ContainerSpec>(&format!(r#"{{"name":"web-1","image":"nginx"{more}}}"#)).unwrap())
}

fn chosen(request: &Request, candidates: &[Candidate]) -> String {
    match place(request, candidates) {
        Ok(placement) => placement.reasons[0].name.clone(),
        Err(no) => panic!("{no}"),
    }
}

#[test]
fn each_filter_refuses_and_says_why() {
    let tcp = |number, ip: Option<&str>| HostPort {
        number,
        protocol: Protocol::Tcp,
        ip: ip.map(|ip| ip.parse().unwrap()),
    };
    type Change = Box<dyn Fn(&mut Candidate)>;
    let change = |f: fn(&mut Candidate)| -> Change { Box::new(f) };
    let rows: Vec<(&str, Change, Option<&str>)> = vec![
        ("", change(|_| ()), None),
        ("", change(|c| c.ready = false), Some("is not ready")),
        ("", change(|c| c.cordoned = true), Some("is cordoned")),
        (
            "",
            change(|c| c.barred = Some("has an older copy of it".into())),
            Some("has an older copy of it"),
        ),
        ("", change(|c| c.name_taken = true), Some("has a container called `web-1` already")),
        (r#","constraints":["zone=eu-1"]"#, change(|_| ()), None),
        (
            r#","constraints":["zone=eu-2"]"#,
            change(|_| ()),
            Some("has `zone=eu-1`, and `zone=eu-2` is asked for"),
        ),
        (
            r#","constraints":["gpu"]"#,
            change(|_| ()),
            Some("has no `gpu`, and `gpu` is asked for"),
        ),
        (r#","constraints":["disk!=hdd"]"#, change(|_| ()), None),
        (
            r#","constraints":["zone!=eu-1"]"#,
            change(|_| ()),
            Some("has `zone=eu-1`, and `zone!=eu-1` is asked for"),
        ),
        (
            r#","constraints":["node.name=alder","node.id=node_1_0000alder","node.os=linux"]"#,
            change(|_| ()),
            None,
        ),
        (
            r#","constraints":["node.name!=alder"]"#,
            change(|_| ()),
            Some("has `node.name=alder`, and `node.name!=alder` is asked for"),
        ),
        (r#","constraints":["node.arch=amd64"]"#, change(|_| ()), None),
        (
            r#","constraints":["node.arch!=amd64"]"#,
            change(|_| ()),
            Some("has `node.arch=x86_64`, and `node.arch!=amd64` is asked for"),
        ),
        (
            r#","constraints":["node.arch=arm64"]"#,
            change(|c| c.arch = Some("aarch64".into())),
            None,
        ),
        (r#","cpuLimit":4"#, change(|_| ()), None),
        (
            r#","cpuLimit":4"#,
            change(|c| c.promised.cpu = 1),
            Some("has 3.999 of 4 CPUs not promised yet, and 4 are asked for"),
        ),
        (r#","memoryLimit":"8g""#, change(|_| ()), None),
        (
            r#","memoryLimit":"8g""#,
            change(|c| c.promised.memory = 1),
            Some("has 8191m of 8g memory not promised yet, and 8g is asked for"),
        ),
        (
            r#","memoryLimit":"1g""#,
            change(|c| c.available_memory = Some(G - 1)),
            Some("has less than 1g memory that its programs do not use"),
        ),
        (r#","memoryLimit":"1g""#, change(|c| c.available_memory = Some(G)), None),
        // Without limits it counts 0.1 cores and 128 MiB.
        ("", change(|c| c.promised.cpu = 3900), None),
        (
            "",
            change(|c| c.promised.cpu = 3901),
            Some("has 0.099 of 4 CPUs not promised yet, and 0.1 are asked for"),
        ),
        ("", change(|c| c.promised.memory = 8 * G - (128 << 20)), None),
        (
            "",
            change(|c| c.promised.memory = 9 * G),
            Some("has 0m of 8g memory not promised yet, and 128m is asked for"),
        ),
        (
            r#","ports":[{"container":80,"host":80}]"#,
            Box::new(move |c| c.ports = vec![(tcp(80, None), "other".into())]),
            Some("has port 80/tcp taken by `other`"),
        ),
        (
            r#","ports":[{"container":80,"host":80,"protocol":"udp"}]"#,
            Box::new(move |c| c.ports = vec![(tcp(80, None), "other".into())]),
            None,
        ),
        (
            r#","ports":[{"container":80,"host":80,"hostIp":"10.0.0.1"}]"#,
            Box::new(move |c| c.ports = vec![(tcp(80, Some("10.0.0.2")), "other".into())]),
            None,
        ),
        (
            r#","ports":[{"container":80,"host":80,"hostIp":"0.0.0.0"}]"#,
            Box::new(move |c| c.ports = vec![(tcp(80, Some("10.0.0.2")), "other".into())]),
            Some("has port 80/tcp taken by `other`"),
        ),
        (
            r#","ports":[{"container":80}]"#,
            Box::new(move |c| c.ports = vec![(tcp(80, None), "other".into())]),
            None,
        ),
        // Not heard of yet: nothing is known to be against it but its readiness.
        (r#","cpuLimit":64"#, change(|c| c.capacity = None), None),
    ];
    for (more, change, refused) in rows {
        let mut alder = candidate("alder", &[("zone", "eu-1")]);
        change(&mut alder);
        let got = place(&request(more), std::slice::from_ref(&alder));
        let said = got.as_ref().err().map(ToString::to_string);
        assert_eq!(said, refused.map(|why| format!("alder {why}")), "{more}");
    }
}

#[test]
fn a_processor_that_is_known_must_fit() {
    let mut wanted = request("");
    wanted.arch = Some("aarch64".into());
    let said = place(&wanted, &[candidate("alder", &[])]).unwrap_err().to_string();
    assert_eq!(said, "alder has a processor of kind x86_64, and the container is for aarch64");
    let mut unknown = candidate("birch", &[]);
    unknown.arch = None;
    assert_eq!(chosen(&wanted, &[candidate("alder", &[]), unknown]), "birch");
}

#[test]
fn every_reason_of_a_node_is_told() {
    let mut alder = candidate("alder", &[]);
    (alder.ready, alder.cordoned) = (false, true);
    let no = place(&request(r#","constraints":["gpu"]"#), &[alder]).unwrap_err();
    assert_eq!(
        no.to_string(),
        "alder is not ready; is cordoned; has no `gpu`, and `gpu` is asked for"
    );
    assert_eq!(place(&request(""), &[]).unwrap_err().to_string(), "there is no node");
}

#[test]
fn of_many_nodes_some_are_told() {
    let many: Vec<Candidate> = (0..50)
        .map(|n| {
            let mut c = candidate(&format!("n{n}"), &[]);
            c.cordoned = n > 0;
            c
        })
        .collect();
    let lines = place(&request(""), &many).unwrap().lines();
    assert_eq!(lines.len(), 22);
    assert_eq!(lines[1], "not n1 is cordoned");
    assert_eq!(lines[21], "29 more nodes are left out here");
}

#[test]
fn what_is_better_goes_first() {
    let three = |change: &dyn Fn(&mut [Candidate; 3])| {
        let mut all = [
            candidate("alder", &[("zone", "a")]),
            candidate("birch", &[("zone", "a")]),
            candidate("cedar", &[("zone", "b")]),
        ];
        change(&mut all);
        all
    };
    let plain = request("");
    let spread = request(r#","spread":"zone""#);
    assert_eq!(chosen(&plain, &three(&|_| ())), "alder", "a tie goes to the lowest id");
    assert_eq!(chosen(&plain, &three(&|c| c[0].promised.cpu = 100)), "birch", "least promised");
    assert_eq!(chosen(&plain, &three(&|c| c[0].kin = 1)), "birch", "fewest of its kin");
    let all = three(&|c| (c[0].kin, c[1].promised.cpu) = (1, 3000));
    assert_eq!(chosen(&plain, &all[..2]), "birch", "kin count before load");
    assert_eq!(
        chosen(&spread, &three(&|c| c[0].kin = 1)),
        "cedar",
        "the zone counts before the node"
    );
    let all = three(&|c| (c[0].kin, c[2].kin, c[2].promised.cpu) = (1, 1, 3000));
    assert_eq!(chosen(&spread, &all), "birch", "zones are even, so the node counts");
    let all = three(&|c| (c[2].kin, c[2].cordoned) = (5, true));
    assert_eq!(chosen(&spread, &all), "alder", "kin on a node that falls out still count");
    let all = three(&|c| c[0].labels = Labels::default());
    assert_eq!(chosen(&spread, &all), "birch", "a node without the label comes last");
    let lines = place(&spread, &three(&|c| c[0].kin = 1)).unwrap().lines();
    assert_eq!(
        lines[0],
        "cedar was chosen: 0 of `web` there, 0 with the same zone, 2 % of CPU and memory promised with it"
    );
    assert_eq!(lines[1], "birch would have done: 0 of `web` there, 2 % promised with it");
}

#[test]
fn a_bigger_node_is_less_promised_by_the_same() {
    let (small, mut big) = (candidate("alder", &[]), candidate("birch", &[]));
    big.capacity = Some(Amount {
        cpu: 16_000,
        memory: 32 * G,
    });
    big.promised = Amount { cpu: 1000, memory: G };
    assert_eq!(chosen(&request(r#","cpuLimit":2,"memoryLimit":"4g""#), &[small, big]), "birch");
}

fn any_port() -> impl Strategy<Value = HostPort> {
    (80u16..84, any::<bool>(), proptest::option::of(1u8..3)).prop_map(|(number, tcp, ip)| HostPort {
        number,
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
        ip: ip.map(|last| Ipv4Addr::new(10, 0, 0, last)),
    })
}

prop_compose! {
    fn any_candidate(n: usize)(
        ready in prop::bool::weighted(0.9),
        cordoned in prop::bool::weighted(0.1),
        zone in proptest::option::of("[abc]"),
        disk in proptest::option::of("(hdd|ssd)"),
        cpu in 1u64..8, memory in 1u64..16,
        promised_cpu in 0u64..8000, promised_memory in 0u64..16,
        available in proptest::option::of(0u64..16),
        ports in proptest::collection::vec(any_port(), 0..3),
        name_taken in prop::bool::weighted(0.1),
        kin in 0u32..4,
        arm in prop::bool::weighted(0.2),
        barred in prop::bool::weighted(0.1),
    ) -> Candidate {
        let labels: Vec<(&str, &str)> = [("zone", zone.as_deref()), ("disk", disk.as_deref())]
            .into_iter()
            .filter_map(|(k, v)| Some((k, v?)))
            .collect();
        Candidate {
            ready, cordoned, name_taken, kin,
            arch: Some(if arm { "aarch64" } else { "x86_64" }.into()),
            capacity: Some(Amount { cpu: cpu * 1000, memory: memory * G }),
            promised: Amount { cpu: promised_cpu, memory: promised_memory * G },
            available_memory: available.map(|g| g * G),
            ports: ports.into_iter().map(|p| (p, "other".to_owned())).collect(),
            barred: barred.then(|| "is barred".to_owned()),
            ..candidate(&format!("n{n}"), &labels)
        }
    }
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    (0usize..6).prop_flat_map(|n| (0..n).map(any_candidate).collect::<Vec<_>>())
}

prop_compose! {
    fn any_request()(
        constraints in proptest::collection::vec(prop_oneof!["zone=[abc]", "zone!=[abc]", "disk", "disk!=hdd", r"node\.name=n[0-5]", r"node\.arch=arm64"], 0..3),
        spread in any::<bool>(),
        cpu in 100u64..4000, memory in 1u64..8,
        ports in proptest::collection::vec(any_port(), 0..2),
        arch in prop::bool::weighted(0.2),
    ) -> Request {
        Request {
            name: "web-1".into(),
            kin: "web".into(),
            constraints: constraints.iter().map(|c| c.parse().unwrap()).collect(),
            spread: spread.then(|| "zone".into()),
            need: Amount { cpu, memory: memory * G },
            ports,
            arch: arch.then(|| "x86_64".into()),
        }
    }
}

/// Whether the node can take it, said anew and plainly.
fn can(request: &Request, c: &Candidate) -> bool {
    let label = |key: &str| {
        c.labels
            .0
            .iter()
            .find(|(k, _)| k.as_str() == key)
            .map(|(_, v)| v.as_str().to_owned())
    };
    let meets = |constraint: &Constraint| {
        let text = constraint.as_str();
        match text
            .split_once("!=")
            .map(|p| (p, false))
            .or(text.split_once('=').map(|p| (p, true)))
        {
            Some((("node.name", name), _)) => c.name == name,
            Some((("node.arch", _), _)) => c.arch.as_deref() == Some("aarch64"),
            Some(((key, value), wanted)) => (label(key).as_deref() == Some(value)) == wanted,
            None => label(text).is_some(),
        }
    };
    let of = c.capacity.unwrap();
    c.ready
        && !c.cordoned
        && !c.name_taken
        && c.barred.is_none()
        && request.constraints.iter().all(meets)
        && c.promised.cpu + request.need.cpu <= of.cpu
        && c.promised.memory + request.need.memory <= of.memory
        && c.available_memory.is_none_or(|a| a >= request.need.memory)
        && request.arch.as_ref().is_none_or(|a| c.arch.as_ref() == Some(a))
        && !request.ports.iter().any(|p| {
            c.ports
                .iter()
                .any(|(t, _)| t.number == p.number && t.protocol == p.protocol && (t.ip.is_none() || p.ip.is_none() || t.ip == p.ip))
        })
}

proptest! {
    #[test]
    fn it_lands_where_it_can_and_nowhere_only_where_it_can_nowhere(request in any_request(), candidates in any_candidates()) {
        match place(&request, &candidates) {
            Ok(placement) => {
                let at = candidates.iter().find(|c| c.node == placement.node).unwrap();
                prop_assert!(can(&request, at), "{at:?}");
                prop_assert_eq!(placement.reasons.len(), candidates.len());
                prop_assert_eq!(&placement.reasons[0].node, &placement.node);
                let fit: BTreeSet<_> = placement.reasons.iter().filter(|r| matches!(r.verdict, Verdict::Fits(_))).map(|r| r.node.clone()).collect();
                let able: BTreeSet<_> = candidates.iter().filter(|c| can(&request, c)).map(|c| c.node.clone()).collect();
                prop_assert_eq!(fit, able);
            }
            Err(no) => {
                prop_assert!(!candidates.iter().any(|c| can(&request, c)), "{}", no);
                prop_assert_eq!(no.reasons.len(), candidates.len());
                let explained = no.reasons.iter().all(|r| matches!(&r.verdict, Verdict::Refused(why) if !why.is_empty()));
                prop_assert!(explained);
            }
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter(request in any_request(), candidates in any_candidates()) {
        let mut turned = candidates.clone();
        turned.reverse();
        prop_assert_eq!(place(&request, &candidates), place(&request, &turned));
    }

    /// Placed one after another, kin are even over zones, and within each zone over its nodes.
    #[test]
    fn kin_are_spread_evenly(zones in proptest::collection::vec(1usize..4, 1..5), copies in 1usize..30) {
        let mut nodes: Vec<Candidate> = Vec::new();
        for (zone, size) in zones.iter().enumerate() {
            for _ in 0..*size {
                nodes.push(candidate(&format!("n{}", nodes.len()), &[("zone", &format!("z{zone}"))]));
            }
        }
        let request = request(r#","spread":"zone""#);
        for _ in 0..copies {
            let node = place(&request, &nodes).unwrap().node;
            let at = nodes.iter_mut().find(|c| c.node == node).unwrap();
            at.kin += 1;
            at.promised.add(request.need);
        }
        let mut by_zone: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for node in &nodes {
            by_zone.entry(node.value("zone").unwrap().to_owned()).or_default().push(node.kin);
        }
        let even = |counts: &[u32]| counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1;
        let sums: Vec<u32> = by_zone.values().map(|kin| kin.iter().sum()).collect();
        prop_assert!(even(&sums), "{by_zone:?}");
        prop_assert!(by_zone.values().all(|kin| even(kin)), "{by_zone:?}");
    }

    /// However many are placed, nothing is promised twice.
    #[test]
    fn nothing_is_promised_twice(sizes in proptest::collection::vec((1u64..3000, 1u64..4), 1..40)) {
        let mut nodes: Vec<Candidate> = (0..3).map(|n| candidate(&format!("n{n}"), &[])).collect();
        for (cpu, memory) in sizes {
            let request = Request { need: Amount { cpu, memory: memory * G }, ..request("") };
            if let Ok(placement) = place(&request, &nodes) {
                let at = nodes.iter_mut().find(|c| c.node == placement.node).unwrap();
                at.promised.add(request.need);
            }
        }
        for node in &nodes {
            let of = node.capacity.unwrap();
            prop_assert!(node.promised.cpu <= of.cpu && node.promised.memory <= of.memory);
        }
    }
}
