//! Replicas that come and go: servers elsewhere that register with a pool of remote engines.
//!
//! Their places are kept and used again, so that the names of replicas, which are labels of metrics, stay few.

use std::sync::Arc;

use super::Pool;
use super::replica::{Health, Replica};
use crate::engine::LoadError;
use crate::engine::remote::Place;
use crate::ids::{PoolId, ReplicaId};
use crate::lifecycle::OnPanic;

/// Of one pool, those of its configuration included.
const MOST_REPLICAS: usize = 64;

/// The place of a server among the replicas of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub pool: PoolId,
    pub replica: ReplicaId,
    number: usize,
    /// Tells it from those that had the place before and after.
    tenure: u64,
}

/// Why a server cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAttached {
    #[error("the pool has no remote engine")]
    NotRemote,
    #[error("the pool has {MOST_REPLICAS} replicas, and takes no more")]
    Full,
    #[error("{0}")]
    Load(#[from] LoadError),
}

impl Pool {
    /// Adds a server to the replicas. It gets tasks once a generation has worked there.
    ///
    /// # Errors
    ///
    /// [`NotAttached`].
    pub async fn attach(self: &Arc<Self>, place: &Place) -> Result<Attached, NotAttached> {
        let loader = self.lock().loader.at(place).ok_or(NotAttached::NotRemote)?;
        let engine = loader.load(&loader.ready().await?).await?;
        let info = engine.info().clone();
        let (attached, stay) = {
            let mut state = self.lock();
            let vacant = state.replicas.iter().position(Replica::is_vacant);
            let number = vacant.unwrap_or(state.replicas.len());
            if number == MOST_REPLICAS {
                return Err(NotAttached::Full);
            }
            if vacant.is_none() {
                let id = ReplicaId::from(format!("{}-{number}", self.spec.id));
                state.replicas.push(Replica::new(id));
            }
            let replica = &mut state.replicas[number];
            replica.occupy(engine, loader);
            let (pool, replica, tenure) = (self.spec.id.clone(), replica.id.clone(), replica.tenure);
            (Attached { pool, replica, number, tenure }, state.stay(number))
        };
        self.metrics.add_replica(&self.spec, &attached.replica);
        self.metrics.add_engine(self, &attached.replica, &info);
        tracing::info!(pool = %self.spec.id, replica = %attached.replica, base_url = place.base_url, "a server has registered");
        let (pool, id, number) = (Arc::clone(self), attached.replica.clone(), attached.number);
        self.lifecycle.spawn("recovery", OnPanic::Shutdown, async move { pool.recover(number, &id, stay).await });
        Ok(attached)
    }

    /// Takes a server out again: it gets no more tasks, and what runs there ends by itself. Does nothing where it is out.
    pub fn detach(self: &Arc<Self>, attached: &Attached) {
        let engine = {
            let mut state = self.lock();
            let replica = &mut state.replicas[attached.number];
            if replica.tenure != attached.tenure {
                return;
            }
            let engine = replica.vacate();
            state.retiring.extend(engine.clone());
            engine
        };
        tracing::info!(pool = %self.spec.id, replica = %attached.replica, "a server is registered no longer");
        self.metrics.remove_replica(&self.spec, &attached.replica);
        self.health_changed();
        self.fail_waiting();
        let pool = Arc::clone(self);
        self.lifecycle.spawn("retire", OnPanic::Continue, async move {
            pool.retire(engine.into_iter().collect()).await;
        });
    }

    /// How a server does that is attached; `None` once it is not.
    pub fn health_of(&self, attached: &Attached) -> Option<Health> {
        let state = self.lock();
        let replica = &state.replicas[attached.number];
        (replica.tenure == attached.tenure).then_some(replica.health)
    }

    /// Places of replicas, vacant ones included: so many labels there are.
    pub fn places(&self) -> usize {
        self.lock().replicas.len()
    }
}
