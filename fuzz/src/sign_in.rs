//! All that the checks ask of a store.

use coze_auth::{RefreshToken, SignIn, store::MemoryStore};

/// A stored sign-in whose access token has ended.
pub(crate) async fn stale(refresh_token: &str, client_id: &str) -> SignIn {
    let sign_in = SignIn::new(MemoryStore::new(), "default").expect("a valid profile");
    let refresh_token = RefreshToken::new(refresh_token).expect("a valid refresh token");
    sign_in
        .put_refresh_token(&refresh_token, client_id)
        .await
        .expect("memory is not full");
    sign_in
}

/// The refresh token that is stored.
pub(crate) async fn stored_refresh_token(sign_in: &SignIn) -> String {
    let stored = sign_in.load().await.expect("memory can be read");
    let record = stored.expect("a sign-in is never removed");
    record.refresh_token().expose().to_owned()
}
