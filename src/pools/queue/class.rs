//! One priority class: fair between its tenants, first in first out within each.
//!
//! Every tenant has a counter of the tokens it was served, divided by its weight, and the tenant with the lowest counter is
//! next: the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024). A task is
//! charged what it is expected to use when it leaves the queue, and the counter is put right once it is known what it used.
//! A tenant that comes back after a pause begins at the present: it has no claim on what it did not ask for.
//!
//! Counters grow by at least 1 for each task, so the order in which a class will serve what it holds is the order of the
//! counters that its entries begin at (then of the tenants' numbers): what is before an entry is a sum over the tenants.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::num::NonZeroU32;

use super::line::{Line, Sum};
use super::work::Work;
use crate::ids::TenantId;

/// Counters are in tokens times this, divided by the weight.
const SCALE: u64 = 1 << 16;

/// Whose a task is, and which part of a pool is theirs beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub tenant: TenantId,
    pub weight: NonZeroU32,
}

#[derive(Debug)]
pub struct Class<T> {
    tenants: HashMap<u64, Tenant<T>>,
    numbers: HashMap<TenantId, u64>,
    next_number: u64,
    /// The tenants with waiting tasks, by counter and number: the first is next.
    order: BTreeSet<(u64, u64)>,
    /// The counter that the entry served last began at.
    now: u64,
    /// When there are so many tenants, those that make no difference are forgotten.
    tidy_at: usize,
    total: Sum,
}

#[derive(Debug)]
struct Tenant<T> {
    weight: NonZeroU32,
    counter: u64,
    line: Line<T>,
}

/// The place of an entry in its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    tenant: u64,
    number: u64,
}

/// How much of a class is before something.
pub type Before = Sum;

impl<T> Default for Class<T> {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            order: BTreeSet::new(),
            now: 0,
            tidy_at: 64,
            total: Sum::default(),
        }
    }
}

impl<T> Class<T> {
    pub fn total(&self) -> Sum {
        self.total
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub fn push(&mut self, share: &Share, work: Work, entry: T) -> Spot {
        let number = self.tenant(share);
        let Some(tenant) = self.tenants.get_mut(&number) else { unreachable!("just made") };
        if tenant.line.is_empty() {
            tenant.counter = tenant.counter.max(self.now);
            self.order.insert((tenant.counter, number));
        }
        let sum = Sum { work, cost: work.cost(), charge: charge(work.cost(), tenant.weight) };
        self.total = self.total + sum;
        Spot { tenant: number, number: tenant.line.push(sum, entry) }
    }

    /// The entry that is next, and its cost.
    pub fn peek(&self) -> Option<(u64, &T)> {
        let (_, number) = self.order.first()?;
        let (_, sum, entry) = self.tenants.get(number)?.line.iter().next()?;
        Some((sum.cost, entry))
    }

    /// Takes the entry that is next, and charges its tenant for it.
    pub fn pop(&mut self) -> Option<(Sum, T)> {
        let (counter, number) = *self.order.first()?;
        let tenant = self.tenants.get(&number)?;
        let (head, _, _) = tenant.line.iter().next()?;
        self.now = self.now.max(counter);
        let (sum, entry) = self.remove(Spot { tenant: number, number: head })?;
        self.recount(number, |counter| counter.saturating_add(sum.charge));
        if self.order.is_empty() {
            // Nobody waits: who comes next begins where this one ends.
            self.now = self.now.max(counter.saturating_add(sum.charge));
        }
        Some((sum, entry))
    }

    /// Takes an entry from wherever it is; its tenant is charged nothing.
    pub fn remove(&mut self, spot: Spot) -> Option<(Sum, T)> {
        let tenant = self.tenants.get_mut(&spot.tenant)?;
        let (sum, entry) = tenant.line.remove(spot.number)?;
        if tenant.line.is_empty() {
            self.order.remove(&(tenant.counter, spot.tenant));
        }
        self.total = self.total - sum;
        Some((sum, entry))
    }

    /// A task that was charged `expected` tokens has used `used`.
    pub fn settle(&mut self, share: &Share, expected: u64, used: u64) {
        if expected == used {
            return;
        }
        let number = self.tenant(share);
        let more = charge(used.saturating_sub(expected), share.weight);
        let less = charge(expected.saturating_sub(used), share.weight);
        let (more, less) = if used > expected { (more, 0) } else { (0, less) };
        self.recount(number, |counter| counter.saturating_add(more).saturating_sub(less));
    }

    pub fn get(&self, spot: Spot) -> Option<&T> {
        self.tenants.get(&spot.tenant)?.line.get(spot.number).map(|(_, entry)| entry)
    }

    pub fn get_mut(&mut self, spot: Spot) -> Option<&mut T> {
        self.tenants.get_mut(&spot.tenant)?.line.get_mut(spot.number)
    }

    /// What will be served before the entry, and the entry itself.
    pub fn before(&self, spot: Spot) -> Option<(Before, Sum)> {
        let own = self.tenants.get(&spot.tenant)?;
        let (sum, _) = own.line.get(spot.number)?;
        let ahead = own.line.before(spot.number);
        Some((self.others_before(spot.tenant, own.counter + ahead.charge, ahead), *sum))
    }

    /// `ahead` of the tenant's own, and what the others have before an entry of it that begins at `counter`.
    fn others_before(&self, tenant: u64, counter: u64, ahead: Sum) -> Before {
        let others = self.order.iter().filter(|(_, number)| *number != tenant);
        others.fold(ahead, |before, (_, number)| before + self.of_tenant_before(*number, (counter, tenant)))
    }

    /// What would be served before an entry that came now.
    pub fn before_new(&self, share: &Share) -> Before {
        let number = self.numbers.get(&share.tenant).copied();
        let (number, counter, ahead) = match number.and_then(|number| Some((number, self.tenants.get(&number)?))) {
            Some((number, own)) if own.line.is_empty() => (number, own.counter.max(self.now), Sum::default()),
            Some((number, own)) => (number, own.counter, own.line.total()),
            None => (self.next_number, self.now, Sum::default()),
        };
        self.others_before(number, counter + ahead.charge, ahead)
    }

    /// The longest beginning of the order of service that costs at most `most`.
    pub fn affordable(&self, most: u64) -> Before {
        self.split(most).0
    }

    /// The shortest beginning of the order of service that costs at least `least`, or all.
    pub fn costing(&self, least: u64) -> Before {
        let Some(most) = least.checked_sub(1) else { return Sum::default() };
        let (before, next) = self.split(most);
        before + next
    }

    /// The longest beginning that costs at most `most`, and the entry behind it.
    fn split(&self, most: u64) -> (Before, Sum) {
        if self.total.cost <= most {
            return (self.total, Sum::default());
        }
        // Bisects for the highest counter with everything that begins below it affordable, then looks at what begins there.
        let counters = || self.order.iter().map(|(counter, _)| *counter);
        let ends = self.order.iter().map(|(counter, number)| counter + self.tenants[number].line.total().charge);
        let (mut low, mut high) = (counters().min().unwrap_or(0), ends.max().unwrap_or(0));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.beginning_below(middle).cost <= most {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let mut before = self.beginning_below(low);
        let mut numbers: Vec<u64> = self.order.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            let there = self.of_tenant_before(number, (low, u64::MAX)) - self.of_tenant_before(number, (low, 0));
            if before.cost + there.cost > most {
                return (before, there);
            }
            before = before + there;
        }
        (before, Sum::default())
    }

    /// Every entry in the order of service.
    pub fn upcoming(&self) -> impl Iterator<Item = (Spot, &Sum, &T)> {
        let mut lines: HashMap<u64, _> =
            self.order.iter().map(|(_, number)| (*number, self.tenants[number].line.iter())).collect();
        let mut heads: BinaryHeap<Reverse<(u64, u64)>> = self.order.iter().map(|key| Reverse(*key)).collect();
        std::iter::from_fn(move || {
            loop {
                let Reverse((counter, tenant)) = heads.pop()?;
                if let Some((number, sum, entry)) = lines.get_mut(&tenant)?.next() {
                    heads.push(Reverse((counter + sum.charge, tenant)));
                    return Some((Spot { tenant, number }, sum, entry));
                }
            }
        })
    }

    /// The first and the last entry of each tenant.
    pub fn ends(&self) -> impl Iterator<Item = [(Spot, &T); 2]> {
        self.order.iter().filter_map(|(_, tenant)| {
            let spot = |(number, _, entry)| (Spot { tenant: *tenant, number }, entry);
            let line = &self.tenants.get(tenant)?.line;
            Some([spot(line.iter().next()?), spot(line.iter().next_back()?)])
        })
    }

    #[cfg(test)]
    pub fn known_tenants(&self) -> usize {
        self.tenants.len()
    }

    fn beginning_below(&self, counter: u64) -> Before {
        self.order
            .iter()
            .fold(Sum::default(), |before, (_, number)| before + self.of_tenant_before(*number, (counter, 0)))
    }

    /// What a tenant has that begins before this counter and number.
    fn of_tenant_before(&self, number: u64, (counter, than): (u64, u64)) -> Before {
        let tenant = &self.tenants[&number];
        let below = counter.saturating_add(u64::from(number < than));
        tenant.line.beginning_below(below.saturating_sub(tenant.counter))
    }

    /// The number of a tenant, who is new where unknown; a changed weight holds for what comes.
    fn tenant(&mut self, share: &Share) -> u64 {
        if let Some(number) = self.numbers.get(&share.tenant) {
            if let Some(tenant) = self.tenants.get_mut(number) {
                tenant.weight = share.weight;
            }
            return *number;
        }
        self.tidy();
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(share.tenant.clone(), number);
        let tenant = Tenant { weight: share.weight, counter: self.now, line: Line::default() };
        self.tenants.insert(number, tenant);
        number
    }

    fn recount(&mut self, number: u64, change: impl FnOnce(u64) -> u64) {
        let Some(tenant) = self.tenants.get_mut(&number) else { return };
        let before = tenant.counter;
        tenant.counter = change(before);
        if self.order.remove(&(before, number)) {
            self.order.insert((tenant.counter, number));
        }
    }

    /// Forgets tenants that would begin at the present anyway.
    fn tidy(&mut self) {
        if self.tenants.len() < self.tidy_at {
            return;
        }
        let now = self.now;
        self.tenants.retain(|_, tenant| !tenant.line.is_empty() || tenant.counter > now);
        self.numbers.retain(|_, number| self.tenants.contains_key(number));
        self.tidy_at = 2 * self.tenants.len().max(32);
    }
}

fn charge(cost: u64, weight: NonZeroU32) -> u64 {
    (cost.saturating_mul(SCALE) / u64::from(weight.get())).max(1)
}
