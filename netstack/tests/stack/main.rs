//! The stack from outside: packets in, packets and events out, with time that the tests make.
//!
//! `lab` is the one stack and the wire; `program` is a second smoltcp as the local programs' kernel, where a whole
//! connection matters more than one packet.

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod closing;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod program;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod transfer;
