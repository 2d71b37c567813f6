//! Which site knows the app: the commonest mistake is to ask the other one.

use coze_auth::{
    ConfiguredFlow, Endpoint, Error, ErrorKind, Flow, JwtTokenRequest, OAuthConfig, Result,
};
use coze_credentials::Source;

use super::{Advice, Check, Report};
use crate::{failure::Failure, session::client};

/// Signs a JWT with the key of the configuration.
pub(super) async fn sign(source: &Source, config: &OAuthConfig, report: &mut Report) {
    let signed = async {
        let flow = read(source, config.flow())?.build_with(client())?;
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

/// What a site says about the app.
enum Answer {
    Known,
    Refused(Error),
    /// The site could not be asked, or did not decide: this says nothing about the app.
    Unanswered(Error),
}

impl From<Result<()>> for Answer {
    fn from(asked: Result<()>) -> Self {
        match asked {
            Ok(()) => Self::Known,
            Err(error) if is_about_the_app(&error) => Self::Refused(error),
            Err(error) => Self::Unanswered(error),
        }
    }
}

/// Whether Coze refused the app: with one of its codes, which a gateway does not have, and not only for the moment.
fn is_about_the_app(error: &Error) -> bool {
    let is_failure_of_server = { error.status() }.is_some_and(|status| status.is_server_error());
    error.kind() == ErrorKind::Refused
        && error.code().is_some()
        && !is_failure_of_server
        && !error.is_retryable()
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
    let configured = config.endpoint();
    let others: Vec<_> = sites.iter().filter(|site| *site != configured).collect();
    let own = Answer::from(ask(source, config.flow(), configured).await);
    let mut answers = Vec::new();
    for site in others {
        answers.push((site, Answer::from(ask(source, config.flow(), site).await)));
    }
    let mut knowing = answers.iter();
    let knowing = knowing.find(|(_, answer)| matches!(answer, Answer::Known));
    report.add(of_configured(
        configured.api_base(),
        &own,
        knowing.map(|(site, _)| site.api_base()),
    ));
    for (site, answer) in &answers {
        report.add(of_other(site.api_base(), answer));
    }
}

/// About the configured site; `knowing` is another site that knows the app.
fn of_configured(base: &str, answer: &Answer, knowing: Option<&str>) -> Check {
    match (answer, knowing) {
        (Answer::Known, _) => Check::good("app", format!("{base} knows the app")),
        (Answer::Refused(_), Some(knowing)) => Check::bad(
            "app",
            format!("{base}, the configured site, does not accept the app, and {knowing} knows it"),
            Advice::new(
                format!(
                    "set the base URL: {knowing} (in COZE_API_BASE, or coze_api_base and coze_www_base)"
                ),
                format!(
                    "请将 API 地址改为 {knowing}（COZE_API_BASE，或配置文件中的 coze_api_base 和 coze_www_base）"
                ),
            ),
        ),
        (Answer::Refused(error), None) => Check::failed("app", &error.clone().into()),
        (Answer::Unanswered(error), Some(knowing)) => Check::unsure(
            "app",
            format!(
                "{base}, the configured site, could not be asked: {error}; {knowing} knows the app"
            ),
            Advice::new(
                format!(
                    "try again; if the app belongs to the other site, set the base URL: {knowing}"
                ),
                format!("请稍后重试；若应用属于另一站点，请将 API 地址改为 {knowing}"),
            ),
        ),
        (Answer::Unanswered(error), None) => Check::unsure(
            "app",
            format!("{base} could not be asked: {error}"),
            Advice::new(
                "check the network and the base URL, then try again",
                "请检查网络和 API 地址，然后重试",
            ),
        ),
    }
}

/// About another site than the configured one, which need not know the app.
fn of_other(base: &str, answer: &Answer) -> Check {
    match answer {
        Answer::Known => Check::good(
            "app",
            format!("{base} knows the app, and is not the configured site"),
        ),
        Answer::Refused(error) => {
            Check::good("app", format!("{base} does not accept the app: {error}"))
        }
        Answer::Unanswered(error) => Check::unsure(
            "app",
            format!("{base} could not be asked: {error}"),
            Advice::new(
                "this matters only if your app belongs to this site",
                "仅当应用属于该站点时才需要处理",
            ),
        ),
    }
}

async fn ask(source: &Source, flow: Flow, site: &Endpoint) -> Result<()> {
    let config = read(source, flow)?.with_endpoint(site.clone());
    match config.build_with(client())? {
        ConfiguredFlow::Jwt(jwt) => jwt.token().await.map(drop),
        ConfiguredFlow::Device(device) => device.start().await.map(drop),
        _ => Ok(()),
    }
}

/// Reads the configuration again: a private key can't be cloned.
fn read(source: &Source, flow: Flow) -> Result<OAuthConfig> {
    match source {
        Source::File(path) => OAuthConfig::from_file(path),
        _ => OAuthConfig::from_env_for(flow),
    }
}
