//! Limits on how much is let in: requests and tokens per minute, tasks and tokens at once; of a tenant, of a key, of a model.
//!
//! A task is counted for every limit or for none, at one moment: [`Limiter`] is one mutex around all of them. It is counted with
//! its worst case, and with what it has used once it has ended. [`Charge`] and [`AtOnce`] are the two values that it gets: the
//! first gives everything back on drop unless the task is let in, the second settles with its end.
//!
//! `rate` is the machine behind what is counted per minute, `scope` what is counted for one tenant, key or model, `room` what
//! clients are told.
//!
//! Only a task whose tokens had to be guessed can overdraw a rate: what it turns out to take is paid back before others come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotmap::{SlotMap, new_key_type};
use sluicegate_compat::native::RateLimits;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::tasks::{Ended, Observer, Task};

mod rate;
mod room;
mod scope;

use rate::Moment;
pub use rate::Standing;
pub use room::NoRoom;
pub use scope::ScopeId;
use scope::{Load, Marks, Scope};

/// The limits that a task counts for.
pub type Scopes = Vec<(ScopeId, RateLimits)>;

/// What is let in. One plain mutex, held for a little arithmetic.
#[derive(Debug)]
pub struct Limiter {
    known: Mutex<Known>,
    moment: Moment,
    began: Instant,
}

new_key_type! {
    /// Where a scope is counted, until it is forgotten.
    struct Place;
}

/// Of whom something is counted. Looked up by name once for a task.
#[derive(Debug, Default)]
struct Known {
    places: HashMap<ScopeId, Place>,
    scopes: SlotMap<Place, Scope>,
}

impl Known {
    /// The place of a scope that has these limits from now on.
    fn place(&mut self, id: &ScopeId, limits: RateLimits, moment: &Moment) -> Place {
        if let Some(place) = self.places.get(id)
            && let Some(scope) = self.scopes.get_mut(*place)
        {
            scope.adopt(limits, moment);
            return *place;
        }
        let place = self.scopes.insert(Scope::new(limits, moment));
        self.places.insert(id.clone(), place);
        place
    }
}

/// What a task has taken of the limits that it counts for.
#[derive(Debug)]
struct Taken {
    limiter: Arc<Limiter>,
    of: SmallVec<[(Place, Marks); 3]>,
    /// Changed under the lock of the limiter, and locked after that.
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// The tokens that it is counted with.
    tokens: u64,
    settled: bool,
}

/// What a task has taken. Given back on drop, unless it was let in.
#[derive(Debug)]
pub struct Charge {
    taken: Arc<Taken>,
    let_in: bool,
}

/// One of the tasks at once, until it has ended.
#[derive(Debug)]
pub struct AtOnce(Arc<Taken>);

impl Default for Limiter {
    fn default() -> Self {
        Self { known: Mutex::default(), moment: Moment::default(), began: Instant::now() }
    }
}

impl Limiter {
    /// How the rates of requests and of tokens stand: of those of several scopes, the one that leaves least.
    pub fn standing(&self, scopes: &Scopes) -> [Option<Standing>; 2] {
        let mut known = self.lock();
        let mut least = [None, None];
        for (id, limits) in scopes {
            let scope = known.places.get(id).copied().and_then(|place| known.scopes.get_mut(place));
            let standing = match scope {
                Some(scope) => {
                    scope.adopt(*limits, &self.moment);
                    scope.standing()
                }
                None => Scope::new(*limits, &self.moment).standing(),
            };
            for (least, standing) in least.iter_mut().zip(standing) {
                let remaining = |standing: &Option<Standing>| standing.map_or(u64::MAX, |standing| standing.remaining);
                if remaining(&standing) < remaining(least) {
                    *least = standing;
                }
            }
        }
        least
    }

    /// Counts tasks of so many tokens each, all of them or none; how long one would take is asked where that says when there
    /// is room.
    ///
    /// # Errors
    ///
    /// The limit that leaves no room, for the longest time where there are several.
    pub fn admit(
        self: &Arc<Self>,
        scopes: &Scopes,
        tokens: &[u64],
        task_ms: impl FnOnce() -> u64,
    ) -> Result<Vec<(Charge, AtOnce)>, NoRoom> {
        let mut taken = Vec::with_capacity(tokens.len());
        let full = {
            let mut known = self.lock();
            let (places, full) = self.full(&mut known, scopes, Load::of(tokens));
            for tokens in tokens.iter().filter(|_| full.is_empty()) {
                let take = |place: &Place| Some((*place, known.scopes.get_mut(*place)?.take(*tokens)));
                taken.push((places.iter().filter_map(take).collect(), tokens));
            }
            full
        };
        // The pool is asked with nothing locked.
        if let Some(no_room) = room::longest(full, task_ms) {
            return Err(no_room);
        }
        let each = taken.into_iter().map(|(of, tokens)| {
            let state = Mutex::new(State { tokens: *tokens, settled: false });
            let taken = Arc::new(Taken { limiter: Arc::clone(self), of, state });
            (Charge { taken: Arc::clone(&taken), let_in: false }, AtOnce(taken))
        });
        Ok(each.collect())
    }

    /// As [`admit`](Self::admit) for one task, with nothing counted.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn check(&self, scopes: &Scopes, tokens: u64, task_ms: impl FnOnce() -> u64) -> Result<(), NoRoom> {
        let (_, full) = self.full(&mut self.lock(), scopes, Load::of(&[tokens]));
        room::longest(full, task_ms).map_or(Ok(()), Err)
    }

    /// Forgets those of whom nothing is counted. Called now and then.
    pub fn sweep(&self) {
        let mut known = self.lock();
        let Known { places, scopes } = &mut *known;
        scopes.retain(|_, scope| !scope.is_idle());
        places.retain(|_, place| scopes.contains_key(*place));
    }

    /// Where these scopes are counted, and those of their limits that leave no room for a load.
    fn full(&self, known: &mut Known, scopes: &Scopes, load: Load) -> (SmallVec<[Place; 3]>, Vec<room::Full>) {
        let places: SmallVec<_> = scopes.iter().map(|(id, limits)| known.place(id, *limits, &self.moment)).collect();
        let full =
            places.iter().filter_map(|place| known.scopes.get(*place)).flat_map(|scope| scope.full(load)).collect();
        (places, full)
    }

    /// Whatever is done with them is done now.
    fn lock(&self) -> MutexGuard<'_, Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.moment.set(self.began.elapsed());
        known
    }
}

impl Taken {
    /// Changes what is counted, in each scope that is still there.
    fn change(&self, change: impl Fn(&mut Scope, Marks, &State), then: impl FnOnce(&mut State)) {
        let mut known = self.limiter.lock();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, marks) in &self.of {
            if let Some(scope) = known.scopes.get_mut(*place) {
                change(scope, *marks, &state);
            }
        }
        then(&mut state);
    }

    /// It takes so many tokens in the end. What comes after that changes nothing.
    fn settle(&self, used: u64) {
        let settle = |scope: &mut Scope, marks, state: &State| {
            if !state.settled {
                scope.settle(marks, state.tokens, used);
            }
        };
        self.change(settle, |state| state.settled = true);
    }
}

impl Charge {
    /// The task is let in, be it with a guess of its tokens, which is to be [corrected](Self::correct) then.
    pub(super) fn keep(mut self) -> Self {
        self.let_in = true;
        self.taken.change(|scope, marks, _| scope.decide(marks, true), |_| ());
        self
    }

    /// The task takes so many tokens, and not those that were guessed.
    pub(super) fn correct(self, tokens: u64) {
        let correct = |scope: &mut Scope, marks, state: &State| {
            if !state.settled {
                scope.correct(marks, state.tokens, tokens);
            }
            scope.refit(state.tokens, tokens);
        };
        self.taken.change(correct, |state| state.tokens = tokens);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.let_in {
            self.taken.change(|scope, marks, _| scope.decide(marks, false), |_| ());
            self.taken.settle(0);
        }
    }
}

impl Observer for AtOnce {
    fn ended(&self, task: &Task, how: &Ended) {
        let used = task.used(how);
        self.0.settle(used.input.saturating_add(used.output));
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        self.0.change(|scope, _, state| scope.leave(state.tokens), |_| ());
    }
}

#[cfg(test)]
mod tests;
