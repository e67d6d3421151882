//! The load that `scripts/bench` puts on a path, and what it makes of it. No test times anything; these figures are for
//! people.
//!
//! A path is a way from the user's machine to a server in the company's network. The same load runs over each: plain TCP
//! through a router, QUIC streams without TUN or proxy, and Portlatch. [`wire`] says what client and server say to each
//! other, [`path`] opens connections, [`server`] and [`load`] are the two ends, [`compare`] runs the rounds and
//! [`figures`] is arithmetic.

pub mod compare;
pub mod figures;
pub mod load;
pub mod path;
pub mod server;
pub mod wire;
