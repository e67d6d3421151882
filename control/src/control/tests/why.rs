//! `why`, as its two readers see it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portlatch_protocol::api::ceremony::{ExecTarget, Explanation};
use portlatch_protocol::resource::{MfaNeed, ProxyAddress};

use super::scene::{Person, Scene, is_tap_needed};
use crate::documents::labels::Labels;
use crate::grants::Asker;

async fn why(scene: &Scene, person: &Person, resource: &str, port: u16) -> Explanation {
    let target = ExecTarget { resource: resource.parse().unwrap(), port };
    scene.control.why(person.asker(), &target).await.unwrap()
}

#[tokio::test]
async fn a_user_is_told_which_role_opens_a_port_and_what_a_tap_is_worth() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let told = why(&scene, &person, "db/billing", 5432).await;
    assert!(told.is_allowed);
    assert!(told.steps[0].starts_with("the login on laptop ends in 1"), "{}", told.steps[0]);
    assert_eq!(
        told.steps[1..],
        [
            "jerry has the roles tap, brief, open",
            "no lock stands against it",
            "db/billing is at billing.corp.internal, port 5432-5433, with the labels mfa=tap",
            "no role denies it",
            "role tap allows it: db_labels mfa=tap",
            "role brief does not allow it: it has no db_labels",
            "role open does not allow it: it has no db_labels",
            "a tap is asked for by tap (require_session_mfa)",
            "a key alone will do: codes are not among the cluster's second_factors",
            "one tap opens this port alone, for 5m",
            "allowed after a tap",
        ]
    );
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.pass(Duration::from_secs(120));
    let told = why(&scene, &person, "db/billing", 5432).await;
    let last = told.steps.last().unwrap();
    assert!(last.starts_with("allowed: a tap of 2m") && last.ends_with("more"), "{last}");
    assert_eq!(why(&scene, &person, "app/wiki", 80).await.steps.last().unwrap(), "allowed without a tap");
}

#[tokio::test]
async fn what_a_port_asks_for_is_that_port_s_own() {
    let scene = Scene::new().await;
    let roles = "kind: role\nmetadata: {name: tap}\nspec: {options: {require_session_mfa: true}, \
        allow: {db_labels: {mfa: tap}, ports: [{port: 5432}]}}\n---\n\
        kind: role\nmetadata: {name: open}\nspec: {allow: {db_labels: {mfa: tap}, ports: [{port: 5433}]}}";
    scene.apply(roles).await;
    let mut person = scene.person("jerry").await;
    let listed = scene.control.hub.now().catalogue(&person.granted.user, scene.control.cluster()).resources;
    let listed = listed.iter().find(|it| it.id == "db/billing".parse().unwrap()).unwrap();
    assert_eq!(listed.mfa, MfaNeed::Tap, "the catalogue says what the strictest port asks for");
    assert_eq!(why(&scene, &person, "db/billing", 5432).await.mfa, Some(MfaNeed::Tap));
    assert_eq!(why(&scene, &person, "db/billing", 5433).await.mfa, Some(MfaNeed::None));
    assert_eq!(why(&scene, &person, "db/billing", 1).await.mfa, None);
    let (user, resource) = ("jerry".parse().unwrap(), "db/billing".parse().unwrap());
    assert_eq!(scene.control.why_of(&user, &resource, 5433).await.unwrap().mfa, Some(MfaNeed::None));
    assert_eq!(why(&scene, &person, "db/billing", 5432).await.proved_for, None);
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.pass(Duration::from_secs(100));
    assert_eq!(why(&scene, &person, "db/billing", 5432).await.proved_for, Some(200));
}

#[tokio::test]
async fn a_tap_for_the_attach_before_opens_nothing_and_is_not_told() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.pass(Duration::from_secs(1));
    let attached_again = scene.with_tunnel(person.key, person.granted).await;
    let told = why(&scene, &attached_again, "db/billing", 5432).await;
    assert_eq!((told.steps.last().unwrap().as_str(), told.proved_for), ("allowed after a tap", None));
    assert!(is_tap_needed(&scene.ask(&attached_again, "db/billing", 5432).await));
}

#[tokio::test]
async fn an_administrator_is_told_of_locks_on_where_a_user_comes_from() {
    let scene = Scene::new().await;
    let mut jerry = scene.person("jerry").await;
    let desk = scene.log_in_again(&mut jerry, "desk").await;
    let (user, resource) = ("jerry".parse().unwrap(), "app/wiki".parse().unwrap());
    let told = async || scene.control.why_of(&user, &resource, 80).await.unwrap();
    let about = |it: &Explanation| it.steps.iter().filter(|step| step.contains("stands against the")).count();
    assert_eq!(about(&told().await), 0);
    let locks = [
        (crate::admin::LockedBy::Device("laptop".parse().unwrap()), Some("stolen".to_owned())),
        (crate::admin::LockedBy::Login(desk.granted.login.clone()), None),
        (crate::admin::LockedBy::Device("somebody-else-s".parse().unwrap()), None),
    ];
    for (target, message) in locks {
        scene.control.lock(target, Some(Duration::from_secs(60)), message, "root").await.unwrap();
    }
    let locked = told().await;
    assert!(locked.is_allowed, "from elsewhere");
    for expected in [
        "not from everywhere: a lock stands against the device laptop: stolen".to_owned(),
        format!("not from everywhere: a lock stands against the login {}", desk.granted.login),
    ] {
        assert!(locked.steps.contains(&expected), "{expected}: {:?}", locked.steps);
    }
    assert_eq!(about(&locked), 2);
    scene.pass(Duration::from_secs(61));
    assert_eq!(about(&told().await), 0);
}

#[tokio::test]
async fn a_user_learns_nothing_of_what_no_role_opens() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let target = crate::admin::LockedBy::Resource("app/secret".parse().unwrap());
    scene.control.lock(target, None, Some("audit by the board".to_owned()), "root").await.unwrap();
    let story = |it: Explanation, resource: &str| {
        assert!(!it.is_allowed);
        it.steps.into_iter().map(|step| step.replace(resource, "X")).collect::<Vec<_>>()
    };
    let exists = story(why(&scene, &person, "app/secret", 80).await, "app/secret");
    let does_not = story(why(&scene, &person, "app/nothing", 80).await, "app/nothing");
    assert_eq!(exists, does_not);
    assert_eq!(exists.last().unwrap(), "refused: no role of yours allows port 80 of X: ask an administrator");
}

#[tokio::test]
async fn a_user_learns_of_no_port_beside_those_that_roles_open() {
    let scene = Scene::new().await;
    let role =
        "kind: role\nmetadata: {name: tap}\nspec: {allow: {db_labels: {mfa: tap}, ports: [{port: 5432}]}}";
    scene.apply(role).await;
    let person = scene.person("jerry").await;
    let told = why(&scene, &person, "db/billing", 5432).await;
    assert!(told.is_allowed);
    let steps = told.steps.join("\n");
    assert!(steps.contains("billing.corp.internal, port 5432, with") && !steps.contains("5433"), "{steps}");
    let (user, resource) = ("jerry".parse().unwrap(), "db/billing".parse().unwrap());
    let told = scene.control.why_of(&user, &resource, 5432).await.unwrap().steps.join("\n");
    assert!(told.contains("port 5432, 5433, with"), "{told}");
}

#[tokio::test]
async fn an_administrator_is_told_of_no_proxy_that_is_locked() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    let address =
        ProxyAddress { name: "main".parse().unwrap(), host: "main.example.com".to_owned(), port: 443 };
    scene.control.register_proxy(address.clone(), Labels::new()).await.unwrap();
    let (user, resource) = ("jerry".parse().unwrap(), "db/vault".parse().unwrap());
    let told = async || scene.control.why_of(&user, &resource, 5432).await.unwrap().steps.join("\n");
    let serving = told().await;
    assert!(serving.contains("it is dialled by main"), "{serving}");
    let lock = crate::admin::LockedBy::Proxy(address.name);
    scene.control.lock(lock, None, None, "root").await.unwrap();
    let locked = told().await;
    assert!(locked.contains("no proxy that may dial it serves now"), "{locked}");
}

#[tokio::test]
async fn a_user_is_told_of_locks_and_of_a_pinned_address() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let pinned = "kind: role\nmetadata: {name: open}\nspec: {options: {pin_source_ip: true}, allow: {app_labels: {mfa: none}}}";
    scene.apply(pinned).await;
    assert!(why(&scene, &person, "app/wiki", 80).await.is_allowed);
    let elsewhere = Asker { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), ..person.asker() };
    let target = ExecTarget { resource: "app/wiki".parse().unwrap(), port: 80 };
    let told = scene.control.why(elsewhere, &target).await.unwrap();
    assert!(!told.is_allowed && told.steps.last().unwrap().contains("address that you logged in from"));
    let lock = crate::admin::LockedBy::Device("laptop".parse().unwrap());
    scene.control.lock(lock, None, Some("stolen".to_owned()), "root").await.unwrap();
    let told = why(&scene, &person, "app/wiki", 80).await;
    assert_eq!(told.steps.last().unwrap(), "refused: a lock stands against the device laptop: stolen");
}

#[tokio::test]
async fn an_administrator_is_told_everything() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    let user = "jerry".parse().unwrap();
    let told = async |resource: &str, port| {
        let told = scene.control.why_of(&user, &resource.parse().unwrap(), port).await.unwrap();
        (told.is_allowed, told.steps)
    };
    let (is_allowed, steps) = told("app/secret", 80).await;
    assert!(!is_allowed);
    assert!(steps.contains(&"role open does not allow it: app_labels mfa=none does not match".to_owned()));
    assert_eq!(
        steps.last().unwrap(),
        "refused: none of the roles tap, brief, open allows port 80 of app/secret"
    );
    assert_eq!(told("app/nothing", 80).await.1.last().unwrap(), "refused: there is no app/nothing");
    assert_eq!(told("db/billing", 1).await.1.last().unwrap(), "refused: db/billing has no port 1");
    let (is_allowed, steps) = told("db/vault", 5432).await;
    assert!(is_allowed);
    for expected in [
        "the key must verify its user, by PIN or fingerprint (mfa.user_verification)",
        "no proxy that may dial it serves now: nobody gets through until one does",
        "allowed after a tap",
    ] {
        assert!(steps.contains(&expected.to_owned()), "{expected}: {steps:?}");
    }
    let nobody = scene.control.why_of(&"newman".parse().unwrap(), &"db/vault".parse().unwrap(), 5432).await;
    assert_eq!(nobody.unwrap().steps, ["refused: there is no user newman"]);
}
