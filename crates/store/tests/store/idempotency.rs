use crate::fixture::{Fixture, NOW, container};
use nm_store::{Idempotency, Kind, Retention, Secret, Store};
use nm_types::Timestamp;

both!(
    a_repeated_request_gets_the_same_answer,
    one_of_many_at_once_is_fresh,
    keys_go_after_a_day,
    answers_are_sealed
);

async fn begin(store: &Store, actor: &str, key: &str, hash: &str) -> Idempotency {
    let mut tx = store.begin(NOW).await.unwrap();
    let found = tx.idempotency_begin(actor, key, hash).await.unwrap();
    tx.commit().await.unwrap();
    found
}

async fn finish(store: &Store, actor: &str, key: &str, answer: &str) {
    let mut tx = store.begin(NOW).await.unwrap();
    tx.idempotency_finish(actor, key, 201, &Secret::new(answer.as_bytes().to_vec()))
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn a_repeated_request_gets_the_same_answer(f: Fixture) {
    let store = f.open().await;
    assert!(matches!(begin(&store, "anna", "k", "h").await, Idempotency::Fresh));
    assert!(matches!(
        begin(&store, "anna", "k", "h").await,
        Idempotency::InFlight {
            operation_id: None,
            since: NOW
        }
    ));
    let mut tx = store.begin(NOW).await.unwrap();
    tx.idempotency_operation("anna", "k", "op_1").await.unwrap();
    tx.commit().await.unwrap();
    let Idempotency::InFlight { operation_id, .. } = begin(&store, "anna", "k", "h").await else {
        panic!()
    };
    assert_eq!(operation_id.as_deref(), Some("op_1"));
    assert_eq!(
        store.idempotency_unanswered(Timestamp(NOW.0 + 1), 10).await.unwrap(),
        [("anna".into(), "k".into(), Some("op_1".into()))]
    );

    finish(&store, "anna", "k", "answer").await;
    let Idempotency::Done { status, response } = begin(&store, "anna", "k", "h").await else {
        panic!()
    };
    assert_eq!((status, response.expose()), (201, &b"answer"[..]));
    assert!(store.idempotency_unanswered(Timestamp(NOW.0 + 1), 10).await.unwrap().is_empty());

    assert!(matches!(begin(&store, "anna", "k", "other").await, Idempotency::Mismatch));
    assert!(
        matches!(begin(&store, "ben", "k", "h").await, Idempotency::Fresh),
        "keys are each actor's own"
    );

    let mut tx = store.begin(NOW).await.unwrap();
    tx.idempotency_abandon("ben", "k").await.unwrap();
    tx.idempotency_abandon("anna", "k").await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(begin(&store, "ben", "k", "h").await, Idempotency::Fresh));
    assert!(
        matches!(begin(&store, "anna", "k", "h").await, Idempotency::Done { .. }),
        "an answer is not abandoned"
    );
}

async fn one_of_many_at_once_is_fresh(f: Fixture) {
    let store = f.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut tx = store.begin(NOW).await.unwrap();
            let fresh = matches!(tx.idempotency_begin("anna", "k", "h").await.unwrap(), Idempotency::Fresh);
            if fresh {
                tx.insert(container(n)).await.unwrap();
            }
            tx.commit().await.unwrap();
            fresh
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|fresh| *fresh).count(), 1);
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 1);
}

async fn keys_go_after_a_day(f: Fixture) {
    let store = f.open().await;
    begin(&store, "anna", "k", "h").await;
    let day = Retention::default().idempotency_ms;
    assert_eq!(
        store.prune(Timestamp(NOW.0 + day), Retention::default()).await.unwrap().idempotency,
        0
    );
    assert_eq!(
        store
            .prune(Timestamp(NOW.0 + day + 1), Retention::default())
            .await
            .unwrap()
            .idempotency,
        1
    );
    assert!(matches!(begin(&store, "anna", "k", "h").await, Idempotency::Fresh));
}

async fn answers_are_sealed(f: Fixture) {
    let store = f.open().await;
    begin(&store, "anna", "k", "h").await;
    finish(&store, "anna", "k", "planted-token-in-an-answer").await;
    let raw = f.raw_bytes().await;
    assert!(!raw.windows(7).any(|w| w == b"planted"));
    store.rotate_keys(NOW).await.unwrap();
    assert!(
        matches!(begin(&store, "anna", "k", "h").await, Idempotency::Done { .. }),
        "it opens after a change of the master key"
    );
}
