//! Which replica tasks go to that share the beginning of their prompts.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};

use super::Pool;
use super::replica::{Health, Replica};
use crate::ids::ReplicaId;

impl Pool {
    /// The replica that tasks with this key go to, while it is there: the one with the highest hash, so that each key has one
    /// and a replica more or less changes it for few (Thaler and Ravishankar, "Using Name-Based Mappings", 1998).
    pub fn replica_for(&self, key: impl Hash) -> Option<ReplicaId> {
        let state = self.lock();
        let there = state.replicas.iter().filter(|replica| replica.health != Health::Vacant);
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let hash = |replica: &&Replica| hasher.hash_one((&key, replica.id.as_str()));
        there.max_by_key(hash).map(|replica| replica.id.clone())
    }
}
