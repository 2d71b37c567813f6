//! Adds a Coze token to any reqwest client with `reqwest-middleware`. It runs against the mock.
//!
//! `cargo run -p coze-api --features middleware --example middleware`

#![allow(clippy::print_stdout, reason = "an example prints")]

use coze_api::TokenMiddleware;
use coze_auth::{Endpoint, FixedToken};
use coze_mock::{MockCoze, defaults};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mock = MockCoze::start().await?;
    let endpoint = Endpoint::custom(mock.url())?;
    let provider = FixedToken::new(defaults::PERSONAL_ACCESS_TOKEN)?;

    let http = coze_wire::http_client(endpoint.api_base())?;
    let client = reqwest_middleware::ClientBuilder::new(http)
        .with(TokenMiddleware::new(provider, &endpoint))
        .build();
    let response = client
        .get(format!("{}/v1/users/me", mock.url()))
        .send()
        .await?;
    println!("{}", response.error_for_status()?.text().await?);
    Ok(())
}
