//! The table of challenges under any order of events: a challenge leaves it once, for whom it was made, in its time.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use portlatch_protocol::identity::Login;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

const USERS: [&str; 2] = ["jerry", "elaine"];
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn at(milliseconds: u64) -> BootTime {
    BootTime::since_boot(Duration::from_millis(milliseconds))
}

fn login_id(login: u8) -> Id {
    format!("0{login}").parse().unwrap()
}

/// Logins 0 and 1 are jerry's, 2 and 3 elaine's.
fn login(login: u8) -> Login {
    let user = USERS[usize::from(login / 2)].parse().unwrap();
    Login { user, login: login_id(login), device: "laptop".parse().unwrap() }
}

fn challenge(kind: Kind, expires: BootTime) -> Challenge {
    let (owner, purpose) = match kind {
        Kind::Device(number) => {
            let device = NewDevice::App { secret: Zeroizing::new(vec![1]), tries: 1 };
            let purpose = NewDevicePurpose { login: login(number), name: "phone".to_owned(), device };
            (Owner::Login(login_id(number)), Purpose::NewDevice(Box::new(purpose)))
        }
        Kind::LoggingIn(user) | Kind::Unproven(user) => {
            let name: UserName = USERS[usize::from(user)].parse().unwrap();
            let purpose = LoginPurpose {
                user: name.clone(),
                device: "laptop".parse().unwrap(),
                first: FirstShown::Password,
                state: None,
            };
            let owner = match kind {
                Kind::Unproven(_) => Owner::Unproven(name, ADDRESS),
                Kind::LoggingIn(_) | Kind::Device(_) => Owner::LoggingIn(name),
            };
            (owner, Purpose::Login(Box::new(purpose)))
        }
    };
    Challenge { owner, purpose, address: ADDRESS, expires }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device(u8),
    LoggingIn(u8),
    Unproven(u8),
}

impl Kind {
    fn user(self) -> u8 {
        match self {
            Self::Device(login) => login / 2,
            Self::LoggingIn(user) | Self::Unproven(user) => user,
        }
    }
}

/// What happens to the table; a challenge is named by the order in which it was made.
#[derive(Debug, Clone)]
enum Step {
    Make(Kind),
    TakeDevice { challenge: usize, by: u8 },
    TakeProof { challenge: usize, by: u8 },
    TakeLogin { challenge: usize },
    Cancel { challenge: usize, by: u8 },
    Pass(u64),
    Sweep,
    ForgetUser(u8),
    ForgetLogin(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        (0_u8..4).prop_map(Kind::Device),
        (0_u8..2).prop_map(Kind::LoggingIn),
        (0_u8..2).prop_map(Kind::Unproven),
    ];
    let of = (0_usize..40, 0_u8..4);
    prop_oneof![
        4 => kind.prop_map(Step::Make),
        2 => of.clone().prop_map(|(challenge, by)| Step::TakeDevice { challenge, by }),
        1 => of.clone().prop_map(|(challenge, by)| Step::TakeProof { challenge, by }),
        2 => (0_usize..40).prop_map(|challenge| Step::TakeLogin { challenge }),
        1 => of.prop_map(|(challenge, by)| Step::Cancel { challenge, by }),
        2 => prop_oneof![Just(1), 1_u64..200_000].prop_map(Step::Pass),
        1 => Just(Step::Sweep),
        1 => (0_u8..2).prop_map(Step::ForgetUser),
        1 => (0_u8..4).prop_map(Step::ForgetLogin),
    ]
}

/// What is known of a challenge from outside.
struct Known {
    id: Id,
    kind: Kind,
    expires: u64,
}

/// A challenge that somebody asked for.
struct Asked {
    was_given: bool,
    /// Whether it was theirs, and of the kind that they asked for.
    is_meant: bool,
}

#[derive(Default)]
struct Model {
    made: Vec<Known>,
    /// Those that can still be answered or swept.
    open: HashSet<usize>,
    now: u64,
}

impl Model {
    fn numbers(&self, is_meant: impl Fn(&Known) -> bool) -> Vec<usize> {
        self.open.iter().copied().filter(|number| is_meant(&self.made[*number])).collect()
    }

    /// Those that left the table by the way leave it in the model; each must have been open.
    fn left(&mut self, gone: &[Challenge], expected: &[usize]) -> Result<(), TestCaseError> {
        prop_assert_eq!(gone.len(), expected.len());
        for number in expected {
            prop_assert!(self.open.remove(number), "{} left twice", number);
        }
        Ok(())
    }

    /// A challenge was asked for; whether it must have been given, and that it was then open.
    fn taken(&mut self, number: usize, asked: Asked) -> Result<(), TestCaseError> {
        let Asked { was_given, is_meant } = asked;
        let is_open = self.open.contains(&number);
        let is_in_time = self.made.get(number).is_some_and(|known| known.expires > self.now);
        prop_assert_eq!(was_given, is_open && is_meant && is_in_time);
        if is_meant {
            self.open.remove(&number);
        }
        Ok(())
    }
}

fn make(table: &Ceremonies, model: &mut Model, kind: Kind) -> Result<(), TestCaseError> {
    let (number, expires) = (model.made.len(), model.now + 120_000);
    let id = Id::from_random(u128::try_from(number).unwrap().to_be_bytes());
    let made = table.insert(id.clone(), challenge(kind, at(expires)), at(model.now));
    let displaced = made.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut own = model.numbers(|known| known.kind == kind);
    own.sort_unstable();
    own.truncate((own.len() + 1).saturating_sub(MAX_PER_OWNER));
    model.left(&displaced, &own)?;
    model.made.push(Known { id, kind, expires });
    model.open.insert(number);
    Ok(())
}

fn take(table: &Ceremonies, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    let now = at(model.now);
    let (Step::TakeDevice { challenge: number, .. }
    | Step::TakeProof { challenge: number, .. }
    | Step::TakeLogin { challenge: number }
    | Step::Cancel { challenge: number, .. }) = step
    else {
        return Ok(());
    };
    let Some(Known { id, kind, .. }) = model.made.get(*number) else { return Ok(()) };
    let is_by = |by: &u8| *kind == Kind::Device(*by);
    let (was_given, is_meant) = match step {
        Step::TakeDevice { by, .. } => (table.take_new_device(id, &login_id(*by), now).is_some(), is_by(by)),
        Step::TakeProof { by, .. } => (table.take_proof(id, &login_id(*by), now).is_some(), false),
        Step::Cancel { by, .. } => (table.take_cancelled(id, &login_id(*by), now).is_some(), is_by(by)),
        Step::TakeLogin { .. } => (table.take_login(id, now).is_some(), !matches!(kind, Kind::Device(_))),
        Step::Make(_) | Step::Pass(_) | Step::Sweep | Step::ForgetUser(_) | Step::ForgetLogin(_) => {
            return Ok(());
        }
    };
    model.taken(*number, Asked { was_given, is_meant })
}

proptest! {
    // G: a challenge leaves the table once, whatever happens; nobody but its owner takes it, and nobody after its time.
    #[test]
    fn a_challenge_leaves_the_table_once(steps in proptest::collection::vec(step(), 0..80)) {
        let (table, mut model) = (Ceremonies::default(), Model { now: 1, ..Model::default() });
        for step in steps {
            match &step {
                Step::Make(kind) => make(&table, &mut model, *kind)?,
                Step::Pass(time) => model.now += time,
                Step::Sweep => {
                    let now = model.now;
                    let over = model.numbers(|known| known.expires <= now);
                    model.left(&table.take_expired(at(now)), &over)?;
                }
                Step::ForgetUser(user) => {
                    let of_user = model.numbers(|known| known.kind.user() == *user);
                    let name = USERS[usize::from(*user)].parse().unwrap();
                    model.left(&table.forget_user(&name), &of_user)?;
                }
                Step::ForgetLogin(login) => {
                    let of_login = model.numbers(|known| known.kind == Kind::Device(*login));
                    model.left(&table.forget_login(&login_id(*login), ADDRESS), &of_login)?;
                }
                Step::TakeDevice { .. } | Step::TakeProof { .. } | Step::TakeLogin { .. } | Step::Cancel { .. } => {
                    take(&table, &mut model, &step)?;
                }
            }
            prop_assert_eq!(table.len(), model.open.len());
            let mut by_owner: HashMap<String, usize> = HashMap::new();
            for number in &model.open {
                *by_owner.entry(format!("{:?}", model.made[*number].kind)).or_default() += 1;
            }
            prop_assert!(by_owner.values().all(|open| *open <= MAX_PER_OWNER));
        }
    }
}

// A 4: around the limit, to the millisecond.
#[test]
fn a_challenge_is_answered_until_the_last_millisecond_and_not_after() {
    let end = at(120_000);
    for (now, is_given) in [(at(119_999), true), (end, false), (at(120_001), false)] {
        let table = Ceremonies::default();
        table.insert(login_id(9), challenge(Kind::Device(1), end), at(0)).unwrap();
        assert_eq!(table.take_new_device(&login_id(9), &login_id(1), now).is_some(), is_given, "{now:?}");
        assert!(table.take_new_device(&login_id(9), &login_id(1), at(0)).is_none(), "taken or over");
    }
}

/// A challenge of login 0 from a network of its own.
fn from_network(network: u8) -> Challenge {
    Challenge { address: Ipv4Addr::new(203, 0, network, 7).into(), ..challenge(Kind::Device(0), at(120_000)) }
}

// A 3.
#[test]
fn a_stolen_login_displaces_nothing_of_its_user_s_from_elsewhere() {
    let table = Ceremonies::default();
    let id = |number: u8| Id::from_random([number; 16]);
    table.insert(id(255), challenge(Kind::Device(0), at(110_000)), at(0)).unwrap();
    for number in 0..200_u8 {
        // From one network; then from more and more of them.
        let network = number.saturating_sub(50) / 2;
        table.insert(id(number), from_network(network), at(0)).unwrap();
    }
    assert_eq!(table.len(), MAX_EVERYWHERE);
    assert!(table.take_new_device(&id(255), &login_id(0), at(0)).is_some(), "the user's own");
}

#[test]
fn a_pause_ends_what_came_from_where_the_wrong_answers_did() {
    let table = Ceremonies::default();
    table.insert(login_id(8), challenge(Kind::Device(0), at(120_000)), at(0)).unwrap();
    table.insert(login_id(9), from_network(1), at(0)).unwrap();
    let gone = table.forget_login(&login_id(0), Ipv4Addr::new(203, 0, 1, 200).into());
    assert!(gone.is_empty(), "another host's");
    let gone = table.forget_login(&login_id(0), Ipv4Addr::new(203, 0, 1, 7).into());
    assert_eq!(gone.len(), 1);
    assert!(table.take_new_device(&login_id(8), &login_id(0), at(0)).is_some());
}

#[test]
fn people_who_have_shown_nothing_keep_nobody_else_out() {
    let table = Ceremonies::default();
    let stranger = |number: usize| {
        let [.., a, b] = u32::try_from(number).unwrap().to_be_bytes();
        let mut made = challenge(Kind::Unproven(0), at(120_000));
        made.owner = Owner::Unproven("jerry".parse().unwrap(), Ipv4Addr::new(10, 0, a, b).into());
        made
    };
    let id = |number: usize| Id::from_random(u128::try_from(number).unwrap().to_be_bytes());
    for number in 0..MAX_UNPROVEN {
        table.insert(id(number), stranger(number), at(0)).unwrap();
    }
    assert_eq!(table.insert(id(MAX_UNPROVEN), stranger(MAX_UNPROVEN), at(0)).err(), Some(TableFull));
    assert!(table.insert(id(9999), challenge(Kind::Device(0), at(120_000)), at(0)).is_ok());
    assert!(table.insert(id(9998), challenge(Kind::LoggingIn(0), at(120_000)), at(0)).is_ok());
    // When their time is over there is room again, whether or not they were swept.
    assert!(table.insert(id(9997), stranger(MAX_UNPROVEN), at(120_001)).is_ok());
}
