//! Which site knows the app: the commonest mistake is to ask the other one.

use std::env;

use coze_auth::{ConfiguredFlow, Endpoint, ErrorKind, Flow, JwtTokenRequest, OAuthConfig};
use coze_credentials::Source;
use serde_json::Value;

use super::{Check, Report};
use crate::{
    failure::{Failure, Result},
    session::client,
};

/// The variable of the environment that names the API base.
const BASE_VARIABLE: &str = "COZE_API_BASE";

/// Signs a JWT with the key of the configuration.
pub(super) async fn sign(source: &Source, config: &OAuthConfig, report: &mut Report) {
    let signed = async {
        let flow = at(source, config.flow(), config.endpoint())?.build_with(client())?;
        if let ConfiguredFlow::Jwt(jwt) = flow {
            jwt.signed_jwt(&JwtTokenRequest::default()).await?;
        }
        Ok::<_, Failure>(())
    };
    report.add(match signed.await {
        Ok(()) => Check::good("key", "the private key is an RSA key, and has signed a JWT"),
        Err(failure) => Check::failed("key", &failure),
    });
}

/// Asks each site whether it knows the app. That can be asked about JWT and device apps only.
pub(super) async fn ask_sites(
    source: &Source,
    config: &OAuthConfig,
    sites: &[Endpoint],
    report: &mut Report,
) {
    if !matches!(config.flow(), Flow::Jwt | Flow::Device) {
        return;
    }
    let mut asked = vec![config.endpoint()];
    asked.extend(sites.iter().filter(|site| *site != config.endpoint()));
    let mut answers = Vec::new();
    for site in asked {
        answers.push((site, ask(source, config.flow(), site).await));
    }
    let knows = |answer: &Result<(), Failure>| answer.is_ok();
    let knowing = answers
        .iter()
        .find(|(_, answer)| knows(answer))
        .map(|(site, _)| *site);
    for (site, answer) in &answers {
        let base = site.api_base();
        let is_configured = *site == config.endpoint();
        let check = match (answer, knowing) {
            (Ok(()), _) if is_configured => Check::good("app", format!("{base} knows the app")),
            (Ok(()), _) => Check::good(
                "app",
                format!("{base} knows the app, and is not the configured site"),
            ),
            (Err(_), Some(knowing)) if is_configured => Check::bad(
                "app",
                format!(
                    "{base}, the configured site, does not accept the app, and {} does",
                    knowing.api_base()
                ),
                format!(
                    "set the base URL: {} (in COZE_API_BASE, or coze_api_base and coze_www_base)",
                    knowing.api_base()
                ),
            ),
            (Err(failure), None) if is_configured => Check::failed("app", failure),
            // That another site does not know the app is as it should be.
            (Err(failure), _) => {
                Check::good("app", format!("{base} does not: {}", failure.message()))
            }
        };
        report.add(check);
    }
}

async fn ask(source: &Source, flow: Flow, site: &Endpoint) -> Result<()> {
    match at(source, flow, site)?.build_with(client())? {
        ConfiguredFlow::Jwt(jwt) => Ok(jwt.token().await.map(drop)?),
        ConfiguredFlow::Device(device) => Ok(device.start().await.map(drop)?),
        _ => Ok(()),
    }
}

/// The same app at another site.
fn at(source: &Source, flow: Flow, site: &Endpoint) -> Result<OAuthConfig> {
    let Source::File(path) = source else {
        let variable = |name: &str| match name {
            BASE_VARIABLE => Some(site.api_base().into()),
            _ => env::var_os(name),
        };
        return Ok(OAuthConfig::from_variables(variable, Some(flow))?);
    };
    let invalid = |_| {
        let what = format!("{} is not JSON", path.display());
        coze_auth::Error::new(ErrorKind::Configuration, what)
    };
    let mut config: Value = serde_json::from_slice(&std::fs::read(path)?).map_err(invalid)?;
    config["coze_api_base"] = site.api_base().into();
    config["coze_www_base"] = site.www_base().into();
    Ok(config.to_string().parse::<OAuthConfig>()?)
}
