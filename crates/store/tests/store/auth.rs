use crate::fixture::{Fixture, NOW, container, insert};
use nm_store::{
    NewSession, Refreshed, Retention, Store, StoreError, Subject, TokenHash, TokenPair, TokenRow, Tx, Unique, User, UserPatch, UserRow,
    What,
};
use nm_types::auth::{Role, Scope};
use nm_types::text::{Title, Username};
use nm_types::{SessionId, Timestamp, TokenId, UserId};
use nm_waits::{eventually, soon};

both!(
    users_live_and_die,
    the_last_admin_survives_a_race,
    a_session_by_its_tokens,
    a_stolen_refresh_token_ends_the_session,
    a_repeated_refresh_within_the_leeway_is_only_refused,
    sessions_end_in_every_way,
    tokens_live_and_die,
    revocations_reach_the_feed,
    ended_rows_are_pruned,
    only_hashes_are_stored,
);

const MINUTE: i64 = 60_000;

fn later(ms: i64) -> Timestamp {
    Timestamp(NOW.0 + ms)
}

pub fn user_row(name: &str, role: Role) -> UserRow {
    UserRow {
        id: UserId::fresh(NOW.0),
        username: Username::parse(name).unwrap(),
        password_hash: format!("$argon2id$of-{name}"),
        role,
        must_change_password: false,
    }
}

async fn add_user(store: &Store, name: &str, role: Role) -> User {
    let mut tx = store.begin(NOW).await.unwrap();
    let user = tx.create_user(user_row(name, role)).await.unwrap();
    tx.commit().await.unwrap();
    user
}

fn pair(generation: &str, from: Timestamp) -> TokenPair {
    TokenPair {
        access: TokenHash::of(&format!("access-{generation}")),
        access_expires_at: from.plus_millis(15 * MINUTE),
        refresh: TokenHash::of(&format!("refresh-{generation}")),
        expires_at: from.plus_millis(7 * 24 * 60 * MINUTE),
    }
}

async fn sign_in(store: &Store, user: &User, generation: &str) -> SessionId {
    let mut tx = store.begin(NOW).await.unwrap();
    let new = NewSession {
        id: SessionId::fresh(NOW.0),
        user_id: user.id.clone(),
        pair: pair(generation, NOW),
        address: "192.0.2.7".into(),
    };
    let session = tx.create_session(new).await.unwrap();
    tx.commit().await.unwrap();
    session.id
}

async fn refresh(store: &Store, presented: &str, new: &str, at: Timestamp, leeway_ms: i64) -> Refreshed {
    let mut tx = store.begin(at).await.unwrap();
    let presented = TokenHash::of(&format!("refresh-{presented}"));
    let refreshed = tx.refresh_session(presented, pair(new, at), leeway_ms).await.unwrap();
    tx.commit().await.unwrap();
    refreshed
}

async fn who(store: &Store, access: &str, at: Timestamp) -> Option<String> {
    let found = store
        .session_by_access(TokenHash::of(&format!("access-{access}")), at)
        .await
        .unwrap();
    found.map(|(_, user)| user.username.to_string())
}

async fn in_tx<T>(store: &Store, at: Timestamp, work: impl AsyncFnOnce(&mut Tx) -> T) -> T {
    let mut tx = store.begin(at).await.unwrap();
    let done = work(&mut tx).await;
    tx.commit().await.unwrap();
    done
}

async fn users_live_and_die(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Admin).await;
    assert_eq!(store.user(&anna.id).await.unwrap().as_ref(), Some(&anna));
    assert_eq!(store.user_by_name("anna").await.unwrap().as_ref(), Some(&anna));
    for nobody in ["Anna", "anna ", "", "a\0", "' OR 1=1 --"] {
        assert_eq!(store.user_by_name(nobody).await.unwrap(), None, "{nobody:?}");
    }
    let mut tx = store.begin(NOW).await.unwrap();
    let taken = tx.create_user(user_row("anna", Role::Viewer)).await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { what: Unique::Username }), "{taken:?}");
    drop(tx);

    let mut tx = store.begin(later(5)).await.unwrap();
    let patch = UserPatch {
        role: Some(Role::Viewer),
        disabled: Some(true),
        if_generation: Some(1),
        ..UserPatch::default()
    };
    let changed = tx.update_user(&anna.id, patch).await.unwrap();
    assert_eq!(
        (changed.role, changed.disabled, changed.generation, changed.updated_at),
        (Role::Viewer, true, 2, later(5))
    );
    assert_eq!((changed.password_hash, changed.created_at), (anna.password_hash.clone(), NOW));
    let stale = tx
        .update_user(
            &anna.id,
            UserPatch {
                if_generation: Some(1),
                ..UserPatch::default()
            },
        )
        .await;
    assert!(matches!(stale, Err(StoreError::Stale { generation: 2, .. })));
    let nobody = tx.update_user(&UserId::fresh(1), UserPatch::default()).await;
    assert!(matches!(nobody, Err(StoreError::NotFound { .. })));
    tx.commit().await.unwrap();

    for name in ["ben", "cleo"] {
        add_user(&store, name, Role::Operator).await;
    }
    let mut listed = Vec::new();
    loop {
        let page = store.users(listed.last().map(|u: &User| &u.id), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    let mut names: Vec<_> = listed.iter().map(|u| u.username.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["anna", "ben", "cleo"]);

    in_tx(&store, NOW, async |tx| tx.delete_user(&anna.id).await.unwrap()).await;
    assert_eq!(store.user(&anna.id).await.unwrap(), None);
}

async fn the_last_admin_survives_a_race(f: Fixture) {
    let store = f.open().await;
    let admins = [
        add_user(&store, "anna", Role::Admin).await,
        add_user(&store, "ben", Role::Admin).await,
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for (n, admin) in admins.iter().enumerate() {
        let (store, id) = (store.clone(), admin.id.clone());
        tasks.spawn(async move {
            let mut tx = store.begin(NOW).await.unwrap();
            if n == 0 {
                tx.update_user(
                    &id,
                    UserPatch {
                        role: Some(Role::Viewer),
                        ..UserPatch::default()
                    },
                )
                .await
                .unwrap();
            } else {
                tx.delete_user(&id).await.unwrap();
            }
            if tx.enabled_admins().await.unwrap() > 0 {
                tx.commit().await.is_ok()
            } else {
                false
            }
        });
    }
    let done = tasks.join_all().await;
    assert_eq!(done.iter().filter(|d| **d).count(), 1, "one may go, the other must stay");
}

async fn a_session_by_its_tokens(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Operator).await;
    let id = sign_in(&store, &anna, "1").await;
    assert_eq!(who(&store, "1", NOW).await.as_deref(), Some("anna"));
    assert_eq!(who(&store, "2", NOW).await, None);
    assert_eq!(
        who(&store, "1", later(15 * MINUTE)).await,
        None,
        "access ends at its end, not after it"
    );

    let Refreshed::Rotated { session, user } = refresh(&store, "1", "2", later(20 * MINUTE), 0).await else {
        panic!("refused")
    };
    assert_eq!((session.id, user.id), (id.clone(), anna.id.clone()));
    assert_eq!(who(&store, "1", later(20 * MINUTE)).await, None);
    assert_eq!(who(&store, "2", later(20 * MINUTE)).await.as_deref(), Some("anna"));
    assert_eq!(refresh(&store, "nonsense", "3", NOW, 0).await, Refreshed::Refused);
    let listed = store.sessions(&anna.id, later(20 * MINUTE)).await.unwrap();
    assert_eq!(
        (listed.len(), listed[0].address.as_str(), listed[0].last_used_at),
        (1, "192.0.2.7", later(20 * MINUTE))
    );

    in_tx(&store, later(30 * MINUTE), async |tx| tx.touch_session(&id).await.unwrap()).await;
    assert_eq!(store.session(&id).await.unwrap().unwrap().last_used_at, later(30 * MINUTE));
}

async fn a_stolen_refresh_token_ends_the_session(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Operator).await;
    let id = sign_in(&store, &anna, "1").await;
    let other = sign_in(&store, &anna, "other").await;
    for (old, new) in [("1", "2"), ("2", "3"), ("3", "4")] {
        assert!(matches!(refresh(&store, old, new, NOW, 0).await, Refreshed::Rotated { .. }));
    }
    // Not only the last one: any token that was ever exchanged.
    assert_eq!(
        refresh(&store, "1", "evil", NOW, 0).await,
        Refreshed::Reused {
            session: id.clone(),
            user: anna.id.clone()
        }
    );
    assert_eq!(who(&store, "4", NOW).await, None);
    assert_eq!(refresh(&store, "4", "5", NOW, 0).await, Refreshed::Refused);
    assert_eq!(refresh(&store, "1", "evil", NOW, 0).await, Refreshed::Refused, "ended once");
    assert!(store.session(&id).await.unwrap().unwrap().revoked_at.is_some());
    assert!(
        store.session(&other).await.unwrap().unwrap().revoked_at.is_none(),
        "other sessions go on"
    );
}

async fn a_repeated_refresh_within_the_leeway_is_only_refused(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Operator).await;
    sign_in(&store, &anna, "1").await;
    assert!(matches!(refresh(&store, "1", "2", NOW, 5_000).await, Refreshed::Rotated { .. }));
    assert_eq!(refresh(&store, "1", "3", later(4_999), 5_000).await, Refreshed::JustSpent);
    assert_eq!(who(&store, "2", NOW).await.as_deref(), Some("anna"));
    assert!(matches!(
        refresh(&store, "1", "3", later(5_000), 5_000).await,
        Refreshed::Reused { .. }
    ));

    // Both at the same moment: one is served.
    sign_in(&store, &anna, "a").await;
    let (one, two) = tokio::join!(refresh(&store, "a", "b", NOW, 5_000), refresh(&store, "a", "c", NOW, 5_000));
    let served = [&one, &two].iter().filter(|r| matches!(r, Refreshed::Rotated { .. })).count();
    assert!(served == 1 && [one, two].contains(&Refreshed::JustSpent));
}

async fn sessions_end_in_every_way(f: Fixture) {
    let store = f.open().await;
    let (anna, ben) = (
        add_user(&store, "anna", Role::Operator).await,
        add_user(&store, "ben", Role::Operator).await,
    );

    sign_in(&store, &anna, "old").await;
    assert_eq!(
        refresh(&store, "old", "x", later(7 * 24 * 60 * MINUTE), 0).await,
        Refreshed::Refused,
        "expired"
    );

    let one = sign_in(&store, &anna, "1").await;
    assert!(in_tx(&store, NOW, async |tx| tx.revoke_session(&one).await.unwrap()).await);
    assert!(
        !in_tx(&store, NOW, async |tx| tx.revoke_session(&one).await.unwrap()).await,
        "it had ended already"
    );
    assert_eq!(who(&store, "1", NOW).await, None);

    let mine = sign_in(&store, &anna, "2").await;
    sign_in(&store, &anna, "3").await;
    sign_in(&store, &ben, "ben").await;
    assert_eq!(
        in_tx(&store, NOW, async |tx| tx.revoke_sessions(&anna.id, Some(&mine)).await.unwrap()).await,
        2
    );
    assert_eq!(who(&store, "2", NOW).await.as_deref(), Some("anna"));
    assert_eq!(who(&store, "3", NOW).await, None);
    assert_eq!(who(&store, "ben", NOW).await.as_deref(), Some("ben"));

    in_tx(&store, NOW, async |tx| {
        tx.update_user(
            &ben.id,
            UserPatch {
                disabled: Some(true),
                ..UserPatch::default()
            },
        )
        .await
        .unwrap()
    })
    .await;
    assert_eq!(who(&store, "ben", NOW).await, None, "disabled");
    assert_eq!(refresh(&store, "ben", "x", NOW, 0).await, Refreshed::Refused);

    in_tx(&store, NOW, async |tx| tx.delete_user(&anna.id).await.unwrap()).await;
    assert_eq!(who(&store, "2", NOW).await, None);
    assert_eq!(store.session(&mine).await.unwrap(), None);

    // Deleted while the password was being checked.
    let mut tx = store.begin(NOW).await.unwrap();
    let new = NewSession {
        id: SessionId::fresh(NOW.0),
        user_id: anna.id.clone(),
        pair: pair("late", NOW),
        address: String::new(),
    };
    assert!(matches!(
        tx.create_session(new).await,
        Err(StoreError::NotFound { kind: Subject::User, .. })
    ));
    assert!(matches!(
        tx.create_token(token_row(&anna, "late")).await,
        Err(StoreError::NotFound { kind: Subject::User, .. })
    ));
}

fn token_row(user: &User, secret: &str) -> TokenRow {
    TokenRow {
        id: TokenId::fresh(NOW.0),
        name: Title::parse("CI of the shop").unwrap(),
        user_id: user.id.clone(),
        hash: TokenHash::of(secret),
        role: Role::Operator,
        scopes: vec![Scope::parse("containers:write").unwrap()],
        expires_at: later(MINUTE),
    }
}

async fn tokens_live_and_die(f: Fixture) {
    let store = f.open().await;
    let (anna, ben) = (
        add_user(&store, "anna", Role::Admin).await,
        add_user(&store, "ben", Role::Admin).await,
    );
    let made = in_tx(&store, NOW, async |tx| tx.create_token(token_row(&anna, "nmt_1")).await.unwrap()).await;
    let (found, user) = store.token_by_hash(TokenHash::of("nmt_1"), NOW).await.unwrap().unwrap();
    assert_eq!((&found, &user), (&made, &anna));
    assert!(found.scopes[0].allows("containers", true));
    assert_eq!(store.token_by_hash(TokenHash::of("nmt_2"), NOW).await.unwrap(), None);
    assert_eq!(
        store.token_by_hash(TokenHash::of("nmt_1"), later(MINUTE)).await.unwrap(),
        None,
        "expired"
    );

    let mut tx = store.begin(NOW).await.unwrap();
    assert!(matches!(
        tx.create_token(token_row(&ben, "nmt_1")).await,
        Err(StoreError::Conflict { what: Unique::ApiToken })
    ));
    drop(tx);

    let of_ben = in_tx(&store, NOW, async |tx| tx.create_token(token_row(&ben, "nmt_2")).await.unwrap()).await;
    assert_eq!(store.tokens(None, None, 10).await.unwrap().len(), 2);
    assert_eq!(store.tokens(Some(&ben.id), None, 10).await.unwrap(), std::slice::from_ref(&of_ben));

    in_tx(&store, later(3), async |tx| tx.touch_token(&made.id).await.unwrap()).await;
    assert_eq!(store.token(&made.id).await.unwrap().unwrap().last_used_at, Some(later(3)));

    in_tx(&store, NOW, async |tx| tx.revoke_token(&made.id).await.unwrap()).await;
    let mut tx = store.begin(NOW).await.unwrap();
    assert!(matches!(tx.revoke_token(&made.id).await, Err(StoreError::NotFound { .. })));
    drop(tx);
    assert_eq!(store.token_by_hash(TokenHash::of("nmt_1"), NOW).await.unwrap(), None);
    assert_eq!(in_tx(&store, NOW, async |tx| tx.revoke_tokens(&ben.id).await.unwrap()).await, 1);
    assert_eq!(store.tokens(None, None, 10).await.unwrap(), []);
}

/// Open streams close within five seconds of a revocation; they learn of it here.
async fn revocations_reach_the_feed(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Admin).await;
    let session = sign_in(&store, &anna, "1").await;
    let token = in_tx(&store, NOW, async |tx| tx.create_token(token_row(&anna, "nmt_1")).await.unwrap()).await;
    let before = store.revision().await.unwrap();
    eventually("the feed is up to date", async || (store.watch().seen() == before).then_some(())).await;
    let mut watch = store.watch();
    refresh(&store, "1", "2", NOW, 0).await;
    in_tx(&store, NOW, async |tx| tx.touch_token(&token.id).await.unwrap()).await;
    in_tx(&store, NOW, async |tx| {
        tx.revoke_sessions(&anna.id, None).await.unwrap();
        tx.revoke_token(&token.id).await.unwrap();
        tx.update_user(
            &anna.id,
            UserPatch {
                role: Some(Role::Viewer),
                ..UserPatch::default()
            },
        )
        .await
        .unwrap();
    })
    .await;
    in_tx(&store, NOW, async |tx| tx.delete_user(&anna.id).await.unwrap()).await;
    insert(&store, container(1)).await.unwrap();
    let want = [
        (Subject::Session, session.as_str(), What::Status),
        (Subject::Session, session.as_str(), What::Updated),
        (Subject::Token, token.id.as_str(), What::Updated),
        (Subject::User, anna.id.as_str(), What::Updated),
        (Subject::Session, session.as_str(), What::Deleted),
        (Subject::Token, token.id.as_str(), What::Deleted),
        (Subject::User, anna.id.as_str(), What::Deleted),
    ];
    for (subject, id, what) in want {
        let change = soon("a change", watch.next()).await.unwrap();
        assert_eq!((change.subject, &*change.id, change.what), (subject, id, what));
    }
}

async fn ended_rows_are_pruned(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Admin).await;
    let (kept, ended) = (sign_in(&store, &anna, "1").await, sign_in(&store, &anna, "2").await);
    refresh(&store, "2", "3", NOW, 0).await;
    in_tx(&store, NOW, async |tx| tx.revoke_session(&ended).await.unwrap()).await;
    in_tx(&store, NOW, async |tx| tx.create_token(token_row(&anna, "nmt_1")).await.unwrap()).await;
    let keep = Retention {
        ended_ms: 10 * MINUTE,
        ..Retention::default()
    };
    let pruned = store.prune(later(5 * MINUTE), keep).await.unwrap();
    assert_eq!((pruned.sessions, pruned.tokens), (0, 0));
    let pruned = store.prune(later(12 * MINUTE), keep).await.unwrap();
    assert_eq!((pruned.sessions, pruned.tokens), (1, 1));
    assert!(store.session(&kept).await.unwrap().is_some());
    assert!(
        f.rows("SELECT hash FROM spent_refresh_tokens").await.is_empty(),
        "they go with their session"
    );
}

async fn only_hashes_are_stored(f: Fixture) {
    let store = f.open().await;
    let anna = add_user(&store, "anna", Role::Admin).await;
    sign_in(&store, &anna, "planted").await;
    refresh(&store, "planted", "planted-again", NOW, 0).await;
    in_tx(&store, NOW, async |tx| {
        tx.create_token(token_row(&anna, "nmt_planted")).await.unwrap()
    })
    .await;
    let raw = f.raw_bytes().await;
    for planted in ["access-planted", "refresh-planted", "nmt_planted"] {
        assert!(!raw.windows(planted.len()).any(|w| w == planted.as_bytes()), "{planted}");
    }
}
