use super::fixture::{Fixture, both, code, eventually, keyed, meta};
use crate::service::auth::{Actor, Credential};
use nm_types::TokenId;
use nm_types::auth::{ChangePassword, CreatedToken, NewToken, Role, Scope, UserUpdate};
use nm_types::text::{SecretText, Title};
use nm_types::units::Bounded;
use std::time::Duration;

both!(
    a_token_lives_and_dies,
    no_token_is_wider_than_its_maker,
    a_narrow_token_gets_no_further,
    tokens_of_others,
    a_repeated_request_gives_the_same_token,
    a_token_made_by_a_token_ends_with_it,
    a_use_is_noted,
    their_number_is_bounded,
);

const DAY: Duration = Duration::from_secs(24 * 3600);

fn new(name: &str, role: Role, scopes: &[&str], days: Option<i64>) -> NewToken {
    NewToken {
        name: Title::parse(name).unwrap(),
        role,
        scopes: scopes.iter().map(|s| Scope::parse(s).unwrap()).collect(),
        expires_in_days: days.map(|d| Bounded::new(d).unwrap()),
    }
}

async fn make(f: &Fixture, actor: &Actor, role: Role, scopes: &[&str]) -> (CreatedToken, Actor) {
    let made = f.auth.create_token(actor, &meta(), new("ci", role, scopes, None)).await.unwrap();
    let actor = f.admit(&made.token).await.unwrap();
    (made, actor)
}

async fn a_token_lives_and_dies(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    let (made, actor) = make(&f, &ada, Role::Viewer, &["containers:read", "images:read", "containers:read"]).await;
    assert!(made.token.starts_with("nmt_") && made.token.len() == 47);
    assert_eq!(made.view.expires.since(made.view.created), 90 * DAY.as_millis() as i64);
    assert_eq!(made.view.scopes.len(), 2);
    assert_eq!((actor.role, actor.label().as_str()), (Role::Viewer, "ada (token ci)"));
    assert!(actor.may(Role::Viewer, "containers", false) && !actor.may(Role::Viewer, "nodes", false));

    let (listed, next) = f.auth.list_tokens(&ada, false, None, 50).await.unwrap();
    assert_eq!((listed, next), (vec![made.view.clone()], None));
    assert_eq!(code(f.auth.logout(&actor, &meta()).await), (409, "not_a_session".into()));
    assert_eq!(f.auth.me(&actor).await.unwrap().username.as_str(), "ada");

    f.auth.delete_token(&ada, &meta(), "ci").await.unwrap();
    assert!(f.refused(&made.token).await, "at once");
    assert_eq!(
        code(f.auth.delete_token(&ada, &meta(), made.view.id.as_str()).await),
        (404, "token_not_found".into())
    );

    let short = f
        .auth
        .create_token(&ada, &meta(), new("short", Role::Viewer, &[], Some(1)))
        .await
        .unwrap();
    f.admit(&short.token).await.unwrap();
    f.clock.pass(DAY);
    assert!(f.refused(&short.token).await);
    let log = format!("{:?}", f.audit_log().await);
    assert!(log.contains("token.create") && log.contains("token.delete") && !log.contains("nmt_"));
}

async fn no_token_is_wider_than_its_maker(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    assert_eq!(
        code(f.auth.create_token(&ada, &meta(), new("x", Role::Admin, &[], None)).await).0,
        403
    );
    let (_, narrow) = make(&f, &ada, Role::Operator, &["tokens:write", "containers:read"]).await;
    for (role, scopes, may) in [
        (Role::Operator, &["containers:read"][..], true),
        (Role::Viewer, &["tokens:read"], true),
        (Role::Operator, &["containers:write"], false),
        (Role::Operator, &["containers:read", "*:read"], false),
        (Role::Viewer, &["images:read"], false),
        (Role::Viewer, &[], false),
        (Role::Admin, &["containers:read"], false),
    ] {
        let result = f.auth.create_token(&narrow, &meta(), new("y", role, scopes, None)).await;
        assert_eq!(result.is_ok(), may, "{role:?} {scopes:?}");
        if let Err(error) = result {
            assert_eq!(error.status, 403);
        }
    }
    // Its user becomes less, and so does the token.
    let (made, _) = make(&f, &ada, Role::Operator, &[]).await;
    f.auth
        .update_user(
            &Actor::system(),
            &meta(),
            "ada",
            UserUpdate {
                role: Some(Role::Viewer),
                disabled: None,
                password: None,
            },
        )
        .await
        .unwrap();
    assert_eq!(f.admit(&made.token).await.unwrap().role, Role::Viewer);
}

async fn a_narrow_token_gets_no_further(f: Fixture) {
    let (_, root) = f.someone("root", Role::Admin).await;
    let (_, narrow) = make(&f, &root, Role::Admin, &["users:write", "tokens:write"]).await;
    f.user("ada", Role::Viewer).await;
    let change = |role, password: Option<&str>| UserUpdate {
        role,
        disabled: None,
        password: password.map(super::fixture::new_password),
    };
    let refused = [
        code(
            f.auth
                .create_user(&narrow, &meta(), super::fixture::new_user("eve", Role::Viewer))
                .await,
        ),
        code(f.auth.update_user(&narrow, &meta(), "ada", change(Some(Role::Admin), None)).await),
        code(
            f.auth
                .update_user(&narrow, &meta(), "ada", change(None, Some("another password")))
                .await,
        ),
        code(f.auth.sessions(&narrow).await),
        code(
            f.auth
                .end_session(&narrow, &meta(), f.auth.sessions(&root).await.unwrap()[0].id.as_str())
                .await,
        ),
        code(
            f.auth
                .change_password(
                    &narrow,
                    &meta(),
                    ChangePassword {
                        current_password: SecretText::new(super::fixture::PASSWORD),
                        new_password: super::fixture::new_password("another password"),
                    },
                )
                .await,
        ),
    ];
    assert_eq!(refused, std::array::from_fn(|_| (403, "forbidden".to_owned())));
    // What takes nothing but away, it may.
    f.auth
        .update_user(
            &narrow,
            &meta(),
            "ada",
            UserUpdate {
                disabled: Some(true),
                role: None,
                password: None,
            },
        )
        .await
        .unwrap();
}

async fn tokens_of_others(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    let (_, bob) = f.someone("bob", Role::Operator).await;
    let (_, root) = f.someone("root", Role::Admin).await;
    let (of_ada, _) = make(&f, &ada, Role::Viewer, &[]).await;
    assert!(f.auth.list_tokens(&bob, false, None, 50).await.unwrap().0.is_empty());
    assert_eq!(code(f.auth.list_tokens(&bob, true, None, 50).await).0, 403);
    assert_eq!(f.auth.list_tokens(&root, true, None, 50).await.unwrap().0.len(), 1);
    for key in [of_ada.view.id.as_str(), "ci", TokenId::fresh(1).as_str(), "' OR 1=1 --"] {
        assert_eq!(
            code(f.auth.delete_token(&bob, &meta(), key).await),
            (404, "token_not_found".into()),
            "{key}"
        );
    }
    assert!(!f.refused(&of_ada.token).await);
    f.auth.delete_token(&root, &meta(), of_ada.view.id.as_str()).await.unwrap();
    assert!(f.refused(&of_ada.token).await);
    make(&f, &ada, Role::Viewer, &[]).await;
    make(&f, &ada, Role::Viewer, &[]).await;
    assert_eq!(code(f.auth.delete_token(&ada, &meta(), "ci").await), (409, "ambiguous_name".into()));
    // Pages.
    let (first, next) = f.auth.list_tokens(&ada, false, None, 1).await.unwrap();
    let (second, end) = f.auth.list_tokens(&ada, false, next.as_ref(), 1).await.unwrap();
    assert!(first.len() == 1 && second.len() == 1 && first[0].id < second[0].id && next.as_ref() == Some(&first[0].id) && end.is_none());
}

async fn a_repeated_request_gives_the_same_token(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    let key = keyed("/api/tokens", "k1");
    let ask = || new("ci", Role::Viewer, &["containers:read"], Some(7));
    let first = f.auth.create_token(&ada, &key, ask()).await.unwrap();
    let again = f.auth.create_token(&ada, &key, ask()).await.unwrap();
    assert_eq!((&first.token, &first.view), (&again.token, &again.view));
    assert_eq!(f.auth.list_tokens(&ada, false, None, 50).await.unwrap().0.len(), 1);
    let other = new("ci", Role::Operator, &["containers:read"], Some(7));
    assert_eq!(
        code(f.auth.create_token(&ada, &key, other).await),
        (409, "idempotency_key_reused".into())
    );
    // The key is whose it is: neither another user's nor, since it holds a secret, a narrower token's.
    let (_, bob) = f.someone("bob", Role::Operator).await;
    assert_ne!(f.auth.create_token(&bob, &key, ask()).await.unwrap().token, first.token);
    let (_, narrow) = make(&f, &ada, Role::Operator, &["tokens:write", "containers:read"]).await;
    assert_ne!(f.auth.create_token(&narrow, &key, ask()).await.unwrap().token, first.token);
    // A request that was refused leaves its key free.
    let key = keyed("/api/tokens", "k2");
    f.auth
        .create_token(&ada, &key, new("ci", Role::Admin, &[], None))
        .await
        .unwrap_err();
    f.auth.create_token(&ada, &key, ask()).await.unwrap();
}

async fn a_token_made_by_a_token_ends_with_it(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    let maker = f
        .auth
        .create_token(&ada, &meta(), new("maker", Role::Operator, &[], Some(1)))
        .await
        .unwrap();
    let program = f.admit(&maker.token).await.unwrap();
    assert!(matches!(program.credential, Credential::Token { .. }));
    let made = f
        .auth
        .create_token(&program, &meta(), new("made", Role::Viewer, &[], Some(3650)))
        .await
        .unwrap();
    assert_eq!(made.view.expires, maker.view.expires);
}

async fn a_use_is_noted(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Operator).await;
    let (made, _) = make(&f, &ada, Role::Viewer, &[]).await;
    let used = async || f.auth.list_tokens(&ada, false, None, 50).await.unwrap().0[0].last_used;
    let first = eventually("the first use is noted", used).await;
    assert_eq!(first, made.view.created);
    f.clock.pass(Duration::from_secs(59));
    f.admit(&made.token).await.unwrap();
    f.clock.pass(Duration::from_secs(1));
    f.admit(&made.token).await.unwrap();
    eventually("a minute later it is again", async || {
        used().await.filter(|u| *u == first.plus_millis(60_000))
    })
    .await;
}

async fn their_number_is_bounded(f: Fixture) {
    let (_, ada) = f.someone("ada", Role::Viewer).await;
    for _ in 0..200 {
        f.auth.create_token(&ada, &meta(), new("x", Role::Viewer, &[], None)).await.unwrap();
    }
    assert_eq!(
        code(f.auth.create_token(&ada, &meta(), new("x", Role::Viewer, &[], None)).await),
        (409, "too_many_tokens".into())
    );
}
