//! Which pools there are where the configuration says little about them.

use sluicegate::config::{Config, Overrides};

use super::HOME;

#[test]
fn whoever_says_something_about_pools_a_model_or_an_engine_has_no_pool_beside_that() {
    let pools = |set: &[(&str, &str)], overrides: Overrides| {
        let environment = [&[HOME], set].concat();
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(None, environment, overrides).unwrap();
        config.pools.into_iter().map(|pool| (pool.id, pool.model)).collect::<Vec<_>>()
    };
    let only = |model: &str| vec![("default".to_owned(), model.to_owned())];
    let flags = |model: Option<&str>, engine: Option<&str>| {
        let (model, engine) = (model.map(str::to_owned), engine.map(str::to_owned));
        Overrides { model, engine, ..Overrides::default() }
    };
    assert_eq!(pools(&[("SLUICEGATE_POOLS__0__SLOTS", "2")], flags(None, None)), only("builtin"));
    assert_eq!(pools(&[], flags(Some("builtin-embedding"), None)), only("builtin-embedding"));
    assert_eq!(pools(&[], flags(None, Some("scripted"))), only("builtin"));
    assert_eq!(pools(&[("SLUICEGATE_ADMISSION__RETENTION_MS", "5")], Overrides::default()).len(), 2);
}
