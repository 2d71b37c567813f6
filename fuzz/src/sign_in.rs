//! A stored sign-in for the checks.

use coze_auth::{Endpoint, RefreshToken, SignIn, store::MemoryStore};

/// A stored sign-in with an expired access token.
pub(crate) async fn stale(refresh_token: &str, client_id: &str) -> SignIn {
    let sign_in = SignIn::new(MemoryStore::new(), "default").expect("a valid profile");
    let refresh_token = RefreshToken::new(refresh_token).expect("a valid refresh token");
    sign_in
        .put_refresh_token(&refresh_token, client_id, &Endpoint::COM)
        .await
        .expect("a memory store");
    sign_in
}

/// The stored refresh token.
pub(crate) async fn stored_refresh_token(sign_in: &SignIn) -> String {
    let stored = sign_in.load().await.expect("a memory store");
    let record = stored.expect("a sign-in is never removed");
    record.refresh_token().expose().to_owned()
}
