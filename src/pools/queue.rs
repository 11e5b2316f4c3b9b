//! The queue of a pool: bounded, first in first out, with positions and the work ahead at any time.
//!
//! Pure: no clock, no lock, no waiting. Every operation costs O(log n): entries are numbered as they come, and a binary
//! indexed tree (P. M. Fenwick, "A New Data Structure for Cumulative Frequency Tables", 1994) over those numbers counts
//! the entries, and sums the work, before any of them. Leaving the middle of the queue is as cheap as leaving its head.

use std::collections::BTreeMap;

/// An entry's place in the order of arrival. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Work, as the prediction needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    pub tasks: u64,
    /// One per choice.
    pub sequences: u64,
    /// That a task needs at once to start.
    pub slots: u64,
    pub prefill_tokens: u64,
    pub decode_tokens: u64,
}

impl Work {
    /// A part of it, rounded up.
    pub fn share(self, part: f64) -> Self {
        let of = |whole: u64| (whole as f64 * part).ceil() as u64;
        Self {
            tasks: of(self.tasks),
            sequences: of(self.sequences),
            slots: of(self.slots),
            prefill_tokens: of(self.prefill_tokens),
            decode_tokens: of(self.decode_tokens),
        }
    }
}

impl std::ops::Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            tasks: self.tasks + other.tasks,
            sequences: self.sequences + other.sequences,
            slots: self.slots + other.slots,
            prefill_tokens: self.prefill_tokens + other.prefill_tokens,
            decode_tokens: self.decode_tokens + other.decode_tokens,
        }
    }
}

impl std::ops::Sub for Work {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            tasks: self.tasks - other.tasks,
            sequences: self.sequences - other.sequences,
            slots: self.slots - other.slots,
            prefill_tokens: self.prefill_tokens - other.prefill_tokens,
            decode_tokens: self.decode_tokens - other.decode_tokens,
        }
    }
}

/// The queue takes no more; the entry comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// A bounded first-in-first-out queue of `T`.
#[derive(Debug)]
pub struct Queue<T> {
    capacity: usize,
    entries: BTreeMap<u64, (Work, T)>,
    /// Sums over the numbers from `base` on.
    sums: Sums,
    base: u64,
    next: u64,
}

impl<T> Queue<T> {
    /// A queue of at most `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: BTreeMap::new(), sums: Sums::new(capacity), base: 0, next: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry at the end.
    ///
    /// # Errors
    ///
    /// [`Full`] with the entry, at capacity.
    pub fn push(&mut self, work: Work, entry: T) -> Result<Ticket, Full<T>> {
        if self.entries.len() >= self.capacity {
            return Err(Full(entry));
        }
        if self.next - self.base >= self.sums.span() {
            self.renumber();
        }
        let number = self.next;
        self.next += 1;
        self.sums.add(number - self.base, work);
        self.entries.insert(number, (work, entry));
        Ok(Ticket(number))
    }

    /// Looks at the entry that is next.
    pub fn peek(&self) -> Option<&T> {
        self.entries.first_key_value().map(|(_, (_, entry))| entry)
    }

    /// Takes the entry that is next.
    pub fn pop(&mut self) -> Option<T> {
        let number = *self.entries.first_key_value()?.0;
        self.remove(Ticket(number))
    }

    /// Takes an entry from wherever it is; `None` where it has left.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let (work, entry) = self.entries.remove(&ticket.0)?;
        self.sums.subtract(ticket.0 - self.base, work);
        Some(entry)
    }

    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.entries.get(&ticket.0).map(|(_, entry)| entry)
    }

    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.entries.get_mut(&ticket.0).map(|(_, entry)| entry)
    }

    /// The work of the entries before this one; `None` where it has left. Its `tasks` is the queue position.
    pub fn ahead(&self, ticket: Ticket) -> Option<Work> {
        self.entries.contains_key(&ticket.0).then(|| self.sums.before(ticket.0 - self.base))
    }

    /// The work of all entries.
    pub fn total(&self) -> Work {
        self.sums.before(self.next - self.base)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.entries.iter().map(|(number, (_, entry))| (Ticket(*number), entry))
    }

    /// Moves the window of the sums past the entries that have left. Amortised: at least `capacity` pushes lie between two
    /// calls that find the window half empty.
    fn renumber(&mut self) {
        self.base = self.entries.first_key_value().map_or(self.next, |(number, _)| *number);
        let live = self.next - self.base + 1;
        self.sums = Sums::new(usize::try_from(live).unwrap_or(usize::MAX).max(self.capacity));
        for (number, (work, _)) in &self.entries {
            self.sums.add(number - self.base, *work);
        }
    }
}

/// A binary indexed tree over a window of numbers.
#[derive(Debug)]
struct Sums {
    /// One-based, as the algorithm is usually written.
    tree: Vec<Work>,
}

impl Sums {
    /// Room for twice `capacity`, so that renumbering is rare.
    fn new(capacity: usize) -> Self {
        Self { tree: vec![Work::default(); capacity.saturating_mul(2).max(16) + 1] }
    }

    fn span(&self) -> u64 {
        self.tree.len() as u64 - 1
    }

    fn add(&mut self, offset: u64, work: Work) {
        self.update(offset, |sum| *sum = *sum + work);
    }

    fn subtract(&mut self, offset: u64, work: Work) {
        self.update(offset, |sum| *sum = *sum - work);
    }

    fn update(&mut self, offset: u64, change: impl Fn(&mut Work)) {
        let mut index = to_index(offset) + 1;
        while let Some(sum) = self.tree.get_mut(index) {
            change(sum);
            index += index & index.wrapping_neg();
        }
    }

    /// The sum over the numbers below `offset`.
    fn before(&self, offset: u64) -> Work {
        let mut index = to_index(offset);
        let mut sum = Work::default();
        while index > 0 {
            sum = sum + self.tree[index];
            index &= index - 1;
        }
        sum
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn work(tokens: u64) -> Work {
        Work { tasks: 1, sequences: 1, slots: 1, prefill_tokens: tokens, decode_tokens: 2 * tokens }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Pop,
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![3 => (0u64..100).prop_map(Step::Push), 2 => Just(Step::Pop), 2 => (0usize..64).prop_map(Step::Remove)]
    }

    proptest! {
        /// Against the obvious model, a vector: nothing lost, nothing served twice, never over the bound, positions exact.
        #[test]
        fn behaves_like_a_vector(steps in proptest::collection::vec(step(), 0..400), capacity in 1usize..20) {
            let mut queue = Queue::new(capacity);
            let mut model: Vec<(Ticket, u64, usize)> = Vec::new();
            for (serial, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(tokens) => match queue.push(work(tokens), serial) {
                        Ok(ticket) => model.push((ticket, tokens, serial)),
                        Err(Full(back)) => {
                            prop_assert_eq!(back, serial);
                            prop_assert_eq!(model.len(), capacity);
                        }
                    },
                    Step::Pop => {
                        let expected = (!model.is_empty()).then(|| model.remove(0).2);
                        prop_assert_eq!(queue.pop(), expected);
                    }
                    Step::Remove(index) if index < model.len() => {
                        let (ticket, _, serial) = model.remove(index);
                        prop_assert_eq!(queue.remove(ticket), Some(serial));
                        prop_assert_eq!(queue.remove(ticket), None);
                        prop_assert_eq!(queue.ahead(ticket), None);
                    }
                    Step::Remove(_) => {}
                }
                prop_assert_eq!(queue.len(), model.len());
                let mut ahead = Work::default();
                for (ticket, tokens, _) in &model {
                    prop_assert_eq!(queue.ahead(*ticket), Some(ahead));
                    ahead = ahead + work(*tokens);
                }
                prop_assert_eq!(queue.total(), ahead);
            }
        }
    }
}
