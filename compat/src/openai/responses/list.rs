//! `GET /v1/responses/{id}/input_items`.

use serde::Serialize;

use super::item::Item;
use crate::json::invalid;
use crate::native::ErrorEnvelope;

/// Items of a page, where the client does not say.
const PAGE: usize = 20;
const MOST_OF_A_PAGE: usize = 100;

/// Which items are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    pub order: Order,
    /// Those behind the item with this id.
    pub after: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest first.
    Ascending,
    #[default]
    Descending,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: PAGE, order: Order::default(), after: None }
    }
}

impl Page {
    /// Takes one parameter of the URL; whether there is one of this name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS where the value is none of it.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool, ErrorEnvelope> {
        match name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_OF_A_PAGE).contains(limit));
                self.limit = limit.ok_or_else(|| invalid("limit", format!("it is 1 to {MOST_OF_A_PAGE}")))?;
            }
            "order" => {
                self.order = match value {
                    "asc" => Order::Ascending,
                    "desc" => Order::Descending,
                    _ => return Err(invalid("order", "it is 'asc' or 'desc'")),
                };
            }
            "after" => self.after = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A page of items.
#[derive(Debug, Serialize)]
pub struct ItemList<'a> {
    object: &'static str,
    data: Vec<&'a Item>,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

impl<'a> ItemList<'a> {
    /// # Errors
    ///
    /// INVALID_PARAMS where no item has the id that the page begins behind.
    pub fn of(items: &'a [Item], page: &Page) -> Result<Self, ErrorEnvelope> {
        let mut ordered: Vec<&Item> = items.iter().collect();
        if page.order == Order::Descending {
            ordered.reverse();
        }
        let first = match &page.after {
            None => 0,
            Some(after) => {
                let place = ordered.iter().position(|item| item.id() == after);
                place.ok_or_else(|| invalid("after", "no item of this response has that id"))? + 1
            }
        };
        let rest = &ordered[first..];
        let data = rest[..rest.len().min(page.limit)].to_vec();
        let id = |item: Option<&&'a Item>| item.map(|item| item.id());
        Ok(Self {
            object: "list",
            first_id: id(data.first()),
            last_id: id(data.last()),
            has_more: rest.len() > data.len(),
            data,
        })
    }
}
