//! Session names: one token per end user, so that nobody sees another's conversations.
//!
//! Against Coze: as the example `jwt`.

use coze_auth::{Flow, JwtTokenRequest, SessionContext};
use coze_examples::{Stage, flow, shown};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let jwt = flow!(stage.config, Jwt);

    for user in ["alice", "bob"] {
        let request = JwtTokenRequest::new()
            .session_name(user)
            .session_context(SessionContext::DeviceId(format!("{user}-laptop")));
        let token = jwt.token_for(&request).await?;
        println!("token  {} for {user}", shown(token.access_token()));
        if let Some(mock) = &stage.mock {
            let granted = mock.granted(token.access_token().expose());
            let session = granted.and_then(|granted| granted.session_name);
            println!("       Coze limits it to the conversations of {session:?}");
        }
    }
    Ok(())
}
