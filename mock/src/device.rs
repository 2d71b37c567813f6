//! The device flow: starts an authorization, and answers polls (RFC 8628, with JSON instead of a form).

use crate::answer::{Answer, OAuthErrorCode, Refusal};
use crate::app::ClientType;
use crate::context::{RequestContext, allowed, client_of_type, text};
use crate::issue::issue_pair;
use crate::secret::{random_token, random_user_code};
use crate::state::{DeviceAuthorization, Grant, NewTokenFamily, Poll};
use http::StatusCode;
use serde_json::{Value, json};

pub(crate) fn answer(context: &mut RequestContext<'_>) -> Answer {
    start(context)
        .unwrap_or_else(|refusal| context.refused(refusal))
        .uncached()
}

fn start(context: &mut RequestContext<'_>) -> Result<Answer, Refusal> {
    let body = context.checked_body()?;
    let client = client_of_type(context, &body, &[ClientType::Device])?;
    context.authenticate(client)?;
    client.check_active()?;
    let workspace_id = allowed(context.path_id(), &client.app.workspaces, "workspace_id")?;

    let options = &context.core.options;
    let device_code = random_token("")?;
    // There are 20^8 user codes: a collision is rare, and five in a row mean a different problem.
    for _ in 0..5 {
        let device = DeviceAuthorization {
            client_id: client.app.client_id.clone(),
            workspace_id: workspace_id.clone(),
            user_code: random_user_code()?,
            expires_at: context.now.saturating_add(options.device_code_lifetime),
            interval: options.device_interval,
        };
        let user_code = device.user_code.clone();
        if context
            .core
            .state()
            .devices
            .insert(&device_code, device, context.now)
        {
            let body = json!({
                "device_code": device_code,
                "user_code": user_code,
                "verification_uri": format!("{}/_mock/device", context.core.base_url(context.incoming)),
                "expires_in": options.device_code_lifetime.as_secs(),
                "interval": options.device_interval.as_secs(),
            });
            return Ok(Answer::json(StatusCode::OK, &body));
        }
    }
    Err(Refusal::of(OAuthErrorCode::InternalError))
}

/// One poll with a device code (RFC 8628 sections 3.4 and 3.5). [`Devices::poll`](crate::state::Devices::poll) decides when to answer
/// `slow_down`.
pub(crate) fn poll(context: &mut RequestContext<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(context, body, &[ClientType::Device])?;
    context.authenticate(client)?;
    client.check_active()?;
    let poll = context.core.state().devices.poll(
        text(body, "device_code"),
        &client.app.client_id,
        context.now,
    );
    let device = match poll {
        Poll::Pending => return Err(Refusal::of(OAuthErrorCode::AuthorizationPending)),
        Poll::SlowDown => return Err(Refusal::of(OAuthErrorCode::SlowDown)),
        Poll::Denied => return Err(Refusal::of(OAuthErrorCode::AccessDenied)),
        Poll::Expired => return Err(Refusal::of(OAuthErrorCode::ExpiredToken)),
        Poll::Unknown => return Err(Refusal::invalid_grant("the device code is unknown")),
        Poll::AlreadyRedeemed => {
            return Err(Refusal::invalid_grant(
                "the device code was already redeemed",
            ));
        }
        Poll::Approved(device) => device,
    };
    let sign_in = NewTokenFamily {
        client_id: device.client_id,
        flow: Grant::Device,
        workspace_id: device.workspace_id,
    };
    let sign_in = context.core.state().tokens.open_sign_in(sign_in);
    issue_pair(context, sign_in)
}
