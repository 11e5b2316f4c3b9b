//! Amounts of work, as predictions and fair shares need them.

/// Work that waits, of one task or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    pub tasks: u64,
    /// One per choice.
    pub sequences: u64,
    /// That a task needs at once to start.
    pub slots: u64,
    /// Tokens of a cache that sequences share.
    pub cache: u64,
    pub prefill_tokens: u64,
    pub decode_tokens: u64,
}

impl Work {
    /// What it costs, in tokens: what tenants and classes share. At least 1, so that nothing is free.
    pub fn cost(&self) -> u64 {
        (self.prefill_tokens + self.decode_tokens).max(1)
    }

    /// A part of it, rounded up.
    pub fn share(self, part: f64) -> Self {
        let of = |whole: u64| (whole as f64 * part).ceil() as u64;
        Self {
            tasks: of(self.tasks),
            sequences: of(self.sequences),
            slots: of(self.slots),
            cache: of(self.cache),
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
            cache: self.cache + other.cache,
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
            cache: self.cache - other.cache,
            prefill_tokens: self.prefill_tokens - other.prefill_tokens,
            decode_tokens: self.decode_tokens - other.decode_tokens,
        }
    }
}
