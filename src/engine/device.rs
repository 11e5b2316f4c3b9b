//! What the device of an engine has for its sequences, and what it does.

/// Keys and values of the tokens of all sequences, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// That it has room for.
    pub tokens: u64,
    /// Tokens of a block; a sequence has whole ones.
    pub block: u32,
}

impl Cache {
    /// What a sequence of so many tokens takes of it.
    pub fn takes(&self, tokens: u64) -> u64 {
        tokens.next_multiple_of(u64::from(self.block.max(1)))
    }
}

/// What a GPU does now, other programs' work on it included.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GpuUse {
    /// Part of the time that it computes, 0 to 1.
    pub utilization: f64,
    pub vram_used_bytes: u64,
    pub vram_total_bytes: u64,
    /// Where the driver says.
    pub temperature_celsius: Option<u32>,
    /// As above.
    pub power_watts: Option<f64>,
}
