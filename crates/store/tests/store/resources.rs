use crate::fixture::{Fixture, NOW, container, id, insert};
use nm_store::{Kind, ListQuery, NewResource, Patch, Resource, Store, StoreError, Unique};
use nm_types::Timestamp;
use serde::{Deserialize, Serialize};

both!(
    reads_back_what_was_written,
    pages_go_through_everything_once,
    names_are_unique_where_asked,
    compare_and_set,
    one_of_many_compare_and_sets_wins,
    put_replaces,
    statuses_in_bulk,
    odd_texts,
    ten_thousand_load_at_once,
);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Spec {
    image: String,
    ports: Vec<u16>,
}

fn spec(image: &str) -> Spec {
    Spec {
        image: image.into(),
        ports: vec![80, 443],
    }
}

async fn update(store: &Store, n: usize, patch: Patch) -> Result<Resource, StoreError> {
    let mut tx = store.begin(Timestamp(NOW.0 + 1)).await?;
    let held = tx.update(Kind::Container, &id(n), patch).await?;
    tx.commit().await?;
    Ok(held)
}

async fn reads_back_what_was_written(f: Fixture) {
    let store = f.open().await;
    let new = container(1).spec(&spec("nginx")).unwrap().status(&"created").unwrap();
    let written = insert(&store, new).await.unwrap();
    let held = store.get(Kind::Container, &id(1)).await.unwrap().unwrap();
    assert_eq!(held, written);
    assert_eq!(held.spec::<Spec>().unwrap(), spec("nginx"));
    assert_eq!(held.status::<String>().unwrap(), "created");
    assert_eq!((held.generation, held.revision, held.created_at, held.updated_at), (1, 1, NOW, NOW));
    assert_eq!(
        (held.name.as_str(), held.parent.as_str(), held.unique, held.has_secret()),
        ("web-1", "node_1_abcdefghi", false, false)
    );

    assert_eq!(store.get(Kind::Node, &id(1)).await.unwrap(), None, "an id counts within its kind");
    assert!(matches!(held.spec::<u32>(), Err(StoreError::Corrupt { .. })));

    let mut tx = store.begin(NOW).await.unwrap();
    assert_eq!(tx.delete(Kind::Container, &id(1)).await.unwrap(), held);
    assert!(matches!(tx.delete(Kind::Container, &id(1)).await, Err(StoreError::NotFound { .. })));
    tx.commit().await.unwrap();
    assert_eq!(store.get(Kind::Container, &id(1)).await.unwrap(), None);
}

async fn pages_go_through_everything_once(f: Fixture) {
    let store = f.open().await;
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 0..25 {
        tx.insert(container(n).within(format!("node_{}", n % 2))).await.unwrap();
    }
    tx.insert(NewResource::new(Kind::Node, "node_1_abcdefghi")).await.unwrap();
    tx.commit().await.unwrap();

    let all: Vec<String> = (0..25).map(id).collect();
    for (parent, newest_first) in [(None, false), (None, true), (Some("node_1"), false), (Some("node_1"), true)] {
        let mut want: Vec<String> = match parent {
            None => all.clone(),
            Some(_) => all.iter().skip(1).step_by(2).cloned().collect(),
        };
        if newest_first {
            want.reverse();
        }
        let mut got: Vec<String> = Vec::new();
        loop {
            let query = ListQuery {
                parent,
                newest_first,
                after: got.last().map(String::as_str),
                ..ListQuery::of(Kind::Container, 4)
            };
            let page = store.list(query).await.unwrap();
            assert!(page.len() <= 4);
            if page.is_empty() {
                break;
            }
            got.extend(page.into_iter().map(|r| r.id));
        }
        assert_eq!(got, want, "{parent:?} {newest_first}");
    }
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 25);
    assert_eq!(store.count(Kind::Container, Some("node_1")).await.unwrap(), 12);
    assert_eq!(
        store
            .all(Kind::Container)
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.id)
            .collect::<Vec<_>>(),
        all
    );
}

async fn names_are_unique_where_asked(f: Fixture) {
    let store = f.open().await;
    let named = |n: usize, node: &str| container(n).uniquely_named("db").within(node);
    insert(&store, named(1, "a")).await.unwrap();
    insert(&store, named(2, "b")).await.unwrap();
    // Somebody else's container, merely seen, may have any name.
    insert(&store, container(3).named("db").within("a")).await.unwrap();
    insert(&store, container(4).named("db").within("a")).await.unwrap();

    let taken = insert(&store, named(5, "a")).await.unwrap_err();
    assert!(
        matches!(
            taken,
            StoreError::Conflict {
                what: Unique::ResourceName
            }
        ),
        "{taken:?}"
    );
    let taken = insert(&store, container(1)).await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { what: Unique::ResourceId }), "{taken:?}");

    insert(&store, container(6).uniquely_named("cache").within("a")).await.unwrap();
    let taken = update(&store, 6, Patch::new().name("db")).await.unwrap_err();
    assert!(
        matches!(
            taken,
            StoreError::Conflict {
                what: Unique::ResourceName
            }
        ),
        "{taken:?}"
    );
    update(&store, 1, Patch::new().name("db-old")).await.unwrap();
    update(&store, 6, Patch::new().name("db")).await.unwrap();

    let found = |r: Vec<Resource>| r.into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(
        found(store.named(Kind::Container, "db", None).await.unwrap()),
        [id(2), id(3), id(4), id(6)]
    );
    assert_eq!(found(store.named(Kind::Container, "db", Some("b")).await.unwrap()), [id(2)]);
    assert_eq!(found(store.named(Kind::Container, "db-old", None).await.unwrap()), [id(1)]);
    assert!(store.named(Kind::Container, "nobody", None).await.unwrap().is_empty());
}

async fn compare_and_set(f: Fixture) {
    let store = f.open().await;
    insert(&store, container(1).spec(&spec("nginx:1")).unwrap()).await.unwrap();

    let held = update(&store, 1, Patch::new().spec(&spec("nginx:2")).unwrap().if_generation(1))
        .await
        .unwrap();
    assert_eq!((held.generation, held.revision, held.updated_at), (2, 2, Timestamp(NOW.0 + 1)));
    assert_eq!(held.spec::<Spec>().unwrap(), spec("nginx:2"));

    // A status is not a wish: same generation, and a stale one would not have noticed it.
    let held = update(&store, 1, Patch::new().status(&"running").unwrap().if_generation(2))
        .await
        .unwrap();
    assert_eq!((held.generation, held.revision), (2, 3));
    assert_eq!(held.status::<String>().unwrap(), "running");
    assert_eq!(held.spec::<Spec>().unwrap(), spec("nginx:2"));

    for stale in [Patch::new().if_generation(1), Patch::new().if_revision(2)] {
        let error = update(&store, 1, stale.spec(&spec("nginx:3")).unwrap()).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Stale {
                    generation: 2,
                    revision: 3,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    assert!(matches!(
        update(&store, 2, Patch::new().name("x")).await,
        Err(StoreError::NotFound { .. })
    ));

    // Neither error spoils the transaction.
    let mut tx = store.begin(NOW).await.unwrap();
    assert!(matches!(
        tx.update(Kind::Container, &id(1), Patch::new().name("x").if_generation(9)).await,
        Err(StoreError::Stale { .. })
    ));
    assert!(matches!(
        tx.update(Kind::Container, &id(2), Patch::new().name("x")).await,
        Err(StoreError::NotFound { .. })
    ));
    tx.update(Kind::Container, &id(1), Patch::new().name("x")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.get(Kind::Container, &id(1)).await.unwrap().unwrap().name, "x");
}

async fn one_of_many_compare_and_sets_wins(f: Fixture) {
    let store = f.open().await;
    insert(&store, container(1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { update(&store, 1, Patch::new().name(format!("n{n}")).if_generation(1)).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(
        lost.iter().all(|e| matches!(e, Err(StoreError::Stale { generation: 2, .. }))),
        "{lost:?}"
    );
}

async fn put_replaces(f: Fixture) {
    let store = f.open().await;
    for generation in 1..=3 {
        let mut tx = store.begin(Timestamp(NOW.0 + generation)).await.unwrap();
        let new = NewResource::new(Kind::Setting, "link.ca").spec(&generation).unwrap();
        assert_eq!(tx.put(new).await.unwrap().generation, generation);
        tx.commit().await.unwrap();
    }
    let held = store.get(Kind::Setting, "link.ca").await.unwrap().unwrap();
    assert_eq!(
        (held.spec::<i64>().unwrap(), held.created_at.0, held.updated_at.0),
        (3, NOW.0 + 1, NOW.0 + 3)
    );
    let whats: Vec<_> = store
        .changes_since(0, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|c| c.what.as_str())
        .collect();
    assert_eq!(whats, ["created", "updated", "updated"]);
}

async fn statuses_in_bulk(f: Fixture) {
    let store = f.open().await;
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 0..450 {
        tx.insert(container(n)).await.unwrap();
    }
    let before = tx.commit().await.unwrap();

    let statuses: Vec<(String, String)> = (0..500).map(|n| (id(n), format!("{{\"n\":{n}}}"))).collect();
    let statuses: Vec<(&str, &str)> = statuses.iter().map(|(i, s)| (i.as_str(), s.as_str())).collect();
    let mut tx = store.begin(NOW).await.unwrap();
    assert_eq!(
        tx.update_statuses(Kind::Container, &statuses).await.unwrap(),
        450,
        "those that do not exist are left out"
    );
    tx.commit().await.unwrap();

    let changes = store.changes_since(before, 1_000).await.unwrap();
    assert_eq!(changes.len(), 450);
    assert!(changes.windows(2).all(|w| w[0].revision < w[1].revision));
    for held in store.all(Kind::Container).await.unwrap() {
        let change = changes.iter().find(|c| *c.id == *held.id).unwrap();
        assert_eq!(
            (change.revision, &*change.name, change.what.as_str()),
            (held.revision, held.name.as_str(), "status")
        );
        assert_eq!(held.generation, 1);
        assert_eq!(
            id(held.status::<serde_json::Value>().unwrap()["n"].as_u64().unwrap() as usize),
            held.id
        );
    }
}

/// Whatever comes in a request must lead to an answer, not to a database error.
async fn odd_texts(f: Fixture) {
    let store = f.open().await;
    let text = "'; DROP TABLE users; -- \" $1 ? % \\ \u{10ffff} ünï\n\t";
    insert(&store, container(1).named(text).spec(&text).unwrap()).await.unwrap();
    let held = store.named(Kind::Container, text, None).await.unwrap();
    assert_eq!((held[0].name.as_str(), held[0].spec::<String>().unwrap().as_str()), (text, text));
    assert_eq!(store.get(Kind::Container, "a\0b").await.unwrap(), None);
    assert!(store.named(Kind::Container, "a\0b", Some("\0")).await.unwrap().is_empty());
    assert!(
        store
            .list(ListQuery {
                after: Some("\0"),
                ..ListQuery::of(Kind::Container, 5)
            })
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.count(Kind::Container, Some("\0")).await.unwrap(), 0);
    assert_eq!(store.users(None, 10).await.unwrap(), []);
}

async fn ten_thousand_load_at_once(f: Fixture) {
    let store = f.open().await;
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 0..10_000 {
        tx.insert(container(n).spec(&spec("nginx")).unwrap()).await.unwrap();
    }
    tx.commit().await.unwrap();
    let all = store.all(Kind::Container).await.unwrap();
    assert_eq!(all.len(), 10_000);
    assert!(all.is_sorted_by(|a, b| a.id < b.id));
}
