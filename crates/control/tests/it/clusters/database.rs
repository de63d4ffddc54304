//! Database clusters, with members that are made up: what is made, in which order things are done, and what is said.

use super::{CLUSTERS, cluster, create, events, until};
use nm_testing::{Client, FakeAgent, TestControlPlane, eventually};
use nm_types::auth::{AuditEntryView, Role};
use nm_types::cluster::{
    ClusterConditionKind, ClusterEventKind, ClusterStatus, ClusterView, DatabaseCredentials, DatabaseRole, DatabaseState,
};
use nm_types::container::ContainerStatus;
use nm_types::node::{NodeStatus, NodeView};
use nm_types::proxy::{HealthCheck, MemberState, Probe, Protocol};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What the members agree on.
#[derive(Default)]
struct Agreed {
    members: Vec<String>,
    primary: Option<String>,
    down: BTreeSet<String>,
    pending: BTreeSet<String>,
    etcd: BTreeSet<String>,
    /// How often they were asked how they are; and all else that was asked of them.
    looks: usize,
    asked: Vec<String>,
}

impl Agreed {
    fn replica(&self) -> Option<String> {
        let fits = |m: &&String| Some(*m) != self.primary.as_ref() && !self.down.contains(*m);
        self.members.iter().find(fits).cloned()
    }

    fn answer(&mut self, words: &[&str]) -> (i64, String) {
        if words != ["status"] {
            self.asked.push(words.join(" "));
        }
        match words {
            ["status"] => {
                self.looks += 1;
                return (0, self.status().to_string());
            }
            ["switchover", rest @ ..] => match rest.first().map(|to| (*to).to_owned()).or(self.replica()) {
                Some(to) => self.primary = Some(to),
                None => return (1, "nobody is fit to take over".into()),
            },
            ["restart", name] => {
                self.pending.remove(*name);
            }
            ["forget", name] => self.members.retain(|m| m != name),
            ["etcd-add", name, _] | ["etcd-promote", name] => {
                self.etcd.insert((*name).to_owned());
            }
            ["etcd-remove", name] => {
                self.etcd.remove(*name);
            }
            ["configure", _document] => {}
            other => return (1, format!("there is no command {other:?}")),
        }
        (0, "{}".into())
    }

    fn status(&self) -> Value {
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|name| {
                let leads = self.primary.as_ref() == Some(name);
                let state = match (self.down.contains(name), leads) {
                    (true, _) => "stopped",
                    (false, true) => "running",
                    (false, false) => "streaming",
                };
                json!({ "name": name, "role": if leads { "primary" } else { "replica" }, "state": state, "timeline": 1, "lagBytes": 0,
                    "lagSeconds": 0.0, "pendingRestart": self.pending.contains(name) })
            })
            .collect();
        let etcd: Vec<Value> = self.etcd.iter().map(|name| json!({ "name": name, "healthy": true })).collect();
        json!({ "primary": self.primary, "timeline": 1, "members": members, "connections": 3, "maxConnections": 100, "slots": [], "etcd": etcd })
    }
}

struct Fleet {
    plane: TestControlPlane,
    agents: Vec<FakeAgent>,
    api: Client,
    agreed: Arc<Mutex<Agreed>>,
}

impl Fleet {
    async fn of(names: &[&str]) -> Self {
        let plane = TestControlPlane::sqlite().await;
        let api = plane.token(Role::Admin, &[]).await;
        let (mut agents, agreed) = (Vec::new(), Arc::new(Mutex::new(Agreed::default())));
        for (n, name) in names.iter().enumerate() {
            let agent = FakeAgent::join(&plane, name).await;
            let labels = json!({ "labels": { "address": format!("10.0.0.{}", n + 1) } });
            api.patch(format!("/api/nodes/{}", agent.node)).json(&labels).await.is(200);
            let shared = agreed.clone();
            agent.has_program("nm-postgres", move |words| shared.lock().unwrap().answer(words));
            agents.push(agent);
        }
        Self {
            plane,
            agents,
            api,
            agreed,
        }
    }

    fn node(&self, n: usize) -> String {
        self.agents[n].node.to_string()
    }

    /// The members of these nodes are there, and the first takes the writes.
    fn agree(&self, nodes: &[usize]) {
        let mut agreed = self.agreed.lock().unwrap();
        agreed.members = nodes.iter().map(|n| self.node(*n)).collect();
        agreed.primary = agreed.members.first().cloned();
        agreed.etcd = agreed.members.iter().take(3).cloned().collect();
    }

    async fn ready(&self, request: &Value) -> ClusterView {
        let made = create(&self.api, request).await;
        until(&self.api, made.id.as_str(), "it takes writes", |c| {
            let database = c.database.as_ref()?;
            let all = database.members.iter().all(|m| m.container_id.is_some() && m.role.is_some());
            (database.state == DatabaseState::Ready && all && !database.members.is_empty()).then(|| c.clone())
        })
        .await
    }

    fn asked(&self) -> Vec<String> {
        self.agreed.lock().unwrap().asked.clone()
    }
}

fn request(servers: &[&str]) -> Value {
    json!({
        "name": "Orders", "type": "database", "servers": servers,
        "loadBalancer": { "algorithm": "least-connections", "healthCheckInterval": 30, "healthCheckTimeout": 5 },
    })
}

fn container_of(agent: &FakeAgent) -> nm_types::container::ContainerSpec {
    let ours: Vec<_> = agent.containers().into_iter().filter_map(|c| c.spec).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    ours.into_iter().next().unwrap()
}

#[tokio::test]
async fn the_chapters_request_makes_a_member_on_each_node_and_an_entry_for_writes_and_one_for_reads() {
    let fleet = Fleet::of(&["alder", "birch", "cedar"]).await;
    fleet.agree(&[0, 1, 2]);
    let made = fleet.ready(&request(&["alder", "birch", "cedar"])).await;
    let database = made.database.clone().unwrap();
    assert_eq!((database.version, database.name.as_str(), database.synchronous), (15, "app", true));
    assert!(database.highly_available && made.conditions.is_empty(), "{:?}", made.conditions);
    assert_eq!(database.primary, Some(fleet.node(0)));
    let roles: Vec<_> = database.members.iter().map(|m| m.role.unwrap()).collect();
    assert_eq!(roles, [DatabaseRole::Primary, DatabaseRole::Replica, DatabaseRole::Replica]);
    assert!(database.members.iter().all(|m| m.etcd));
    let status = until(&fleet.api, "Orders", "it is well", |c| {
        (c.status == ClusterStatus::Healthy).then_some(c.status)
    })
    .await;
    assert_eq!(status, ClusterStatus::Healthy);
    let strings = database.connection_strings.unwrap();
    let hosts = |port: u16| format!("10.0.0.1:{port},10.0.0.2:{port},10.0.0.3:{port}");
    assert_eq!(
        strings.read_write,
        format!("postgresql://app@{}/app?sslmode=verify-ca", hosts(database.read_write_port))
    );
    assert!(strings.read_only.contains(&hosts(database.read_only_port)));

    // Each member has its own certificate and what it has to know, in a variable whose name says that it is a secret.
    let mut certificates = BTreeSet::new();
    for (n, agent) in fleet.agents.iter().enumerate() {
        let spec = container_of(agent);
        assert!(spec.image.as_str().starts_with("neuralmesh/postgres-ha:15-"), "{}", spec.image);
        let told = spec.environment.0.iter().next().unwrap();
        assert_eq!(told.0.as_str(), "NM_POSTGRES_SECRET");
        let told: Value = serde_json::from_str(told.1.as_str()).unwrap();
        assert_eq!((&told["cluster"], &told["member"]), (&json!(made.id), &json!(fleet.node(n))));
        assert_eq!(told["address"], format!("10.0.0.{}", n + 1));
        assert_eq!(told["etcd"]["members"].as_object().unwrap().len(), 3);
        assert_eq!(told["database"]["synchronous"], true);
        certificates.insert(told["tls"]["certificate"].as_str().unwrap().to_owned());
        let host: BTreeSet<u16> = spec.ports.iter().map(|p| p.host).collect();
        assert!(
            spec.ports.iter().all(|p| p.host == p.container.get()) && host.len() == 5,
            "{:?}",
            spec.ports
        );
    }
    assert_eq!(certificates.len(), 3);

    // Writes go to who says that it is the primary, reads to who says that it is not behind, and to nobody before.
    let edge = fleet.agents[1].edge().unwrap().proxy;
    let named = |id: &str| edge.clusters.iter().find(|c| c.id == id).unwrap();
    let (writes, reads) = (named(made.id.as_str()), named(&format!("{}-reads", made.id)));
    for (cluster, path) in [(writes, "/primary"), (reads, "/replica")] {
        let HealthCheck { probe, port, strict, .. } = cluster.health_check.clone().unwrap();
        assert!(matches!(probe, Probe::Http { path: p, .. } if p == path));
        assert!(strict && port.is_some_and(|p| p != cluster.members[0].port), "{cluster:?}");
        assert_eq!(cluster.members.len(), 3);
    }
    let listens = |port: u16, id: &str| {
        let found = edge.listeners.iter().find(|l| l.port == port);
        found.is_some_and(|l| l.protocol == Protocol::Tcp && l.cluster.as_deref() == Some(id))
    };
    assert!(listens(database.read_write_port, &writes.id) && listens(database.read_only_port, &reads.id));

    // Nobody sees a password but an admin who asks, and that is written down.
    let known: DatabaseCredentials = fleet.api.get(format!("{CLUSTERS}/Orders/database/credentials")).await.data(200);
    let told: Value = serde_json::from_str(container_of(&fleet.agents[0]).environment.0.values().next().unwrap().as_str()).unwrap();
    assert_eq!(told["passwords"]["application"], json!(known.application.password));
    assert!(known.read_write.contains(&known.application.password) && known.certificate_authority.starts_with("-----BEGIN CERTIFICATE"));
    let audit: Vec<AuditEntryView> = fleet.api.get("/api/audit?limit=50").await.data(200);
    assert!(audit.iter().any(|e| e.action == "cluster.databaseCredentials"));
    let viewer = fleet.plane.viewer().await;
    for shown in [
        viewer.get(CLUSTERS).await.is(200).text(),
        viewer.get("/api/containers").await.is(200).text(),
        fleet.api.get("/api/audit?limit=200").await.is(200).text(),
        fleet.api.get(format!("{CLUSTERS}/Orders/events")).await.is(200).text(),
    ] {
        for secret in [&known.application.password, &known.admin.password] {
            assert!(!shown.contains(secret.as_str()), "{shown}");
        }
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }

    fleet.api.delete(format!("{CLUSTERS}/Orders")).await.is(200);
    assert!(fleet.agents.iter().all(|a| a.containers().is_empty()), "its members go with it");
}

#[tokio::test]
async fn what_a_database_can_not_be_is_refused_by_name() {
    let fleet = Fleet::of(&["alder", "birch"]).await;
    let web = json!({ "name": "web", "image": "nginx:latest", "nodeId": fleet.node(0), "ports": [{ "container": 80 }] });
    fleet.api.create(&web).await;
    for (change, field) in [
        (json!({ "servers": ["alder", "web"] }), "servers[1]"),
        (json!({ "servers": ["alder", "alder"] }), "servers[1]"),
        (json!({ "servers": [{ "id": "alder", "port": 5432 }] }), "servers[0].port"),
        (
            json!({ "servers": ["alder", { "id": "birch", "backup": true }] }),
            "servers[1].backup",
        ),
        (json!({ "autoScaling": { "targetCpuPercent": 50 } }), "autoScaling.enabled"),
        (json!({ "tls": { "selfSigned": true } }), "tls"),
        (json!({ "sticky": {} }), "sticky"),
        (json!({ "healthCheck": { "path": "/" } }), "healthCheck"),
        (json!({ "failback": {} }), "failback"),
        (json!({ "database": { "version": 14 } }), "database.version"),
        (json!({ "database": { "parameters": { "ssl": "off" } } }), "database.parameters.ssl"),
        (
            json!({ "database": { "extensions": ["citext", "citext"] } }),
            "database.extensions[1]",
        ),
        (
            json!({ "listenPort": 31000, "database": { "readOnlyPort": 31000 } }),
            "database.readOnlyPort",
        ),
        (json!({ "type": "load-balanced", "database": {} }), "database"),
    ] {
        let mut asked = request(&["alder", "birch"]);
        asked.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        fleet.api.post(CLUSTERS).json(&asked).await.at_odds(field);
    }
    for (change, field) in [
        (json!({ "name": "pg_mine" }), "database.name"),
        (json!({ "name": "No" }), "database.name"),
        (json!({ "readLagLimit": 1 }), "database.readLagLimit"),
        (json!({ "parameters": { "a b": "1" } }), "database.parameters"),
        (json!({ "unheard": 1 }), "database"),
    ] {
        let mut asked = request(&["alder"]);
        asked["database"] = change;
        let refused = fleet.api.post(CLUSTERS).json(&asked).await.refused(422, "invalid_field");
        assert!(refused.details.iter().any(|d| d.field.starts_with(field)), "{field}: {refused:?}");
    }
    assert!(fleet.agents.iter().all(|a| a.containers().len() <= 1), "nothing was made");
}

#[tokio::test]
async fn who_takes_the_writes_changes_by_itself_and_when_it_is_asked_for() {
    let fleet = Fleet::of(&["alder", "birch", "cedar"]).await;
    fleet.agree(&[0, 1, 2]);
    let made = fleet.ready(&request(&["alder", "birch", "cedar"])).await;
    {
        let mut agreed = fleet.agreed.lock().unwrap();
        agreed.primary = None;
        agreed.down.insert(fleet.node(0));
    }
    until(&fleet.api, "Orders", "it takes no writes", |c| {
        let failing = c.database.as_ref()?.state == DatabaseState::Failing;
        let told = c.conditions.iter().any(|k| k.kind == ClusterConditionKind::Database);
        (failing && told && c.status == ClusterStatus::Offline).then_some(())
    })
    .await;
    fleet.agreed.lock().unwrap().primary = Some(fleet.node(1));
    until(&fleet.api, "Orders", "another one does", |c| {
        let database = c.database.as_ref()?;
        (database.primary == Some(fleet.node(1)) && database.state == DatabaseState::Ready && c.status != ClusterStatus::Offline)
            .then_some(())
    })
    .await;
    let told = events(&fleet.api, "Orders").await;
    let failover = told.iter().find(|e| e.kind == ClusterEventKind::Failover).unwrap();
    assert_eq!(failover.member, Some(fleet.node(1)));
    assert!(
        failover.reason.contains("birch") && failover.reason.contains("alder"),
        "{}",
        failover.reason
    );
    assert!(
        told.iter()
            .any(|e| e.kind == ClusterEventKind::MemberDown && e.member == Some(fleet.node(0)))
    );
    fleet.agreed.lock().unwrap().down.clear();

    let path = format!("{CLUSTERS}/{}/database/switchover", made.id);
    fleet
        .api
        .post(&path)
        .json(&json!({ "to": "birch" }))
        .await
        .refused(409, "is_primary");
    fleet
        .api
        .post(&path)
        .json(&json!({ "to": "nobody" }))
        .await
        .refused(404, "server_not_found");
    let switched: ClusterView = fleet.api.post(&path).json(&json!({ "to": "cedar" })).await.data(200);
    assert_eq!(switched.database.unwrap().primary, Some(fleet.node(2)));
    assert_eq!(fleet.asked().last(), Some(&format!("switchover {}", fleet.node(2))));
    let web = json!({ "name": "web", "type": "load-balanced", "servers": ["alder"] });
    let mut web = web;
    web["servers"] = json!([{ "id": "alder", "port": 80 }]);
    create(&fleet.api, &web).await;
    fleet
        .api
        .post(format!("{CLUSTERS}/web/database/switchover"))
        .await
        .refused(409, "not_a_database");
    fleet
        .api
        .get(format!("{CLUSTERS}/web/database/credentials"))
        .await
        .refused(409, "not_a_database");
}

#[tokio::test]
async fn the_primary_hands_over_before_it_leaves_and_etcd_goes_on_with_three() {
    let fleet = Fleet::of(&["alder", "birch", "cedar", "dogwood"]).await;
    fleet.agree(&[0, 1, 2, 3]);
    fleet.ready(&request(&["alder", "birch", "cedar", "dogwood"])).await;
    let (alder, dogwood) = (fleet.node(0), fleet.node(3));
    fleet.api.delete(format!("{CLUSTERS}/Orders/servers/alder")).await.is(200);
    until(&fleet.api, "Orders", "alder is gone, and etcd runs on three", |c| {
        let members = &c.database.as_ref()?.members;
        let three = members.iter().filter(|m| m.etcd && m.container_id.is_some()).count() == 3;
        (members.len() == 3 && three).then_some(())
    })
    .await;
    eventually("its container is gone", async || {
        fleet.agents[0].containers().is_empty().then_some(())
    })
    .await;
    let asked = fleet.asked();
    let place = |what: &str| {
        asked
            .iter()
            .position(|a| a.starts_with(what))
            .unwrap_or_else(|| panic!("{what}: {asked:?}"))
    };
    let order = [
        place("switchover"),
        place(&format!("etcd-remove {alder}")),
        place(&format!("forget {alder}")),
        place(&format!("etcd-add {dogwood} 10.0.0.4")),
    ];
    assert!(order.is_sorted(), "{asked:?}");
    // Where etcd runs now, the member is another container, that joins those that are there.
    eventually("dogwood's member is made anew", async || {
        let all: Vec<_> = fleet.agents[3].containers().into_iter().filter_map(|c| c.spec).collect();
        let spec = all.first().filter(|_| all.len() == 1)?;
        let told: Value = serde_json::from_str(spec.environment.0.values().next()?.as_str()).ok()?;
        (told["etcd"]["state"] == "existing" && spec.ports.len() == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn parameters_are_given_to_members_that_run_and_restarts_go_replicas_first() {
    let fleet = Fleet::of(&["alder", "birch", "cedar"]).await;
    fleet.agree(&[0, 1, 2]);
    fleet.ready(&request(&["alder", "birch", "cedar"])).await;
    fleet.agreed.lock().unwrap().pending = [fleet.node(0), fleet.node(1)].into();
    let change = json!({ "database": { "parameters": { "max_connections": "300" } } });
    fleet.api.patch(format!("{CLUSTERS}/Orders")).json(&change).await.is(200);
    eventually("nobody waits for a restart", async || {
        let agreed = fleet.agreed.lock().unwrap();
        agreed.pending.is_empty().then_some(())
    })
    .await;
    let asked = fleet.asked();
    assert!(
        asked[0].starts_with("configure ") && asked[0].contains("\"max_connections\":\"300\""),
        "{asked:?}"
    );
    assert_eq!(
        asked[1..],
        [
            format!("restart {}", fleet.node(1)),
            "switchover".to_owned(),
            format!("restart {}", fleet.node(0))
        ]
    );
    for (change, field) in [
        (json!({ "database": { "name": "other" } }), "database.name"),
        (json!({ "type": "load-balanced", "database": null }), "type"),
    ] {
        fleet.api.patch(format!("{CLUSTERS}/Orders")).json(&change).await.at_odds(field);
    }
}

#[tokio::test]
async fn a_member_that_was_removed_by_hand_is_made_anew_and_none_twice_over_a_crash() {
    let mut fleet = Fleet::of(&["alder", "birch", "cedar"]).await;
    fleet.agree(&[0, 1, 2]);
    let holds: Vec<_> = fleet
        .agents
        .iter()
        .map(|a| a.hold(nm_testing::Ask::Create, nm_testing::When::After))
        .collect();
    let made = create(&fleet.api, &request(&["alder", "birch", "cedar"])).await;
    for hold in &holds {
        hold.reached(1).await;
    }
    fleet.plane.kill().await;
    holds.iter().for_each(|h| h.release());
    let ready = until(&fleet.api, made.id.as_str(), "it takes writes", |c| {
        let database = c.database.as_ref()?;
        let all = database.members.iter().filter(|m| m.container_id.is_some()).count() == 3;
        (database.state == DatabaseState::Ready && all).then(|| c.clone())
    })
    .await;
    for agent in &fleet.agents {
        container_of(agent);
    }
    let lost = ready.database.unwrap().members[1].container_id.clone().unwrap();
    fleet.api.delete(format!("/api/containers/{lost}?force=true")).await.is(200);
    until(&fleet.api, "Orders", "birch has another one", |c| {
        let now = c.database.as_ref()?.members[1].container_id.clone()?;
        (now != lost).then_some(())
    })
    .await;
    container_of(&fleet.agents[1]);
    let view = cluster(&fleet.api, "Orders").await;
    assert_eq!(view.servers, ["alder", "birch", "cedar"]);
}

#[tokio::test]
async fn it_is_ready_once_every_entry_sends_writes_to_the_first_that_takes_them() {
    let fleet = Fleet::of(&["alder", "birch"]).await;
    fleet.agents.iter().for_each(FakeAgent::checks_fail);
    fleet.agree(&[0, 1]);
    let made = create(&fleet.api, &request(&["alder", "birch"])).await;
    let id = made.id.as_str();
    let told = |c: &ClusterView| c.database.clone().filter(|d| d.primary.is_some());
    let leads = |n: usize| {
        fleet.agents[n].member_is(id, &fleet.node(0), MemberState::Up, "its check succeeds");
    };
    for entries in 0..2 {
        // The second look after it is known who takes the writes comes when the first has been acted on.
        until(&fleet.api, id, "somebody takes the writes", told).await;
        let looks = fleet.agreed.lock().unwrap().looks;
        eventually("two looks more", async || {
            (fleet.agreed.lock().unwrap().looks >= looks + 2).then_some(())
        })
        .await;
        let database = cluster(&fleet.api, id).await.database.unwrap();
        assert_eq!(database.state, DatabaseState::Creating, "{entries} of two entries lead to it");
        assert!(database.connection_strings.is_none());
        leads(entries);
    }
    until(&fleet.api, id, "its ports lead to it", |c| {
        (c.database.as_ref()?.state == DatabaseState::Ready).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_node_alone_says_that_it_survives_nothing() {
    let fleet = Fleet::of(&["alder"]).await;
    fleet.agree(&[0]);
    let mut asked = request(&["alder"]);
    asked["database"] = json!({ "name": "shop", "pool": { "mode": "session" }, "parameters": { "work_mem": "8MB" } });
    let made = fleet.ready(&asked).await;
    let database = made.database.unwrap();
    assert!(!database.highly_available);
    assert!(
        made.conditions.iter().any(|c| c.kind == ClusterConditionKind::NotHighlyAvailable),
        "{:?}",
        made.conditions
    );
    // Clients come by the pool.
    let edge = fleet.agents[0].edge().unwrap().proxy;
    let spec = container_of(&fleet.agents[0]);
    let told: Value = serde_json::from_str(spec.environment.0.values().next().unwrap().as_str()).unwrap();
    assert_eq!(json!(edge.clusters[0].members[0].port), told["ports"]["pooler"]);
    assert_eq!(told["pooler"], json!({ "enabled": true, "mode": "session", "size": 20 }));
    fleet
        .api
        .post(format!("{CLUSTERS}/Orders/database/switchover"))
        .await
        .refused(409, "no_replica");
}

#[tokio::test]
async fn on_the_control_planes_own_machine_its_ports_lead_over_dockers_bridge_and_not_over_loopback() {
    let fleet = Fleet::of(&["alder"]).await;
    fleet.agree(&[0]);
    let node = format!("/api/nodes/{}", fleet.node(0));
    fleet.api.patch(&node).json(&json!({ "labels": {} })).await.is(200);
    let made = fleet.ready(&request(&["alder"])).await;
    let bridge: std::net::IpAddr = "172.17.0.1".parse().unwrap();
    let lead_there = || {
        let clusters = fleet.agents[0].edge().unwrap().proxy.clusters;
        clusters.len() == 2 && clusters.iter().all(|c| c.members[0].address == bridge)
    };
    assert!(lead_there(), "{:?}", fleet.agents[0].edge());
    // An engine that does not answer says nothing of it, and what runs there runs on.
    fleet.agents[0].docker_available(false);
    fleet.agents[0].is(&fleet.plane, NodeStatus::NotReady).await;
    let seen: NodeView = fleet.api.get(&node).await.data(200);
    assert_eq!(seen.info.unwrap().docker.bridge, Some(bridge));
    assert!(lead_there(), "{:?}", fleet.agents[0].edge());
    assert_eq!(made.database.unwrap().members.len(), 1);
}

#[tokio::test]
async fn a_database_of_which_no_member_runs_is_offline_and_well_again_once_one_does() {
    let fleet = Fleet::of(&["alder"]).await;
    fleet.agree(&[0]);
    let made = fleet.ready(&request(&["alder"])).await;
    let member = made.database.unwrap().members[0].container_id.clone().unwrap();
    fleet.agents[0].docker_set(member.as_str(), ContainerStatus::Exited);
    // Its status follows the container at once, what the database is the next look at it.
    let database = until(&fleet.api, "Orders", "it is offline", |c| {
        let database = c.database.as_ref()?;
        (c.status == ClusterStatus::Offline && database.state != DatabaseState::Ready).then(|| database.clone())
    })
    .await;
    assert_eq!(database.members[0].role, None, "nobody told what it is");
    let kinds: Vec<_> = events(&fleet.api, "Orders").await.into_iter().map(|e| e.kind).collect();
    assert!(kinds.contains(&ClusterEventKind::MemberDown), "{kinds:?}");
    fleet.agents[0].docker_set(member.as_str(), ContainerStatus::Running);
    until(&fleet.api, "Orders", "it takes writes again", |c| {
        let ready = c.database.as_ref()?.state == DatabaseState::Ready;
        (ready && c.status == ClusterStatus::Healthy).then_some(())
    })
    .await;
}
