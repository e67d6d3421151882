//! Somebody at the daemon's socket who is no user's agent: root, as far as the kernel tells the daemon.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use portlatch_protocol::attach::{Hello, ToAgent, ToDaemon, VERSION};
use portlatch_protocol::frame::{FrameDecoder, MAX_LOCAL_FRAME, encode};

use super::{Host, Lab, PATIENCE};

/// A visitor.
#[derive(Debug)]
pub struct Visitor {
    stream: UnixStream,
    decoder: FrameDecoder,
}

impl Lab {
    /// Visits the daemon, as far as the greeting goes.
    ///
    /// # Panics
    /// If it does not greet.
    pub fn visit_daemon(&self) -> Visitor {
        let holder = self.pid(&format!("host-{}", Host::User.name()));
        let socket = format!("/proc/{}/root/run/portlatch/daemon.sock", holder.as_raw_nonzero());
        let stream = UnixStream::connect(socket).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not 0");
        let mut visitor = Visitor { stream, decoder: FrameDecoder::new(MAX_LOCAL_FRAME) };
        visitor.say(&ToDaemon::Hello(Hello { version: VERSION, pid: std::process::id() }));
        let welcome = visitor.hear();
        assert!(matches!(welcome, Some(ToAgent::Welcome(_))), "{welcome:?}");
        visitor
    }
}

impl Visitor {
    /// Says something, to a daemon that may have hung up.
    pub fn say(&mut self, message: &ToDaemon) {
        let frame = encode(message, MAX_LOCAL_FRAME).expect("a short message");
        // Whoever was hung up on hears that next.
        let _ = self.stream.write_all(&frame);
    }

    /// The daemon's next message; `None` once it has hung up.
    ///
    /// # Panics
    /// If it does neither in time.
    pub fn hear(&mut self) -> Option<ToAgent> {
        loop {
            if let Some(message) = self.decoder.poll_message().expect("the daemon speaks well") {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.decoder.handle_bytes(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the daemon neither speaks nor hangs up: {error}"),
            }
        }
    }
}
