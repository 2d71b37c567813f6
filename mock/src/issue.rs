//! Issues the tokens of a signed-in user.

use crate::answer::{Answer, Refusal};
use crate::context::RequestContext;
use crate::secret::random_token;
use crate::state::Pair;
use http::StatusCode;
use serde_json::json;

/// An access token and a refresh token for a signed-in user. `expires_in` is a point in time, not a duration.
pub(crate) fn issue_pair(context: &RequestContext<'_>, sign_in: u64) -> Result<Answer, Refusal> {
    let options = &context.core.options;
    let access_token = random_token("czu_")?;
    let refresh_token = random_token("")?;
    let lifetime = context
        .applied
        .token_lifetime
        .unwrap_or(options.access_token_lifetime);
    let access_expires_at = context.now.as_secs().saturating_add(lifetime.as_secs());
    let pair = Pair {
        access_token: &access_token,
        access_expires_at,
        refresh_token: &refresh_token,
        refresh_expires_at: context.now.saturating_add(options.refresh_token_lifetime),
    };
    context
        .core
        .state()
        .tokens
        .add_generation(sign_in, &pair, context.now);
    let body = json!({
        "access_token": access_token,
        "expires_in": access_expires_at,
        "refresh_token": refresh_token,
        "token_type": "Bearer",
    });
    Ok(Answer::json(StatusCode::OK, &body))
}
