//! How much of its budgets a task gets: pure.

use sluicegate_compat::native::ErrorEnvelope;

use crate::budgets::{Amounts, Exceeded, Left, Unit};
use crate::tasks::{Limits, label, slice};

/// What a task may use, and what is to be reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// Output tokens of each choice.
    pub max_tokens: u32,
    /// The budget that leaves less than the task would have got.
    pub capped_by: Option<Unit>,
    pub amounts: Amounts,
}

/// The worst case of a task: its prompt and all of its output, and the first slice of engine time. Where the client has
/// `named` no output, it is as long as what is `left` allows.
///
/// # Errors
///
/// The budget that does not cover it.
pub(super) fn grant(limits: &Limits, named: bool, left: &Left) -> Result<Grant, Exceeded> {
    let slice = slice(left)?;
    let (prompt, choices) = (u64::from(limits.prompt_tokens), u64::from(limits.choices.max(1)));
    let worst = |max_tokens: u32| Amounts { tokens: prompt + choices * u64::from(max_tokens), ..slice };
    let whole = Grant { max_tokens: limits.max_tokens, capped_by: None, amounts: worst(limits.max_tokens) };
    let Err(short) = left.covers(whole.amounts) else { return Ok(whole) };
    if named || short.0 != Unit::Tokens {
        return Err(short);
    }
    let most = left.tokens.unwrap_or(0).saturating_sub(prompt) / choices;
    let max_tokens = u32::try_from(most).unwrap_or(u32::MAX).min(limits.max_tokens);
    if max_tokens == 0 {
        return Err(short);
    }
    left.covers(worst(max_tokens))?;
    Ok(Grant { max_tokens, capped_by: Some(Unit::Tokens), amounts: worst(max_tokens) })
}

/// What the client is told whose task its budgets do not cover.
pub(super) fn over_budget(Exceeded(unit): Exceeded) -> ErrorEnvelope {
    let what = match unit {
        Unit::Tokens => "the tokens that the prompt and its output may take",
        Unit::Time => "any engine time",
        Unit::Cost => "what the task may cost",
    };
    ErrorEnvelope::rejected(label(unit), format!("the budget does not leave {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(prompt_tokens: u32, max_tokens: u32, choices: u16) -> Limits {
        Limits { prompt_tokens, max_tokens, choices, alone: false, expected_tokens: None, deadline: None }
    }

    fn tokens(tokens: u64) -> Left {
        Left { tokens: Some(tokens), ..Left::default() }
    }

    #[test]
    fn a_named_output_is_reserved_whole_or_refused() {
        let granted = grant(&limits(10, 5, 2), true, &tokens(20)).unwrap();
        assert_eq!((granted.max_tokens, granted.capped_by, granted.amounts.tokens), (5, None, 20));
        assert_eq!(grant(&limits(10, 5, 2), true, &tokens(19)), Err(Exceeded(Unit::Tokens)));
    }

    #[test]
    fn without_a_named_output_it_is_what_the_budget_leaves() {
        let granted = grant(&limits(10, 100, 2), false, &tokens(21)).unwrap();
        assert_eq!((granted.max_tokens, granted.capped_by, granted.amounts.tokens), (5, Some(Unit::Tokens), 20));
        assert_eq!(grant(&limits(10, 100, 2), false, &tokens(11)), Err(Exceeded(Unit::Tokens)));
        let all = grant(&limits(10, 100, 1), false, &tokens(110)).unwrap();
        assert_eq!((all.max_tokens, all.capped_by), (100, None));
    }

    #[test]
    fn time_is_granted_by_the_slice() {
        let time = |ms| Left { time_ms: Some(ms), ..Left::default() };
        let slice = |left: &Left| grant(&limits(1, 1, 1), true, left).map(|grant| grant.amounts.time_ms);
        assert_eq!([slice(&time(5000)), slice(&time(7)), slice(&Left::default())], [Ok(1000), Ok(7), Ok(1000)]);
        assert_eq!(slice(&time(0)), Err(Exceeded(Unit::Time)));
    }

    proptest! {
        #[test]
        fn what_is_granted_is_covered_and_one_more_token_is_not(
            prompt in 0..200_u32, max in 1..200_u32, choices in 1..5_u16, named: bool, left in 0..1000_u64,
        ) {
            let (limits, left) = (limits(prompt, max, choices), tokens(left));
            match grant(&limits, named, &left) {
                Ok(granted) => {
                    prop_assert!(left.covers(granted.amounts).is_ok());
                    prop_assert!((1..=max).contains(&granted.max_tokens));
                    let more = Amounts { tokens: granted.amounts.tokens + u64::from(choices), ..granted.amounts };
                    prop_assert_eq!(granted.capped_by.is_some(), granted.max_tokens < max);
                    prop_assert!(granted.capped_by.is_none() || left.covers(more).is_err());
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
