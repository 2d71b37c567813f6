//! Lists as streams of pages or items: by page number, by token, or by the id of the last item.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use coze_auth::ErrorKind;
use coze_wire::{Page, Paged, Position};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use serde::Serialize;

use crate::{Error, Reply, Result, SendExt, decode::Decode};

/// The state of a list that is being read.
struct Listing<O> {
    operation: O,
    next: Step,
    /// A hash of the previous page's items.
    last_page: Option<u64>,
    /// The cursors of the pages so far.
    tokens: HashSet<String>,
    /// The number of items so far. `None` if the list was not read from its first page.
    read: Option<u64>,
}

/// What follows a page.
enum Step {
    Page(Position),
    End,
    Error(Error),
}

pub(crate) fn by_page<O>(operation: O) -> BoxStream<'static, Result<Reply<Page<O::Item>>>>
where
    O: Paged,
    O::Answer: Decode<Reply = Reply<O::Page>>,
{
    let position = operation.position();
    let listing = Listing {
        read: (position.number() == Some(1)).then_some(0),
        next: Step::Page(position),
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
    let position = match std::mem::replace(&mut listing.next, Step::End) {
        Step::Page(position) => position,
        Step::End => return Ok(None),
        Step::Error(error) => return Err(error),
    };
    let request = listing.operation.clone().at(position.clone());
    let page = request.send().await?;
    let page = page.map(|page| listing.operation.page(page));
    let hash = hash_of(&page.items);
    if page.items.is_empty() {
        return Ok(None);
    }
    if hash.is_some() && hash == listing.last_page {
        return match (position, page.has_more) {
            (Position::Token(_), Some(true)) => Err(incomplete::<O>(&page)),
            _ => Ok(None),
        };
    }
    listing.last_page = hash;
    listing.next = listing.after(position, &page);
    Ok(Some((page, listing)))
}

impl<O: Paged> Listing<O> {
    fn after(&mut self, position: Position, page: &Reply<Page<O::Item>>) -> Step {
        if page.has_more == Some(false) {
            return Step::End;
        }
        let next = match position {
            Position::Number(number) => {
                if let Some(read) = &mut self.read {
                    *read += page.items.len() as u64;
                    // A total of 0 on a page with items is ignored.
                    if page.total.is_some_and(|total| total > 0 && *read >= total) {
                        return Step::End;
                    }
                }
                number.checked_add(1).map(Position::Number)
            }
            Position::Token(token) => {
                self.tokens.insert(token);
                let next = page.next.clone().filter(|next| !next.is_empty());
                let next = next.filter(|next| !self.tokens.contains(next));
                next.map(Position::Token)
            }
            _ => None,
        };
        match next {
            Some(next) => Step::Page(next),
            None if page.has_more == Some(true) => Step::Error(incomplete::<O>(page)),
            None => Step::End,
        }
    }
}

/// The error of a list with more pages, but no way to request the next one.
fn incomplete<O: Paged>(page: &Reply<Page<O::Item>>) -> Error {
    let what = "the list has more pages, but the response has no new cursor";
    let error = Error::from(coze_auth::Error::new(ErrorKind::InvalidAnswer, what));
    error.in_operation(O::INFO).with_log_id(page.log_id())
}

/// Two pages with the same items have the same hash.
fn hash_of<T: Serialize>(items: &[T]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(items).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}
