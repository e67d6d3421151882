//! Where one port of a login stands, as the picture of [`super`] has it.

use portlatch_clock::BootTime;
use portlatch_protocol::attach::Grant;

use super::{PromptOn, WaiterId};

/// Where one port stands.
#[derive(Debug)]
pub(super) enum Access {
    Asked {
        request: u64,
        waiting: Vec<WaiterId>,
        prompt_on: PromptOn,
        give_up_at: BootTime,
    },
    /// Once what `prompt_on` names has come, it says [`PromptOn::Syn`]: nothing more is waited for.
    Tapping {
        request: u64,
        waiting: Vec<WaiterId>,
        prompt_on: PromptOn,
        /// The agent has opened its prompt, and said how long that has.
        is_open: bool,
        give_up_at: BootTime,
    },
    Granted {
        grant: Grant,
        until: BootTime,
        renewal: Option<Renewal>,
    },
    Resting {
        until: BootTime,
    },
}

/// A grant that serves while the next one is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewal {
    pub(super) request: u64,
    pub(super) give_up_at: BootTime,
}

impl Access {
    /// The request that the agent has not answered.
    pub(super) fn request(&self) -> Option<u64> {
        match self {
            Self::Asked { request, .. } | Self::Tapping { request, .. } => Some(*request),
            Self::Granted { renewal, .. } => renewal.map(|renewal| renewal.request),
            Self::Resting { .. } => None,
        }
    }

    pub(super) fn ends_at(&self) -> BootTime {
        match self {
            Self::Asked { give_up_at, .. } | Self::Tapping { give_up_at, .. } => *give_up_at,
            Self::Granted { until, renewal, .. } => {
                renewal.map_or(*until, |renewal| renewal.give_up_at.min(*until))
            }
            Self::Resting { until } => *until,
        }
    }
}
