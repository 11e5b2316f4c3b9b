//! What use costs. Money is whole micro-units; parts of one count as one.

use sluicegate_compat::native::ModelPrice;

const TOKENS_OF_PRICE: u128 = 1_000_000;
const MS_OF_PRICE: u128 = 1000;

/// Tokens of each kind that a price tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// All of the prompt, the cached part included.
    pub input: u64,
    pub cached: u64,
    pub output: u64,
}

/// What tokens cost.
pub fn tokens_cost(price: &ModelPrice, tokens: Tokens) -> u64 {
    let cached = tokens.cached.min(tokens.input);
    let parts = [
        (tokens.input - cached, price.input_per_mtok),
        (cached, price.cached_input_per_mtok),
        (tokens.output, price.output_per_mtok),
    ];
    let sum: u128 = parts.iter().map(|&(tokens, price)| u128::from(tokens) * u128::from(price)).sum();
    narrow(sum.div_ceil(TOKENS_OF_PRICE))
}

/// What a prompt and its output cost at most, however much of the prompt is cached.
pub fn worst_cost(price: &ModelPrice, input: u64, output: u64) -> u64 {
    let cost = |cached| tokens_cost(price, Tokens { input, cached, output });
    cost(0).max(cost(input))
}

/// What engine time costs.
pub fn time_cost(price: &ModelPrice, ms: u64) -> u64 {
    narrow((u128::from(ms) * u128::from(price.engine_second)).div_ceil(MS_OF_PRICE))
}

/// The output tokens that `cost` pays for after the prompt.
pub fn affordable_output(price: &ModelPrice, cost: u64, input: u64) -> u64 {
    let input_price = u128::from(price.input_per_mtok.max(price.cached_input_per_mtok));
    let rest = (u128::from(cost) * TOKENS_OF_PRICE).checked_sub(u128::from(input) * input_price);
    rest.map_or(0, |rest| quotient(rest, price.output_per_mtok))
}

/// The engine time in ms that `cost` pays for.
pub fn affordable_ms(price: &ModelPrice, cost: u64) -> u64 {
    quotient(u128::from(cost) * MS_OF_PRICE, price.engine_second)
}

/// What is free can be had without end.
fn quotient(amount: u128, price: u64) -> u64 {
    amount.checked_div(u128::from(price)).map_or(u64::MAX, narrow)
}

fn narrow(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICE: ModelPrice = ModelPrice {
        input_per_mtok: 150_000,
        cached_input_per_mtok: 75_000,
        output_per_mtok: 600_000,
        engine_second: 30,
    };

    #[test]
    fn each_kind_has_its_price_and_a_part_of_a_unit_counts_as_one() {
        let cost = |input, cached, output| tokens_cost(&PRICE, Tokens { input, cached, output });
        assert_eq!(
            [cost(1_000_000, 0, 0), cost(1_000_000, 1_000_000, 0), cost(0, 0, 1_000_000)],
            [150_000, 75_000, 600_000]
        );
        assert_eq!([cost(1, 0, 0), cost(7, 0, 0), cost(10, 4, 5)], [1, 2, 5]);
        assert_eq!([time_cost(&PRICE, 1), time_cost(&PRICE, 1000), time_cost(&PRICE, 0)], [1, 30, 0]);
        assert_eq!(worst_cost(&PRICE, 1_000_000, 0), 150_000);
        let free = ModelPrice::default();
        assert_eq!((affordable_output(&free, 0, 5), affordable_ms(&free, 0)), (u64::MAX, u64::MAX));
        assert_eq!(affordable_output(&PRICE, 1, 100), 0, "the prompt alone costs more");
    }

    proptest! {
        #[test]
        fn what_is_affordable_is_paid_for_and_one_more_is_not(
            input_per_mtok in 0..u64::MAX, cached_input_per_mtok in 0..2_000_000_u64, output_per_mtok in 1..2_000_000_u64,
            engine_second in 1..10_000_u64, cost in 0..1_000_000_u64, input in 0..10_000_u64,
        ) {
            let price = ModelPrice { input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second };
            let output = affordable_output(&price, cost, input);
            prop_assert!(output == 0 || worst_cost(&price, input, output) <= cost);
            prop_assert!(worst_cost(&price, input, output + 1) > cost);
            let ms = affordable_ms(&price, cost);
            prop_assert!(time_cost(&price, ms) <= cost && time_cost(&price, ms + 1) > cost);
        }
    }
}
