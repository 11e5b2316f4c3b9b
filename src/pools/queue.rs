//! The queue of a pool: bounded, with two classes, fair between the tenants of each, with exact positions at any time.
//!
//! Pure: no clock, no lock, no waiting. Interactive tasks go first. While both classes wait, each token that interactive
//! tasks cost gives the batch class its floor's part of credit, and a batch task goes as soon as the credit pays for it:
//! so batch gets at least that share of the work, and no more while interactive tasks wait. [`class`] says how tenants
//! share a class.
//!
//! Positions, and the work before a task, cost O(tenants · log tasks), and a bisection of that (up to 64 times as much)
//! while both classes wait.

use sluicegate_compat::native::Priority;

mod class;
mod line;
mod work;

pub use class::Share;
use class::{Class, Spot};
use line::Sum;
pub use work::Work;

/// Parts of a [`Floor`].
const WHOLE: u64 = 1000;

/// The share of the work that batch tasks get while interactive ones wait, in thousandths: 0 to 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor(u64);

impl Floor {
    /// From a share of 0 to 0.999; what is outside is brought inside.
    pub fn new(share: f64) -> Self {
        Self(((share * WHOLE as f64).round() as u64).min(WHOLE - 1))
    }
}

/// An entry's place. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    priority: Priority,
    spot: Spot,
}

/// The queue takes no more; the entry comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// A bounded fair queue of `T`.
#[derive(Debug)]
pub struct Queue<T> {
    capacity: usize,
    floor: Floor,
    interactive: Class<Arrived<T>>,
    batch: Class<Arrived<T>>,
    /// What batch has coming, in thousandths of a token: see [`Queue`]'s module.
    credit: u64,
    arrivals: u64,
}

/// An entry with its number in the order of arrival.
#[derive(Debug)]
struct Arrived<T> {
    number: u64,
    entry: T,
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` entries.
    pub fn new(capacity: usize, floor: Floor) -> Self {
        Self { capacity, floor, interactive: Class::default(), batch: Class::default(), credit: 0, arrivals: 0 }
    }

    pub fn len(&self) -> usize {
        usize::try_from(self.total().tasks).unwrap_or(usize::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn depth(&self, priority: Priority) -> u64 {
        self.class(priority).total().work.tasks
    }

    /// Adds an entry behind those of its tenant and class.
    ///
    /// # Errors
    ///
    /// [`Full`] with the entry, at capacity.
    pub fn push(&mut self, priority: Priority, share: &Share, work: Work, entry: T) -> Result<Ticket, Full<T>> {
        if self.len() >= self.capacity {
            return Err(Full(entry));
        }
        let arrived = Arrived { number: self.arrivals, entry };
        self.arrivals += 1;
        let spot = self.class_mut(priority).push(share, work, arrived);
        Ok(Ticket { priority, spot })
    }

    /// Looks at the entry that is next.
    pub fn peek(&self) -> Option<&T> {
        let (_, arrived) = self.class(self.turn(self.credit)?).peek()?;
        Some(&arrived.entry)
    }

    /// Takes the entry that is next, and charges its tenant for it.
    pub fn pop(&mut self) -> Option<T> {
        let priority = self.turn(self.credit)?;
        let both = !self.interactive.is_empty() && !self.batch.is_empty();
        let (sum, arrived) = self.class_mut(priority).pop()?;
        if both {
            self.credit = self.credit_after(self.credit, priority, sum.cost);
        }
        self.forget_credit();
        Some(arrived.entry)
    }

    /// Takes an entry from wherever it is; `None` where it has left. Its tenant is charged nothing.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let (_, arrived) = self.class_mut(ticket.priority).remove(ticket.spot)?;
        self.forget_credit();
        Some(arrived.entry)
    }

    /// Takes an entry out of its turn, and charges its tenant for it.
    pub fn take(&mut self, ticket: Ticket, share: &Share) -> Option<T> {
        let class = self.class_mut(ticket.priority);
        let (sum, arrived) = class.remove(ticket.spot)?;
        class.settle(share, 0, sum.cost);
        self.forget_credit();
        Some(arrived.entry)
    }

    /// A task that was popped with `expected` as its work has used `used` tokens: its tenant is charged for these instead.
    pub fn settle(&mut self, priority: Priority, share: &Share, expected: Work, used: u64) {
        self.class_mut(priority).settle(share, expected.cost(), used);
    }

    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.class(ticket.priority).get(ticket.spot).map(|arrived| &arrived.entry)
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.class_mut(ticket.priority).get_mut(ticket.spot).map(|arrived| &mut arrived.entry)
    }

    /// The work that will be served before this entry if none comes and none leaves; `None` where it has left. Its `tasks`
    /// is the queue position.
    pub fn ahead(&self, ticket: Ticket) -> Option<Work> {
        let (own_class, own) = self.class(ticket.priority).before(ticket.spot)?;
        Some(self.ahead_in_both(ticket.priority, own_class, own.cost))
    }

    /// As [`ahead`](Self::ahead), for an entry that is not there: if it came now.
    pub fn ahead_of_new(&self, priority: Priority, share: &Share, work: Work) -> Work {
        self.ahead_in_both(priority, self.class(priority).before_new(share), work.cost())
    }

    /// What is ahead in its class, and what the other class has meanwhile.
    fn ahead_in_both(&self, priority: Priority, own_class: Sum, own_cost: u64) -> Work {
        let other_class = match priority {
            Priority::Interactive => self.batch_before(own_class.cost),
            // Until the interactive tasks served have earned what the batch tasks up to this one cost.
            Priority::Batch => {
                let missing = self.price(own_class.cost + own_cost).saturating_sub(self.credit);
                match self.floor.0 {
                    0 => self.interactive.total(),
                    floor => self.interactive.costing(missing.div_ceil(floor)),
                }
            }
        };
        own_class.work + other_class.work
    }

    /// The work of all entries.
    pub fn total(&self) -> Work {
        self.interactive.total().work + self.batch.total().work
    }

    /// The entries in the order in which they will be served.
    pub fn upcoming(&self) -> impl Iterator<Item = (Ticket, &Work, &T)> {
        let mut interactive = self.interactive.upcoming().peekable();
        let mut batch = self.batch.upcoming().peekable();
        let mut credit = self.credit;
        std::iter::from_fn(move || {
            let costs = (interactive.peek().map(|(_, sum, _)| sum.cost), batch.peek().map(|(_, sum, _)| sum.cost));
            let both = costs.0.is_some() && costs.1.is_some();
            let priority = self.turn_of(costs, credit)?;
            let (spot, sum, arrived) = match priority {
                Priority::Interactive => interactive.next()?,
                Priority::Batch => batch.next()?,
            };
            if both {
                credit = self.credit_after(credit, priority, sum.cost);
            }
            Some((Ticket { priority, spot }, &sum.work, &arrived.entry))
        })
    }

    /// The entry of a class that has waited longest.
    pub fn oldest(&self, priority: Priority) -> Option<Ticket> {
        let oldest = self.class(priority).ends().min_by_key(|[(_, first), _]| first.number);
        oldest.map(|[(spot, _), _]| Ticket { priority, spot })
    }

    /// The entry of a class that came last.
    pub fn newest(&self, priority: Priority) -> Option<Ticket> {
        let newest = self.class(priority).ends().max_by_key(|[_, (_, last)]| last.number);
        newest.map(|[_, (spot, _)]| Ticket { priority, spot })
    }

    fn class(&self, priority: Priority) -> &Class<Arrived<T>> {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Batch => &self.batch,
        }
    }

    fn class_mut(&mut self, priority: Priority) -> &mut Class<Arrived<T>> {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Batch => &mut self.batch,
        }
    }

    fn turn(&self, credit: u64) -> Option<Priority> {
        self.turn_of((self.interactive.peek().map(|(cost, _)| cost), self.batch.peek().map(|(cost, _)| cost)), credit)
    }

    /// Whose turn it is, given what the first of each class costs.
    fn turn_of(&self, costs: (Option<u64>, Option<u64>), credit: u64) -> Option<Priority> {
        match costs {
            (None, None) => None,
            (Some(_), None) => Some(Priority::Interactive),
            (None, Some(_)) => Some(Priority::Batch),
            (Some(_), Some(batch)) if self.floor.0 > 0 && credit >= self.price(batch) => Some(Priority::Batch),
            (Some(_), Some(_)) => Some(Priority::Interactive),
        }
    }

    /// The credit after a task of this cost was served while both classes waited.
    fn credit_after(&self, credit: u64, served: Priority, cost: u64) -> u64 {
        match served {
            Priority::Interactive => credit.saturating_add(cost.saturating_mul(self.floor.0)),
            Priority::Batch => credit.saturating_sub(self.price(cost)),
        }
    }

    /// What batch tasks of this cost pay of their credit.
    fn price(&self, cost: u64) -> u64 {
        cost.saturating_mul(WHOLE - self.floor.0)
    }

    /// The batch tasks that go while interactive ones of this cost are served.
    fn batch_before(&self, interactive_cost: u64) -> Sum {
        if self.floor.0 == 0 {
            return Sum::default();
        }
        let credit = self.credit.saturating_add(interactive_cost.saturating_mul(self.floor.0));
        self.batch.affordable(credit / (WHOLE - self.floor.0))
    }

    /// Credit is for what waits.
    fn forget_credit(&mut self) {
        if self.batch.is_empty() {
            self.credit = 0;
        }
    }
}

#[cfg(test)]
mod tests;
