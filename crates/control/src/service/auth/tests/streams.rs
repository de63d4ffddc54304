use super::fixture::{Fixture, PASSWORD, both, eventually, is_refused, meta, new_password, refresh, soon};
use crate::service::auth::{Actor, Auth, Presented};
use futures_util::FutureExt;
use nm_types::auth::{ChangePassword, NewToken, Role, UserUpdate};
use nm_types::text::{SecretText, Title};
use nm_types::units::Bounded;
use std::pin::pin;
use std::time::Duration;

both!(
    a_stream_ends_with_its_permission,
    a_stream_goes_on_through_what_is_none_of_its_business,
    a_stream_ends_when_its_token_expires,
    a_ticket_opens_one_stream,
    a_revocation_reaches_another_replica,
    a_change_the_feed_did_not_tell_of_counts_within_five_seconds,
);

fn update() -> UserUpdate {
    UserUpdate {
        role: None,
        disabled: None,
        password: None,
    }
}

async fn api_token(f: &Fixture, actor: &Actor, role: Role) -> (String, Actor) {
    let new = NewToken {
        name: Title::parse("ci").unwrap(),
        role,
        scopes: Vec::new(),
        expires_in_days: Bounded::new(1),
    };
    let made = f.auth.create_token(actor, &meta(), new).await.unwrap();
    let actor = f.admit(&made.token).await.unwrap();
    (made.token, actor)
}

async fn a_stream_ends_with_its_permission(f: Fixture) {
    let admin = Actor::system();
    for (n, end) in ["logout", "disable", "delete", "demote", "reset", "token", "tokens-user", "already"]
        .into_iter()
        .enumerate()
    {
        let name = format!("u{n}");
        let (_, session) = f.someone(&name, Role::Operator).await;
        let (token, program) = api_token(&f, &session, Role::Operator).await;
        let actor = if end.starts_with("token") { &program } else { &session };
        if end == "already" {
            f.auth.logout(&session, &meta()).await.unwrap();
        }
        let mut ended = pin!(f.auth.ended(actor));
        if end != "already" {
            assert!(
                tokio::time::timeout(Duration::from_millis(50), &mut ended).await.is_err(),
                "{end}: it goes on at first"
            );
        }
        match end {
            "logout" => f.auth.logout(&session, &meta()).await.unwrap(),
            "disable" | "tokens-user" => {
                f.auth
                    .update_user(
                        &admin,
                        &meta(),
                        &name,
                        UserUpdate {
                            disabled: Some(true),
                            ..update()
                        },
                    )
                    .await
                    .unwrap();
            }
            "delete" => f.auth.delete_user(&admin, &meta(), &name).await.unwrap(),
            "demote" => {
                f.auth
                    .update_user(
                        &admin,
                        &meta(),
                        &name,
                        UserUpdate {
                            role: Some(Role::Viewer),
                            ..update()
                        },
                    )
                    .await
                    .unwrap();
                assert_eq!(
                    f.admit(&token).await.unwrap().role,
                    Role::Viewer,
                    "a token is never more than its user"
                );
            }
            "reset" => {
                f.auth
                    .update_user(
                        &admin,
                        &meta(),
                        &name,
                        UserUpdate {
                            password: Some(new_password("another password")),
                            ..update()
                        },
                    )
                    .await
                    .unwrap();
            }
            "token" => f.auth.delete_token(&session, &meta(), "ci").await.unwrap(),
            _ => {}
        }
        soon(end, ended).await;
    }
}

async fn a_stream_goes_on_through_what_is_none_of_its_business(f: Fixture) {
    let (signed_in, actor) = f.someone("ada", Role::Operator).await;
    let (_, other) = f.someone("bob", Role::Operator).await;
    let mut ended = pin!(f.auth.ended(&actor));
    assert!((&mut ended).now_or_never().is_none());
    // Each wakes it or could.
    f.auth.refresh(&meta(), refresh(&signed_in.refresh_token)).await.unwrap();
    f.auth.logout(&other, &meta()).await.unwrap();
    let change = ChangePassword {
        current_password: SecretText::new(PASSWORD),
        new_password: new_password("another password"),
    };
    f.auth.change_password(&actor, &meta(), change).await.unwrap();
    f.auth.delete_user(&Actor::system(), &meta(), "bob").await.unwrap();
    // The access token ends, the session does not.
    f.clock.pass(Duration::from_secs(3600));
    assert!(tokio::time::timeout(Duration::from_millis(2_500), &mut ended).await.is_err());
}

async fn a_stream_ends_when_its_token_expires(f: Fixture) {
    let (_, actor) = f.someone("ada", Role::Operator).await;
    let (_, program) = api_token(&f, &actor, Role::Viewer).await;
    let mut ended = pin!(f.auth.ended(&program));
    assert!((&mut ended).now_or_never().is_none());
    f.clock.pass(Duration::from_secs(24 * 3600));
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("within five seconds");
}

async fn a_ticket_opens_one_stream(f: Fixture) {
    async fn open(auth: &Auth, ticket: &str) -> bool {
        !is_refused(auth.admit(Presented::Ticket(ticket.to_owned()), None).await)
    }
    let (signed_in, actor) = f.someone("ada", Role::Viewer).await;
    let ticket = f.auth.ticket(&actor).unwrap();
    assert!(f.refused(&ticket.ticket).await, "a ticket is no bearer token");
    assert!(!open(&f.auth, &signed_in.access_token).await, "and a token no ticket");
    assert!(open(&f.auth, &ticket.ticket).await);
    assert!(!open(&f.auth, &ticket.ticket).await, "a second time");
    let late = f.auth.ticket(&actor).unwrap();
    f.clock.pass(Duration::from_secs(30));
    assert!(!open(&f.auth, &late.ticket).await);
    let orphan = f.auth.ticket(&actor).unwrap();
    f.auth.logout(&actor, &meta()).await.unwrap();
    assert!(!open(&f.auth, &orphan.ticket).await, "its session ended");
}

async fn a_revocation_reaches_another_replica(f: Fixture) {
    let (signed_in, actor) = f.someone("ada", Role::Viewer).await;
    let other = f.replica().await;
    super::fixture::admit(&other, &signed_in.access_token).await.unwrap();
    let mut ended = pin!(other.ended(&actor));
    assert!((&mut ended).now_or_never().is_none());
    f.auth.logout(&actor, &meta()).await.unwrap();
    // The clock stands still, so nothing but the feed can tell.
    eventually("the other replica refuses it", async || {
        is_refused(super::fixture::admit(&other, &signed_in.access_token).await).then_some(())
    })
    .await;
    soon("its streams end", ended).await;
}

async fn a_change_the_feed_did_not_tell_of_counts_within_five_seconds(f: Fixture) {
    let (signed_in, actor) = f.someone("ada", Role::Viewer).await;
    let (gate, epoch) = (&f.auth.gate, 0);
    let hash = nm_store::TokenHash::of(&signed_in.access_token);
    f.auth.logout(&actor, &meta()).await.unwrap();
    // Wait until the feed has told too, then put back what it made us forget.
    let epoch = eventually("a quiet feed", async || {
        gate.find(&hash, f.auth.clock.now()).err().filter(|e| *e > epoch)
    })
    .await;
    let ends = f.auth.clock.now().plus_millis(900_000);
    let standing = crate::service::auth::gate::Standing {
        actor,
        ends,
        last_used: None,
    };
    gate.remember(hash, standing, epoch, f.auth.clock.now());
    f.clock.pass(Duration::from_millis(4_999));
    assert!(f.refused(&signed_in.access_token).await);
}
