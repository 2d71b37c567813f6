//! The start of a device authorization (RFC 8628 section 3.1, with JSON instead of a form).

use crate::answer::{Answer, ErrorWord, Refusal};
use crate::app::ClientType;
use crate::core::Exchange;
use crate::secret::{random_token, random_user_code};
use crate::state::DeviceAuthorization;
use crate::token::allowed;
use http::StatusCode;
use serde_json::{Value, json};

pub(crate) fn answer(exchange: &mut Exchange<'_>) -> Answer {
    start(exchange)
        .unwrap_or_else(|refusal| exchange.refused(refusal))
        .uncached()
}

fn start(exchange: &mut Exchange<'_>) -> Result<Answer, Refusal> {
    let body = exchange.checked_body()?;
    let client = exchange.client(
        body.get("client_id")
            .and_then(Value::as_str)
            .unwrap_or_default(),
    )?;
    if client.app.client_type != ClientType::Device {
        return Err(Refusal::invalid_app_type());
    }
    exchange.authenticate(client)?;
    client.check_active()?;
    let workspace_id = allowed(exchange.path_id, &client.app.workspaces, "workspace_id")?;

    let options = &exchange.core.options;
    let device_code = random_token("")?;
    // There are 20^8 user codes: a collision is rare, and five in a row mean a different problem.
    for _ in 0..5 {
        let device = DeviceAuthorization {
            client_id: client.app.client_id.clone(),
            workspace_id: workspace_id.clone(),
            user_code: random_user_code()?,
            expires_at: exchange.now.saturating_add(options.device_code_lifetime),
            interval: options.device_interval,
        };
        let user_code = device.user_code.clone();
        if exchange
            .core
            .state()
            .devices
            .insert(&device_code, device, exchange.now)
        {
            let body = json!({
                "device_code": device_code,
                "user_code": user_code,
                "verification_uri": format!("{}/_mock/device", exchange.core.base_url(exchange.incoming)),
                "expires_in": options.device_code_lifetime.as_secs(),
                "interval": options.device_interval.as_secs(),
            });
            return Ok(Answer::json(StatusCode::OK, &body));
        }
    }
    Err(Refusal::of(ErrorWord::InternalError))
}
