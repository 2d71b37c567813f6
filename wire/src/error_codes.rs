//! Error codes of the API that clients act on, and which of them refuse the access token itself.

/// The API's code for "authentication invalid".
pub const AUTHENTICATION_INVALID: i64 = 4100;
/// The API's code for "no permission for this resource". The API also returns it for an incorrect token.
pub const NO_PERMISSION: i64 = 4101;
/// The API's code for "access token invalid": expired or revoked.
pub const ACCESS_TOKEN_INVALID: i64 = 700_012_006;

/// The API's code for "too many requests".
pub const RATE_LIMIT: i64 = 4013;

/// Whether an API error refuses the access token, so that a retry with a new token may succeed. Code 4101 usually means a
/// missing permission; it is about the token only if its message says so (`POST /v3/chat` returns such a message, with
/// HTTP 200).
///
/// Source: <https://www.coze.cn/open/docs/developer_guides/troubleshooting_4100_4101>.
///
/// ```
/// use coze_wire::refuses_token;
///
/// assert!(refuses_token(4100, "authentication is invalid"));
/// assert!(!refuses_token(4101, "you do not have permission to this bot"));
/// assert!(refuses_token(4101, "The token you entered is incorrect."));
/// ```
#[must_use]
pub fn refuses_token(code: i64, message: &str) -> bool {
    match code {
        AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID => true,
        NO_PERMISSION => message.to_lowercase().contains("token"),
        _ => false,
    }
}
