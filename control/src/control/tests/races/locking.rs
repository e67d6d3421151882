//! A lock, and changes of devices by whoever was let in before it.

use super::super::super::*;
use super::super::scene::Scene;
use super::logins;
use crate::admin::LockedBy;
use crate::devices::Holder;

/// Rounds of one lock each; a nightly run has ten times as many.
const LOCKS: usize = 50;

// A 4: whoever was let in before a lock was set changes nothing behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_change_of_devices_is_made_behind_a_lock() {
    let scene = Scene::in_memory().await;
    let person = scene.person("jerry").await;
    let user = &person.granted.user;
    let key = scene.control.mfa_devices(user).await.unwrap().devices.remove(0).id;
    let mut done = Vec::new();
    for round in 0..LOCKS * logins() {
        let (control, holder, key) = (scene.control.clone(), Holder::from(person.asker()), key.clone());
        let renaming = tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                let name = format!("{round} {}", done.len());
                match control.rename_device(&holder, &key, &name).await {
                    Ok(_) => done.push(name),
                    Err(Denial::Locked(_)) => return done,
                    Err(denial) => panic!("{denial}"),
                }
            }
        });
        scene.control.lock(LockedBy::User(user.clone()), None, None, "root").await.unwrap();
        done.push(renaming.await.unwrap());
        let name = scene.control.mfa_devices(user).await.unwrap().devices.remove(0).name;
        assert!(done.last().unwrap().last().is_none_or(|last| *last == name), "{name}");
        scene.control.delete("lock", "user-jerry", "root").await.unwrap();
    }
    let place = |record: &serde_json::Value| record["seq"].as_u64().unwrap();
    let locks: Vec<u64> = scene.audit("lock").iter().map(place).collect();
    let renames = scene.audit("device.rename");
    assert_eq!(locks.len(), done.len());
    for (lock, done) in locks.iter().zip(done) {
        for name in done {
            let record = renames.iter().find(|record| record["detail"] == *name);
            assert!(place(record.expect("it is on the record")) < *lock, "{name}, behind the lock");
        }
    }
}
