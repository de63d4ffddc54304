//! Random histories against a plain map: whatever the order of operations, the store holds what the map holds.

use crate::fixture::{Fixture, NOW, id};
use nm_store::{Kind, NewResource, Patch, StoreError, What};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Insert(usize),
    Put(usize, u8),
    /// With the generation the model has, or one that is stale.
    Update(usize, u8, bool),
    Status(usize, u8),
    Delete(usize),
}

#[derive(Debug, Clone)]
struct Batch {
    steps: Vec<Step>,
    commit: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    spec: u8,
    status: u8,
    generation: i64,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let n = 0usize..4;
    let step = prop_oneof![
        n.clone().prop_map(Step::Insert),
        (n.clone(), any::<u8>()).prop_map(|(n, v)| Step::Put(n, v)),
        (n.clone(), any::<u8>(), any::<bool>()).prop_map(|(n, v, stale)| Step::Update(n, v, stale)),
        (n.clone(), any::<u8>()).prop_map(|(n, v)| Step::Status(n, v)),
        n.prop_map(Step::Delete),
    ];
    let batch = (proptest::collection::vec(step, 1..6), prop::bool::weighted(0.7)).prop_map(|(steps, commit)| Batch { steps, commit });
    proptest::collection::vec(batch, 1..12)
}

async fn history(f: &Fixture, batches: Vec<Batch>) {
    let store = f.open().await;
    let mut model: BTreeMap<usize, Held> = BTreeMap::new();
    let mut expected_changes: Vec<(String, What)> = Vec::new();
    for batch in batches {
        let (mut draft, mut changes, mut spoiled) = (model.clone(), Vec::new(), false);
        let mut tx = store.begin(NOW).await.unwrap();
        for step in batch.steps {
            let (n, what) = match step {
                Step::Insert(n) => match (
                    draft.contains_key(&n),
                    tx.insert(NewResource::new(Kind::Server, id(n)).spec(&0).unwrap().status(&0).unwrap())
                        .await,
                ) {
                    (false, Ok(_)) => {
                        draft.insert(
                            n,
                            Held {
                                spec: 0,
                                status: 0,
                                generation: 1,
                            },
                        );
                        (n, What::Created)
                    }
                    (true, Err(StoreError::Conflict { .. })) => {
                        spoiled = true;
                        break;
                    }
                    (there, other) => panic!("insert where {there}: {other:?}"),
                },
                Step::Put(n, v) => {
                    let put = tx
                        .put(NewResource::new(Kind::Server, id(n)).spec(&v).unwrap().status(&v).unwrap())
                        .await
                        .unwrap();
                    let generation = draft.get(&n).map_or(1, |h| h.generation + 1);
                    assert_eq!(put.generation, generation);
                    draft.insert(
                        n,
                        Held {
                            spec: v,
                            status: v,
                            generation,
                        },
                    );
                    (n, if generation == 1 { What::Created } else { What::Updated })
                }
                Step::Update(n, v, stale) => {
                    let expect = draft.get(&n).map_or(1, |h| h.generation) - i64::from(stale);
                    let patch = Patch::new().spec(&v).unwrap().if_generation(expect);
                    match (draft.get_mut(&n), stale, tx.update(Kind::Server, &id(n), patch).await) {
                        (Some(held), false, Ok(_)) => {
                            *held = Held {
                                spec: v,
                                generation: held.generation + 1,
                                ..held.clone()
                            };
                            (n, What::Updated)
                        }
                        (Some(_), true, Err(StoreError::Stale { .. })) | (None, _, Err(StoreError::NotFound { .. })) => continue,
                        (held, stale, other) => panic!("update of {held:?}, stale {stale}: {other:?}"),
                    }
                }
                Step::Status(n, v) => {
                    let (id, status) = (id(n), v.to_string());
                    let written = tx.update_statuses(Kind::Server, &[(&id, &status)]).await.unwrap();
                    match draft.get_mut(&n) {
                        Some(held) => held.status = v,
                        None => {
                            assert_eq!(written, 0);
                            continue;
                        }
                    }
                    (n, What::Status)
                }
                Step::Delete(n) => match (draft.remove(&n), tx.delete(Kind::Server, &id(n)).await) {
                    (Some(_), Ok(_)) => (n, What::Deleted),
                    (None, Err(StoreError::NotFound { .. })) => continue,
                    (held, other) => panic!("delete of {held:?}: {other:?}"),
                },
            };
            changes.push((id(n), what));
        }
        if batch.commit && !spoiled {
            tx.commit().await.unwrap();
            model = draft;
            expected_changes.extend(changes);
        } else {
            drop(tx);
        }
    }
    let held: BTreeMap<String, Held> = store
        .all(Kind::Server)
        .await
        .unwrap()
        .into_iter()
        .map(|r| {
            (
                r.id.clone(),
                Held {
                    spec: r.spec().unwrap(),
                    status: r.status().unwrap(),
                    generation: r.generation,
                },
            )
        })
        .collect();
    assert_eq!(held, model.into_iter().map(|(n, h)| (id(n), h)).collect());
    let changes = store.changes_since(0, 10_000).await.unwrap();
    assert!(changes.windows(2).all(|w| w[0].revision < w[1].revision));
    assert_eq!(
        changes.into_iter().map(|c| (c.id.to_string(), c.what)).collect::<Vec<_>>(),
        expected_changes
    );
    store.close().await;
}

fn run(cases: u32, fixture: impl Fn(&tokio::runtime::Runtime) -> Option<Fixture>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let done = runner.run(&batches(), |batches| {
        if let Some(f) = fixture(&runtime) {
            runtime.block_on(history(&f, batches));
        }
        Ok(())
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
}

mod sqlite {
    #[test]
    fn holds_what_a_map_would_hold() {
        super::run(60, |_| Some(crate::fixture::Fixture::sqlite()));
    }
}

mod postgres {
    #[test]
    fn holds_what_a_map_would_hold() {
        super::run(15, |runtime| runtime.block_on(crate::fixture::Fixture::postgres()));
    }
}
