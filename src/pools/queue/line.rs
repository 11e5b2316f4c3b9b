//! The waiting tasks of one tenant in one class: first in, first out, with the sums before any of them.
//!
//! Every operation costs O(log n): entries get ascending offsets as they come, and a binary indexed tree (P. M. Fenwick, "A New Data
//! Structure for Cumulative Frequency Tables", 1994) over those offsets sums what is before any of them. Leaving the middle
//! is as cheap as leaving the head.

use std::collections::BTreeMap;

use super::work::Work;

/// An entry, or the sum of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    pub work: Work,
    /// [`Work::cost`] of each.
    pub cost: u64,
    /// What the tenant's counter moves by when they are served.
    pub charge: u64,
}

impl std::ops::Add for Sum {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { work: self.work + other.work, cost: self.cost + other.cost, charge: self.charge + other.charge }
    }
}

impl std::ops::Sub for Sum {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { work: self.work - other.work, cost: self.cost - other.cost, charge: self.charge - other.charge }
    }
}

#[derive(Debug)]
pub struct Line<T> {
    entries: BTreeMap<u64, Place<T>>,
    /// Over the offsets of the entries.
    sums: Sums,
    next_offset: u64,
    next_number: u64,
}

#[derive(Debug)]
struct Place<T> {
    /// In the sums; ascends with the number.
    offset: u64,
    sum: Sum,
    entry: T,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), sums: Sums::new(0), next_offset: 0, next_number: 0 }
    }
}

impl<T> Line<T> {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry at the end and returns its number, which no other entry of this line ever has.
    pub fn push(&mut self, sum: Sum, entry: T) -> u64 {
        if self.next_offset >= self.sums.span() {
            self.close_ranks();
        }
        let (number, offset) = (self.next_number, self.next_offset);
        self.next_number += 1;
        self.next_offset += 1;
        self.sums.update(offset, |total| *total = *total + sum);
        self.entries.insert(number, Place { offset, sum, entry });
        number
    }

    pub fn remove(&mut self, number: u64) -> Option<(Sum, T)> {
        let Place { offset, sum, entry } = self.entries.remove(&number)?;
        self.sums.update(offset, |total| *total = *total - sum);
        Some((sum, entry))
    }

    pub fn get(&self, number: u64) -> Option<(&Sum, &T)> {
        self.entries.get(&number).map(|place| (&place.sum, &place.entry))
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.entries.get_mut(&number).map(|place| &mut place.entry)
    }

    /// Number, sum and entry of each, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &Sum, &T)> {
        self.entries.iter().map(|(number, place)| (*number, &place.sum, &place.entry))
    }

    /// Of the entries before this one.
    pub fn before(&self, number: u64) -> Sum {
        self.entries.get(&number).map_or_else(Sum::default, |place| self.sums.before(place.offset))
    }

    pub fn total(&self) -> Sum {
        self.sums.before(self.next_offset)
    }

    /// Of the first entries, up to the last one that begins below `charge`: that has less than it charged before it.
    pub fn beginning_below(&self, charge: u64) -> Sum {
        self.sums.beginning_below(charge)
    }

    /// Takes the offsets of entries that have left out of the sums. Amortised: as many pushes lie between two calls as there
    /// are entries.
    fn close_ranks(&mut self) {
        self.next_offset = self.entries.len() as u64;
        self.sums = Sums::new(self.next_offset);
        for (place, offset) in self.entries.values_mut().zip(0..) {
            place.offset = offset;
            self.sums.update(offset, |total| *total = *total + place.sum);
        }
    }
}

/// A binary indexed tree over a window of numbers.
#[derive(Debug)]
struct Sums {
    /// One-based, as the algorithm is usually written; its span is a power of two.
    tree: Vec<Sum>,
}

impl Sums {
    /// Room for twice as many as there are, so that closing ranks is rare.
    fn new(entries: u64) -> Self {
        let span = to_index(entries).saturating_mul(2).max(8).next_power_of_two();
        Self { tree: vec![Sum::default(); span + 1] }
    }

    fn span(&self) -> u64 {
        self.tree.len() as u64 - 1
    }

    fn update(&mut self, offset: u64, change: impl Fn(&mut Sum)) {
        let mut index = to_index(offset) + 1;
        while let Some(sum) = self.tree.get_mut(index) {
            change(sum);
            index += index & index.wrapping_neg();
        }
    }

    /// The sum over the numbers below `offset`.
    fn before(&self, offset: u64) -> Sum {
        let mut index = to_index(offset);
        let mut sum = Sum::default();
        while index > 0 {
            sum = sum + self.tree[index];
            index &= index - 1;
        }
        sum
    }

    /// Descends to the longest run of numbers that together charge less than `charge`; the next entry still begins below.
    fn beginning_below(&self, charge: u64) -> Sum {
        if charge == 0 {
            return Sum::default();
        }
        let (mut index, mut sum) = (0, Sum::default());
        let mut step = self.tree.len() - 1;
        while step > 0 {
            if let Some(more) = self.tree.get(index + step)
                && sum.charge + more.charge < charge
            {
                index += step;
                sum = sum + *more;
            }
            step /= 2;
        }
        // The number behind the run is an entry: numbers that have left charge nothing, so the run would go on over them.
        if index + 1 < self.tree.len() { self.before(index as u64 + 1) } else { sum }
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_grow_while_the_head_stays_and_others_come_and_go() {
        let mut line = Line::default();
        let sum = Sum { work: Work { tasks: 1, ..Work::default() }, cost: 1, charge: 1 };
        let head = line.push(sum, "head");
        for _ in 0..10_000 {
            let number = line.push(sum, "other");
            assert_eq!(line.before(number).work.tasks, 1);
            line.remove(number);
        }
        assert!(line.sums.span() <= 16, "{}", line.sums.span());
        assert_eq!((line.before(head), line.total()), (Sum::default(), sum));
    }
}
