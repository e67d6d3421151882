//! Local programs and their kernel: a second smoltcp that connects, at the other end of the wire.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::lab::{Lab, PROGRAM4, PROGRAM6, at};

pub(crate) struct Programs {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    epoch: Instant,
}

impl Programs {
    pub(crate) fn new(lab: &Lab) -> Programs {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 99;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for program in [PROGRAM4, PROGRAM6] {
                addresses.push(IpCidr::new(at(program).ip().into(), 16)).unwrap();
            }
        });
        Programs { interface, sockets: SocketSet::new(Vec::new()), wire, epoch: lab.now }
    }

    /// Begins to connect, with buffers of this size.
    pub(crate) fn connect(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        buffer: usize,
    ) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.connect(self.interface.context(), destination, source).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    /// Forgets a socket: its port can be used again.
    pub(crate) fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Packets go to and fro until nobody has one, at one moment in time.
    pub(crate) fn exchange(&mut self, lab: &mut Lab) {
        for _ in 0..10_000 {
            let now = self.now(lab);
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let to_stack: Vec<_> = self.wire.leaving.drain(..).collect();
            for packet in &to_stack {
                lab.send(packet);
            }
            let to_programs = lab.packets();
            if to_stack.is_empty() && to_programs.is_empty() {
                return;
            }
            self.wire.arriving.extend(to_programs);
        }
        panic!("packets without end");
    }

    /// The same while time passes.
    pub(crate) fn pass(&mut self, lab: &mut Lab, duration: Duration) {
        let end = lab.now + duration;
        loop {
            self.exchange(lab);
            let now = self.now(lab);
            let own = self.interface.poll_delay(now, &self.sockets).map(|delay| lab.now + delay.into());
            let next = [own, lab.stack.poll_timeout()].into_iter().flatten().min();
            match next {
                Some(next) if next <= end => lab.now = lab.now.max(next) + Duration::from_micros(1),
                _ => break,
            }
            lab.stack.handle_timeout(lab.now);
        }
        lab.now = lab.now.max(end);
    }

    fn now(&self, lab: &Lab) -> smoltcp::time::Instant {
        let elapsed = lab.now.duration_since(self.epoch) + Duration::from_secs(1);
        smoltcp::time::Instant::from_micros(elapsed.as_micros() as i64)
    }
}

#[derive(Default)]
struct Wire {
    arriving: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Arriving;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Arriving, Leaving<'_>)> {
        let packet = self.arriving.pop_front()?;
        Some((Arriving(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 65_535;
        capabilities
    }
}

struct Arriving(Vec<u8>);

impl RxToken for Arriving {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
