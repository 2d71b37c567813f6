//! Probes of the network: the proxy, DNS, TLS, the server's clock.

use std::{
    env,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::{Endpoint, Url};
use coze_wire::{http_client, is_loopback, reqwest, sanitize};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{Check, Report};

/// How long each probe may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A clock that differs by more spoils JWTs, or the lifetimes of tokens.
const TOLERATED_SKEW: Duration = Duration::from_secs(5);
/// The variables that lead to an `https` endpoint, as the HTTP client reads them.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Probes the way to the endpoint that tokens come from.
pub(super) async fn probe(endpoint: &Endpoint, report: &mut Report) {
    let Ok(base) = Url::parse(endpoint.api_base()) else {
        return;
    };
    let goes_through_proxy = proxy(&base, report).await;
    dns(&base, goes_through_proxy, report).await;
    reach("connection", endpoint, report).await;
}

/// Probes the proxy of the environment. Returns whether requests go through it.
async fn proxy(base: &Url, report: &mut Report) -> bool {
    let set = |name: &&str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut variables = PROXY_VARIABLES.iter();
    let found = variables.find_map(|name| Some((*name, set(name)?)));
    let Some((name, value)) = found else {
        report.add(Check::good("proxy", "the environment names none"));
        return false;
    };
    if is_loopback(base) || base.scheme() == "http" {
        let host = base.host_str().unwrap_or_default();
        let found = format!("{name} is set; requests to {host} do not go through it");
        report.add(Check::good("proxy", found));
        return false;
    }
    let advice = format!("correct {name}, or unset it");
    let with_scheme = match value.contains("://") {
        true => value,
        false => format!("http://{value}"),
    };
    let Ok(url) = Url::parse(&with_scheme) else {
        report.add(Check::bad("proxy", format!("{name} is not a URL"), advice));
        return true;
    };
    // Without the user name and the password.
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(1080);
    let shown = format!("{name} names {}://{host}:{port}", url.scheme());
    let connected = timeout(
        TIMEOUT,
        TcpStream::connect((host.trim_matches(['[', ']']), port)),
    )
    .await;
    report.add(match connected {
        Ok(Ok(_)) => Check::good("proxy", format!("{shown}, which accepts connections")),
        Ok(Err(error)) => Check::unreachable("proxy", format!("{shown}: {error}"), advice),
        Err(_) => Check::unreachable(
            "proxy",
            format!("{shown}: no connection within 10 s"),
            advice,
        ),
    });
    true
}

async fn dns(base: &Url, goes_through_proxy: bool, report: &mut Report) {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = base.port_or_known_default().unwrap_or(443);
    let looked_up = timeout(TIMEOUT, lookup_host((host, port))).await;
    let failed = match looked_up {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.map(|address| address.ip().to_string()).collect();
            let found = format!("{host} is {}", addresses.join(", "));
            return report.add(Check::good("DNS", found));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within 10 s".to_owned(),
    };
    let found = format!("{host}: {failed}");
    report.add(match goes_through_proxy {
        true => Check::unsure(
            "DNS",
            found,
            "the proxy may know the name: see the connection below",
        ),
        false => Check::unreachable(
            "DNS",
            found,
            "check the base URL, and this machine's DNS server",
        ),
    });
}

/// Sends a request without credentials: the connection, its TLS and the server's clock.
pub(super) async fn reach(name: &str, endpoint: &Endpoint, report: &mut Report) {
    let base = endpoint.api_base();
    let began = Instant::now();
    let response = async {
        let http = http_client(base).map_err(|error| error.to_string())?;
        let request = http.get(format!("{base}/")).timeout(TIMEOUT);
        request.send().await.map_err(|error| innermost(&error))
    };
    match response.await {
        Ok(response) => {
            let tls = if base.starts_with("https") {
                "over TLS "
            } else {
                ""
            };
            let (status, took) = (response.status().as_u16(), began.elapsed().as_millis());
            let found = format!("{base} answered {tls}with HTTP {status} in {took} ms");
            report.add(Check::good(name, found));
            if name == "connection" {
                report.add(clock(&response));
            }
        }
        // Another site than the app's need not be reachable.
        Err(why) if name == "site" => {
            let advice = "this matters only if your app belongs to this site";
            report.add(Check::unsure(name, format!("{base}: {why}"), advice));
        }
        Err(why) => {
            let advice = "check the base URL, the proxy, the firewall and the CA certificates";
            report.add(Check::unreachable(name, format!("{base}: {why}"), advice));
        }
    }
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    sanitize(&cause.to_string(), &[])
}

/// Compares the clocks. `Date` has whole seconds.
fn clock(response: &reqwest::Response) -> Check {
    let date = response.headers().get(reqwest::header::DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let Some(date) = date else {
        let advice = "compare it with another clock";
        return Check::unsure("clock", "the server did not tell its time", advice);
    };
    let now = SystemTime::now();
    let (skew, word) = match now.duration_since(date) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew <= TOLERATED_SKEW {
        return Check::good("clock", "this machine and the server agree within 5 s");
    }
    let skew = humantime::format_duration(Duration::from_secs(skew.as_secs()));
    Check::bad(
        "clock",
        format!("this machine is {skew} {word} the server"),
        "set the clock, or let it follow a time server: JWTs are refused otherwise",
    )
}
