//! What the state of a pool says about when things will start and end.

use super::{ONE_BY_ONE, PRESSURE, Place, State, Waiting};
use crate::pools::job::{Need, work};
use crate::pools::predict::{Bench, Forecast, Prediction, Running, starting_now};
use crate::pools::queue::{Ticket, Work};
use crate::pools::replica::Replica;
use crate::tasks::Limits;

impl State {
    pub(super) fn place_at(&self, ticket: Ticket) -> Place {
        let ahead = self.queue.ahead(ticket).unwrap_or_default();
        let Some(Waiting { work, job, .. }) = self.queue.get(ticket) else {
            return self.place_without(ahead.tasks, Own::default(), Prediction::default());
        };
        let own = Own { work: *work, devices: job.devices.as_deref() };
        self.place_without(ahead.tasks, own, self.predict(ahead, own))
    }

    /// When a task starts and ends that has so much ahead of it.
    pub(super) fn predict(&self, ahead: Work, own: Own<'_>) -> Prediction {
        if let Some(now) = self.predict_now(ahead, own) {
            return now;
        }
        let mut forecast = self.forecast();
        self.fast_forward(&mut forecast, ahead);
        forecast.next(own.work, own.devices)
    }

    /// Where it starts now: most do, and then nobody has to look at what else runs.
    fn predict_now(&self, ahead: Work, own: Own<'_>) -> Option<Prediction> {
        if ahead.tasks > 0 {
            return None;
        }
        self.with_room(own)
            .find_map(|replica| starting_now(&self.rates, replica.slots(), !self.queue.is_empty(), own.work))
    }

    /// The replicas where a slot is free for such a task, and what it takes of their cache.
    fn with_room(&self, own: Own<'_>) -> impl Iterator<Item = &Replica> {
        let need = Need { slots: 1, sequences: 1, cache: own.work.cache };
        let usable = self.usable().map(|(_, replica)| replica);
        usable.filter(move |replica| replica.is_on(own.devices) && replica.has_room(need))
    }

    /// Whether a task at this position cannot start now.
    pub(super) fn waits(&self, position: u64, own: Own<'_>) -> bool {
        position > 0 || self.with_room(own).next().is_none()
    }

    pub(super) fn place_without(&self, position: u64, own: Own<'_>, prediction: Prediction) -> Place {
        Place {
            position,
            prediction,
            queue_depth: self.queue.len() as u64,
            backoff_ms: self.backoff_ms(),
            waits: self.waits(position, own),
        }
    }

    pub(super) fn work(&self, limits: &Limits) -> Work {
        work(limits, self.widest(), |max_tokens| self.rates.expected_tokens(max_tokens))
    }

    pub(super) fn forecast(&self) -> Forecast<'_> {
        let benches: Vec<_> = self.usable().map(|(number, replica)| self.bench(number, replica)).collect();
        Forecast::new(&self.rates, &benches, !self.queue.is_empty())
    }

    /// Puts what is ahead of a task on the slots: one by one where it is little, and otherwise all at once.
    pub(super) fn fast_forward(&self, forecast: &mut Forecast<'_>, ahead: Work) {
        if ahead.tasks <= ONE_BY_ONE {
            self.put(forecast, ahead.tasks as usize);
        } else {
            forecast.many(ahead);
        }
    }

    /// Puts the first of those that wait on the slots.
    fn put(&self, forecast: &mut Forecast<'_>, tasks: usize) {
        for (_, work, waiting) in self.queue.upcoming().take(tasks) {
            forecast.next(*work, waiting.job.devices.as_deref());
        }
    }

    /// 0 while the queue is less than three quarters full; else the time until it is expected to be so again.
    pub(super) fn backoff_ms(&self) -> u64 {
        let depth = self.queue.len() as f64;
        let excess = depth - PRESSURE * self.capacity as f64;
        if excess <= 0.0 || depth < 1.0 {
            return 0;
        }
        let mut forecast = self.forecast();
        forecast.many(self.queue.total().share(excess / depth));
        forecast.next(Work::default(), None).start_ms.max(1)
    }

    /// When everything that waits is expected to have started; at least 1 ms.
    pub fn drained_ms(&self) -> u64 {
        let mut forecast = self.forecast();
        self.fast_forward(&mut forecast, self.queue.total());
        // Also what runs, where nothing waits.
        forecast.next(Work::default(), None);
        forecast.all_started_ms()
    }

    /// When so many tasks are expected to have started, each of which frees a place; at least 1 ms.
    pub(super) fn free_ms(&self, places: usize) -> u64 {
        let mut forecast = self.forecast();
        self.put(&mut forecast, places);
        forecast.all_started_ms()
    }

    /// A replica, and what runs there now.
    pub(super) fn bench<'a>(&self, number: usize, replica: &'a Replica) -> Bench<'a> {
        let running = self.running.values().filter(|running| running.seat.replica == number).map(|running| {
            let limits = &running.task.limits();
            let progress = running.task.log.progress();
            let made = u32::try_from(progress.tokens / u64::from(limits.choices)).unwrap_or(u32::MAX);
            // One that has outlived its expectation will go on for a while more, the longer the longer it has.
            let outlived = (made / 10).clamp(1, limits.max_tokens.saturating_sub(made).max(1));
            let each = running.expected_tokens.saturating_sub(made).max(outlived);
            let need = running.seat.need;
            // Choices that have no slot of their own come one after the other.
            let in_turn = u32::from(limits.choices).div_ceil(need.sequences);
            let prefill_tokens = if progress.first_token.is_some() { 0 } else { limits.prompt_tokens };
            let decode_tokens = each.saturating_mul(in_turn);
            Running { slots: need.slots, cache: need.cache, prefill_tokens, decode_tokens }
        });
        Bench {
            device: replica.device.as_deref(),
            slots: replica.slots(),
            cache: replica.capacity.cache.map(|cache| cache.tokens),
            running: running.collect(),
        }
    }
}

/// What of a task its prediction depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own<'a> {
    pub work: Work,
    /// See [`Job::devices`](crate::pools::Job::devices).
    pub devices: Option<&'a str>,
}
