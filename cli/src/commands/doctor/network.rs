//! Probes of the network: the proxy, DNS, TLS, the server's clock.

use std::{
    env,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::{Endpoint, Url};
use coze_wire::{http_client, is_loopback, reqwest, sanitize};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{Advice, Check, Report};

/// How long each probe may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A clock that differs by more spoils JWTs, or the lifetimes of tokens.
const TOLERATED_SKEW: Duration = Duration::from_secs(5);
/// `Date` has whole seconds.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);
/// The variables for `https` URLs. Of each pair, the first that is set counts.
const PROXY_VARIABLES: [[&str; 2]; 2] =
    [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// Probes the way to the endpoint that tokens come from.
pub(super) async fn probe(endpoint: &Endpoint, report: &mut Report) {
    let Ok(base) = Url::parse(endpoint.api_base()) else {
        return;
    };
    let goes_through_proxy = match proxy_of(&base) {
        Some(proxy) => {
            report.add(probe_proxy(&base, &proxy).await);
            true
        }
        None => {
            report.add(without_proxy(&base));
            false
        }
    };
    dns(&base, goes_through_proxy, report).await;
    reach("connection", endpoint, report).await;
}

/// The proxy that requests to this base URL go through, determined as by the HTTP client: by reqwest's rules for the environment and
/// the system's settings, which [`http_client`] does not apply to loopback hosts and plain `http`.
fn proxy_of(base: &Url) -> Option<Intercept> {
    if is_never_proxied(base) {
        return None;
    }
    intercepted_by(&Matcher::from_system(), base)
}

fn is_never_proxied(base: &Url) -> bool {
    is_loopback(base) || base.scheme() == "http"
}

fn intercepted_by(matcher: &Matcher, base: &Url) -> Option<Intercept> {
    matcher.intercept(&base.as_str().parse().ok()?)
}

/// The variables that name a proxy, with that proxy if the value is one.
fn variables(base: &Url) -> impl Iterator<Item = (&'static str, Option<Intercept>)> {
    let set = PROXY_VARIABLES.into_iter().filter_map(|pair| {
        let mut names = pair.into_iter();
        names.find_map(|name| Some((name, env::var(name).ok()?)))
    });
    let set = set.filter(|(_, value)| !value.is_empty());
    set.map(|(name, value)| {
        let proxy = intercepted_by(&Matcher::builder().all(value).build(), base);
        (name, proxy)
    })
}

/// Says why requests go through no proxy.
fn without_proxy(base: &Url) -> Check {
    let direct = format!("requests to {} go directly", host(base));
    if is_never_proxied(base) {
        let which = match is_loopback(base) {
            true => "to loopback hosts",
            false => "by plain http",
        };
        return Check::good("proxy", format!("{direct}, like all {which}"));
    }
    let set: Vec<_> = variables(base).collect();
    if env::var_os("REQUEST_METHOD").is_some() && !set.is_empty() {
        // In a CGI program, HTTP_PROXY may be a header of the request.
        let why = "REQUEST_METHOD is set, so proxies are ignored";
        return Check::good("proxy", format!("{direct}: {why}"));
    }
    if let Some((name, _)) = set.iter().find(|(_, proxy)| proxy.is_none()) {
        let found = format!("{name} is not the URL of a proxy, and is ignored: {direct}");
        return Check::unsure("proxy", found, correct(Some(name)));
    }
    let why = match set.first() {
        None => "no proxy is set".to_owned(),
        Some((name, _)) => format!("NO_PROXY excludes them from {name}"),
    };
    Check::good("proxy", format!("{direct}: {why}"))
}

async fn probe_proxy(base: &Url, proxy: &Intercept) -> Check {
    let uri = proxy.uri();
    let names_it = |found: &Option<Intercept>| found.as_ref().is_some_and(|it| it.uri() == uri);
    let mut set = variables(base);
    let name = set.find_map(|(name, found)| names_it(&found).then_some(name));
    let scheme = uri.scheme_str().unwrap_or("http");
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(match scheme {
        "http" => 80,
        "https" => 443,
        _ => 1080,
    });
    // Without the user name and the password.
    let shown = format!(
        "{} {scheme}://{host}:{port}",
        name.map_or("the system's settings name".to_owned(), |name| format!(
            "{name} names"
        ))
    );
    let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
    match timeout(TIMEOUT, connecting).await {
        Ok(Ok(_)) => Check::good("proxy", format!("{shown}, which accepts connections")),
        Ok(Err(error)) => Check::unreachable("proxy", format!("{shown}: {error}"), correct(name)),
        Err(_) => {
            let found = format!("{shown}: no connection within 10 s");
            Check::unreachable("proxy", found, correct(name))
        }
    }
}

/// What to do about a proxy that this variable names, or else the system's settings.
fn correct(variable: Option<&str>) -> Advice {
    match variable {
        Some(name) => Advice::new(
            format!("correct {name}, or unset it"),
            format!("请更正 {name}，或取消该变量"),
        ),
        None => Advice::new(
            "correct the proxy in the system's settings",
            "请更正系统设置中的代理",
        ),
    }
}

fn host(base: &Url) -> &str {
    base.host_str().unwrap_or_default()
}

async fn dns(base: &Url, goes_through_proxy: bool, report: &mut Report) {
    let host = host(base).trim_matches(['[', ']']);
    if is_loopback(base) {
        return report.add(Check::good("DNS", format!("{host} is this machine")));
    }
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
            Advice::new(
                "the proxy may know the name: see the connection below",
                "该域名可能由代理解析：请看下面的 connection 一项",
            ),
        ),
        false => Check::unreachable(
            "DNS",
            found,
            Advice::new(
                "check the base URL, and this machine's DNS server",
                "请检查 API 地址和本机的 DNS 服务器",
            ),
        ),
    });
}

/// Sends a request without credentials: the connection, its TLS and the server's clock.
pub(super) async fn reach(name: &str, endpoint: &Endpoint, report: &mut Report) {
    let base = endpoint.api_base();
    let response = async {
        let http = http_client(base).map_err(|error| error.to_string())?;
        let request = http.get(format!("{base}/")).timeout(TIMEOUT);
        let (asked, began) = (SystemTime::now(), Instant::now());
        let response = request.send().await.map_err(|error| innermost(&error))?;
        Ok((response, asked, began.elapsed()))
    };
    match response.await {
        Ok((response, asked, took)) => {
            let tls = if base.starts_with("https") {
                "over TLS "
            } else {
                ""
            };
            let status = response.status().as_u16();
            let ms = took.as_millis();
            let found = format!("{base} answered {tls}with HTTP {status} in {ms} ms");
            report.add(Check::good(name, found));
            if name == "connection" {
                report.add(clock(&response, asked, took));
            }
        }
        // Another site than the app's need not be reachable.
        Err(why) if name == "site" => {
            let advice = Advice::new(
                "this matters only if your app belongs to this site",
                "仅当应用属于该站点时才需要处理",
            );
            report.add(Check::unsure(name, format!("{base}: {why}"), advice));
        }
        Err::<_, String>(why) => {
            let advice = Advice::new(
                "check the base URL, the proxy, the firewall and the CA certificates",
                "请检查 API 地址、代理、防火墙和 CA 证书",
            );
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

/// Compares the clocks.
fn clock(response: &reqwest::Response, asked: SystemTime, took: Duration) -> Check {
    let date = response.headers().get(reqwest::header::DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let Some(date) = date else {
        let advice = Advice::new(
            "compare this machine's clock with another one",
            "请核对本机时间是否准确",
        );
        return Check::unsure("clock", "the server did not tell its time", advice);
    };
    let Some((skew, word)) = skew(date, asked, took) else {
        return Check::good("clock", "this machine and the server agree within 5 s");
    };
    let skew = humantime::format_duration(Duration::from_secs(skew.as_secs()));
    Check::bad(
        "clock",
        format!("this machine is {skew} {word} the server"),
        Advice::new(
            "set the clock, or let it follow a time server: JWTs are refused otherwise",
            "请校准本机时间，或启用网络时间同步；否则 JWT 会被拒绝",
        ),
    )
}

/// By how much this machine's clock is wrong at least, and in which direction; `None` if that is tolerated. The server read its clock
/// at some time between the request and the answer, so network latency is no skew.
fn skew(date: SystemTime, asked: SystemTime, took: Duration) -> Option<(Duration, &'static str)> {
    let ahead = asked.duration_since(date + DATE_RESOLUTION);
    let behind = date.duration_since(asked + took);
    let either = { ahead.map(|skew| (skew, "ahead of")) }.or(behind.map(|skew| (skew, "behind")));
    { either.ok() }.filter(|(skew, _)| *skew > TOLERATED_SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let asked = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        // The server reads its clock when the request arrives, or when the answer leaves.
        assert_eq!(skew(asked, asked, seconds(9)), None);
        assert_eq!(skew(asked + seconds(9), asked, seconds(9)), None);
        // The rest of a second that `Date` has lost.
        let lost = Duration::from_millis(999);
        assert_eq!(skew(asked - seconds(5), asked + lost, seconds(9)), None);
    }

    #[test]
    fn a_wrong_clock_is_found_despite_a_slow_answer() {
        let asked = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        let ahead = skew(asked - seconds(61), asked, seconds(9));
        assert_eq!(ahead, Some((seconds(60), "ahead of")));
        let behind = skew(asked + seconds(69), asked, seconds(9));
        assert_eq!(behind, Some((seconds(60), "behind")));
        assert!(skew(asked - seconds(7), asked, seconds(0)).is_some());
        assert!(skew(asked + seconds(6), asked, seconds(0)).is_some());
    }
}
