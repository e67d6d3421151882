//! What may happen, read from bytes: every byte says something, so that a fuzzer's change is a change of the story.

/// What an honest program does next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Speech {
    Acknowledge,
    Data(u16),
    DataAndFin(u16),
    Fin,
    /// What the stack has not acknowledged, once more.
    Again,
    KeepAlive,
    Reset,
    Window(u8),
}

/// From where a hostile program counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    /// What the stack has acknowledged.
    Told,
    /// The end of what was sent.
    End,
    /// The edge of the window.
    Edge,
    /// What nobody would send.
    Anywhere,
}

/// A segment as hostile as may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forgery {
    pub(super) flags: u8,
    pub(super) base: Base,
    pub(super) off: i16,
    pub(super) acknowledges: i16,
    pub(super) window: u8,
    pub(super) options: u8,
    pub(super) length: u16,
}

/// One thing that happens, on the lane of one program where it is one's.
#[derive(Debug, Clone)]
pub(super) enum Step<'a> {
    Connect {
        number: u8,
        options: u8,
    },
    ConnectAgain,
    Speak(Speech),
    Forge(Forgery),
    Accept,
    Refuse,
    RefuseAsUnreachable,
    Write(u16),
    Read(u16),
    Finish,
    Reset,
    Release,
    Pass(u32),
    /// The program does not see what it is sent until it is mended.
    Lose,
    Mend,
    Garbage(&'a [u8]),
}

/// The bytes that are left.
#[derive(Debug)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// The next step, and the lane that it is for.
    pub(super) fn step(&mut self) -> Option<(usize, Step<'a>)> {
        let first = self.byte()?;
        let (lane, what) = (usize::from(first & 3), first >> 2);
        Some((lane, self.step_of(what)?))
    }

    fn step_of(&mut self, what: u8) -> Option<Step<'a>> {
        Some(match what {
            0..=3 => Step::Connect { number: self.byte()?, options: self.byte()? },
            4 => Step::ConnectAgain,
            5..=8 => Step::Speak(Speech::Acknowledge),
            9..=15 => Step::Speak(Speech::Data(self.word()?)),
            16 => Step::Speak(Speech::DataAndFin(self.word()?)),
            17 | 18 => Step::Speak(Speech::Fin),
            19..=21 => Step::Speak(Speech::Again),
            22 => Step::Speak(Speech::KeepAlive),
            23 => Step::Speak(Speech::Reset),
            24 | 25 => Step::Speak(Speech::Window(self.byte()?)),
            26..=33 => Step::Forge(self.forgery()?),
            34..=39 => Step::Accept,
            40 => Step::Refuse,
            41 => Step::RefuseAsUnreachable,
            42..=46 => Step::Write(self.word()?),
            47..=51 => Step::Read(self.word()?),
            52 | 53 => Step::Finish,
            54 => Step::Reset,
            55 | 56 => Step::Release,
            57..=59 => self.time()?,
            60 => Step::Lose,
            61 => Step::Mend,
            _ => {
                let length = usize::from(self.byte()?).min(self.0.len());
                let (content, rest) = self.0.split_at(length);
                self.0 = rest;
                Step::Garbage(content)
            }
        })
    }

    /// Moments, mostly; now and then minutes.
    fn time(&mut self) -> Option<Step<'a>> {
        let byte = u32::from(self.byte()?);
        Some(Step::Pass(if byte < 192 { byte * 10 } else { (byte - 191) * 4_000 }))
    }

    fn forgery(&mut self) -> Option<Forgery> {
        let (flags, how) = (self.byte()?, self.byte()?);
        let base = match how & 3 {
            0 => Base::Told,
            1 => Base::End,
            2 => Base::Edge,
            _ => Base::Anywhere,
        };
        let off = if how & 4 == 0 { 0 } else { self.word()?.cast_signed() };
        let acknowledges = if how & 8 == 0 { 0 } else { self.word()?.cast_signed() };
        let length = if how & 16 == 0 { 0 } else { self.word()? };
        let (window, options) = if how & 32 == 0 { (255, 0) } else { (self.byte()?, self.byte()?) };
        Some(Forgery { flags, base, off, acknowledges, window, options, length })
    }
}
