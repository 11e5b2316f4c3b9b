//! Looking at tasks, following them, and cancelling them.

use std::sync::Arc;

use serde_json::json;
use sluicegate_compat::native::{AdminTask, AdminTaskList, CanceledBy, ErrorEnvelope, TaskList, TaskState, TaskView};
use uuid::Uuid;

use super::{Gateway, no_such_task, stored};
use crate::audit::Act;
use crate::ids::{KeyId, TaskId, TenantId};
use crate::tasks::{Reader, Task};

/// Tasks that are looked at under one hold of the registry's lock.
const LIST_CHUNK: usize = 256;

/// Which tasks a list has.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub state: Option<TaskState>,
    pub session_id: Option<Uuid>,
    pub pool_id: Option<String>,
    /// Tasks of a page, at least 1.
    pub limit: usize,
    /// Those made before the task with this number.
    pub before: Option<u64>,
}

/// Whose tasks a list of all tenants has.
#[derive(Debug, Clone, Default)]
pub struct Whose {
    pub tenant: Option<String>,
    pub key: Option<String>,
}

impl Whose {
    fn fits(&self, task: &Task) -> bool {
        let key = task.spec.key_id.as_ref().map(KeyId::as_str);
        self.tenant.as_ref().is_none_or(|tenant| task.spec.tenant_id.as_str() == tenant)
            && self.key.as_ref().is_none_or(|wanted| key == Some(wanted))
    }
}

impl TaskFilter {
    fn fits(&self, task: &Task) -> bool {
        self.session_id.is_none_or(|session| task.spec.session_id == Some(session))
            && self.pool_id.as_ref().is_none_or(|pool| task.pool_id().as_str() == pool)
            && self.state.is_none_or(|state| task.state(&task.log.progress()) == state)
    }
}

/// A task that somebody looks at.
pub struct View {
    task: Arc<Task>,
    waiting: Option<(u64, u64)>,
}

impl View {
    /// Of all that it shows.
    pub fn bytes(&self) -> usize {
        self.task.bytes()
    }

    /// As clients see it. Takes as long as it has text or numbers.
    pub fn show(&self) -> TaskView {
        self.task.view(self.waiting)
    }
}

impl Gateway {
    /// A page of tasks, newest first.
    pub fn list(&self, tenant: &TenantId, filter: &TaskFilter) -> TaskList {
        let own = |task: &Task| task.spec.tenant_id == *tenant;
        let (tasks, next_cursor) = self.page(filter, own, |task| task.summary(self.waiting(task)));
        TaskList { tasks, next_cursor }
    }

    /// As [`list`](Self::list), of all tenants.
    pub fn all_tasks(&self, whose: &Whose, filter: &TaskFilter) -> AdminTaskList {
        let shown = |task: &Task| AdminTask {
            tenant_id: task.spec.tenant_id.to_string(),
            key_id: task.spec.key_id.as_ref().map(KeyId::to_string),
            facts: task.facts(self.waiting(task)),
        };
        let (tasks, next_cursor) = self.page(filter, |task| whose.fits(task), shown);
        AdminTaskList { tasks, next_cursor }
    }

    fn page<T>(
        &self,
        filter: &TaskFilter,
        wanted: impl Fn(&Task) -> bool,
        show: impl Fn(&Task) -> T,
    ) -> (Vec<T>, Option<String>) {
        let mut tasks = Vec::new();
        let mut before = filter.before;
        loop {
            let chunk = self.registry.made_before(before, LIST_CHUNK);
            let Some(last) = chunk.last() else { return (tasks, None) };
            before = Some(last.number);
            for task in chunk {
                if !wanted(&task) || !filter.fits(&task) {
                    continue;
                }
                if tasks.len() == filter.limit {
                    // There is at least this one more.
                    return (tasks, Some((task.number + 1).to_string()));
                }
                tasks.push(show(&task));
            }
        }
    }

    /// As [`cancel`](Self::cancel), of any tenant, for an administrator.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub async fn cancel_any(&self, id: Option<TaskId>, act: &Act) -> Result<(), ErrorEnvelope> {
        let task = id.and_then(|id| self.registry.get(id)).ok_or_else(no_such_task)?;
        act.about(&task.spec.id.to_string());
        if task.log.progress().ended.is_none() {
            act.sets(json!({ "tenant_id": task.spec.tenant_id.as_str(), "canceled": true }));
        }
        task.cancel_for(CanceledBy::Admin);
        task.log.ended().await;
        Ok(())
    }

    /// Cancels a task. Idempotent; once this returns, its log takes no more tokens.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub async fn cancel(&self, tenant: &TenantId, id: Option<TaskId>) -> Result<(), ErrorEnvelope> {
        let task = self.task(tenant, id)?;
        task.cancel();
        // Its end may have to become durable first.
        task.log.ended().await;
        Ok(())
    }

    /// A task with a memo.
    ///
    /// # Errors
    ///
    /// NOT_FOUND, also of a task without one.
    pub fn remembered(&self, tenant: &TenantId, id: Option<TaskId>) -> Result<(Arc<Task>, Arc<str>), ErrorEnvelope> {
        let task = self.task(tenant, id)?;
        let memo = task.spec.memo.clone();
        memo.map(|memo| (task, memo)).ok_or_else(no_such_task)
    }

    /// Cancels a task where it has not ended, and forgets it before its retention is over.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where the next process may know it again.
    pub async fn forget(&self, tenant: &TenantId, id: Option<TaskId>) -> Result<(), ErrorEnvelope> {
        self.cancel(tenant, id).await?;
        match id.and_then(|id| self.registry.remove(id)) {
            Some(deleted) => stored("a task", deleted).await,
            None => Ok(()),
        }
    }

    /// A task as clients see it.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn view(&self, tenant: &TenantId, id: Option<TaskId>) -> Result<View, ErrorEnvelope> {
        let task = self.task(tenant, id)?;
        Ok(View { waiting: self.waiting(&task), task })
    }

    /// The position and the predicted start in ms of a task that waits.
    fn waiting(&self, task: &Task) -> Option<(u64, u64)> {
        let place = self.pool_of(task)?.place(task)?;
        Some((place.position, place.prediction.start_ms))
    }

    /// A task with a reader of its events after the one with id `after`.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn follow(
        &self,
        tenant: &TenantId,
        id: Option<TaskId>,
        after: u64,
    ) -> Result<(Arc<Task>, Reader), ErrorEnvelope> {
        let task = self.task(tenant, id)?;
        let reader = task.log.reader(after);
        Ok((task, reader))
    }

    /// Tasks waiting in the pool of `task`.
    pub fn queue_depth(&self, task: &Task) -> usize {
        self.pool_of(task).map_or(0, |pool| pool.queue_depth())
    }
}
