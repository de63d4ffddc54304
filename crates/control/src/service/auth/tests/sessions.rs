use super::fixture::{Fixture, PASSWORD, both, code, eventually, from, is_refused, login, meta, new_password, new_user, refresh};
use crate::service::auth::{Actor, Credential, INITIAL_PASSWORD_FILE};
use nm_types::auth::{ChangePassword, Role, UserUpdate};
use nm_types::text::SecretText;
use std::time::Duration;

both!(
    signing_in_and_out,
    a_refusal_says_nothing_of_why,
    guessing_is_slowed_down,
    a_name_that_was_tried_is_not_kept,
    a_refresh_rotates_and_a_second_use_ends_the_session,
    changing_the_password_ends_the_other_sessions,
    sessions_are_ones_own,
    the_most_idle_of_too_many_sessions_ends,
    the_first_admin,
    a_first_start_cut_short_goes_on,
    uses_are_noted_lazily,
);

const MINUTE: Duration = Duration::from_secs(60);

fn change(current: &str, new: &str) -> ChangePassword {
    ChangePassword {
        current_password: SecretText::new(current),
        new_password: new_password(new),
    }
}

async fn signing_in_and_out(f: Fixture) {
    let user = f.user("ada", Role::Operator).await;
    let signed_in = f.login("ada").await;
    assert_eq!((&signed_in.user, signed_in.expires_in), (&user, 900));
    let actor = f.admit(&signed_in.access_token).await.unwrap();
    assert_eq!(
        (&actor.user, actor.username.as_str(), actor.role),
        (&user.id, "ada", Role::Operator)
    );
    assert_eq!(f.auth.me(&actor).await.unwrap(), user);

    f.clock.pass(15 * MINUTE - Duration::from_millis(1));
    assert!(!f.refused(&signed_in.access_token).await);
    f.clock.pass(Duration::from_millis(1));
    assert!(f.refused(&signed_in.access_token).await, "after fifteen minutes");

    let again = f.login("ada").await;
    let actor = f.admit(&again.access_token).await.unwrap();
    f.auth.logout(&actor, &meta()).await.unwrap();
    assert!(f.refused(&again.access_token).await, "at once");
    assert_eq!(code(f.auth.refresh(&meta(), refresh(&again.refresh_token)).await).0, 401);

    for other in [
        &signed_in.refresh_token,
        &again.access_token.replace("nma_", "nmt_"),
        "nma_",
        "",
        "x",
    ] {
        assert!(f.refused(other).await, "{other} is no access token");
    }
    let actions: Vec<_> = f.audit_log().await.into_iter().map(|r| (r.entry.actor, r.entry.action)).collect();
    let want = [
        ("system", "user.create"),
        ("ada", "auth.login"),
        ("ada", "auth.login"),
        ("ada", "auth.logout"),
    ];
    assert_eq!(actions, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

async fn a_refusal_says_nothing_of_why(f: Fixture) {
    f.user("ada", Role::Viewer).await;
    f.user("bob", Role::Viewer).await;
    let disable = UserUpdate {
        disabled: Some(true),
        role: None,
        password: None,
    };
    f.auth.update_user(&Actor::system(), &meta(), "bob", disable).await.unwrap();
    let mut refusals = Vec::new();
    for (name, password) in [("ada", "wrong"), ("nobody", PASSWORD), ("bob", PASSWORD), ("Ada; DROP\0", "wrong")] {
        let error = f.auth.login(&meta(), login(name, password)).await.unwrap_err();
        refusals.push((error.status.as_u16(), error.code, error.message));
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!((refusals[0].0, refusals[0].1.as_str()), (401, "invalid_credentials"));
    for bad in ["", &"a".repeat(65)] {
        assert_eq!(code(f.auth.login(&meta(), login(bad, "x")).await).0, 422);
    }
}

async fn guessing_is_slowed_down(f: Fixture) {
    f.user("ada", Role::Viewer).await;
    for name in ["ada", "nobody"] {
        // From everywhere at once.
        for n in 0..5 {
            let address = from(&format!("198.51.100.{n}"));
            assert_eq!(code(f.auth.login(&address, login(name, "wrong")).await).0, 401);
        }
        let refused = f.auth.login(&meta(), login(name, PASSWORD)).await.unwrap_err();
        assert_eq!(
            (refused.status.as_u16(), refused.retry_after),
            (429, Some(MINUTE)),
            "also with the right password"
        );
    }
    let entry = f.audited("auth.login", "too_many_requests").await.entry;
    assert_eq!((entry.actor.as_str(), entry.address.as_deref()), ("anonymous", Some("192.0.2.1")));
    f.clock.pass(MINUTE);
    for _ in 0..10 {
        f.login("ada").await;
    }
    // Whoever is signed in can't guess on at the other door.
    let actor = f.admit(&f.login("ada").await.access_token).await.unwrap();
    for _ in 0..5 {
        assert_eq!(
            code(f.auth.change_password(&actor, &meta(), change("wrong", "another password")).await),
            (403, "wrong_password".into())
        );
    }
    assert_eq!(
        code(f.auth.change_password(&actor, &meta(), change(PASSWORD, "another password")).await).0,
        429
    );
    assert_eq!(code(f.auth.login(&meta(), login("ada", PASSWORD)).await).0, 429);
}

async fn a_name_that_was_tried_is_not_kept(f: Fixture) {
    let ada = f.user("ada", Role::Viewer).await;
    f.auth.login(&meta(), login("my-secret-password", "x")).await.unwrap_err();
    assert_eq!(f.audited("auth.login", "invalid_credentials").await.entry.target, None);
    f.auth.login(&meta(), login("ada", "x")).await.unwrap_err();
    eventually("the entry of a known user", async || {
        f.audit_log()
            .await
            .into_iter()
            .find(|r| r.entry.outcome == "invalid_credentials" && r.entry.target.as_deref() == Some(ada.id.as_str()))
    })
    .await;
    assert!(!format!("{:?}", f.audit_log().await).contains("my-secret"));
}

async fn a_refresh_rotates_and_a_second_use_ends_the_session(f: Fixture) {
    f.user("ada", Role::Viewer).await;
    let first = f.login("ada").await;
    f.admit(&first.access_token).await.unwrap();
    let second = f.auth.refresh(&meta(), refresh(&first.refresh_token)).await.unwrap();
    assert!(f.refused(&first.access_token).await, "the old access token ends at once");
    let actor = f.admit(&second.access_token).await.unwrap();

    assert_eq!(
        code(f.auth.refresh(&meta(), refresh(&first.refresh_token)).await),
        (401, "invalid_refresh_token".into())
    );
    assert!(f.refused(&second.access_token).await, "it was copied: the session ends");
    assert_eq!(code(f.auth.refresh(&meta(), refresh(&second.refresh_token)).await).0, 401);
    let entry = f.audited("auth.refresh_reused", "session_revoked").await.entry;
    let Credential::Session(session) = actor.credential else {
        panic!("not a session")
    };
    assert_eq!(entry.target.as_deref(), Some(session.as_str()));

    let other = f.login("ada").await;
    f.clock.pass(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(
        code(f.auth.refresh(&meta(), refresh(&other.refresh_token)).await).0,
        401,
        "after seven days"
    );
    // Made-up ones are not tried for ever.
    let mut statuses = Vec::new();
    for _ in 0..70 {
        statuses.push(code(f.auth.refresh(&from("203.0.113.9"), refresh(&other.refresh_token)).await).0);
    }
    assert_eq!((statuses[59], statuses[60]), (401, 429));
}

async fn changing_the_password_ends_the_other_sessions(f: Fixture) {
    let (here, actor) = f.someone("ada", Role::Viewer).await;
    let elsewhere = f.login("ada").await;
    f.admit(&elsewhere.access_token).await.unwrap();
    assert_eq!(
        code(f.auth.change_password(&actor, &meta(), change(PASSWORD, PASSWORD)).await),
        (409, "password_unchanged".into())
    );
    f.auth
        .change_password(&actor, &meta(), change(PASSWORD, "another password"))
        .await
        .unwrap();
    assert!(f.refused(&elsewhere.access_token).await);
    assert!(!f.refused(&here.access_token).await);
    assert_eq!(code(f.auth.login(&meta(), login("ada", PASSWORD)).await).0, 401);
    f.auth.login(&meta(), login("ada", "another password")).await.unwrap();
}

async fn sessions_are_ones_own(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Viewer).await;
    let (bobs, bob) = f.someone("bob", Role::Admin).await;
    f.clock.pass(MINUTE);
    let other = f.login("ada").await;
    let sessions = f.auth.sessions(&ada).await.unwrap();
    assert_eq!(sessions.len(), 2);
    let of_bob = f.auth.sessions(&bob).await.unwrap().remove(0).id;
    assert_eq!(
        code(f.auth.end_session(&ada, &meta(), of_bob.as_str()).await),
        (404, "session_not_found".into())
    );
    assert_eq!(code(f.auth.end_session(&ada, &meta(), "../x").await).0, 404);
    assert!(!f.refused(&bobs.access_token).await);
    f.admit(&other.access_token).await.unwrap();
    f.auth.end_session(&ada, &meta(), sessions[1].id.as_str()).await.unwrap();
    assert!(f.refused(&other.access_token).await);
    assert_eq!(code(f.auth.end_session(&ada, &meta(), sessions[1].id.as_str()).await).0, 404);
}

async fn the_most_idle_of_too_many_sessions_ends(f: Fixture) {
    f.user("ada", Role::Viewer).await;
    let oldest = f.login("ada").await;
    f.clock.pass(Duration::from_millis(1));
    let idle = f.login("ada").await;
    f.admit(&idle.access_token).await.unwrap();
    f.clock.pass(Duration::from_millis(1));
    let oldest = f.auth.refresh(&meta(), refresh(&oldest.refresh_token)).await.unwrap();
    for _ in 0..99 {
        f.clock.pass(Duration::from_millis(1));
        f.login("ada").await;
    }
    let actor = f.admit(&oldest.access_token).await.unwrap();
    assert_eq!(f.auth.sessions(&actor).await.unwrap().len(), 100);
    assert!(f.refused(&idle.access_token).await);
}

async fn the_first_admin(f: Fixture) {
    let data = f.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let path = f.auth.bootstrap(&data).await.unwrap().expect("there was no user");
    assert_eq!(path, data.join(INITIAL_PASSWORD_FILE));
    let password = std::fs::read_to_string(&path).unwrap();
    let password = password.trim();
    let admin = f.auth.login(&meta(), login("admin", password)).await.unwrap();
    assert_eq!(admin.user.role, Role::Admin);
    // A restart changes nothing, and still says where the password is.
    assert_eq!(f.auth.bootstrap(&data).await.unwrap(), Some(path.clone()));
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), password);
    // Somebody else's first start, after ours.
    assert_eq!(f.replica().await.bootstrap(f.dir.path()).await.unwrap(), None);
    assert!(!f.dir.path().join(INITIAL_PASSWORD_FILE).exists());

    let actor = f.admit(&admin.access_token).await.unwrap();
    f.auth
        .change_password(&actor, &meta(), change(password, "another password"))
        .await
        .unwrap();
    assert!(!path.exists());
    assert_eq!(f.auth.bootstrap(&data).await.unwrap(), None);
    // Killed between the change and the removal.
    std::fs::write(&path, password).unwrap();
    assert_eq!(f.auth.bootstrap(&data).await.unwrap(), None);
    assert!(!path.exists());
}

async fn a_first_start_cut_short_goes_on(f: Fixture) {
    let data = f.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // Killed behind the file, before the user.
    f.store.close().await;
    f.auth.bootstrap(&data).await.unwrap_err();
    let path = data.join(INITIAL_PASSWORD_FILE);
    assert!(!path.exists(), "nothing is written without a store");

    let f = Fixture::sqlite().await;
    let made = f.auth.bootstrap(&data).await.unwrap();
    assert_eq!(made.as_ref(), Some(&path));
    let password = std::fs::read_to_string(&path).unwrap();
    let other = Fixture::sqlite().await;
    assert_eq!(
        other.auth.bootstrap(&data).await.unwrap(),
        made,
        "the file of the start before is taken"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), password);
    other.auth.login(&meta(), login("admin", password.trim())).await.unwrap();
}

async fn uses_are_noted_lazily(f: Fixture) {
    let (signed_in, actor) = f.someone("ada", Role::Viewer).await;
    let made = f.auth.sessions(&actor).await.unwrap().remove(0);
    f.clock.pass(MINUTE);
    let now = made.created.plus_millis(60_000);
    for _ in 0..3 {
        f.admit(&signed_in.access_token).await.unwrap();
    }
    eventually("the use is noted", async || {
        let session = f.auth.sessions(&actor).await.unwrap().remove(0);
        (session.last_used == now).then_some(())
    })
    .await;
}

/// A password that is changed while it is being checked lets nobody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_under_way_does_not_outlive_a_change() {
    let f = Fixture::sqlite().await;
    f.auth
        .create_user(&Actor::system(), &meta(), new_user("ada", Role::Viewer))
        .await
        .unwrap();
    let known = f.store.user_by_name("ada").await.unwrap().unwrap();
    let reset = UserUpdate {
        password: Some(new_password("another password")),
        role: None,
        disabled: None,
    };
    f.auth.update_user(&Actor::system(), &meta(), "ada", reset).await.unwrap();
    assert_eq!(code(f.auth.begin_session(&meta(), known).await).0, 401);
    assert!(is_refused(f.admit("nma_").await));
}
