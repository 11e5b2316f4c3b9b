//! What is looked through every now and then for what is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admission::Limiter;
use crate::api::{FailedLogins, RefusedActions};
use crate::budgets::Budgets;
use crate::clock::unix_ms;
use crate::sessions::Sessions;
use crate::store::{Store, signed};
use crate::tasks::{Registry, millis};

/// How often ended tasks and idle sessions are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_secs(1);

/// Keys of requests, and rows that are kept for long, are looked through once in so many of these times.
const SWEEPS_OF_KEYS: u32 = 600;

/// Budgets, and what was refused lately, are looked through once in so many of these times.
const SWEEPS_OF_IDLE: u32 = 30;

/// What is looked through, and how long things are kept.
pub(super) struct Sweeper {
    pub tasks: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub limiter: Arc<Limiter>,
    pub budgets: Budgets,
    pub failed_logins: Option<Arc<FailedLogins>>,
    pub refused_actions: Arc<RefusedActions>,
    pub store: Store,
    pub idempotency_ttl: Duration,
    pub ledger_retention: Duration,
    pub audit_retention: Duration,
}

impl Sweeper {
    /// Sweeps until that is over.
    pub async fn run(&self, ended: CancellationToken) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            if ended.run_until_cancelled(ticks.tick()).await.is_none() {
                return;
            }
            self.sweep();
            if tick.is_multiple_of(SWEEPS_OF_IDLE) {
                self.sweep_idle();
            }
            if tick.is_multiple_of(SWEEPS_OF_KEYS) {
                self.sweep_rows();
            }
        }
    }

    fn sweep(&self) {
        self.tasks.sweep(Instant::now());
        self.sessions.sweep();
        self.limiter.sweep();
        if let Some(journal) = self.tasks.journal() {
            journal.sum_up(&self.budgets);
            if self.tasks.has_live() {
                journal.lives();
            }
        }
    }

    fn sweep_idle(&self) {
        self.budgets.sweep();
        self.failed_logins.iter().for_each(|logins| logins.forget());
        self.refused_actions.forget();
    }

    fn sweep_rows(&self) {
        if let Some(journal) = self.tasks.journal() {
            journal.forget_keys(self.idempotency_ttl);
            journal.forget_entries(self.ledger_retention);
        }
        self.store.audit_forgotten(signed(unix_ms().saturating_sub(millis(self.audit_retention))));
    }
}
