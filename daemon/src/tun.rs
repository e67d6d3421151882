//! The TUN interface: packets that local programs send into the range come out of here, our answers go in.
//!
//! One system call a packet, no copy: a packet is read and written together with the kernel's 10-byte virtio header,
//! for which the buffer has [`HEADROOM`]. The header lets both sides leave the TCP checksum out on this local leg.
//! What belongs to the interface but not to its packets (addresses, routes, link up) is
//! [`NetworkPlan`](crate::os::NetworkPlan)'s. Interface, addresses and routes are gone as soon as this is dropped,
//! also by kill -9.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod device;
mod statistics;
mod vnet_header;

pub use vnet_header::Checksum;

/// Bytes in front of a packet in the buffers that are read and written: the length of the virtio header.
pub const HEADROOM: usize = vnet_header::LENGTH;
/// The longest IP packet.
pub const MAX_PACKET: usize = 65_535;
/// What a buffer for [`Tun::try_recv`] must hold.
pub const BUFFER: usize = HEADROOM + MAX_PACKET;

/// How the interface is made.
#[derive(Debug, Clone, Copy)]
pub struct TunOptions<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Longest packet. 65535 gives segments of 64 KiB both ways (measured: no drop and no retransmission, slow readers
    /// included).
    pub mtu: u32,
    /// Packets that may wait for us. The kernel drops what is over it, and a dropped segment costs a second.
    pub queue_length: u32,
}

impl Default for TunOptions<'static> {
    fn default() -> Self {
        Self { name: "portlatch0", mtu: 65_535, queue_length: 10_000 }
    }
}

/// Why there is no TUN.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device node is missing or closed to us.
    #[error(
        "/dev/net/tun cannot be opened: load the kernel module tun, and run as root or with CAP_NET_ADMIN"
    )]
    Device(#[source] io::Error),
    /// Another program has an interface of this name.
    #[error("the interface {name} exists already: is another daemon running, or is it another program's?")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Not a possible name of an interface.
    #[error(
        "{name:?} cannot be the name of an interface: 1 to 15 letters, digits, dots, hyphens or underscores"
    )]
    BadName {
        /// The name as given.
        name: String,
    },
    /// The kernel refused a step.
    #[error("the kernel refused to {step}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// An open TUN interface.
///
/// It joins the runtime in which it is first waited for, so it can be opened before its worker thread runs.
#[derive(Debug)]
pub struct Tun {
    registration: OnceLock<AsyncFd<Arc<OwnedFd>>>,
    fd: Arc<OwnedFd>,
    name: String,
    ifindex: u32,
}

impl Tun {
    /// Makes the interface, down and without addresses.
    ///
    /// # Errors
    /// A [`TunError`]; nothing is left behind then.
    pub fn open(options: TunOptions<'_>) -> Result<Self, TunError> {
        if !is_interface_name(options.name) {
            return Err(TunError::BadName { name: options.name.to_owned() });
        }
        let fd = device::open(&options)?;
        let ifindex = device::set_up_link(&options)?;
        Ok(Self { registration: OnceLock::new(), fd: Arc::new(fd), name: options.name.to_owned(), ifindex })
    }

    /// Waits until [`try_recv`](Self::try_recv) may have a packet. Cancel-safe.
    ///
    /// # Errors
    /// If the runtime cannot watch the device. Panics outside a tokio runtime.
    pub async fn readable(&self) -> io::Result<()> {
        self.registered()?.readable().await?.retain_ready();
        Ok(())
    }

    /// The next packet, or `None` if there is none now. Its transport checksum may be partial: the kernel leaves it to
    /// hardware that is not there, and nothing between it and us can have damaged the packet.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn try_recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let read =
            self.registered()?.try_io(Interest::READABLE, |_| Ok(rustix::io::read(&self.fd, &mut *buffer)?));
        match read {
            Ok(length) => {
                buffer.get(HEADROOM..length).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends the packet that begins at `HEADROOM` of `buffer`; the bytes before it are overwritten. False if the
    /// kernel cannot take it now; it has not been sent then.
    ///
    /// # Errors
    /// If the interface is down or gone, or the kernel finds the packet malformed.
    pub fn try_send(&self, buffer: &mut [u8], checksum: Checksum) -> io::Result<bool> {
        let Some(header) = buffer.first_chunk_mut::<HEADROOM>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        *header = vnet_header::encode(checksum);
        match rustix::io::write(&self.fd, buffer) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The kernel's number of the interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Packets that the kernel dropped because we did not read fast enough. Anything but 0 costs programs a second or
    /// more each.
    ///
    /// # Errors
    /// If the interface is not listed any more.
    pub fn tx_dropped(&self) -> io::Result<u64> {
        statistics::tx_dropped(&self.name)
    }

    fn registered(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        if let Some(registration) = self.registration.get() {
            return Ok(registration);
        }
        let registration = device::watch(Arc::clone(&self.fd))?;
        Ok(self.registration.get_or_init(|| registration))
    }
}

/// Whether Linux, `nft` and `/proc` all take this as an interface's name.
pub(crate) fn is_interface_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(is_allowed) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_or_too_long_make_no_interface() {
        for bad in ["", "..", "a/b", "a b", "sixteen-bytes-xx", "ü"] {
            let error = Tun::open(TunOptions { name: bad, ..TunOptions::default() }).unwrap_err();
            assert!(matches!(error, TunError::BadName { .. }), "{bad:?}: {error}");
        }
        assert!(is_interface_name("portlatch0") && is_interface_name("fifteen-bytes-x"));
    }
}
