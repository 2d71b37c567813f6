//! The authorize endpoint without its HTML: which requests are valid, and where the browser is redirected after the decision.

use crate::app::ClientType;
use crate::context::allowed;
use crate::contract::Findings;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::secret::{NoRandomness, random_token};
use crate::state::{AuthorizationCode, AuthorizeRequest, Challenge};

/// The user's decision on the consent page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Decision {
    /// Grants access.
    Approve,
    /// Denies access.
    Deny,
}

/// Checks an authorization request. An error is shown on a page and never sent by a redirect: RFC 6749 section 4.1.2.1 requires
/// that when the redirect URI is invalid, and Coze documents no error codes for the other cases.
pub(crate) fn check(
    core: &Core,
    endpoint: Endpoint,
    path_ids: &[(String, String)],
    query: &[(String, String)],
    findings: &mut Findings,
) -> Result<AuthorizeRequest, String> {
    core.contract
        .check_parameters(endpoint, path_ids, query, findings)
        .map_err(|refusal| refusal.message)?;
    let parameter = |name: &str| {
        query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    let client_id = parameter("client_id").unwrap_or_default();
    let redirect_uri = parameter("redirect_uri").unwrap_or_default();
    let state = parameter("state").filter(|state| !state.is_empty());
    let client = core
        .apps
        .get(client_id)
        .ok_or("no app has this client id")?;
    if !matches!(client.app.client_type, ClientType::Web | ClientType::Pkce) {
        return Err("invalid app type".into());
    }
    if !client.app.allows_redirect_to(redirect_uri) {
        return Err("the redirect URI is not registered".into());
    }
    client.check_active().map_err(|refusal| refusal.message)?;
    let path_id = path_ids.first().map(|(_, id)| id.as_str());
    let workspace_id = allowed(path_id, &client.app.workspaces, "workspace_id")
        .map_err(|refusal| refusal.message)?;
    Ok(AuthorizeRequest {
        client_id: client_id.to_owned(),
        app_name: client.app.name.clone(),
        redirect_uri: redirect_uri.to_owned(),
        state: state.map(str::to_owned),
        challenge: challenge(client.app.client_type, &parameter, findings)?,
        workspace_id,
    })
}

fn challenge<'q>(
    client_type: ClientType,
    parameter: &impl Fn(&str) -> Option<&'q str>,
    findings: &mut Findings,
) -> Result<Option<Challenge>, String> {
    let method = parameter("code_challenge_method").filter(|method| !method.is_empty());
    let Some(challenge) = parameter("code_challenge").filter(|challenge| !challenge.is_empty())
    else {
        if client_type == ClientType::Pkce {
            findings.violation(
                "query/code_challenge",
                "required of a client without a secret",
            );
            return Err("invalid request: code_challenge".into());
        }
        if method.is_some() {
            findings.violation(
                "query/code_challenge_method",
                "only together with code_challenge",
            );
            return Err("invalid request: code_challenge_method".into());
        }
        return Ok(None);
    };
    if method == Some("S256") {
        if challenge.len() != 43 {
            findings.violation("query/code_challenge", "43 characters with S256");
            return Err("invalid request: code_challenge".into());
        }
        return Ok(Some(Challenge::S256(challenge.to_owned())));
    }
    findings.note(
        "query/code_challenge_method",
        "S256 is recommended (RFC 7636 section 4.2)",
    );
    Ok(Some(Challenge::Plain(challenge.to_owned())))
}

/// The URL to which the browser is redirected after the user's decision.
pub(crate) fn decide(
    core: &Core,
    request: &AuthorizeRequest,
    approve: bool,
) -> Result<String, NoRandomness> {
    let back = |name, value: &str| {
        let state = request.state.iter().map(|state| ("state", state.as_str()));
        callback(
            &request.redirect_uri,
            [(name, value)].into_iter().chain(state),
        )
    };
    if !approve {
        return Ok(back("error", "access_denied"));
    }
    let code = random_token("")?;
    let now = core.now();
    let granted = AuthorizationCode {
        client_id: request.client_id.clone(),
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.challenge.clone(),
        workspace_id: request.workspace_id.clone(),
        expires_at: now.saturating_add(core.options.code_lifetime),
    };
    core.state().codes.insert(&code, granted, now);
    Ok(back("code", &code))
}

/// The redirect URI with parameters appended to its query, before its fragment. The rest is unchanged.
fn callback<'p>(redirect_uri: &str, pairs: impl Iterator<Item = (&'p str, &'p str)>) -> String {
    let (before, fragment) = match redirect_uri.split_once('#') {
        Some((before, fragment)) => (before, Some(fragment)),
        None => (redirect_uri, None),
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    let separator = match before.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let mut out = format!("{before}{separator}{}", query.finish());
    if let Some(fragment) = fragment {
        out.push('#');
        out.push_str(fragment);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callback_keeps_the_query_and_the_fragment_of_the_redirect_uri() {
        for (redirect_uri, expected) in [
            ("https://e.com/cb", "https://e.com/cb?state=s%26%0A"),
            ("https://e.com/cb?", "https://e.com/cb?state=s%26%0A"),
            (
                "https://e.com/cb?x=1#frag",
                "https://e.com/cb?x=1&state=s%26%0A#frag",
            ),
        ] {
            let state = std::iter::once(("state", "s&\n"));
            assert_eq!(callback(redirect_uri, state), expected);
        }
    }
}
