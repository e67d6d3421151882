//! One flow: a smoltcp socket alone in its set, and what we know about it that smoltcp does not say.
//!
//! ```text
//!            accept                release, both ends finished
//!  Free ───────────────► Owned ───────────────────────────────► Closing ──► Free
//!   ▲                    │   │ both directions at their end        │
//!   │                    │   └────────────► Over ──release──► Free │ deadline, data nobody reads
//!   └────── Aborting ◄───┘ reset, release                          │
//!               ▲            (an RST is still to be sent)          │
//!               └──────────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{CongestionControl, Socket, State};

use crate::demux::FourTuple;
use crate::held::Held;
use crate::memory::{Ring, Vacant};
use crate::segment::{self, ACK, FIN, RST, SYN, Segment};
use crate::window::Window;
use crate::wire::IpPacket;

/// A program that does not answer for so long is gone; Linux gives up a connection after a time of the same order.
const DEAD_PEER: Duration = Duration::from_secs(120);

/// And not without so many tries: after a pause of our own process its answers may lie unread in the TUN.
const FEWEST_TRIES: u32 = 4;

/// The pause between two questions that stay unanswered: enough of them fit into [`DEAD_PEER`].
const ASK_AGAIN: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(25);

/// How often a quiet program's kernel is asked whether it still knows the flow. It costs one packet.
const ASK_IDLE: Duration = Duration::from_secs(1_800);

/// How often a flow is asked that has data to send and no timer running: smoltcp stops its timer when a retransmission
/// meets a closed window, and would wait for ever if the program's word of its opening were lost.
const ASK_STALLED: Duration = Duration::from_secs(5);

/// As Linux: `tcp_fin_timeout`.
const FIN_WAIT_2: Duration = Duration::from_secs(60);

/// How long the last bytes of a flow that nobody owns any more may go without progress.
const LINGER: Duration = Duration::from_secs(600);

/// When the memory of an idle flow, or of a free slot, is given back.
const IDLE: Duration = Duration::from_secs(5);

/// A writer that was blocked is told when this part of the ring is free, so that it does not write crumbs.
const WRITABLE_SHARE: usize = 4;

/// Names a flow. A stale one names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl FlowId {
    /// The flow's slot: dense, and unique among the flows that live at the same time.
    pub fn index(self) -> usize {
        self.slot as usize
    }
}

/// Why nothing was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nothing is there yet; `Readable` comes when that changes.
    #[error("nothing to read yet")]
    Blocked,
    /// The program has finished sending, and all of it was read.
    #[error("the program has finished sending")]
    Finished,
    /// The flow was reset, timed out, or never was.
    #[error("the flow is gone")]
    Reset,
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no room; `Writable` comes when that changes.
    #[error("no room to write yet")]
    Blocked,
    /// The flow was reset, timed out, finished by its owner, or never was.
    #[error("the flow is gone")]
    Reset,
}

/// What the program owes us an answer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unanswered {
    since: Instant,
    packets: u32,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the pool.
    Free,
    /// Somebody reads and writes it.
    Owned,
    /// Both directions are at their end; its owner may still read what is left.
    Over,
    /// Nobody owns it; what is left is delivered.
    Closing,
    /// Nobody owns it; an RST is to be sent.
    Aborting,
}

/// A slot: a socket with its rings, and the flow that has them at the moment.
pub(crate) struct Flow {
    pub(crate) sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    pub(crate) tuple: FourTuple,
    pub(crate) is_dirty: bool,
    pub(crate) alarm: Option<Instant>,
    /// A read, or a write, was blocked, and nobody was told since that it need not be.
    pub(crate) wants_read: bool,
    pub(crate) wants_write: bool,
    /// The owner has written all.
    pub(crate) is_finished: bool,
    /// The program was told so: our FIN was sent, be it received or not.
    is_fin_said: bool,
    /// The rings have held bytes since their pages were last given back.
    pub(crate) has_pages: bool,
    /// The owner has used it since the time was last known: commands bring none.
    pub(crate) is_touched: bool,
    pub(crate) used_at: Instant,
    pub(crate) last_heard: Instant,
    pub(crate) unanswered: Option<Unanswered>,
    /// When a released flow last came nearer to its end.
    pub(crate) progress_at: Instant,
    /// The end of what we sent, and what we acknowledged last, as the last packet said.
    pub(crate) sent_end: u32,
    pub(crate) acknowledged: u32,
    /// The end of all that we ever sent.
    pub(crate) sent_most: u32,
    /// The first byte of the program's stream, and how many of its bytes the owner has taken.
    pub(crate) first: u32,
    pub(crate) taken: u32,
    /// The end of the furthest bytes that arrived, be they out of order; its FIN counts as one.
    pub(crate) furthest: u32,
    /// What the program may send, and what it lets us send.
    pub(crate) window: Window,
}

impl Flow {
    pub(crate) fn new(rings: (Ring, Ring), tuple: FourTuple, now: Instant) -> Flow {
        let (receive, send) = rings;
        let mut socket = Socket::new(receive.into_receive_buffer(), send.into_send_buffer());
        // Both wait for more to send or to acknowledge, which with segments of 64 KiB never comes.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::None);
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Flow {
            sockets,
            handle,
            generation: 0,
            phase: Phase::Free,
            tuple,
            is_dirty: false,
            alarm: None,
            wants_read: false,
            wants_write: false,
            is_finished: false,
            is_fin_said: false,
            has_pages: false,
            is_touched: false,
            used_at: now,
            last_heard: now,
            unanswered: None,
            progress_at: now,
            sent_end: 0,
            sent_most: 0,
            acknowledged: 0,
            first: 0,
            taken: 0,
            furthest: 0,
            window: Window::default(),
        }
    }

    /// Ends the slot: its socket is no more.
    pub(crate) fn into_vacant(self, slot: usize) -> Vacant {
        Vacant::new(slot, self.sockets)
    }

    /// Makes the slot's socket listen for the SYN of a new flow.
    pub(crate) fn open(&mut self, held: &Held, now: Instant) {
        self.phase = Phase::Owned;
        self.tuple = held.tuple;
        self.wants_read = true;
        self.wants_write = true;
        self.is_finished = false;
        self.is_fin_said = false;
        self.is_touched = false;
        self.used_at = now;
        self.last_heard = now;
        self.unanswered = None;
        self.progress_at = now;
        self.sent_end = 0;
        self.first = held.sequence.wrapping_add(1);
        self.taken = 0;
        self.acknowledged = self.first;
        self.furthest = self.first;
        let socket = self.socket_mut();
        // A slot may have been left in any state, but only a closed socket listens.
        socket.abort();
        socket.set_keep_alive(None);
        socket.listen(held.tuple.destination).expect("a closed socket listens on a port that is not zero");
        let capacity = socket.recv_capacity();
        self.window = Window::new(held.window_scale, capacity);
    }

    /// The time is known again.
    pub(crate) fn catch_up(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_touched) {
            self.used_at = now;
            self.progress_at = now;
        }
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whether the program's end of the stream has arrived.
    pub(crate) fn has_program_finished(&self) -> bool {
        self.phase == Phase::Over
            || match self.socket().state() {
                State::CloseWait | State::LastAck | State::Closing | State::TimeWait => true,
                State::Closed
                | State::Listen
                | State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2 => false,
            }
    }

    /// The next sequence number that is expected of the program; smoltcp does not show it.
    pub(crate) fn expected(&self) -> u32 {
        let waiting = self.socket().recv_queue() as u32;
        let end = u32::from(self.has_program_finished());
        self.first.wrapping_add(self.taken).wrapping_add(waiting).wrapping_add(end)
    }

    /// How much there is that the program has not acknowledged yet, be it sent or not; a FIN that was said counts as one.
    pub(crate) fn outstanding(&self) -> u32 {
        let socket = self.socket();
        let fin = matches!(socket.state(), State::FinWait1 | State::LastAck | State::Closing);
        socket.send_queue() as u32 + u32::from(fin)
    }

    /// Whether a segment acknowledges what was not sent yet. What lies in the ring already, smoltcp would take for
    /// delivered. In the handshake it sees to it by itself.
    pub(crate) fn is_premature(&self, segment: &Segment) -> bool {
        let is_ahead = segment.acknowledgement.wrapping_sub(self.sent_most) as i32 > 0;
        is_ahead && segment.has(ACK) && self.socket().state() != State::SynReceived
    }

    /// Has the windows hear a segment, unless smoltcp turns a deaf ear to it: to a second end right behind the first, and to
    /// one that lies before what is expected once the bytes behind the end are taken off it.
    pub(crate) fn hear_window(&mut self, segment: &Segment) {
        let (outstanding, expected) = (self.outstanding(), self.expected());
        let is_second_end = segment.has(FIN) && segment.sequence == expected && self.has_program_finished();
        if !is_second_end {
            let payload_len = if self.is_behind_the_end(segment) { 0 } else { segment.payload_len };
            self.window.hear(&Segment { payload_len, ..*segment }, outstanding, expected);
        }
    }

    /// Whether a segment has bytes that would stand behind the end of the program's stream.
    pub(crate) fn is_behind_the_end(&self, segment: &Segment) -> bool {
        self.has_program_finished()
            && segment.payload_len > 0
            && segment.end().wrapping_sub(self.expected()) as i32 > 0
    }

    /// Whether a segment says nothing new, while nothing but our FIN is not acknowledged. Three of them would stop
    /// smoltcp's timer, to have the lost bytes sent at once; there are none, and so the FIN would never be sent again.
    pub(crate) fn is_idle_talk(&self, segment: &Segment) -> bool {
        let expected = self.expected();
        let payload_len = if self.is_behind_the_end(segment) { 0 } else { segment.payload_len };
        let is_end = segment.has(FIN) && segment.sequence == expected;
        payload_len == 0
            && !is_end
            && self.window.accepts(&Segment { payload_len, ..*segment }, expected)
            && segment.acknowledgement == self.window.acknowledged()
            && self.socket().send_queue() == 0
            && self.outstanding() == 1
    }

    /// Whether our FIN was sent and not acknowledged yet.
    pub(crate) fn is_fin_outstanding(&self) -> bool {
        self.is_fin_said && self.outstanding() as usize > self.socket().send_queue()
    }

    /// Notes how far the program's bytes reach. What lies beyond any window that we can have offered was not taken.
    pub(crate) fn note_reach(&mut self, segment: &Segment) {
        if segment.end() == segment.sequence || !segment.has(ACK) {
            return;
        }
        let most = self.acknowledged.wrapping_add(self.socket().recv_capacity() as u32);
        let end = segment.end();
        let reach = if end.wrapping_sub(most) as i32 > 0 { most } else { end };
        if reach.wrapping_sub(self.furthest) as i32 > 0 {
            self.furthest = reach;
        }
    }

    /// Whether an RST is one that the program's kernel can have sent (RFC 5961 section 3.2): at the next byte that we
    /// expect; at the one behind all that it has sent, where something of that was lost; or at the one that we last
    /// asked for, in answer to that. Linux takes the same ones.
    pub(crate) fn believes_reset(&self, segment: &Segment) -> bool {
        [self.expected(), self.furthest, self.acknowledged].contains(&segment.sequence)
    }

    /// Whether the handshake is done and our side of the stream is open.
    pub(crate) fn may_write(&self) -> bool {
        self.phase == Phase::Owned && !self.is_finished && self.socket().may_send()
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.socket().can_recv() || self.has_program_finished()
    }

    pub(crate) fn is_writable(&self) -> bool {
        let socket = self.socket();
        let room = socket.send_capacity() - socket.send_queue();
        self.may_write() && room >= socket.send_capacity().div_ceil(WRITABLE_SHARE)
    }

    /// Says our FIN, if it is wanted and can be said. To be called again after each segment.
    ///
    /// smoltcp loses a FIN that is asked for before the handshake is done. And in LAST-ACK it hears no more of the
    /// program's window, so that what the window has no room for must be sent before.
    pub(crate) fn close_when_finished(&mut self) {
        let socket = self.socket();
        let has_room = socket.state() != State::CloseWait || socket.send_queue() <= self.window.room();
        if self.is_finished && socket.may_send() && has_room {
            self.socket_mut().close();
        }
    }

    /// How far it has come: it is nearer to its end whenever this changes.
    pub(crate) fn progress(&self) -> (State, usize) {
        (self.socket().state(), self.socket().send_queue())
    }

    /// Whether both rings and the reassembly are empty. smoltcp does not show the latter: it is empty if nothing has
    /// ever arrived from beyond what we acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        let socket = self.socket();
        let in_order = self.phase == Phase::Free || self.furthest.wrapping_sub(self.acknowledged) as i32 <= 0;
        socket.recv_queue() == 0 && socket.send_queue() == 0 && in_order
    }

    /// When its memory can be given back, if there is anything to give.
    pub(crate) fn reclaim_at(&self) -> Option<Instant> {
        (self.has_pages && self.is_empty()).then(|| self.used_at + IDLE)
    }

    /// When we stop waiting for the program.
    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        let dead = self
            .unanswered
            .filter(|unanswered| unanswered.packets >= FEWEST_TRIES)
            .map(|unanswered| unanswered.since + DEAD_PEER);
        let lingering = (self.phase == Phase::Closing).then(|| {
            let patience = if self.socket().state() == State::FinWait2 { FIN_WAIT_2 } else { LINGER };
            self.progress_at + patience
        });
        match (dead, lingering) {
            (Some(dead), Some(lingering)) => Some(dead.min(lingering)),
            (dead, lingering) => dead.or(lingering),
        }
    }

    /// When the program's kernel is to be asked whether it still knows the flow, seeing whether smoltcp has a timer of
    /// its own running.
    pub(crate) fn ask_at(&self, own_timer: Option<Instant>) -> Option<Instant> {
        if self.unanswered.is_some() || own_timer.is_some() || !self.socket().is_open() {
            return None;
        }
        // smoltcp asks with a byte in the place of the last one that it has sent. Where that was a FIN which has not
        // arrived, it would be read.
        if self.is_fin_outstanding() {
            return None;
        }
        let pause = if self.socket().send_queue() > 0 { ASK_STALLED } else { ASK_IDLE };
        Some(self.last_heard + pause)
    }

    /// Asks it, and goes on asking until it answers: smoltcp sends keep-alives.
    pub(crate) fn ask(&mut self) {
        self.socket_mut().set_keep_alive(Some(ASK_AGAIN));
    }

    /// A packet from the program is here. To be called before smoltcp takes it, which would start to ask anew.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.last_heard = now;
        self.used_at = now;
        self.unanswered = None;
        self.socket_mut().set_keep_alive(None);
    }

    /// Notes what a packet to the program says, and has it offer the window that smoltcp can keep.
    pub(crate) fn note_sent(&mut self, bytes: &mut [u8], now: Instant) {
        let Ok(packet) = IpPacket::parse(bytes) else { return };
        let Some(segment) = Segment::parse(&packet) else { return };
        if segment.has(RST) {
            // It says where the program stands, if anything.
            return;
        }
        self.is_fin_said |= segment.has(FIN);
        self.sent_end = segment.end();
        if segment.has(SYN) || segment.end().wrapping_sub(self.sent_most) as i32 > 0 {
            self.sent_most = segment.end();
        }
        self.acknowledged = segment.acknowledgement;
        if segment.end() != segment.sequence {
            let unanswered = self.unanswered.get_or_insert(Unanswered { since: now, packets: 0 });
            unanswered.packets = unanswered.packets.saturating_add(1);
        }
        let window = self.window.offer(&segment);
        let header_len = packet.header_len;
        segment::set_window(&mut bytes[header_len..], window);
    }

    /// Throws away what is in the rings.
    pub(crate) fn empty(&mut self) {
        let socket = self.socket_mut();
        socket.abort();
        // Listening empties them; a port is only good for being one.
        if socket.listen(1).is_ok() {
            socket.abort();
        }
    }
}
