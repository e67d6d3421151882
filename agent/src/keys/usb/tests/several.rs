//! Several keys at once.

use super::*;

/// Two keys, the first of them enrolled.
async fn right_and_wrong() -> (Scene, Plugged, Plugged, Enrolled) {
    let (right, wrong) = (Plugged::new(Settings::default()), Plugged::unplugged(Settings::default()));
    let scene = Scene::with([&right, &wrong]);
    let enrolled = scene.enrolled(&right).await;
    wrong.plug();
    (scene, right, wrong, enrolled)
}

// D: two keys, only one enrolled
#[tokio::test]
async fn of_two_keys_the_enrolled_one_signs_and_the_other_is_told_to_stop() {
    let (scene, right, wrong, enrolled) = right_and_wrong().await;
    let tap = scene.tap(&enrolled.ids());
    sees(&wrong, 0, Event::Blinks).await;
    touch(&right, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    enrolled.check(&tap.end().await.unwrap(), &client_data);
    sees(&wrong, 0, Event::Cancelled).await;
    assert_eq!(count(&wrong, 0, is_signing), 0, "a key without the credential is not asked to sign");
}

// D: wrong key touched
#[tokio::test]
async fn whoever_touches_the_wrong_key_hears_of_it_and_the_right_one_goes_on() {
    for is_two_one in [true, false] {
        let (scene, right, wrong, enrolled) = right_and_wrong().await;
        wrong.set(|settings| settings.is_two_one = is_two_one);
        let mut tap = scene.tap(&enrolled.ids());
        touch(&wrong, 0).await;
        tap.hears(&KeyNotice::WrongKeyTouched).await;
        touch(&right, enrolled.seen).await;
        assert!(tap.end().await.is_ok());
        assert_eq!(count(&right, enrolled.seen, |event| *event == Event::Cancelled), 0);
        assert_eq!(count(&wrong, 0, |event| *event == Event::Blinks), 1, "it blinks no more");
    }
}

// D: wrong key (alone)
#[tokio::test]
async fn a_wrong_key_alone_does_not_blink_and_is_named() {
    let (scene, right, wrong, enrolled) = right_and_wrong().await;
    right.unplug();
    let mut tap = scene.tap(&enrolled.ids());
    tap.hears(&KeyNotice::WrongKey).await;
    assert_eq!(count(&wrong, 0, |event| *event == Event::Blinks), 0);
    right.plug();
    touch(&right, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn two_enrolled_keys_race_and_the_loser_stops_blinking() {
    let (scene, first, second, one) = right_and_wrong().await;
    first.unplug();
    let from = second.record().len();
    let two = {
        let using = scene.enrol(&[]);
        touch(&second, from).await;
        Enrolled::of(&using.end().await.unwrap(), second.record().len())
    };
    first.plug();
    let tap = scene.tap(&[one.id.clone(), two.id.clone()]);
    sees(&first, one.seen, Event::Blinks).await;
    touch(&second, two.seen).await;
    let client_data = tap.client_data.clone();
    two.check(&tap.end().await.unwrap(), &client_data);
    sees(&first, one.seen, Event::Cancelled).await;
}

#[tokio::test]
async fn the_key_that_is_touched_first_is_enrolled() {
    let (first, second) = (Plugged::new(Settings::default()), Plugged::new(Settings::default()));
    let scene = Scene::with([&first, &second]);
    let using = scene.enrol(&[]);
    sees(&first, 0, Event::Blinks).await;
    touch(&second, 0).await;
    assert!(using.end().await.is_ok());
    sees(&first, 0, Event::Cancelled).await;
}

#[tokio::test]
async fn a_key_that_is_enrolled_already_says_so_at_its_touch() {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    let mut exclude: Vec<Vec<u8>> = (0..30_u8).map(|number| vec![number; 64]).collect();
    exclude[20] = enrolled.id.clone();
    let using = scene.enrol(&exclude);
    touch(&key, enrolled.seen).await;
    assert_eq!(using.end().await.unwrap_err(), KeyError::AlreadyEnrolled);
}

#[tokio::test]
async fn a_broken_key_beside_a_good_one_is_named_and_does_no_harm() {
    let (scene, right, broken, enrolled) = right_and_wrong().await;
    broken.set(|settings| settings.fault = Some(portlatch_virtual_key::Fault::Silent));
    let mut tap = scene.tap(&enrolled.ids());
    let silent = KeyError::Broken("it is silent".to_owned());
    tap.hears(&KeyNotice::Trouble(silent.to_string())).await;
    touch(&right, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn a_locked_key_beside_a_good_one_is_named_and_does_no_harm() {
    let (scene, right, _wrong, enrolled) = right_and_wrong().await;
    scene.desk.locked.lock().unwrap().insert(1);
    let mut tap = scene.tap(&enrolled.ids());
    tap.hears(&KeyNotice::Trouble("no access: your seat is not active".to_owned())).await;
    touch(&right, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

#[tokio::test]
async fn of_two_keys_with_a_pin_the_touched_one_gets_it() {
    let settings = || Settings { pin: Some("1234".to_owned()), ..Settings::default() };
    let (first, second) = (Plugged::new(settings()), Plugged::new(settings()));
    let scene = Scene::with([&first]);
    let one = scene.enrolled(&first).await;
    scene.desk.keys.lock().unwrap().push(second.clone());
    first.unplug();
    let two = scene.enrolled(&second).await;
    first.plug();
    scene.will_answer([Ok("1234")]);
    let tap = scene.assert(&[one.id.clone(), two.id.clone()], "required");
    sees(&first, one.seen, Event::Blinks).await;
    let chosen = touch(&second, two.seen).await;
    sees(&first, one.seen, Event::Cancelled).await;
    touch(&second, chosen + 1).await;
    let client_data = tap.client_data.clone();
    assert_eq!(two.check(&tap.end().await.unwrap(), &client_data), PRESENT_AND_VERIFIED);
    assert_eq!(count(&first, 0, |event| matches!(event, Event::Pin { .. })), 0);
    assert_eq!(count(&first, one.seen, |event| *event == Event::Blinks), 1, "it does not begin again");
}
