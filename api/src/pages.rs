//! Lists as streams of pages or items: by page number, by token, or by the id of the last item.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use coze_wire::{Page, Paged, Position};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use serde::Serialize;

use crate::{Reply, Result, SendExt, decode::Decode};

/// The state of a list that is being read.
struct Listing<O> {
    operation: O,
    /// `None` after the last page.
    position: Option<Position>,
    /// A hash of the previous page's items.
    last_page: Option<u64>,
    /// The cursors of the pages so far.
    tokens: HashSet<String>,
    /// The number of items so far. `None` if the list was not read from its first page.
    read: Option<u64>,
}

pub(crate) fn by_page<O>(operation: O) -> BoxStream<'static, Result<Reply<Page<O::Item>>>>
where
    O: Paged,
    O::Answer: Decode<Reply = Reply<O::Page>>,
{
    let position = operation.position();
    let listing = Listing {
        read: (position.number() == Some(1)).then_some(0),
        position: Some(position),
        operation,
        last_page: None,
        tokens: HashSet::new(),
    };
    stream::try_unfold(listing, next).boxed()
}

pub(crate) fn by_item<O>(operation: O) -> BoxStream<'static, Result<O::Item>>
where
    O: Paged,
    O::Answer: Decode<Reply = Reply<O::Page>>,
{
    let pages = by_page(operation);
    let items = |page: Reply<Page<O::Item>>| stream::iter(page.into_inner().items).map(Ok);
    pages.map_ok(items).try_flatten().boxed()
}

type Next<O> = Option<(Reply<Page<<O as Paged>::Item>>, Listing<O>)>;

async fn next<O>(mut listing: Listing<O>) -> Result<Next<O>>
where
    O: Paged,
    O::Answer: Decode<Reply = Reply<O::Page>>,
{
    let Some(position) = listing.position.take() else {
        return Ok(None);
    };
    let request = listing.operation.clone().at(position.clone());
    let page = request.send().await?.map(O::page);
    let hash = hash_of(&page.items);
    if page.items.is_empty() || (hash.is_some() && hash == listing.last_page) {
        return Ok(None);
    }
    listing.last_page = hash;
    listing.position = listing.after(position, &page);
    Ok(Some((page, listing)))
}

impl<O> Listing<O> {
    /// The position of the next page, if there is one.
    fn after<T>(&mut self, position: Position, page: &Page<T>) -> Option<Position> {
        if page.has_more == Some(false) {
            return None;
        }
        match position {
            Position::Number(number) => {
                if let Some(read) = &mut self.read {
                    *read += page.items.len() as u64;
                    // A total of 0 on a page with items is ignored.
                    if page.total.is_some_and(|total| total > 0 && *read >= total) {
                        return None;
                    }
                }
                Some(Position::Number(number.checked_add(1)?))
            }
            Position::Token(token) => {
                self.tokens.insert(token);
                let next = page.next.clone().filter(|next| !next.is_empty())?;
                (!self.tokens.contains(&next)).then_some(Position::Token(next))
            }
        }
    }
}

/// Two pages with the same items have the same hash.
fn hash_of<T: Serialize>(items: &[T]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(items).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}
