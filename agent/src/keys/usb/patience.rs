//! How long a key is waited for, in one place: the tests have less of it.

use std::time::Duration;

/// The waits of one use of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How often keys are looked for: plugging one in is noticed at once, and listing costs a few files.
    pub(super) poll: Duration,
    /// No request before this age: some keys take the first one within two seconds of being plugged in as touched
    /// (Nitrokey Passkey).
    pub(super) settle: Duration,
    /// How long a key has to give out a channel.
    pub(super) init: Duration,
    /// A key says at least every 100 ms that it is alive (CTAP 2.1 section 11.2.9.1.5); the slow ones every second.
    pub(super) silence: Duration,
    /// What needs no person: signing and deriving take the slowest keys two seconds.
    pub(super) machine: Duration,
    /// What needs one: longer than any key's own time for a touch (about 30 s).
    pub(super) person: Duration,
    /// How long a key that was told to stop has to say so.
    pub(super) stop: Duration,
    /// How long the keys that were called off have before the process ends: until each was told, and has said so.
    pub(super) farewell: Duration,
    /// How often a waiting thread looks whether it is called off: nobody notices a twentieth of a second.
    pub(super) glance: Duration,
    /// Pause before a key that another program uses is tried again.
    pub(super) busy: Duration,
}

/// With keys of this world.
pub(super) const PATIENCE: Patience = Patience {
    poll: Duration::from_millis(300),
    settle: Duration::from_secs(3),
    init: Duration::from_secs(2),
    silence: Duration::from_secs(3),
    machine: Duration::from_secs(10),
    person: Duration::from_secs(90),
    stop: Duration::from_millis(500),
    farewell: Duration::from_millis(700),
    glance: Duration::from_millis(50),
    busy: Duration::from_millis(500),
};
