//! The load that `scripts/bench` puts on a path, and what it makes of it. No test times anything; these figures are for
//! people.
//!
//! A path is a way from the user's machine to a server in the company's network. The same load runs over each: plain TCP
//! through a router, QUIC streams without TUN or proxy, and Portlatch. On the ends, [`wire`] says what client and server
//! say to each other, [`path`] opens connections, [`server`], [`load`], [`hold`], [`dns`] and [`taps`] are the two ends; [`ceremonies`]
//! are of control alone. Around them,
//! [`loads`] says which loads there are and which [`rows`] they give, [`field`] is the lab they run in, [`engine`] brings up
//! others to compare with, [`compare`] runs
//! the rounds, [`idle`] and [`waiting`] what is looked at while connections are idle or wait, [`process`] looks at what programs use, and [`figures`], [`results`],
//! `report` and `plot` are what becomes of it.

pub mod ceremonies;
pub mod compare;
pub mod dns;
pub mod engine;
pub mod field;
pub mod figures;
pub mod hold;
pub mod idle;
pub mod load;
pub mod loads;
pub mod path;
mod plot;
pub mod process;
mod repeated;
mod report;
pub mod results;
pub mod rows;
pub mod server;
pub mod taps;
pub mod waiting;
pub mod wire;
