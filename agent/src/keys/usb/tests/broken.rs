//! Keys that are broken, or somebody's toy.

use portlatch_virtual_key::Fault;

use super::*;

/// An enrolled key that broke afterwards.
async fn broken(fault: Fault) -> (Scene, Plugged, Enrolled) {
    let key = Plugged::new(Settings::default());
    let scene = Scene::with([&key]);
    let enrolled = scene.enrolled(&key).await;
    key.set(|settings| settings.fault = Some(fault));
    (scene, key, enrolled)
}

// D: key that sends garbage, BCNT 65535, 36-byte authData; silent keys
#[tokio::test]
async fn whatever_a_broken_key_sends_the_use_ends_and_says_so() {
    for fault in [
        Fault::Silent,
        Fault::SilentOnChannel,
        Fault::Garbage,
        Fault::GarbageCbor,
        Fault::EndlessAnswer,
        Fault::WrongSequence,
        Fault::ShortAuthenticatorData,
        Fault::WrongNonce,
    ] {
        let (scene, key, enrolled) = broken(fault).await;
        key.set(|settings| settings.touch = portlatch_virtual_key::TouchMode::ByItself);
        let ended = scene.tap(&enrolled.ids()).end().await;
        assert!(matches!(ended, Err(KeyError::Broken(_))), "{fault:?}: {ended:?}");
    }
}

// D: 36-byte authData, of a new credential
#[tokio::test]
async fn a_broken_credential_is_not_enrolled() {
    let settings = Settings { fault: Some(Fault::ShortAuthenticatorData), ..Settings::default() };
    let key = Plugged::new(Settings { touch: portlatch_virtual_key::TouchMode::ByItself, ..settings });
    let ended = Scene::with([&key]).enrol(&[]).end().await;
    assert!(matches!(ended, Err(KeyError::Broken(_))), "{ended:?}");
}

// D: wrong CID
#[tokio::test]
async fn reports_for_others_between_our_own_are_passed_over() {
    let (scene, key, enrolled) = broken(Fault::ForeignReports).await;
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    let client_data = tap.client_data.clone();
    enrolled.check(&tap.end().await.unwrap(), &client_data);
}

// D: key that floods keepalives
#[tokio::test]
async fn a_key_that_only_keeps_alive_is_given_up() {
    let (scene, _key, enrolled) = broken(Fault::KeepAliveFlood).await;
    let ended = scene.tap(&enrolled.ids()).end().await;
    assert_eq!(ended.unwrap_err(), KeyError::Broken("it is silent".to_owned()));
}

// D: prompt deadline beats a silent key, and a flooding one
#[tokio::test]
async fn a_prompt_that_is_over_waits_for_no_key() {
    for fault in [Fault::Silent, Fault::SilentOnChannel, Fault::KeepAliveFlood, Fault::Busy] {
        let (scene, key, enrolled) = broken(fault).await;
        let tap = scene.tap(&enrolled.ids());
        while count(&key, enrolled.seen, |event| *event == Event::Init) == 0 && fault != Fault::Silent {
            tokio::time::sleep(HASTE.glance).await;
        }
        assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled, "{fault:?}");
    }
}

#[tokio::test]
async fn a_key_that_was_broken_and_is_mended_serves_again() {
    let (scene, key, enrolled) = broken(Fault::SilentOnChannel).await;
    assert!(matches!(scene.tap(&enrolled.ids()).end().await, Err(KeyError::Broken(_))));
    key.set(|settings| settings.fault = None);
    let tap = scene.tap(&enrolled.ids());
    touch(&key, enrolled.seen).await;
    assert!(tap.end().await.is_ok());
}

// D: another program using the key, for longer than a prompt
#[tokio::test]
async fn a_key_that_stays_busy_is_said_to_be_in_use() {
    let (scene, _key, enrolled) = broken(Fault::Busy).await;
    let mut tap = scene.tap(&enrolled.ids());
    tap.hears(&KeyNotice::InUse).await;
    assert_eq!(tap.cancelled().await.unwrap_err(), KeyError::Cancelled);
}
