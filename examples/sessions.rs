//! Session names: one token per end user, so that no user sees another's conversations. A pool keeps each
//! user's token fresh.
//!
//! Against Coze: as for the example `jwt`.

use coze_auth::{Flow, JwtTokenRequest, SessionContext, SessionPool};
use coze_examples::{Stage, flow, shown};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let pool = SessionPool::builder(flow!(stage.config, Jwt)).build();

    for user in ["alice", "bob", "alice"] {
        let request = JwtTokenRequest::new()
            .session_name(user)
            .session_context(SessionContext::new().device_id(format!("{user}-laptop")));
        let token = pool.provider(request).token().await?;
        println!("token  {} for {user}", shown(token.expose()));
        if let Some(mock) = &stage.mock {
            let granted = mock.granted(token.expose());
            let session = granted.and_then(|granted| granted.session_name);
            println!("       Coze limits it to the conversations of {session:?}");
        }
    }
    println!("stats  {:?}", pool.stats());
    Ok(())
}
