//! Checks with the mock that a flow has passed; the result of the driver alone is not enough.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::inputs;
use super::mock::Mock;

/// `requests` are those of this flow.
pub(super) fn confirm(
    flow: &str,
    access_token: Option<&str>,
    requests: &[Value],
    mock: &Mock,
) -> Result<()> {
    let last = requests.last().context("there was no request")?;
    let token = || access_token.context("the driver names no access token");
    let inputs = inputs();
    match flow {
        "device_refusal" => {
            let error = error_of(last);
            ensure!(error == "access_denied", "the last poll ended with {error}");
        }
        "api_call" => {
            ensure!(
                status_of(last) == 200,
                "the call ended with {}",
                last["outcome"]
            );
            was_sent(last, &granted(mock, token()?)?, mock)?;
        }
        "api_expired" => {
            ensure!(
                status_of(last) == 401 && error_of(last) == "700012006",
                "the call ended with {}",
                last["outcome"]
            );
            let still = mock.inspect(token()?)?;
            ensure!(still.is_null(), "the token is still valid");
        }
        "create_conversation" => was_answered(requests, "/v1/conversation/create")?,
        "create_chat" | "stream_chat" => was_answered(requests, "/v3/chat")?,
        "list_messages" => was_answered(requests, "/v1/conversation/message/list")?,
        "web_refresh" | "pkce_refresh" | "device_refresh" => {
            let granted = granted(mock, token()?)?;
            let client_type = flow.trim_end_matches("_refresh");
            is_for(&granted, client_type, mock)?;
            was_refreshed(&mock.sign_in(&granted["sign_in"])?)?;
        }
        "web" | "pkce" => is_for(&granted(mock, token()?)?, flow, mock)?,
        "device" => {
            is_for(&granted(mock, token()?)?, flow, mock)?;
            ensure!(
                requests
                    .iter()
                    .any(|request| error_of(request) == "authorization_pending"),
                "no poll was answered with authorization_pending"
            );
        }
        _ => {
            let granted = granted(mock, token()?)?;
            is_for(&granted, "jwt", mock)?;
            holds_exactly(&granted, &wanted_of_jwt(flow, &inputs))?;
        }
    }
    Ok(())
}

/// The required properties of a token of the JWT flow, besides the app.
fn wanted_of_jwt(flow: &str, inputs: &Value) -> Value {
    let mut wanted = json!({
        "session_name": null, "session_context": null, "account_id": null, "enterprise_id": null, "scope": null,
    });
    match flow {
        "jwt_scope" => {
            wanted["scope"] = json!({
                "account_permission": {"permission_list": ["Connector.botChat"]},
                "attribute_constraint": {"connector_bot_chat_attribute": {"bot_id_list": inputs["bot_ids"]}},
            });
        }
        "jwt_session" => wanted["session_name"] = inputs["session_name"].clone(),
        "jwt_account" => wanted["account_id"] = inputs["account_id"].clone(),
        "jwt_enterprise" => wanted["enterprise_id"] = inputs["enterprise_id"].clone(),
        _ => {}
    }
    wanted
}

fn holds_exactly(granted: &Value, wanted: &Value) -> Result<()> {
    for (name, value) in wanted.as_object().into_iter().flatten() {
        let found = &granted[name];
        ensure!(found == value, "the token's {name} is {found}, not {value}");
    }
    Ok(())
}

fn granted(mock: &Mock, access_token: &str) -> Result<Value> {
    let granted = mock.inspect(access_token)?;
    ensure!(
        granted.is_object(),
        "the mock has not issued this access token, or it is no longer valid"
    );
    Ok(granted)
}

/// The token was issued by the right grant to the right app.
fn is_for(granted: &Value, client_type: &str, mock: &Mock) -> Result<()> {
    let grant = match client_type {
        "web" | "pkce" => "authorization_code",
        other => other,
    };
    let client_id = mock.client_id(client_type)?;
    ensure!(
        granted["flow"] == grant,
        "the token was issued by {}",
        granted["flow"]
    );
    ensure!(
        granted["client_id"] == client_id,
        "the token belongs to {}",
        granted["client_id"]
    );
    Ok(())
}

/// The first refresh token was redeemed, sent again and refused; its successor is valid.
fn was_refreshed(sign_in: &Value) -> Result<()> {
    let generations = sign_in["generations"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let [old, new] = generations else {
        anyhow::bail!(
            "there are {} refresh tokens instead of two",
            generations.len()
        );
    };
    ensure!(
        !old["redeemed_at_unix_ms"].is_null(),
        "the old refresh token was not redeemed"
    );
    let reused = old["reused_at_unix_ms"].as_array().map_or(0, Vec::len);
    ensure!(
        reused == 1,
        "the old refresh token was sent {reused} more times, instead of once"
    );
    ensure!(
        new["redeemed_at_unix_ms"].is_null(),
        "the new refresh token is no longer valid"
    );
    Ok(())
}

/// The request carried an access token of this sign-in.
fn was_sent(request: &Value, granted: &Value, mock: &Mock) -> Result<()> {
    let sign_in = mock.sign_in(&granted["sign_in"])?;
    let newest = &sign_in["generations"]
        .as_array()
        .and_then(|generations| generations.last())
        .context("the sign-in has no tokens")?["access_token"];
    let fingerprint = newest.as_str().context("the ledger has no fingerprint")?;
    let sent = header_of(request, "authorization").unwrap_or_default();
    ensure!(sent.contains(fingerprint), "the call sent another token");
    Ok(())
}

/// There was a request for this path, and each was answered without an error.
fn was_answered(requests: &[Value], path: &str) -> Result<()> {
    let mut requests = requests.iter().filter(|request| request["path"] == path);
    ensure!(
        requests.clone().count() > 0,
        "there was no request for {path}"
    );
    match requests.find(|request| status_of(request) != 200 || !error_of(request).is_empty()) {
        Some(refused) => anyhow::bail!("{path} ended with {}", refused["outcome"]),
        None => Ok(()),
    }
}

pub(super) fn status_of(request: &Value) -> u64 {
    request["outcome"]["answered"]["status"]
        .as_u64()
        .unwrap_or_default()
}

pub(super) fn error_of(request: &Value) -> &str {
    request["outcome"]["answered"]["error"]
        .as_str()
        .unwrap_or_default()
}

pub(super) fn header_of<'r>(request: &'r Value, name: &str) -> Option<&'r str> {
    request["headers"]
        .as_array()?
        .iter()
        .find(|header| header[0] == name)?[1]
        .as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(reused: &[u64], redeemed: Option<u64>) -> Value {
        json!({"generations": [
            {"redeemed_at_unix_ms": redeemed, "reused_at_unix_ms": reused},
            {"redeemed_at_unix_ms": null, "reused_at_unix_ms": []},
        ]})
    }

    #[test]
    fn a_refresh_passes_only_if_the_old_token_is_invalid() {
        assert!(was_refreshed(&sign_in(&[2], Some(1))).is_ok());

        for (broken, word) in [
            (sign_in(&[], Some(1)), "0 more times"),
            (sign_in(&[2], None), "not redeemed"),
            (json!({"generations": []}), "0 refresh tokens"),
        ] {
            let error = was_refreshed(&broken).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_token_with_more_than_the_requested_properties_does_not_pass() {
        let inputs = inputs();
        let mut granted = wanted_of_jwt("jwt_session", &inputs);
        assert!(holds_exactly(&granted, &wanted_of_jwt("jwt_session", &inputs)).is_ok());

        granted["session_name"] = Value::Null;
        let error = holds_exactly(&granted, &wanted_of_jwt("jwt_session", &inputs)).unwrap_err();
        assert!(error.to_string().contains("session_name"), "{error}");

        granted["account_id"] = "9001".into();
        assert!(holds_exactly(&granted, &wanted_of_jwt("jwt", &inputs)).is_err());
    }
}
