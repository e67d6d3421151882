//! PINs and fingers.

use super::*;
use crate::keys::pin_entry::PinAfter;

const RIGHT: Event = Event::Pin { is_right: true };

fn with_pin() -> Settings {
    Settings { pin: Some("4711 äß".to_owned()), ..Settings::default() }
}

fn tries(key: &Plugged, from: usize) -> usize {
    count(key, from, |event| matches!(event, Event::Pin { .. }))
}

/// A key with a PIN that was enrolled by a bare tap.
async fn enrolled(settings: Settings) -> (Scene, Plugged, Enrolled) {
    let key = Plugged::new(settings);
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    (scene, key, enrolled)
}

#[tokio::test]
async fn a_resource_that_demands_it_has_the_pin_asked_and_the_user_verified() {
    for (pin_protocols, is_two_one) in
        [(vec![2, 1], true), (vec![1], true), (vec![2], true), (vec![1], false)]
    {
        let settings = Settings { makes_without_pin: true, ..with_pin() };
        let (scene, key, enrolled) = enrolled(settings).await;
        key.set(|settings| {
            (settings.pin_protocols, settings.is_two_one) = (pin_protocols.clone(), is_two_one)
        });
        scene.will_answer([Ok("4711 äß")]);
        let mut tap = scene.assert(&enrolled.ids(), "required");
        tap.hears(&KeyNotice::TouchNow).await;
        touch(&key, enrolled.seen).await;
        let client_data = tap.client_data.clone();
        let flags = enrolled.check(&tap.end().await.unwrap(), &client_data);
        assert_eq!(flags, PRESENT_AND_VERIFIED, "protocols {pin_protocols:?}, 2.1 {is_two_one}");
        let asked = scene.asked();
        assert_eq!((asked.len(), asked[0].retries_left, asked[0].after), (1, 8, PinAfter::Nothing));
        assert_eq!(asked[0].purpose, "to log in to proxy.example.com");
    }
}

#[tokio::test]
async fn a_bare_tap_asks_for_no_pin() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT);
    assert_eq!((scene.asked().len(), tries(&key, 0)), (0, 0));
}

// D: PIN wrong once -> retries shown, no automatic second try
#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_asked_again_with_the_tries_that_are_left() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    scene.will_answer([Ok("0000"), Err(NoPin::Cancelled)]);
    let tap = scene.assert(&enrolled.ids(), "required");
    assert_eq!(tap.end().await.unwrap_err(), KeyError::PinCancelled);
    let asked: Vec<_> =
        scene.asked().iter().map(|question| (question.retries_left, question.after)).collect();
    assert_eq!(asked, [(8, PinAfter::Nothing), (7, PinAfter::Wrong)]);
    assert_eq!(tries(&key, 0), 1);
    assert_eq!(count(&key, enrolled.seen, is_signing), 0);
}

#[tokio::test]
async fn the_right_pin_after_a_wrong_one_is_taken() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    scene.will_answer([Ok("0000"), Ok("4711 äß")]);
    let tap = scene.assert(&enrolled.ids(), "required");
    sees(&key, enrolled.seen, RIGHT).await;
    touch(&key, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn what_can_be_no_pin_costs_no_try() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    scene.will_answer([Ok("äöü"), Err(NoPin::Cancelled)]);
    let tap = scene.assert(&enrolled.ids(), "required");
    assert_eq!(tap.end().await.unwrap_err(), KeyError::PinCancelled);
    assert_eq!(scene.asked()[1].after, PinAfter::Impossible);
    assert_eq!(tries(&key, 0), 0);
}

// D: PIN-blocked
#[tokio::test]
async fn a_key_with_a_blocked_pin_says_so_and_asks_nobody() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    key.block_pin();
    let tap = scene.assert(&enrolled.ids(), "required");
    assert_eq!(tap.end().await.unwrap_err(), KeyError::PinBlocked);
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn after_three_wrong_pins_the_key_wants_new_power() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    scene.will_answer([Ok("0000"), Ok("1111"), Ok("2222"), Ok("3333")]);
    assert_eq!(scene.assert(&enrolled.ids(), "required").end().await.unwrap_err(), KeyError::PinNeedsPower);
    assert_eq!((scene.asked().len(), tries(&key, 0)), (3, 3));
    let again = scene.assert(&enrolled.ids(), "required");
    assert_eq!(again.end().await.unwrap_err(), KeyError::PinNeedsPower);
    assert_eq!(scene.asked().len(), 3, "nobody is asked for what cannot be tried");
}

// D: alwaysUv key
#[tokio::test]
async fn a_key_that_always_verifies_gets_its_pin_for_a_bare_tap() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    key.set(|settings| settings.always_verifies = true);
    scene.will_answer([Ok("4711 äß")]);
    let tap = scene.tap(&enrolled.ids());
    sees(&key, enrolled.seen, RIGHT).await;
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT_AND_VERIFIED);
}

#[tokio::test]
async fn a_key_that_makes_nothing_without_its_pin_is_enrolled_with_it() {
    for settings in [
        Settings { makes_without_pin: false, ..with_pin() },
        Settings { is_two_one: false, pin_protocols: vec![1], ..with_pin() },
        Settings { always_verifies: true, ..with_pin() },
    ] {
        let key = Plugged::new(settings);
        let scene = Scene::with([&key]);
        scene.will_answer([Ok("4711 äß")]);
        let using = scene.enrol(&[]);
        sees(&key, 0, RIGHT).await;
        touch(&key, 0).await;
        assert!(using.end().await.is_ok());
        assert_eq!(scene.asked()[0].purpose, "to enrol it at proxy.example.com");
    }
}

#[tokio::test]
async fn a_key_without_a_pin_says_that_it_needs_one() {
    let (scene, _key, enrolled) = enrolled(Settings::default()).await;
    let tap = scene.assert(&enrolled.ids(), "required");
    assert_eq!(tap.end().await.unwrap_err(), KeyError::NoPinSet);
}

#[tokio::test]
async fn where_nobody_can_be_asked_it_is_said() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    scene.will_answer([Err(NoPin::Nobody)]);
    let tap = scene.assert(&enrolled.ids(), "required");
    assert_eq!(tap.end().await.unwrap_err(), KeyError::NobodyToAsk);
    assert_eq!(tries(&key, 0), 0);
}

#[tokio::test]
async fn a_question_that_stands_open_ends_with_the_prompt() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    let tap = scene.assert(&enrolled.ids(), "required");
    while scene.asked().is_empty() {
        tokio::time::sleep(HASTE.glance).await;
    }
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
    // Its thread has given the key back: another use finds it free.
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_taken_out_during_the_question_is_asked_for_again() {
    let (scene, key, enrolled) = enrolled(with_pin()).await;
    let mut tap = scene.assert(&enrolled.ids(), "required");
    while scene.asked().is_empty() {
        tokio::time::sleep(HASTE.glance).await;
    }
    key.unplug();
    tap.hears(&KeyNotice::PlugIn).await;
    scene.will_answer([Ok("4711 äß")]);
    key.plug();
    sees(&key, enrolled.seen, RIGHT).await;
    touch(&key, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn a_known_finger_verifies_and_another_one_is_told_so() {
    let settings = Settings { has_finger: true, ..with_pin() };
    let (scene, key, enrolled) = enrolled(settings).await;
    let mut tap = scene.assert(&enrolled.ids(), "required");
    let first = sees(&key, enrolled.seen, Event::Blinks).await;
    key.touch_with_wrong_finger();
    tap.hears(&KeyNotice::UnknownFinger).await;
    let second = touch(&key, first + 1).await;
    touch(&key, second + 1).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT_AND_VERIFIED);
    assert!(scene.asked().is_empty());
}

#[tokio::test]
async fn fingers_that_are_not_known_end_at_the_pin() {
    let settings = Settings { has_finger: true, ..with_pin() };
    let (scene, key, enrolled) = enrolled(settings).await;
    scene.will_answer([Ok("4711 äß")]);
    let tap = scene.assert(&enrolled.ids(), "required");
    let mut from = enrolled.seen;
    for _ in 0..3 {
        from = sees(&key, from, Event::Blinks).await + 1;
        key.touch_with_wrong_finger();
    }
    let right = sees(&key, from, RIGHT).await;
    touch(&key, right).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT_AND_VERIFIED);
}

#[tokio::test]
async fn an_old_key_with_a_finger_verifies_by_the_touch_itself() {
    let settings = Settings { has_finger: true, is_two_one: false, ..Settings::default() };
    let (scene, key, enrolled) = enrolled(settings).await;
    let tap = scene.assert(&enrolled.ids(), "required");
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    assert_eq!(enrolled.check(&tap.end().await.unwrap(), &client_data), PRESENT_AND_VERIFIED);
}
