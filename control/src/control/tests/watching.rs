//! What a proxy is told.

use std::time::Duration;

use portlatch_protocol::names::ResourceId;
use portlatch_protocol::watch::{Change, Hello, LockTarget, Snapshot, VERSION, WatchMessage};

use super::super::*;
use super::scene::{Scene, file, granted};
use crate::admin::LockedBy;

/// What must happen gets this long: the machine may be busy, and no test is about how fast it is.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(watch: &mut Watch) -> WatchMessage {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("it is told").unwrap()
}

async fn change(watch: &mut Watch) -> Change {
    loop {
        match next(watch).await {
            WatchMessage::Change(change, _) => return change,
            WatchMessage::Beat(_) => {}
            WatchMessage::Snapshot(_) => panic!("a change was expected"),
        }
    }
}

async fn revoked(watch: &mut Watch) -> Vec<Id> {
    match change(watch).await {
        Change::Revoked(revoked) => revoked.into_iter().map(|it| it.grant).collect(),
        other @ (Change::Resource(_)
        | Change::ResourceGone(_)
        | Change::Locked(_)
        | Change::Unlocked(_)
        | Change::LoginEnded(_)
        | Change::GrantKeys(_)) => panic!("a revocation was expected, not {other:?}"),
    }
}

async fn snapshot(watch: &mut Watch) -> Snapshot {
    match next(watch).await {
        WatchMessage::Snapshot(snapshot) => snapshot,
        WatchMessage::Change(..) | WatchMessage::Beat(_) => panic!("a snapshot was expected"),
    }
}

fn watch_of(scene: &Scene, labels: &[(&str, &str)]) -> Watch {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    scene.control.watch(Hello::OWN, "main".parse().unwrap(), labels).unwrap()
}

fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_first_message_is_everything() {
    let scene = Scene::new().await;
    let mut watch = watch_of(&scene, &[]);
    let snapshot = snapshot(&mut watch).await;
    assert_eq!(snapshot.cluster, *scene.control.cluster());
    assert_eq!(snapshot.resources.len(), 6);
    assert_eq!(snapshot.grant_keys[0].kid, *scene.control.keys.grant_kid());
    assert_eq!(snapshot.authorities[0].0, scene.control.keys.ca_der().to_vec());
}

#[tokio::test]
async fn a_proxy_of_another_version_is_told_so_and_nothing_else() {
    let scene = Scene::new().await;
    for version in [VERSION - 1, VERSION + 1] {
        let watch = scene.control.watch(Hello { version }, "main".parse().unwrap(), Labels::new());
        let refusal = watch.map(drop).unwrap_err();
        assert_eq!((refusal.control, refusal.proxy), (VERSION, version));
    }
    assert_eq!(watch_of(&scene, &[]).hello(), Hello::OWN);
}

#[tokio::test]
async fn a_proxy_hears_of_its_own_resources_alone() {
    let scene = Scene::new().await;
    let (mut berlin, mut paris) =
        (watch_of(&scene, &[("site", "berlin")]), watch_of(&scene, &[("site", "paris")]));
    snapshot(&mut berlin).await;
    snapshot(&mut paris).await;
    let resource = |site: &str| {
        file(&format!(
            "kind: app\nmetadata: {{name: new}}\nspec: {{uri: 'tcp://10.0.0.20:80', proxies: {{site: {site}}}}}"
        ))
    };
    scene.control.apply(&resource("berlin"), "root").await.unwrap();
    assert!(matches!(change(&mut berlin).await, Change::Resource(it) if it.id == id("app/new")));
    scene.control.apply(&resource("paris"), "root").await.unwrap();
    assert_eq!(change(&mut berlin).await, Change::ResourceGone(id("app/new")));
    assert!(matches!(change(&mut paris).await, Change::Resource(it) if it.id == id("app/new")));
    scene.control.delete("app", "new", "root").await.unwrap();
    assert_eq!(change(&mut paris).await, Change::ResourceGone(id("app/new")));
}

#[tokio::test]
async fn a_lock_is_told_before_what_it_revokes_and_lifted_when_it_ends() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let grant = granted(scene.ask(&person, "app/wiki", 80).await);
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (control, cancel) = (scene.control.clone(), cancel.clone());
        async move { control.run(cancel).await }
    });
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    let target = LockedBy::User("jerry".parse().unwrap());
    scene.control.lock(target, Some(Duration::from_secs(60)), None, "root").await.unwrap();
    let Change::Locked(lock) = change(&mut watch).await else { panic!("the lock comes first") };
    assert_eq!(lock.target, LockTarget::User("jerry".parse().unwrap()));
    assert_eq!(revoked(&mut watch).await, [grant.id]);
    scene.pass(Duration::from_secs(61));
    assert_eq!(change(&mut watch).await, Change::Unlocked(lock.id));
    cancel.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(scene.last_reason("unlock"), "expired");
}

#[tokio::test]
async fn the_end_of_a_login_is_told() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    scene.control.logout(&person.login).await.unwrap();
    assert_eq!(change(&mut watch).await, Change::LoginEnded(person.granted.login.clone()));
    let mut late = watch_of(&scene, &[]);
    assert_eq!(snapshot(&mut late).await.ended_logins, [person.granted.login]);
}

#[tokio::test]
async fn a_watcher_that_falls_far_behind_gets_a_snapshot() {
    let scene = Scene::new().await;
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    let many: Vec<String> = (0..300)
        .map(|n| {
            format!("kind: app\nmetadata: {{name: many-{n}}}\nspec: {{uri: 'tcp://10.0.1.1:{}'}}", n + 1)
        })
        .collect();
    scene.control.apply(&file(&many.join("\n---\n")), "root").await.unwrap();
    assert_eq!(snapshot(&mut watch).await.resources.len(), 306);
    for n in 0..299 {
        let other =
            format!("kind: app\nmetadata: {{name: many-0}}\nspec: {{uri: 'tcp://10.0.2.1:{}'}}", n + 1);
        if n % 60 == 0 {
            scene.control.apply(&file(&other), "root").await.unwrap();
        }
    }
    // Five changes of one resource are one difference.
    assert!(matches!(change(&mut watch).await, Change::Resource(_)));
    scene.pass(Duration::from_secs(1));
    assert!(tokio::time::timeout(Duration::from_millis(50), watch.next()).await.is_err(), "nothing is left");
}

#[tokio::test]
async fn a_moved_clock_and_five_quiet_seconds_each_make_a_beat() {
    let scene = Scene::new().await;
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    let before = scene.clock.time_of_day().0;
    let (message, ()) = tokio::join!(next(&mut watch), async {
        tokio::task::yield_now().await;
        scene.pass(Duration::from_secs(1000));
    });
    assert!(matches!(message, WatchMessage::Beat(time) if time.0 >= before + 1_000_000));
    let quiet = tokio::time::timeout(PATIENCE, watch.next()).await;
    assert!(matches!(quiet, Ok(Some(WatchMessage::Beat(_)))));
}

#[tokio::test]
async fn logins_that_ended_long_ago_do_not_pile_up_at_a_proxy() {
    let scene = Scene::new().await;
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    // More than a proxy is left with, and less than what is told as a snapshot at once.
    for _ in 0..3 {
        let ended = (0..150).map(|_| (random_id(), scene.clock.time_of_day())).collect();
        scene.control.hub.change(|standing| standing.ended_logins = Arc::new(ended));
        for _ in 0..150 {
            if let WatchMessage::Snapshot(snapshot) = next(&mut watch).await {
                assert_eq!(snapshot.ended_logins.len(), 150);
                return;
            }
        }
    }
    panic!("450 logins were told, and the proxy never heard that 300 of them are over");
}

#[tokio::test]
async fn a_role_that_is_taken_away_and_a_resource_that_goes_are_told() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let wiki = granted(scene.ask(&person, "app/wiki", 80).await);
    let billing = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let mut watch = watch_of(&scene, &[]);
    snapshot(&mut watch).await;
    let without = "kind: user\nmetadata: {name: jerry}\nspec: {roles: [tap]}";
    scene.control.apply(&file(without), "root").await.unwrap();
    assert_eq!(revoked(&mut watch).await, [wiki.id]);
    scene.control.delete("db", "billing", "root").await.unwrap();
    assert_eq!(change(&mut watch).await, Change::ResourceGone(id("db/billing")));
    assert_eq!(revoked(&mut watch).await, [billing.id]);
    scene.control.delete("user", "jerry", "root").await.unwrap();
    assert_eq!(change(&mut watch).await, Change::LoginEnded(person.granted.login));
}
