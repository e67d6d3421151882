//! The system calls that make a TUN interface on Linux. All of this file's `unsafe` is ioctl, each with an argument of
//! the type that linux/if_tun.h and linux/sockios.h name for it.

#![expect(unsafe_code, reason = "the TUN's ioctls have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use libc::{c_int, c_short, c_ulong, ifreq};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{HEADROOM, TunError, TunOptions};

/// Opens the device and makes the interface.
pub(super) fn open(options: &TunOptions<'_>) -> Result<OwnedFd, TunError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd =
        rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|e| TunError::Device(e.into()))?;

    let mut request = request(options.name);
    // Packets without a protocol word but with a virtio header; never joining an interface that exists already.
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL) as c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    match check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }) {
        Ok(()) => {}
        Err(Errno::BUSY) => return Err(TunError::NameTaken { name: options.name.to_owned() }),
        Err(error) => return Err(refused("make the interface (is CAP_NET_ADMIN there?)", error)),
    }

    let mut length = HEADROOM as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw mut length) })
        .map_err(|e| refused("use a virtio header of 10 bytes", e))?;

    // Checksums alone: the kernel may leave them out, but cuts what it sends into packets of at most the MTU itself.
    let offload = c_ulong::from(libc::TUN_F_CSUM);
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself, no memory.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })
        .map_err(|e| refused("leave checksums out on the interface", e))?;
    Ok(fd)
}

/// Sets MTU and queue length; returns the interface's number.
pub(super) fn set_up_link(options: &TunOptions<'_>) -> Result<u32, TunError> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| refused("open a socket to set the interface up", e))?;

    let mut mtu = request(options.name);
    mtu.ifr_ifru.ifru_mtu = c_int::try_from(options.mtu).unwrap_or(c_int::MAX);
    // SAFETY: SIOCSIFMTU reads one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw mut mtu) })
        .map_err(|e| refused("set the interface's MTU", e))?;

    let mut queue = request(options.name);
    // linux/if.h: ifr_qlen is ifru_ivalue, an int at the union's start as ifru_metric is.
    queue.ifr_ifru.ifru_metric = c_int::try_from(options.queue_length).unwrap_or(c_int::MAX);
    // SAFETY: SIOCSIFTXQLEN reads one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut queue) })
        .map_err(|e| refused("set the interface's queue length", e))?;

    netdevice::name_to_index(socket.as_fd(), options.name)
        .map_err(|e| refused("name the interface's number", e))
}

/// Has the current runtime say when the device has a packet.
pub(super) fn watch(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the Arc keeps the descriptor open, and the same, for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// An interface request for this interface. The caller has checked the name's length.
fn request(name: &str) -> ifreq {
    // SAFETY: ifreq is plain C data; all zeroes is a value of it.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *slot = byte as libc::c_char;
    }
    request
}

fn check(answer: c_int) -> Result<(), Errno> {
    if answer >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn refused(step: &'static str, error: Errno) -> TunError {
    TunError::Refused { step, source: error.into() }
}
