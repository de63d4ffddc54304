use super::fixture::{Fixture, PASSWORD, both, code, keyed, login, meta, new_password, new_user};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use http::Method;
use nm_types::UserId;
use nm_types::auth::{NewUser, Role, UserUpdate};

both!(
    a_user_lives_and_dies,
    an_admin_is_always_left,
    the_last_admin_survives_a_race,
    nobody_raises_themselves,
    a_reset_ends_the_sessions,
    names_that_mean_something_else,
    versions_are_honoured,
    a_repeated_request_makes_one_user,
    users_come_in_pages,
    refusals_are_audited,
);

fn update() -> UserUpdate {
    UserUpdate {
        role: None,
        disabled: None,
        password: None,
    }
}
fn role(role: Role) -> UserUpdate {
    UserUpdate {
        role: Some(role),
        ..update()
    }
}
fn disabled(disabled: bool) -> UserUpdate {
    UserUpdate {
        disabled: Some(disabled),
        ..update()
    }
}

async fn a_user_lives_and_dies(f: Fixture) {
    let (_, root) = f.someone("root", Role::Admin).await;
    let (ada, version) = f.auth.create_user(&root, &meta(), new_user("ada", Role::Viewer)).await.unwrap();
    assert_eq!(f.auth.user("ada").await.unwrap(), (ada.clone(), version));
    assert_eq!(f.auth.user(ada.id.as_str()).await.unwrap().0, ada);
    assert_eq!(
        code(f.auth.create_user(&root, &meta(), new_user("ada", Role::Viewer)).await),
        (409, "username_taken".into())
    );

    let session = f.login("ada").await;
    f.admit(&session.access_token).await.unwrap();
    let (after, later) = f.auth.update_user(&root, &meta(), "ada", role(Role::Operator)).await.unwrap();
    assert!(after.role == Role::Operator && later > version);
    assert_eq!(f.admit(&session.access_token).await.unwrap().role, Role::Operator, "counts at once");
    assert_eq!(
        f.auth.update_user(&root, &meta(), "ada", update()).await.unwrap(),
        (after.clone(), later),
        "nothing asked, nothing changed"
    );

    f.auth.update_user(&root, &meta(), "ada", disabled(true)).await.unwrap();
    assert!(f.refused(&session.access_token).await);
    f.auth.update_user(&root, &meta(), "ada", disabled(false)).await.unwrap();
    assert!(f.refused(&session.access_token).await, "what ended stays ended");
    let session = f.login("ada").await;
    f.admit(&session.access_token).await.unwrap();

    f.auth.delete_user(&root, &meta(), ada.id.as_str()).await.unwrap();
    assert!(f.refused(&session.access_token).await);
    for key in ["ada", ada.id.as_str(), UserId::fresh(1).as_str(), "", "../ada", "a\0b"] {
        assert_eq!(code(f.auth.user(key).await), (404, "user_not_found".into()), "{key:?}");
        assert_eq!(code(f.auth.delete_user(&root, &meta(), key).await).0, 404, "{key:?}");
    }
    let log = f.audit_log().await;
    let of_root: Vec<_> = log
        .iter()
        .filter(|r| r.entry.actor == "root")
        .map(|r| r.entry.action.as_str())
        .collect();
    assert_eq!(
        of_root,
        [
            "auth.login",
            "user.create",
            "user.update",
            "user.update",
            "user.update",
            "user.delete"
        ]
    );
    assert!(!format!("{log:?}").contains(PASSWORD) && !format!("{log:?}").contains("argon2"));
    assert!(f.store.verify_audit().await.unwrap().first_broken.is_none());
}

async fn an_admin_is_always_left(f: Fixture) {
    let (_, root) = f.someone("root", Role::Admin).await;
    f.user("ada", Role::Operator).await;
    let last = || (409, "last_admin".to_owned());
    assert_eq!(code(f.auth.update_user(&root, &meta(), "root", role(Role::Viewer)).await), last());
    assert_eq!(code(f.auth.update_user(&root, &meta(), "root", disabled(true)).await), last());
    assert_eq!(code(f.auth.delete_user(&root, &meta(), "root").await), last());
    let (unchanged, version) = f.auth.user("root").await.unwrap();
    assert_eq!((unchanged.role, unchanged.disabled, version), (Role::Admin, false, 1));
    // An admin who can't sign in is none.
    f.auth.update_user(&root, &meta(), "ada", role(Role::Admin)).await.unwrap();
    f.auth.update_user(&root, &meta(), "ada", disabled(true)).await.unwrap();
    assert_eq!(code(f.auth.delete_user(&root, &meta(), "root").await), last());
    f.auth.update_user(&root, &meta(), "ada", disabled(false)).await.unwrap();
    f.auth.delete_user(&root, &meta(), "root").await.unwrap();
}

async fn the_last_admin_survives_a_race(f: Fixture) {
    f.user("a", Role::Admin).await;
    f.user("b", Role::Admin).await;
    let system = Actor::system();
    let meta = meta();
    let (a, b) = tokio::join!(
        f.auth.update_user(&system, &meta, "a", role(Role::Viewer)),
        f.auth.delete_user(&system, &meta, "b"),
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
}

async fn nobody_raises_themselves(f: Fixture) {
    // The routes ask for an admin; the service does not rely on it.
    let (_, ada) = f.someone("ada", Role::Operator).await;
    assert_eq!(code(f.auth.update_user(&ada, &meta(), "ada", role(Role::Admin)).await).0, 403);
    assert_eq!(code(f.auth.create_user(&ada, &meta(), new_user("eve", Role::Admin)).await).0, 403);
    f.user("root", Role::Admin).await;
    let reset = UserUpdate {
        password: Some(new_password("another password")),
        ..update()
    };
    assert_eq!(code(f.auth.update_user(&ada, &meta(), "root", reset).await).0, 403);
}

async fn a_reset_ends_the_sessions(f: Fixture) {
    let (here, root) = f.someone("root", Role::Admin).await;
    f.user("ada", Role::Viewer).await;
    let session = f.login("ada").await;
    f.admit(&session.access_token).await.unwrap();
    let reset = || UserUpdate {
        password: Some(new_password("another password")),
        ..update()
    };
    f.auth.update_user(&root, &meta(), "ada", reset()).await.unwrap();
    assert!(f.refused(&session.access_token).await);
    assert_eq!(code(f.auth.login(&meta(), login("ada", PASSWORD)).await).0, 401);
    f.auth.login(&meta(), login("ada", "another password")).await.unwrap();
    let other = f.login("root").await;
    f.admit(&other.access_token).await.unwrap();
    f.auth.update_user(&root, &meta(), "root", reset()).await.unwrap();
    assert!(
        f.refused(&other.access_token).await && !f.refused(&here.access_token).await,
        "one's own goes on"
    );
}

async fn names_that_mean_something_else(f: Fixture) {
    let root = Actor::system();
    for name in ["system", "anonymous", "user_1_abcdefghi"] {
        assert_eq!(
            code(f.auth.create_user(&root, &meta(), new_user(name, Role::Viewer)).await),
            (409, "name_reserved".into()),
            "{name}"
        );
    }
}

async fn versions_are_honoured(f: Fixture) {
    let root = Actor::system();
    let (_, version) = f.auth.create_user(&root, &meta(), new_user("ada", Role::Viewer)).await.unwrap();
    let at = |version| Meta {
        if_match: Some(version),
        method: Method::PATCH,
        ..meta()
    };
    let (_, next) = f.auth.update_user(&root, &at(version), "ada", role(Role::Operator)).await.unwrap();
    assert_eq!(
        code(f.auth.update_user(&root, &at(version), "ada", role(Role::Admin)).await),
        (412, "changed_meanwhile".into())
    );
    assert_eq!(code(f.auth.delete_user(&root, &at(version), "ada").await).0, 412);
    f.auth.delete_user(&root, &at(next), "ada").await.unwrap();
}

async fn a_repeated_request_makes_one_user(f: Fixture) {
    let root = Actor::system();
    let key = keyed("/api/users", "k1");
    let first = f.auth.create_user(&root, &key, new_user("ada", Role::Viewer)).await.unwrap();
    assert_eq!(f.auth.create_user(&root, &key, new_user("ada", Role::Viewer)).await.unwrap(), first);
    let other = NewUser {
        password: new_password("another password"),
        ..new_user("ada", Role::Viewer)
    };
    assert_eq!(
        code(f.auth.create_user(&root, &key, other).await),
        (409, "idempotency_key_reused".into())
    );
    assert_eq!(
        code(
            f.auth
                .create_user(&root, &keyed("/api/users", "k2"), new_user("ada", Role::Viewer))
                .await
        )
        .0,
        409
    );
    assert_eq!(f.auth.users(None, 50).await.unwrap().0.len(), 1);
}

async fn users_come_in_pages(f: Fixture) {
    for n in 0..5 {
        f.user(&format!("u{n}"), Role::Viewer).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    let mut pages = 0;
    loop {
        let (page, next) = f.auth.users(after.as_ref(), 2).await.unwrap();
        seen.extend(page.into_iter().map(|u| u.username.to_string()));
        pages += 1;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    seen.sort();
    assert_eq!((seen, pages), ((0..5).map(|n| format!("u{n}")).collect(), 3));
}

async fn refusals_are_audited(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Viewer).await;
    for _ in 0..1000 {
        f.auth.refused(&ada, &Method::POST, "/api/users", Some("req_1"), meta().address);
    }
    let entry = f.audited("auth.refused", "forbidden").await.entry;
    assert_eq!(
        (entry.actor.as_str(), entry.target.as_deref(), entry.request_id.as_deref()),
        ("ada", Some("POST /api/users"), Some("req_1"))
    );
    assert!(f.audit_log().await.len() < 10, "a flood fills no disk");
}
