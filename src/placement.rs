//! Which pools may run a task, and in which order to try them. Pure: facts in, an order or a refusal out.
//!
//! ```text
//! pools of the model -> workload -> engine asked for -> device mask -> pin, or: preferred, then others, then avoided ones
//! ```
//!
//! A pin is never given up for another pool. Without `allow_fallback` neither is a preference or an avoidance.

use sluicegate_compat::native::{EngineName, Placement, PlacementMode, Workload};

use crate::ids::PoolId;

/// A pool that serves the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: PoolId,
    pub engine: EngineName,
    /// Where its replicas run: `cpu`, `cuda:0`, …; empty while none is loaded.
    pub devices: Vec<String>,
    /// What can be asked of its model; `None` while that is not known.
    pub workloads: Option<Vec<Workload>>,
    /// It takes tasks now.
    pub open: bool,
}

/// Why a task can be placed nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The wish itself is wrong.
    #[error("{message}")]
    Invalid { param: String, message: String },
    /// Nothing of that kind can be asked of the model.
    #[error("no pool serves the workload `{}` with this model", .0.as_str())]
    Unserved(Workload),
    /// A pool that would do takes no tasks now.
    #[error("the pool {pool:?} takes no tasks now")]
    Unready { pool: PoolId },
    /// No pool of the model will do, ready or not.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// Ranks `candidates`: those in one tier are as good as each other, and each tier is better than the next. The numbers are
/// places in `candidates`; there is at least one.
///
/// # Errors
///
/// [`NoPlace`]. `known` says whether a pool of that name exists, whatever it serves.
pub fn rank(
    wish: &Placement,
    (workload, engine): (Workload, Option<EngineName>),
    candidates: &[Candidate],
    known: impl Fn(&str) -> bool,
) -> Result<Vec<Vec<usize>>, NoPlace> {
    check(wish, known)?;
    let able = |candidate: &Candidate| candidate.workloads.as_ref().is_none_or(|able| able.contains(&workload));
    if !candidates.is_empty() && !candidates.iter().any(able) {
        return Err(NoPlace::Unserved(workload));
    }
    if let (PlacementMode::Pin, Some(pin)) = (wish.mode, &wish.pin_pool_id)
        && candidates.iter().any(|candidate| candidate.id.as_str() == pin && !able(candidate))
    {
        let message = format!("this pool does not serve the workload `{}`", workload.as_str());
        return Err(invalid("placement.pin_pool_id", &message));
    }
    let fits = |at: &usize| able(&candidates[*at]) && engine.is_none_or(|engine| candidates[*at].engine.is(engine));
    let mut fitting: Vec<usize> = (0..candidates.len()).filter(fits).collect();
    if fitting.is_empty() && !candidates.is_empty() {
        return Err(invalid("engine", "no pool serves this model with that engine"));
    }
    if let Some(mask) = &wish.require_device_mask {
        fitting.retain(|at| devices(mask).any(|device| candidates[*at].devices.iter().any(|its| its == device)));
        if fitting.is_empty() {
            return Err(NoPlace::Unavailable("no pool serves this model on a device of the mask"));
        }
    }
    let at = |id: &str| fitting.iter().copied().find(|at| candidates[*at].id.as_str() == id);
    if let (PlacementMode::Pin, Some(pin)) = (wish.mode, &wish.pin_pool_id) {
        let pinned = at(pin).ok_or_else(|| invalid("placement.pin_pool_id", "this pool does not serve the task"))?;
        return if candidates[pinned].open { Ok(vec![vec![pinned]]) } else { Err(unready(&candidates[pinned])) };
    }
    let mut preferred = Vec::new();
    for at in wish.prefer_pools.iter().filter_map(|id| at(id)) {
        if !preferred.contains(&at) {
            preferred.push(at);
        }
    }
    let is_avoided = |at: &usize| wish.avoid_pools.iter().any(|id| *id == candidates[*at].id.as_str());
    let (avoided, others): (Vec<usize>, Vec<usize>) =
        fitting.iter().copied().filter(|at| !preferred.contains(at)).partition(is_avoided);
    let fallback = wish.allow_fallback.unwrap_or(true);
    let mut tiers: Vec<Vec<usize>> = preferred.into_iter().map(|at| vec![at]).collect();
    if fallback || wish.prefer_pools.is_empty() {
        tiers.push(others);
    }
    if fallback {
        tiers.push(avoided);
    }
    let wanted = tiers.iter().flatten().next().copied();
    tiers.iter_mut().for_each(|tier| tier.retain(|at| candidates[*at].open));
    tiers.retain(|tier| !tier.is_empty());
    match wanted {
        None => Err(NoPlace::Unavailable("no pool of this model is left, and the task allows no fallback")),
        Some(wanted) if tiers.is_empty() => Err(unready(&candidates[wanted])),
        Some(_) => Ok(tiers),
    }
}

/// The wish by itself.
///
/// # Errors
///
/// [`NoPlace::Invalid`].
pub fn check(wish: &Placement, known: impl Fn(&str) -> bool) -> Result<(), NoPlace> {
    match (wish.mode, &wish.pin_pool_id) {
        (PlacementMode::Pin, None) => return Err(invalid("placement.pin_pool_id", "the mode `pin` needs a pool")),
        (PlacementMode::Pin, Some(pin)) if !known(pin) => {
            return Err(invalid("placement.pin_pool_id", "there is no such pool"));
        }
        (PlacementMode::Prefer | PlacementMode::Auto, Some(_)) => {
            return Err(invalid("placement.pin_pool_id", "only the mode `pin` takes it"));
        }
        _ => {}
    }
    if wish.mode == PlacementMode::Prefer && wish.prefer_pools.is_empty() {
        return Err(invalid("placement.prefer_pools", "the mode `prefer` needs at least one pool"));
    }
    for (param, pools) in [("prefer_pools", &wish.prefer_pools), ("avoid_pools", &wish.avoid_pools)] {
        if let Some(at) = pools.iter().position(|pool| !known(pool)) {
            return Err(invalid(&format!("placement.{param}[{at}]"), "there is no such pool"));
        }
    }
    let names_a_device = |device: &str| {
        let ordinal = device.strip_prefix("cuda:").map(|ordinal| ordinal.parse::<u16>().is_ok());
        matches!(device, "cpu" | "none") || ordinal == Some(true)
    };
    match &wish.require_device_mask {
        Some(mask) if !devices(mask).all(names_a_device) => Err(invalid(
            "placement.require_device_mask",
            "devices with commas between them, such as `cpu` or `cuda:0,cuda:1`",
        )),
        _ => Ok(()),
    }
}

/// Whether something on this device is on one of the mask; without a mask it is.
pub fn is_on(device: Option<&str>, mask: Option<&str>) -> bool {
    mask.is_none_or(|mask| devices(mask).any(|wanted| device == Some(wanted)))
}

/// The devices of a mask.
pub fn devices(mask: &str) -> impl Iterator<Item = &str> {
    mask.split(',').map(str::trim)
}

fn invalid(param: &str, message: &str) -> NoPlace {
    NoPlace::Invalid { param: param.to_owned(), message: message.to_owned() }
}

fn unready(candidate: &Candidate) -> NoPlace {
    NoPlace::Unready { pool: candidate.id.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(id: &str, device: &str, open: bool) -> Candidate {
        let (engine, devices) = (EngineName::Scripted, vec![device.into()]);
        Candidate { id: id.into(), engine, devices, workloads: Some(vec![Workload::Completion]), open }
    }

    fn pools() -> [Candidate; 4] {
        [pool("a", "cpu", true), pool("b", "cuda:0", true), pool("c", "cuda:1", false), pool("d", "cpu", true)]
    }

    fn ranked(wish: Placement) -> Result<Vec<Vec<usize>>, String> {
        let known = |id: &str| ["a", "b", "c", "d", "elsewhere"].contains(&id);
        rank(&wish, (Workload::Completion, None), &pools(), known).map_err(|error| match error {
            NoPlace::Invalid { param, message } => format!("{param}: {message}"),
            NoPlace::Unserved(workload) => format!("unserved: {}", workload.as_str()),
            NoPlace::Unready { pool } => format!("unready: {pool}"),
            NoPlace::Unavailable(_) => "unavailable".to_owned(),
        })
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn pin(id: &str) -> Placement {
        Placement { mode: PlacementMode::Pin, pin_pool_id: Some(id.into()), ..Placement::default() }
    }

    #[test]
    fn without_a_wish_every_open_pool_is_as_good_as_any_other() {
        assert_eq!(ranked(Placement::default()), Ok(vec![vec![0, 1, 3]]));
    }

    #[test]
    fn a_pin_is_that_pool_or_nothing() {
        assert_eq!(ranked(pin("b")), Ok(vec![vec![1]]));
        assert_eq!(ranked(pin("c")), Err("unready: c".into()));
        assert_eq!(ranked(pin("x")), Err("placement.pin_pool_id: there is no such pool".into()));
        assert_eq!(ranked(pin("elsewhere")), Err("placement.pin_pool_id: this pool does not serve the task".into()));
        let nowhere = Placement { pin_pool_id: None, ..pin("a") };
        assert_eq!(ranked(nowhere), Err("placement.pin_pool_id: the mode `pin` needs a pool".into()));
        let beside = Placement { mode: PlacementMode::Auto, ..pin("a") };
        assert_eq!(ranked(beside), Err("placement.pin_pool_id: only the mode `pin` takes it".into()));
    }

    #[test]
    fn preferred_pools_come_first_in_their_order_and_avoided_ones_last() {
        let wish = Placement {
            prefer_pools: names(&["d", "c", "d", "b"]),
            avoid_pools: names(&["a"]),
            ..Placement::default()
        };
        assert_eq!(ranked(wish.clone()), Ok(vec![vec![3], vec![1], vec![0]]));
        let strict = Placement { allow_fallback: Some(false), ..wish };
        assert_eq!(ranked(strict), Ok(vec![vec![3], vec![1]]));
    }

    #[test]
    fn without_fallback_a_wish_that_cannot_be_met_is_refused() {
        let prefer = |pool: &str| Placement {
            mode: PlacementMode::Prefer,
            prefer_pools: names(&[pool]),
            allow_fallback: Some(false),
            ..Placement::default()
        };
        assert_eq!(ranked(prefer("c")), Err("unready: c".into()));
        assert_eq!(ranked(prefer("elsewhere")), Err("unavailable".into()));
        assert_eq!(ranked(prefer("x")), Err("placement.prefer_pools[0]: there is no such pool".into()));
        let all = names(&["a", "b", "c", "d"]);
        let avoid = Placement { avoid_pools: all, allow_fallback: Some(false), ..Placement::default() };
        assert_eq!(ranked(avoid.clone()), Err("unavailable".into()));
        assert_eq!(ranked(Placement { allow_fallback: None, ..avoid }), Ok(vec![vec![0, 1, 3]]));
        let none = Placement { mode: PlacementMode::Prefer, ..Placement::default() };
        assert_eq!(ranked(none), Err("placement.prefer_pools: the mode `prefer` needs at least one pool".into()));
    }

    #[test]
    fn a_device_mask_leaves_the_pools_on_its_devices() {
        let mask = |mask: &str| Placement { require_device_mask: Some(mask.into()), ..Placement::default() };
        assert_eq!(ranked(mask("cpu")), Ok(vec![vec![0, 3]]));
        assert_eq!(ranked(mask("cuda:0, cuda:1")), Ok(vec![vec![1]]));
        assert_eq!(ranked(mask("cuda:1")), Err("unready: c".into()));
        assert_eq!(ranked(mask("cuda:7")), Err("unavailable".into()));
        for nonsense in ["", "gpu", "cuda:", "cuda:x", "cpu,"] {
            assert!(ranked(mask(nonsense)).is_err_and(|error| error.starts_with("placement.require_device_mask")));
        }
        let pinned = Placement { require_device_mask: Some("cuda:0".into()), ..pin("a") };
        assert!(ranked(pinned).is_err());
    }

    #[test]
    fn an_engine_that_is_asked_for_is_the_one_that_runs_it() {
        let none = rank(&Placement::default(), (Workload::Completion, Some(EngineName::Mistralrs)), &pools(), |_| true);
        assert!(matches!(none, Err(NoPlace::Invalid { param, .. }) if param == "engine"));
        assert!(
            rank(&Placement::default(), (Workload::Completion, Some(EngineName::Scripted)), &pools(), |_| true).is_ok()
        );
    }

    #[test]
    fn a_workload_goes_to_the_pools_that_serve_it_and_to_those_that_have_not_said() {
        let mut pools = pools();
        pools[1].workloads = Some(vec![Workload::Embedding]);
        pools[2].workloads = None;
        let rank = |wish: &Placement, workload| super::rank(wish, (workload, None), &pools, |_| true);
        assert_eq!(rank(&Placement::default(), Workload::Embedding), Ok(vec![vec![1]]));
        assert_eq!(rank(&Placement::default(), Workload::Completion), Ok(vec![vec![0, 3]]));
        // The one that has not said may, once it is there.
        assert_eq!(rank(&Placement::default(), Workload::Rerank), Err(NoPlace::Unready { pool: "c".into() }));
        let none = super::rank(&pin("a"), (Workload::Rerank, None), &pools[..2], |_| true);
        assert_eq!(none, Err(NoPlace::Unserved(Workload::Rerank)));
        let pinned = rank(&pin("a"), Workload::Embedding).unwrap_err();
        assert_eq!(pinned.to_string(), "this pool does not serve the workload `embedding`");
    }
}
