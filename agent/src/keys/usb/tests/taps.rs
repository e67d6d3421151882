//! One key: taps, patience, plugging and unplugging.

use super::*;

#[tokio::test]
async fn an_enrolled_key_signs_once_it_is_touched() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT);
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn a_key_may_leave_out_which_credential_it_was() {
    let key = Plugged::new(Settings { omits_only_credential: true, ..Settings::default() });
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    enrolled.check(&tap.end().await.unwrap(), &client_data);
}

// D: no key -> message + later hot-plug works
#[tokio::test]
async fn without_a_key_one_is_asked_for_and_works_once_it_is_there() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    key.unplug();
    let mut tap = scene.tap(&enrolled.ids());
    tap.hears(&KeyNotice::PlugIn).await;
    key.plug();
    touch(&key, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

// D: hot-plug; a key that takes its first request as touched must not be asked while it does
#[tokio::test]
async fn a_key_that_was_just_put_in_signs_nothing_by_itself() {
    let fresh_time = HASTE.settle.mul_f32(0.9);
    let key = Plugged::new(Settings { fresh_time, ..Settings::default() });
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    key.unplug();
    let mut tap = scene.tap(&enrolled.ids());
    tap.hears(&KeyNotice::PlugIn).await;
    key.plug();
    let plugged = sees(&key, enrolled.seen, Event::Plugged).await;
    let asked = sees(&key, plugged, Event::Blinks).await;
    let record = key.record();
    assert!(record[asked].at - record[plugged].at >= HASTE.settle);
    assert_eq!(count(&key, plugged, |event| *event == Event::Touched), 0);
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
}

#[tokio::test]
async fn a_key_that_cannot_say_how_long_it_has_been_in_is_taken_for_a_new_one() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    scene.desk.is_ageless.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let tap = scene.tap(&enrolled.ids());
    let asked = sees(&key, enrolled.seen, Event::Blinks).await;
    assert!(key.record()[asked].at - began >= HASTE.settle);
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
}

// D: touch never
#[tokio::test]
async fn a_key_whose_own_time_is_over_is_asked_again_for_the_same() {
    let key = Plugged::new(Settings { touch_time: Duration::from_millis(60), ..Settings::default() });
    let scene = Scene::with([&key]);
    key.set(|settings| settings.touch = portlatch_virtual_key::TouchMode::ByItself);
    let enrolled = Enrolled::of(&scene.enrol(&[]).end().await.unwrap(), key.record().len());
    key.set(|settings| settings.touch = portlatch_virtual_key::TouchMode::Waits);
    let tap = scene.tap(&enrolled.ids());
    let mut from = enrolled.seen;
    for _ in 0..3 {
        from = sees(&key, from, Event::TimedOut).await + 1;
    }
    let hashes: HashSet<Vec<u8>> = key
        .record()
        .iter()
        .skip(enrolled.seen)
        .filter_map(|seen| {
            if let Event::Assertion { up: true, hash, .. } = &seen.event { Some(hash.clone()) } else { None }
        })
        .collect();
    assert_eq!(hashes, HashSet::from([Sha256::digest(tap.client_data.bytes()).to_vec()]));
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
}

// D: cancel really stops the blinking
#[tokio::test]
async fn a_prompt_that_is_over_stops_the_blinking() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    sees(&key, enrolled.seen, Event::Blinks).await;
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
    sees(&key, enrolled.seen, Event::Cancelled).await;
    assert!(!key.is_blinking());
}

#[tokio::test]
async fn a_use_that_nobody_waits_for_any_more_stops_the_blinking() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    sees(&key, enrolled.seen, Event::Blinks).await;
    tap.result.abort();
    sees(&key, enrolled.seen, Event::Cancelled).await;
}

/// As when the agent ends, or a login is interrupted: the process takes its threads along.
#[tokio::test]
async fn whoever_lets_go_of_the_keys_waits_until_none_blinks() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    sees(&key, enrolled.seen, Event::Blinks).await;
    tap.result.abort();
    assert!(tap.result.await.unwrap_err().is_cancelled());
    drop(scene);
    assert!(!key.is_blinking());
}

#[tokio::test]
async fn the_next_prompt_finds_the_key_free() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    for _ in 0..3 {
        let from = key.record().len();
        let tap = scene.tap(&enrolled.ids());
        sees(&key, from, Event::Blinks).await;
        assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
    }
    let from = key.record().len();
    let tap = scene.tap(&enrolled.ids());
    touch(&key, from).await;
    assert!(tap.end().await.is_ok());
}

// D: unplug during touch
#[tokio::test]
async fn a_key_that_is_taken_out_while_it_blinks_may_come_back() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let mut tap = scene.tap(&enrolled.ids());
    let blinked = sees(&key, enrolled.seen, Event::Blinks).await;
    key.unplug();
    tap.hears(&KeyNotice::PlugIn).await;
    key.plug();
    touch(&key, blinked + 1).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn a_no_on_the_key_is_a_no() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let tap = scene.tap(&enrolled.ids());
    sees(&key, enrolled.seen, Event::Blinks).await;
    key.deny();
    assert_eq!(tap.end().await.unwrap_err(), KeyError::Denied);
}

// D: allowList of 100 credentials
#[tokio::test]
async fn a_hundred_credentials_are_asked_for_in_lists_that_the_key_takes() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let mut allow: Vec<Vec<u8>> = (0..100_u8).map(|number| vec![number; 64]).collect();
    allow[97] = enrolled.id.clone();
    let tap = scene.tap(&allow);
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    enrolled.check(&tap.end().await.unwrap(), &client_data);
    let listed: Vec<(bool, usize)> = key
        .record()
        .iter()
        .skip(enrolled.seen)
        .filter_map(|seen| {
            if let Event::Assertion { up, listed, .. } = &seen.event { Some((*up, *listed)) } else { None }
        })
        .collect();
    assert!(listed.iter().all(|(_, length)| *length <= 8), "{listed:?}");
    assert_eq!(listed.last(), Some(&(true, 1)), "only the one that it has is signed with");
    assert_eq!(listed.len(), 14);
}

// D: EACCES on hidraw
#[tokio::test]
async fn a_key_that_may_not_be_opened_is_explained() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    scene.desk.locked.lock().unwrap().insert(0);
    let error = scene.tap(&[vec![1]]).end().await.unwrap_err();
    assert_eq!(error, KeyError::NoAccess("no access: your seat is not active".to_owned()));
}

#[test]
fn what_is_plugged_in_is_listed_with_what_keeps_it_from_use() {
    let (open, locked) = (Plugged::new(Settings::default()), Plugged::new(Settings::default()));
    let scene = Scene::with([&open, &locked]);
    scene.desk.locked.lock().unwrap().insert(1);
    let listed = scene.usb.plugged_in().unwrap();
    let troubles: Vec<_> = listed.iter().map(|key| (key.device.as_str(), key.trouble.as_deref())).collect();
    assert_eq!(troubles, [("key0", None), ("key1", Some("no access: your seat is not active"))]);
}

// D: another program using the key at the same time
#[tokio::test]
async fn a_key_that_another_program_uses_is_waited_for() {
    let key = Plugged::new(Settings::default());
    let (ours, other) = (Scene::with([&key]), Scene::with([&key]));
    let enrolled = ours.enrolled(&key).await;
    let theirs = other.tap(&enrolled.ids());
    let blinked = sees(&key, enrolled.seen, Event::Blinks).await;
    let mut tap = ours.tap(&enrolled.ids());
    tap.hears(&KeyNotice::InUse).await;
    key.touch();
    assert!(theirs.end().await.is_ok(), "the other program's answer is its own");
    touch(&key, blinked + 1).await;
    assert!(tap.end().await.is_ok());
}

// D: another program using the key at the same time; wrong CID
#[tokio::test]
async fn what_the_key_says_to_another_program_is_not_for_us() {
    let key = Plugged::new(Settings::default());
    let (ours, other) = (Scene::with([&key]), Scene::with([&key]));
    let enrolled = ours.enrolled(&key).await;
    let mut from = enrolled.seen;
    for _ in 0..5 {
        let tap = ours.tap(&enrolled.ids());
        from = sees(&key, from, Event::Blinks).await + 1;
        let theirs = other.tap(&enrolled.ids());
        sees(&key, from, Event::TurnedAway).await;
        key.touch();
        let client_data = tap.client_data.clone();
        enrolled.check(&tap.end().await.unwrap(), &client_data);
        assert_eq!(theirs.cancelled().await.unwrap_err(), KeyError::Cancelled);
        from = key.record().len();
    }
}
