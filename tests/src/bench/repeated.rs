//! An operation that several tasks repeat for a span: which of them count, and what they come to together.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::figures::Samples;
use super::wire::Span;

/// A span that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    /// Opens after the warm-up.
    pub(super) fn of(span: Span) -> Self {
        let begin = Instant::now() + span.warm_up;
        Self { begin, end: begin + span.time }
    }

    /// When an operation that is started now begins; none is started once the span is over.
    pub(super) fn begins(self) -> Option<Instant> {
        let now = Instant::now();
        (now < self.end).then_some(now)
    }

    /// How long one took that ends now, if it lies within the span as a whole.
    pub(super) fn ends(self, began: Instant) -> Option<Duration> {
        self.sample(began, Instant::now())
    }

    fn sample(self, began: Instant, ended: Instant) -> Option<Duration> {
        (began >= self.begin && ended <= self.end).then(|| ended - began)
    }
}

/// The samples of all these tasks.
///
/// # Errors
/// If one of them failed.
pub(super) async fn gathered(mut tasks: JoinSet<Result<Samples>>) -> Result<Samples> {
    let mut all = Samples::default();
    while let Some(task) = tasks.join_next().await {
        all.extend(task??);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_within_the_span_as_a_whole_counts() {
        let (second, begin) = (Duration::from_secs(1), Instant::now());
        let window = Window { begin, end: begin + 2 * second };
        assert_eq!(window.sample(begin - second, begin + second), None, "it began in the warm-up");
        assert_eq!(window.sample(begin, begin + 2 * second), Some(2 * second));
        assert_eq!(window.sample(begin + second, begin + 3 * second), None, "it ended after the span");
    }
}
