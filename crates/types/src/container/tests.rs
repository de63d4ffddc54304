use super::*;

fn parse(json: &str) -> Result<ContainerSpec, serde_json::Error> {
    serde_json::from_str(json)
}

#[test]
fn the_later_of_two_sights_is_kept() {
    let at = |started: Option<i64>, finished: Option<i64>, restarts: u64| ObservedContainer {
        started: started.map(Timestamp),
        finished: finished.map(Timestamp),
        restarts,
        ..serde_json::from_str(
            r#"{"dockerId":"d","name":"a","image":"b","status":"created","created":"2026-02-03T02:30:00.000Z","ports":[],"networks":[]}"#,
        )
        .unwrap()
    };
    let story = [
        at(None, None, 0),
        at(Some(10), None, 0),
        at(Some(10), Some(20), 0),
        at(Some(21), None, 1),
        at(Some(21), Some(30), 1),
    ];
    for pair in story.windows(2) {
        let [before, after] = [pair[0].clone(), pair[1].clone()];
        assert!(
            after.is_later_than(&before) && !before.is_later_than(&after),
            "{before:?} {after:?}"
        );
        assert_eq!(before.is_before_start_of(&after), before.started.is_none());
        assert!(!after.is_before_start_of(&before));
    }
    let other = ObservedContainer {
        docker_id: "e".into(),
        ..story[1].clone()
    };
    assert!(!story[0].is_before_start_of(&other), "another container of that name");
    // What can't be told apart is not later.
    assert!(!at(Some(10), None, 7).is_later_than(&at(Some(10), None, 0)));
}

#[test]
fn the_specifications_example_parses() {
    let new = parse(
        r#"{"name":"my-postgres","image":"postgres:16","nodeId":"node_123","environment":{"POSTGRES_PASSWORD":"x"},
        "ports":[{"container":5432,"host":5432}],"volumes":[{"container":"/var/lib/postgresql/data","host":"/data/postgres"}],
        "cpuLimit":2,"memoryLimit":"1g","restart":"always"}"#,
    )
    .unwrap();
    let (spec, node, start) = new.into_parts();
    assert_eq!((node.as_deref(), start), (Some("node_123"), false));
    assert!(spec.problems().is_empty());
    assert_eq!(spec.ports[0].protocol, Protocol::Tcp);
}

#[test]
fn bad_fields_are_refused() {
    for body in [
        r#"{"name":"a","image":"b","memoryLimit":"lots"}"#,
        r#"{"name":"a","image":"b","ports":[{"container":0}]}"#,
        r#"{"name":"a","image":"b","ports":[{"container":70000}]}"#,
        r#"{"name":"a","image":"b","ports":[{"container":80,"host":70000}]}"#,
        r#"{"name":"a","image":"b","privileged":1}"#,
        r#"{"name":"a","image":"b","capAdd":["net admin"]}"#,
        r#"{"name":"a","image":"b","devices":["/dev/fuse"]}"#,
        r#"{"name":"a","image":"b","devices":[{"host":"/etc/passwd"}]}"#,
        r#"{"name":"a","image":"b","devices":[{"host":"/dev/../etc"}]}"#,
        r#"{"name":"a","image":"b","devices":[{"host":"/dev/fuse","access":"x"}]}"#,
        r#"{"name":"a","image":"b","securityOpt":["seccomp=unconfined"]}"#,
        r#"{"name":"a","name":"b","image":"b"}"#,
        r#"{"name":"a","image":"b","volumes":[{"container":"/x","host":"/a/../etc"}]}"#,
        r#"{"name":"a","image":"b","volumes":[{"container":"/x","host":"../etc"}]}"#,
        r#"{"name":"a","image":"b","restart":"sometimes"}"#,
        r#"{"name":"a","image":"b","cpuLimit":0}"#,
    ] {
        assert!(parse(body).is_err(), "{body}");
    }
}

#[test]
fn privileges_are_named() {
    let of = |body: &str| {
        let mut spec: serde_json::Value = serde_json::from_str(body).unwrap();
        (spec["name"], spec["image"]) = ("a".into(), "b".into());
        parse(&spec.to_string()).unwrap()
    };
    for (body, wanted) in [
        ("{}", &[][..]),
        (
            r#"{"privileged":false,"capAdd":[],"devices":[],"hostNetwork":false,"capDrop":["ALL"]}"#,
            &[],
        ),
        (r#"{"capAdd":["NET_ADMIN"]}"#, &["capAdd"]),
        (
            r#"{"privileged":true,"hostNetwork":true,"devices":[{"host":"/dev/fuse"}]}"#,
            &["privileged", "devices", "hostNetwork"],
        ),
    ] {
        assert_eq!(of(body).privileges(), wanted, "{body}");
    }
    let clashing = of(
        r#"{"hostNetwork":true,"ports":[{"container":80}],"hostname":"x","devices":[{"host":"/dev/fuse"},{"host":"/dev/kvm","container":"/dev/fuse"}]}"#,
    );
    let fields: Vec<_> = clashing.problems().into_iter().map(|p| p.field).collect();
    assert_eq!(fields, ["devices[1]", "ports", "hostname"]);
}

#[test]
fn clashes_within_one_spec_are_named() {
    let (spec, ..) = parse(
        r#"{"name":"a","image":"b","ports":[{"container":80,"host":80},{"container":81,"host":80}],
        "volumes":[{"container":"/x"},{"container":"/x","host":"vol"}],"networks":["host"]}"#,
    )
    .unwrap()
    .into_parts();
    let fields: Vec<_> = spec.problems().into_iter().map(|p| p.field).collect();
    assert_eq!(fields, ["ports[1].host", "volumes[1].container", "networks[0]"]);
}
