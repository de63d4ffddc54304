//! A configuration: what is accepted can be written and read again, and serves requests.

use crate::access_log::AccessLog;
use crate::balance::Wish;
use crate::cluster::Cluster;
use crate::file;
use crate::instance::Instance;
use crate::listener::{Rules, Target};
use crate::takeover::Knowledge;
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn config(bytes: &[u8]) {
    let Ok(config) = file::parse(bytes) else { return };
    let written = serde_json::to_vec(&config).unwrap_or_else(|e| panic!("{e}"));
    match file::parse(&written) {
        Ok(read) => assert_eq!(serde_json::to_vec(&read).ok(), Some(written)),
        Err((field, why)) => panic!("{field}: {why}: {}", String::from_utf8_lossy(&written)),
    }
    if config.validate().is_err() {
        return;
    }
    let instance = Instance::new(1, AccessLog::none());
    let mut clusters = BTreeMap::new();
    // Twice, as a configuration that takes another's place keeps what it knows.
    for _ in 0..2 {
        let build = |c: &nm_types::proxy::Cluster| {
            let before = clusters.get(&c.id).map(|c: &Arc<Cluster>| &**c);
            (c.id.clone(), Arc::new(Cluster::build(c, before, &Knowledge::default(), &instance)))
        };
        clusters = config.clusters.iter().map(build).collect::<BTreeMap<_, _>>();
    }
    for cluster in clusters.values() {
        let mut wish = Wish::default();
        while let Some(seat) = cluster.pick(&wish, &instance) {
            assert!(seat < cluster.seats.len() && !wish.tried.has(seat));
            wish.client = wish.client.wrapping_add(1);
            let before = wish.tried.count();
            wish.tried.add(seat);
            if wish.tried.count() == before {
                break;
            }
        }
    }
    for listener in &config.listeners {
        let rules = Rules::build(listener, &config, &clusters, None);
        let Target::Http(routes) = &rules.target else { continue };
        for (host, path) in [("a", "/"), ("a.example.com:80", "/a/b"), ("", "/"), ("[::1]:1", "//"), ("é", "/a")] {
            if let Some(cluster) = routes.find(host, path) {
                assert!(clusters.values().any(|c| Arc::ptr_eq(c, cluster)));
            }
        }
    }
}
