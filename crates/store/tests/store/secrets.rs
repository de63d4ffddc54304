use crate::fixture::{Fixture, NOW, container, id, insert};
use nm_store::{Kind, NewResource, Patch, Resource, SealError, Secret, Store, StoreError};
use nm_waits::soon;
use std::fs;
use std::os::unix::fs::PermissionsExt;

both!(
    a_secret_opens_only_when_asked,
    a_moved_secret_does_not_open,
    planted_secrets_are_not_in_the_raw_bytes,
    a_missing_key_file_stops_the_start,
    a_foreign_key_file_stops_the_start,
    a_readable_key_file_stops_the_start,
    rotation_wraps_everything_anew,
    an_interrupted_rotation_goes_on,
    rotation_beside_writers,
    another_process_may_rotate,
    derived_keys_stay,
);

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn registry(n: usize) -> NewResource {
    NewResource::new(Kind::Registry, format!("reg_{n:04}_abcdefghi")).secret(secret(&format!("planted-password-{n}")))
}

async fn opened(store: &Store, kind: Kind, id: &str) -> Option<String> {
    let held = store.get(kind, id).await.unwrap().unwrap();
    let secret = store.open_sealed(&held).await.unwrap();
    secret.map(|s| String::from_utf8(s.expose().to_vec()).unwrap())
}

async fn all_open(store: &Store, count: usize) {
    let all = store.all(Kind::Registry).await.unwrap();
    assert_eq!(all.len(), count);
    for (n, held) in all.iter().enumerate() {
        assert_eq!(
            store.open_sealed(held).await.unwrap().unwrap().expose(),
            format!("planted-password-{n}").as_bytes()
        );
    }
}

async fn a_secret_opens_only_when_asked(f: Fixture) {
    let store = f.open().await;
    let held = insert(&store, container(1).secret(secret("hunter2"))).await.unwrap();
    assert!(held.has_secret());
    assert!(!format!("{held:?}").contains("hunter2") && !format!("{:?}", secret("hunter2")).contains("hunter2"));
    assert_eq!(
        store.open_sealed(&held).await.unwrap().unwrap().expose(),
        b"hunter2",
        "as given back by the insert"
    );
    assert_eq!(opened(&store, Kind::Container, &id(1)).await.as_deref(), Some("hunter2"));

    let update = async |patch: Patch| -> Resource {
        let mut tx = store.begin(NOW).await.unwrap();
        let held = tx.update(Kind::Container, &id(1), patch).await.unwrap();
        tx.commit().await.unwrap();
        held
    };
    assert_eq!(update(Patch::new().name("renamed")).await.generation, 2);
    assert_eq!(
        opened(&store, Kind::Container, &id(1)).await.as_deref(),
        Some("hunter2"),
        "what is not named stays"
    );
    assert_eq!(update(Patch::new().secret(Some(secret("hunter3")))).await.generation, 3);
    assert_eq!(opened(&store, Kind::Container, &id(1)).await.as_deref(), Some("hunter3"));
    update(Patch::new().secret(None)).await;
    assert_eq!(opened(&store, Kind::Container, &id(1)).await, None);

    let json = Secret::json(&vec![1, 2, 3]).unwrap();
    assert_eq!(json.parse::<Vec<u8>>().unwrap(), [1, 2, 3]);
    let wrong = secret(r#""s3cret""#).parse::<u32>().unwrap_err().to_string();
    assert!(!wrong.contains("s3cret"), "{wrong}");
}

async fn a_moved_secret_does_not_open(f: Fixture) {
    let store = f.open().await;
    insert(&store, registry(0)).await.unwrap();
    insert(&store, registry(1)).await.unwrap();
    f.tamper(
        "UPDATE resources SET sealed = (SELECT sealed FROM resources WHERE id = 'reg_0000_abcdefghi') WHERE id = 'reg_0001_abcdefghi'",
    )
    .await;
    let moved = store.get(Kind::Registry, "reg_0001_abcdefghi").await.unwrap().unwrap();
    let error = store.open_sealed(&moved).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed(SealError::DoesNotOpen { .. })), "{error:?}");
}

async fn planted_secrets_are_not_in_the_raw_bytes(f: Fixture) {
    let store = f.open().await;
    for n in 0..30 {
        insert(&store, registry(n)).await.unwrap();
    }
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 0..10 {
        tx.update(
            Kind::Registry,
            &format!("reg_{n:04}_abcdefghi"),
            Patch::new().secret(Some(secret("planted-second"))),
        )
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    let find = |raw: &[u8], text: &str| raw.windows(text.len()).any(|w| w == text.as_bytes());
    let raw = f.raw_bytes().await;
    assert!(find(&raw, "reg_0007_abcdefghi"), "the search itself works");
    assert!(!find(&raw, "planted"));
    // Nor do the keys that open them lie beside them.
    let key_file = fs::read_to_string(&f.config.key_file).unwrap();
    let key = key_file.lines().last().unwrap().split_once(' ').unwrap().1;
    assert!(!find(&raw, key));
    let root = store.derive_key("x");
    assert!(!find(&raw, &root.iter().map(|b| format!("{b:02x}")).collect::<String>()));
    store.close().await;
    drop(store);
    assert!(!find(&f.raw_bytes().await, "planted"));
}

async fn refused(f: &Fixture) -> SealError {
    match f.try_open().await {
        Err(StoreError::Sealed(error)) => error,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it opened"),
    }
}

async fn a_missing_key_file_stops_the_start(f: Fixture) {
    let store = f.open().await;
    assert_eq!(fs::metadata(&f.config.key_file).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().await;
    drop(store);
    let aside = f.dir.path().join("aside");
    fs::rename(&f.config.key_file, &aside).unwrap();
    assert!(matches!(refused(&f).await, SealError::KeyFileMissing { .. }));
    assert!(!f.config.key_file.exists(), "no new key is made");
    fs::rename(&aside, &f.config.key_file).unwrap();
    f.open().await;
}

async fn a_foreign_key_file_stops_the_start(f: Fixture) {
    let store = f.open().await;
    insert(&store, registry(0)).await.unwrap();
    store.close().await;
    drop(store);
    let other = Fixture::sqlite();
    other.open().await.close().await;
    let ours = fs::read(&f.config.key_file).unwrap();
    fs::write(&f.config.key_file, fs::read(&other.config.key_file).unwrap()).unwrap();
    assert!(matches!(refused(&f).await, SealError::WrongKey { .. }));
    fs::write(&f.config.key_file, ours).unwrap();
    all_open(&f.open().await, 1).await;
}

async fn a_readable_key_file_stops_the_start(f: Fixture) {
    f.open().await.close().await;
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&f.config.key_file, fs::Permissions::from_mode(mode)).unwrap();
        let error = refused(&f).await;
        assert!(matches!(error, SealError::KeyFileOpen { .. }), "{error:?}");
        assert!(error.to_string().contains("chmod 600"), "it says what to do: {error}");
    }
    fs::set_permissions(&f.config.key_file, fs::Permissions::from_mode(0o400)).unwrap();
    f.open().await;
}

async fn rotation_wraps_everything_anew(f: Fixture) {
    let store = f.open().await;
    for n in 0..450 {
        insert(&store, registry(n)).await.unwrap();
    }
    insert(&store, container(1)).await.unwrap();
    let cached = store.get(Kind::Registry, "reg_0003_abcdefghi").await.unwrap().unwrap();
    let (old_keys, old_raw, revision) = (store.key_ids(), f.raw_bytes().await, store.revision().await.unwrap());

    let done = store.rotate_keys(NOW).await.unwrap();
    assert_eq!((done.rewrapped, done.resumed), (450, false));
    assert_eq!(store.key_ids(), std::slice::from_ref(&done.key_id));
    assert_ne!(store.key_ids(), old_keys);
    assert_eq!(store.revision().await.unwrap(), revision, "nothing that anybody sees has changed");
    all_open(&store, 450).await;
    assert_eq!(
        store.open_sealed(&cached).await.unwrap().unwrap().expose(),
        b"planted-password-3",
        "one kept in memory opens too"
    );

    let file = fs::read_to_string(&f.config.key_file).unwrap();
    assert!(file.contains(&done.key_id) && !file.contains(&old_keys[0]), "the old key is gone");
    assert!(old_raw.windows(16).any(|w| w == old_keys[0].as_bytes()));
    let sealed = f
        .rows("SELECT sealed FROM resources WHERE sealed IS NOT NULL UNION ALL SELECT root_sealed FROM store_head")
        .await;
    assert_eq!(sealed.len(), 451);
    for row in sealed {
        let sealed: String = sqlx::Row::get(&row, 0);
        assert!(sealed.starts_with(&format!("v1:{}:", done.key_id)));
    }
    store.close().await;
    drop(store);
    all_open(&f.open().await, 450).await;
}

/// As a process killed after each of the steps leaves it.
async fn an_interrupted_rotation_goes_on(f: Fixture) {
    let store = f.open().await;
    for n in 0..5 {
        insert(&store, registry(n)).await.unwrap();
    }
    let first = fs::read_to_string(&f.config.key_file).unwrap();
    let first_line = first.lines().last().unwrap();

    // 1: the new key is in the file, and nothing uses it.
    let other = Fixture::sqlite();
    other.open().await.close().await;
    let other_file = fs::read_to_string(&other.config.key_file).unwrap();
    let second_line = other_file.lines().last().unwrap();
    fs::write(&f.config.key_file, format!("{first_line}\n{second_line}\n")).unwrap();
    store.close().await;
    drop(store);
    let store = f.open().await;
    all_open(&store, 5).await;
    insert(&store, registry(5)).await.unwrap();
    let done = store.rotate_keys(NOW).await.unwrap();
    assert_eq!(
        (done.rewrapped, done.resumed, done.key_id.as_str()),
        (6, true, second_line.split_once(' ').unwrap().0)
    );
    all_open(&store, 6).await;

    // 2 and 3: the new key is in use, and some rows are still under the old one.
    fs::write(&f.config.key_file, format!("{first_line}\n{second_line}\n")).unwrap();
    let done = store.rotate_keys(NOW).await.unwrap();
    assert_eq!((done.rewrapped, done.resumed), (0, true), "there was nothing left to wrap");
    assert_eq!(store.key_ids().len(), 1);

    // While the file was being replaced: an unfinished copy beside it.
    let unfinished = f.config.key_file.with_file_name("key.new");
    fs::write(&unfinished, "half").unwrap();
    store.close().await;
    drop(store);
    let store = f.open().await;
    assert!(!unfinished.exists(), "no copy of keys is left lying about");
    all_open(&store, 6).await;
    assert!(!store.rotate_keys(NOW).await.unwrap().resumed);
    all_open(&store, 6).await;
}

async fn rotation_beside_writers(f: Fixture) {
    let store = f.open().await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                insert(&store, registry(n)).await.unwrap();
            }
        }
    });
    let mut rotations = 0;
    while !writer.is_finished() {
        soon("a rotation", store.rotate_keys(NOW)).await.unwrap();
        rotations += 1;
    }
    writer.await.unwrap();
    assert!(rotations > 0);
    all_open(&store, 200).await;
    assert_eq!(store.key_ids().len(), 1);
}

/// Two stores on one key file: on PostgreSQL two replicas; on SQLite one after the other.
async fn another_process_may_rotate(f: Fixture) {
    if f.is_postgres() {
        let (one, two) = (f.open().await, f.open().await);
        insert(&one, registry(0)).await.unwrap();
        two.rotate_keys(NOW).await.unwrap();
        // The first has never seen this key: it reads the file again, for opening and for sealing.
        all_open(&one, 1).await;
        insert(&one, registry(1)).await.unwrap();
        all_open(&two, 2).await;
        two.rotate_keys(NOW).await.unwrap();
        insert(&one, registry(2)).await.unwrap();
        all_open(&two, 3).await;
    } else {
        for n in 0..3 {
            let store = f.open().await;
            insert(&store, registry(n)).await.unwrap();
            store.rotate_keys(NOW).await.unwrap();
            all_open(&store, n + 1).await;
            store.close().await;
        }
    }
}

async fn derived_keys_stay(f: Fixture) {
    let store = f.open().await;
    let (tickets, cursors) = (store.derive_key("tickets"), store.derive_key("cursors"));
    assert_ne!(tickets, cursors);
    store.rotate_keys(NOW).await.unwrap();
    store.close().await;
    drop(store);
    let store = f.open().await;
    assert_eq!(store.derive_key("tickets"), tickets);
    let other = Fixture::sqlite().open().await.derive_key("tickets");
    assert_ne!(other, tickets, "two installs share none");
}
