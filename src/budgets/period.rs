//! When the periods of budgets begin and end: pure.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use sluicegate_compat::native::{Budget, BudgetPeriod};

/// The periods of a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Periods {
    period: BudgetPeriod,
    zone: TimeZone,
}

/// One of them, in Unix times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub began_ms: u64,
    /// When the next one begins; `None` where none ever does.
    pub resets_ms: Option<u64>,
}

impl Span {
    /// All time.
    pub const ALL: Self = Self { began_ms: 0, resets_ms: None };

    pub fn is_over(&self, now_ms: u64) -> bool {
        self.resets_ms.is_some_and(|resets_ms| resets_ms <= now_ms)
    }
}

/// No time zone has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone {0:?}: name one of the tz database, as Europe/Berlin")]
pub struct NoSuchZone(pub String);

impl Periods {
    /// Those of a budget. What the tz database knows is in the program.
    ///
    /// # Errors
    ///
    /// [`NoSuchZone`].
    pub fn of(budget: &Budget) -> Result<Self, NoSuchZone> {
        let zone = TimeZone::get(budget.zone()).map_err(|_| NoSuchZone(budget.zone().to_owned()))?;
        Ok(Self { period: budget.period, zone })
    }

    /// The period that a moment is in. A day begins with its first moment, which is not midnight where the clocks are put
    /// forward then.
    pub fn at(&self, now_ms: u64) -> Span {
        // After the last year that there is, nothing begins any more.
        self.span(now_ms).unwrap_or(Span::ALL)
    }

    /// `None` for a total, and at the end of all time.
    fn span(&self, now_ms: u64) -> Option<Span> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let today = now.to_zoned_datetime(self.zone.clone()).date();
        let (first, next) = match self.period {
            BudgetPeriod::Total => return None,
            BudgetPeriod::Daily => (today, today.tomorrow().ok()?),
            BudgetPeriod::Monthly => (today.first_of_month(), today.first_of_month().checked_add(1.month()).ok()?),
        };
        Some(Span { began_ms: self.begins(first)?, resets_ms: Some(self.begins(next)?) })
    }

    /// The first moment of a day, as a Unix time in ms.
    fn begins(&self, day: Date) -> Option<u64> {
        let begins = day.to_zoned_datetime(self.zone.clone()).ok()?.start_of_day().ok()?;
        u64::try_from(begins.timestamp().as_millisecond()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicegate_compat::native::BudgetKind;

    use super::*;

    fn periods(period: BudgetPeriod, zone: &str) -> Periods {
        let timezone = Some(zone.to_owned());
        Periods::of(&Budget { kind: BudgetKind::Tokens, limit: 1, period, timezone, soft_limit: None }).unwrap()
    }

    fn ms(time: &str) -> u64 {
        time.parse::<Timestamp>().unwrap().as_millisecond().cast_unsigned()
    }

    #[test]
    fn days_and_months_are_those_of_their_zone() {
        let span = |period, zone, at: &str| {
            let Span { began_ms, resets_ms } = periods(period, zone).at(ms(at));
            let shown = |ms: u64| Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_string();
            (shown(began_ms), resets_ms.map(shown))
        };
        let (daily, monthly) = (BudgetPeriod::Daily, BudgetPeriod::Monthly);
        let from_to = |from: &str, to: &str| (from.to_owned(), Some(to.to_owned()));
        let utc = from_to("2026-03-28T00:00:00Z", "2026-03-29T00:00:00Z");
        assert_eq!(span(daily, "UTC", "2026-03-28T23:59:59.999Z"), utc);
        // The night in which the clocks are put forward: a day of 23 hours.
        let short = from_to("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        assert_eq!(span(daily, "Europe/Berlin", "2026-03-28T23:00:00Z"), short);
        // They are put forward at midnight: the day begins at one o'clock.
        let late = from_to("2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z");
        assert_eq!(span(daily, "Africa/Cairo", "2026-04-24T12:00:00Z"), late);
        let kathmandu = from_to("2025-12-31T18:15:00Z", "2026-01-31T18:15:00Z");
        assert_eq!(span(monthly, "Asia/Kathmandu", "2026-01-31T18:14:59Z"), kathmandu);
        let december = from_to("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        assert_eq!(span(monthly, "UTC", "2026-12-31T23:59:59Z"), december);
        assert_eq!(periods(BudgetPeriod::Total, "UTC").at(ms("2026-01-01T00:00:00Z")), Span::ALL);
    }

    #[test]
    fn a_zone_that_nobody_knows_is_refused() {
        let timezone = Some("Europe/Atlantis".to_owned());
        let budget =
            Budget { kind: BudgetKind::Cost, limit: 1, period: BudgetPeriod::Daily, timezone, soft_limit: None };
        assert_eq!(Periods::of(&budget), Err(NoSuchZone("Europe/Atlantis".to_owned())));
    }

    proptest! {
        #[test]
        fn every_moment_is_in_its_period_and_periods_follow_each_other(
            at_ms in 0..4_000_000_000_000_u64,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Africa/Cairo"]),
            period in prop::sample::select(vec![BudgetPeriod::Daily, BudgetPeriod::Monthly]),
        ) {
            let periods = periods(period, zone);
            let span = periods.at(at_ms);
            // Before 1970 there is nothing: the first period may begin then.
            prop_assume!(span != Span::ALL);
            let resets_ms = span.resets_ms.unwrap();
            prop_assert!((span.began_ms..resets_ms).contains(&at_ms) && span.is_over(resets_ms));
            prop_assert_eq!(periods.at(span.began_ms), span);
            prop_assert_eq!(periods.at(resets_ms - 1), span);
            prop_assert_eq!(periods.at(resets_ms).began_ms, resets_ms);
        }
    }
}
