//! `POST /v1/responses` and what is kept of an answer.
//!
//! [`parse`] reads the body; [`Asked::into_task`] joins it with what was said before and splits it into the task for the
//! gateway and the [`Record`] that every look at the response begins with. The events of the task are then one
//! [`Response`] ([`Answer`]) or typed events ([`EventEncoder`]).

mod body;
mod compose;
mod count;
mod history;
mod item;
mod list;
mod record;
mod request;
mod stream;
#[cfg(test)]
mod tests;

pub use compose::Answer;
pub use count::InputTokens;
pub use list::{ItemList, Page};
pub use record::{Record, Response, response_id};
pub use request::{Asked, Prior, parse};
pub use stream::EventEncoder;

/// What the ids of responses begin with; the id of the task follows.
pub const ID_PREFIX: &str = "resp_";
