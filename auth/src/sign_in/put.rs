//! Storing a fresh sign-in.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::{
    LONGEST_CHANGE, SignIn, changing,
    record::{Entry, Record, hash},
    store_error,
};
use crate::{RefreshToken, Result, Token, store::StoreError};

impl SignIn {
    /// Stores the token of a fresh sign-in, in place of whatever is there, and ends the backoff of providers that wait for one. What it
    /// replaces is moved into quarantine first.
    ///
    /// If the sign-in is stored already, and has been refreshed since, it stays as it is. A put whose answer was lost, and that finds
    /// that it was replaced or signed out meanwhile, is done.
    ///
    /// # Errors
    ///
    /// - [`InvalidAnswer`](crate::ErrorKind::InvalidAnswer) when the token came without a refresh token.
    /// - Those of the store: the token may be stored or not, as an answer can be lost after the change. It is still in the caller's
    ///   hands: put it again.
    pub async fn put(&self, token: &Token) -> Result<()> {
        Record::fresh(token)?;
        // Anew for each try: its life runs on.
        self.put_record(|| Record::fresh(token)).await
    }

    /// Stores a refresh token that comes without an access token, as [`put`](Self::put) does: one that another SDK has given you,
    /// or one from [`Error::refresh_token`](crate::Error::refresh_token). The first refresh brings the access token. Only the app
    /// that it was granted to can redeem it: name its client id.
    ///
    /// A service that moves from another SDK imports what it has kept of each user, which is `OAuthToken.refresh_token` of
    /// cozepy, or `OAuthToken.getRefreshToken()` of coze-java:
    ///
    /// ```
    /// use coze_auth::{RefreshToken, SignIn, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_auth::Result<()> {
    /// # let kept_by_cozepy = "refresh-token";
    /// let sign_in = SignIn::new(MemoryStore::new(), "user-42")?; // or a store of coze-auth-stores
    /// let refresh_token = RefreshToken::new(kept_by_cozepy)?;
    /// sign_in.put_refresh_token(&refresh_token, "client-id").await?;
    /// assert!(!sign_in.requires_sign_in().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// A refresh token is single-use: from then on, the other SDK must not refresh with it. In a pool,
    /// [`UserProvider::put_refresh_token`](crate::UserProvider) does the same.
    ///
    /// # Errors
    ///
    /// Those of the store, as [`put`](Self::put).
    pub async fn put_refresh_token(
        &self,
        refresh_token: &RefreshToken,
        client_id: &str,
    ) -> Result<()> {
        self.put_record(|| Ok(Record::of_refresh_token(refresh_token, Some(client_id))))
            .await
    }

    async fn put_record(&self, fresh: impl Fn() -> Result<Record>) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let was_sent = AtomicBool::new(false);
        changing(until, || self.try_put(&fresh, &was_sent, until))
            .await
            .map_err(store_error)?;
        self.0.puts.fetch_add(1, Ordering::Release);
        // An unsaved successor of what was replaced is not served any more.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    pub(super) async fn try_put(
        &self,
        fresh: &impl Fn() -> Result<Record>,
        was_sent: &AtomicBool,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let mut fresh =
            fresh().map_err(|error| StoreError::other("there is no refresh token", error))?;
        let now = self.look(until).await?;
        // Named before, it tells nothing when it is named later.
        let mut is_named = false;
        if let Some((entry, stored)) = &now {
            is_named = entry.ids().contains(&&fresh.sign_in);
            match entry {
                Entry::Record(record)
                    if record.sign_in == fresh.sign_in || record.holds(fresh.refresh_token()) =>
                {
                    return Ok(Some(()));
                }
                // It was stored by a try whose answer was lost, and replaced or signed out since.
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
        if self.write(expected, &write, until).await?.is_none() {
            return Ok(None);
        }
        if let Some((Entry::Tombstone(tombstone), _)) = &now {
            // A refresh that was under way at the sign-out may have left its successor there. The sign-in is stored either way.
            let _ = self.sweep(Some(&tombstone.signed_out), until).await;
        }
        Ok(Some(()))
    }
}
