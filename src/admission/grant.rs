//! How much of its budgets a task gets: pure.

use sluicegate_compat::native::ModelPrice;

use crate::budgets::price::{affordable_output, time_cost, worst_cost};
use crate::budgets::{Amounts, Exceeded, Left, Unit};
use crate::tasks::{Limits, SLICE_MS, Terms, slice};

/// What a task may use, and what is to be reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// Output tokens of each choice.
    pub max_tokens: u32,
    pub amounts: Amounts,
    pub terms: Terms,
}

/// The worst case of a task: its prompt and all of its output, and the first slice of engine time, at these prices. Where
/// the client has `named` no output, it is as long as what is `left` allows.
///
/// # Errors
///
/// The budget that does not cover it.
pub(super) fn grant(limits: &Limits, named: bool, left: &Left, price: ModelPrice) -> Result<Grant, Exceeded> {
    let (prompt, choices) = (u64::from(limits.prompt_tokens), u64::from(limits.choices.max(1)));
    let whole = |max_tokens: u32, capped_by| {
        let output = choices * u64::from(max_tokens);
        let tokens_cost = worst_cost(&price, prompt, output);
        let tokens = Amounts { tokens: prompt + output, cost: tokens_cost, time_ms: 0 };
        left.covers(tokens)?;
        let amounts = tokens.plus(slice(&left.less(tokens), &price)?);
        Ok(Grant { max_tokens, amounts, terms: Terms { price, tokens_cost, capped_by } })
    };
    let short = match whole(limits.max_tokens, None) {
        Err(short) if !named && short != Exceeded(Unit::Time) => short,
        decided => return decided,
    };
    let by_tokens = left.tokens.map_or(u64::MAX, |tokens| tokens.saturating_sub(prompt));
    let by_cost = left.cost.map_or(u64::MAX, |cost| {
        let time = time_cost(&price, SLICE_MS).min(cost / 2);
        affordable_output(&price, cost - time, prompt)
    });
    let most = u32::try_from(by_tokens.min(by_cost) / choices).unwrap_or(u32::MAX);
    if most == 0 {
        return Err(short);
    }
    let unit = if by_cost < by_tokens { Unit::Cost } else { Unit::Tokens };
    whole(most.min(limits.max_tokens), Some(unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budgets::price::{Tokens, tokens_cost};

    fn limits(prompt_tokens: u32, max_tokens: u32, choices: u16) -> Limits {
        Limits { prompt_tokens, max_tokens, choices, alone: false, expected_tokens: None, deadline: None }
    }

    fn free(limits: &Limits, named: bool, left: &Left) -> Result<Grant, Exceeded> {
        grant(limits, named, left, ModelPrice::default())
    }

    fn tokens(tokens: u64) -> Left {
        Left { tokens: Some(tokens), ..Left::default() }
    }

    #[test]
    fn a_named_output_is_reserved_whole_or_refused() {
        let granted = free(&limits(10, 5, 2), true, &tokens(20)).unwrap();
        assert_eq!((granted.max_tokens, granted.terms.capped_by, granted.amounts.tokens), (5, None, 20));
        assert_eq!(free(&limits(10, 5, 2), true, &tokens(19)), Err(Exceeded(Unit::Tokens)));
    }

    #[test]
    fn without_a_named_output_it_is_what_the_budget_leaves() {
        let granted = free(&limits(10, 100, 2), false, &tokens(21)).unwrap();
        assert_eq!((granted.max_tokens, granted.terms.capped_by, granted.amounts.tokens), (5, Some(Unit::Tokens), 20));
        assert_eq!(free(&limits(10, 100, 2), false, &tokens(11)), Err(Exceeded(Unit::Tokens)));
        let all = free(&limits(10, 100, 1), false, &tokens(110)).unwrap();
        assert_eq!((all.max_tokens, all.terms.capped_by), (100, None));
    }

    #[test]
    fn time_is_granted_by_the_slice() {
        let time = |ms| Left { time_ms: Some(ms), ..Left::default() };
        let slice = |left: &Left| free(&limits(1, 1, 1), true, left).map(|grant| grant.amounts.time_ms);
        assert_eq!([slice(&time(5000)), slice(&time(7)), slice(&Left::default())], [Ok(1000), Ok(7), Ok(1000)]);
        assert_eq!(slice(&time(0)), Err(Exceeded(Unit::Time)));
    }

    #[test]
    fn money_pays_for_the_prompt_the_output_and_the_first_slice() {
        let price = ModelPrice {
            input_per_mtok: 1_000_000,
            output_per_mtok: 2_000_000,
            engine_second: 1000,
            ..ModelPrice::default()
        };
        let cost = |cost| Left { cost: Some(cost), ..Left::default() };
        let of = |named, left: &Left| grant(&limits(10, 100, 1), named, left, price);
        let granted = of(true, &cost(5000)).unwrap();
        assert_eq!((granted.amounts.cost, granted.amounts.time_ms, granted.terms.tokens_cost), (1210, 1000, 210));
        let granted = of(true, &cost(215)).unwrap();
        assert_eq!((granted.amounts.cost, granted.amounts.time_ms), (215, 5), "as long as there is money for");
        assert_eq!(of(true, &cost(210)), Err(Exceeded(Unit::Cost)));
        let granted = of(false, &cost(60)).unwrap();
        assert_eq!((granted.max_tokens, granted.terms.capped_by), (10, Some(Unit::Cost)));
        assert_eq!((granted.amounts.cost, granted.amounts.time_ms), (60, 30));
        assert_eq!(of(false, &cost(10)), Err(Exceeded(Unit::Cost)));
        let both = Left { tokens: Some(15), ..cost(5000) };
        let granted = of(false, &both).unwrap();
        assert_eq!((granted.max_tokens, granted.terms.capped_by), (5, Some(Unit::Tokens)));
    }

    proptest! {
        #[test]
        fn nothing_that_is_granted_costs_more_than_was_left(
            prompt in 0..200_u32, max in 1..200_u32, choices in 1..5_u16, named: bool, left in 0..1000_u64,
            prices in prop::array::uniform4(0..3_000_000_u64), used in 0.0..=1.0_f64, cached in 0.0..=1.0_f64,
        ) {
            let [input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second] = prices;
            let price = ModelPrice { input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second };
            let limits = limits(prompt, max, choices);
            let left = Left { cost: Some(left), ..Left::default() };
            if let Ok(granted) = grant(&limits, named, &left, price) {
                prop_assert!(left.covers(granted.amounts).is_ok());
                prop_assert!(!named || granted.max_tokens == max);
                let most = u64::from(granted.max_tokens) * u64::from(choices);
                let part = |whole: u64, part: f64| (whole as f64 * part) as u64;
                let input = u64::from(prompt);
                let tokens = Tokens { input, cached: part(input, cached), output: part(most, used) };
                let cost = tokens_cost(&price, tokens) + time_cost(&price, part(granted.amounts.time_ms, used));
                prop_assert!(cost <= granted.amounts.cost);
            }
        }

        #[test]
        fn what_is_granted_is_covered_and_one_more_token_is_not(
            prompt in 0..200_u32, max in 1..200_u32, choices in 1..5_u16, named: bool, left in 0..1000_u64,
        ) {
            let (limits, left) = (limits(prompt, max, choices), tokens(left));
            match free(&limits, named, &left) {
                Ok(granted) => {
                    prop_assert!(left.covers(granted.amounts).is_ok());
                    prop_assert!((1..=max).contains(&granted.max_tokens));
                    let more = Amounts { tokens: granted.amounts.tokens + u64::from(choices), ..granted.amounts };
                    prop_assert_eq!(granted.terms.capped_by.is_some(), granted.max_tokens < max);
                    prop_assert!(granted.terms.capped_by.is_none() || left.covers(more).is_err());
                }
                Err(_) => {
                    let least = if named { max } else { 1 };
                    let tokens = u64::from(prompt) + u64::from(choices) * u64::from(least);
                    let least = Amounts { tokens, ..Amounts::default() };
                    prop_assert!(left.covers(least).is_err());
                }
            }
        }
    }
}
