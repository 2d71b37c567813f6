//! Storing a fresh sign-in.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::{
    Changed, LONGEST_CHANGE, SignIn, changing,
    record::{Entry, Record, hash},
};
use crate::{
    Endpoint, RefreshToken, Result, Token,
    store::{StoreError, StoreErrorKind},
};

impl SignIn {
    /// Stores the token of a fresh sign-in. A record that it replaces is moved into quarantine first. Providers that were built
    /// with this handle or a clone of it forget the former user's token and end their backoff; those of other handles and
    /// processes serve it until its refresh.
    ///
    /// If the sign-in is stored already, even refreshed, nothing changes. If the store's response was lost, and the
    /// sign-in has been replaced or signed out since, the retry succeeds without writing it again.
    ///
    /// # Errors
    ///
    /// - [`InvalidAnswer`](crate::ErrorKind::InvalidAnswer) when the token has no refresh token.
    /// - Those of the store: the token may be stored or not, because a response can be lost after the change. Call
    ///   `put` again with the same token.
    pub async fn put(&self, token: &Token) -> Result<()> {
        Record::fresh(token)?;
        // Created for each attempt, because the remaining lifetime shrinks.
        self.put_record(|| Record::fresh(token)).await
    }

    /// Stores a refresh token without an access token, as [`put`](Self::put) does: one from another SDK, or from
    /// [`Error::refresh_token`](crate::Error::refresh_token). The first refresh gets the access token. `client_id` is
    /// the app that the refresh token was granted to, and `endpoint` is where: no other app can redeem it, and it is
    /// sent nowhere else.
    ///
    /// A service that moves from another SDK imports the refresh token of each user: `OAuthToken.refresh_token` of
    /// cozepy, or `OAuthToken.getRefreshToken()` of coze-java:
    ///
    /// ```
    /// use coze_auth::{Endpoint, RefreshToken, SignIn, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_auth::Result<()> {
    /// # let kept_by_cozepy = "refresh-token";
    /// let sign_in = SignIn::new(MemoryStore::new(), "user-42")?; // or a store of coze-auth-stores
    /// let refresh_token = RefreshToken::new(kept_by_cozepy)?;
    /// sign_in.put_refresh_token(&refresh_token, "client-id", &Endpoint::COM).await?;
    /// assert!(!sign_in.requires_sign_in().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// A refresh token is single-use: the other SDK must not use it after the import. In a pool,
    /// [`UserProvider::put_refresh_token`](crate::UserProvider) does the same.
    ///
    /// # Errors
    ///
    /// Those of the store, as [`put`](Self::put).
    pub async fn put_refresh_token(
        &self,
        refresh_token: &RefreshToken,
        client_id: &str,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let app = (Some(client_id), Some(endpoint.api_base()));
        self.put_record(|| Ok(Record::of_refresh_token(refresh_token, app)))
            .await
    }

    async fn put_record(&self, fresh: impl Fn() -> Result<Record>) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let was_sent = AtomicBool::new(false);
        let changed = Changed::of(self);
        changing(until, || self.try_put(&fresh, &was_sent, &changed, until)).await?;
        // Another handle may have written it.
        changed.writes();
        self.0.puts.fetch_add(1, Ordering::Release);
        // Move an unsaved successor of the replaced sign-in into quarantine, so that it is not served.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    pub(super) async fn try_put(
        &self,
        fresh: &impl Fn() -> Result<Record>,
        was_sent: &AtomicBool,
        changed: &Changed<'_>,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let mut fresh = fresh().map_err(|error| {
            StoreError::new(StoreErrorKind::Other, "there is no refresh token").with_source(error)
        })?;
        let now = self.look(until).await?;
        // An id that was present before the first write does not show that the write succeeded.
        let mut is_named = false;
        if let Some((entry, stored)) = &now {
            is_named = entry.ids().contains(&&fresh.sign_in);
            match entry {
                Entry::Record(record)
                    if record.sign_in == fresh.sign_in || record.holds(fresh.refresh_token()) =>
                {
                    return Ok(Some(()));
                }
                // An earlier attempt stored it, its response was lost, and it has been replaced or signed out since.
                _ if is_named && was_sent.load(Ordering::Relaxed) => return Ok(Some(())),
                Entry::Record(record) => self.quarantine(record, until).await?,
                Entry::Damaged(_) => {
                    let contents = &stored.contents;
                    let hash = hash(contents.expose());
                    self.quarantine_contents(hash, contents, until).await?;
                }
                Entry::Tombstone(_) => {}
            }
            fresh.replaces(entry.ids());
        }
        let expected = now.as_ref().map(|(_, stored)| &stored.version);
        let write = fresh.write(0)?;
        was_sent.store(!is_named, Ordering::Relaxed);
        changed.writes();
        if self.write(expected, &write, until).await?.is_none() {
            return Ok(None);
        }
        if let Some((Entry::Tombstone(tombstone), _)) = &now {
            // A refresh that was in flight at the sign-out may have left its successor in quarantine. A failure is
            // ignored: the fresh sign-in is stored.
            let _ = self.sweep(Some(&tombstone.signed_out), until).await;
        }
        Ok(Some(()))
    }
}
