//! The HTML pages for the user: consent, device verification, and errors.
//!
//! They use no scripts and load nothing. Text from a request is inserted only through the template engine, which escapes it.

use crate::answer::{Answer, HTML};
use crate::authorize;
use crate::context::RequestContext;
use crate::core::Core;
use crate::request::Incoming;
use crate::secret::{random_token, sha256};
use crate::state::{AuthorizeRequest, Ticket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5a6475;--line:#d5dae3;--back:#f3f5f9;--card:#fff;--go:#2f5bd8}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf2;--soft:#a3adbf;--line:#3a4356;--back:#12161f;--card:#1c2230;--go:#3f6be4}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--back);color:var(--ink);\
font:1rem/1.5 system-ui,sans-serif}\
main{width:100%;max-width:27rem;background:var(--card);border:1px solid var(--line);border-radius:.8rem;padding:2rem}\
h1{margin:0 0 .75rem;font-size:1.35rem;line-height:1.3;overflow-wrap:anywhere}\
p{margin:.5rem 0}\
dl{margin:1.25rem 0;border-top:1px solid var(--line)}\
dl div{padding:.6rem 0;border-bottom:1px solid var(--line)}\
dt{color:var(--soft);font-size:.875rem}\
dd{margin:0;overflow-wrap:anywhere}\
.code{font:600 1.5rem/1.4 ui-monospace,monospace;letter-spacing:.08em}\
.row{display:flex;gap:.75rem;margin-top:1.5rem}\
button{flex:1;padding:.7rem 1rem;font:inherit;font-weight:600;border-radius:.5rem;border:1px solid var(--line);\
background:transparent;color:inherit;cursor:pointer}\
button.go{background:var(--go);border-color:var(--go);color:#fff}\
button:focus-visible,input:focus-visible{outline:3px solid var(--go);outline-offset:2px}\
label{display:block;margin-top:1.25rem;font-weight:600}\
input{width:100%;margin-top:.35rem;padding:.7rem;font:1.1rem ui-monospace,monospace;letter-spacing:.06em;\
border:1px solid var(--soft);border-radius:.5rem;background:transparent;color:inherit}\
[role=alert]{padding-left:.75rem;border-left:4px solid #c8452f}\
.mock{margin-top:1.75rem;color:var(--soft);font-size:.8125rem}";

fn page(status: StatusCode, title: &str, form_target: Option<&str>, content: &Markup) -> Answer {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (content)
                    p.mock { "This is a mock of Coze for tests. No account is involved." }
                }
            }
        }
    };
    let style = STANDARD.encode(sha256(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'{}; frame-ancestors 'none'; base-uri 'none'",
        form_target
            .map(|target| format!(" {target}"))
            .unwrap_or_default(),
    );
    Answer::of_type(status, HTML, markup.into_string())
        .uncached()
        .with_header(header::CONTENT_SECURITY_POLICY, &policy)
        .with_header(header::REFERRER_POLICY, "same-origin")
        .with_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with_header(header::X_FRAME_OPTIONS, "DENY")
        .with_header(
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        )
}

fn error_page(message: &str) -> Answer {
    let content = html! {
        h1 { "This request is not valid" }
        p role="alert" { (message) }
        p { "Nothing was sent to the application that opened this page." }
    };
    page(StatusCode::BAD_REQUEST, "Error", None, &content).with_error("error page")
}

/// `GET .../authorize`: redirects to the consent page, or shows why the request is invalid.
pub(crate) fn authorize(context: &mut RequestContext<'_>) -> Answer {
    let core = context.core;
    let request = authorize::check(
        core,
        context.endpoint,
        context.path_ids,
        &context.incoming.query,
        &mut context.findings,
    );
    let request = match request {
        Ok(request) => request,
        Err(message) => return error_page(&message),
    };
    let Ok(authorize_key) = random_token("") else {
        return no_randomness();
    };
    let ticket = Ticket::Authorize(Box::new(request));
    core.state()
        .tickets
        .insert(&authorize_key, ticket, core.now());
    let base_url = core.base_url(context.incoming);
    let consent = format!("{base_url}/_mock/consent?authorize_key={authorize_key}");
    Answer::empty(StatusCode::FOUND)
        .uncached()
        .with_header(header::LOCATION, &consent)
}

/// `GET /_mock/consent`: asks for consent. The page can be reloaded until the user decides.
pub(crate) fn consent(core: &Core, incoming: &Incoming) -> Answer {
    let mut query = incoming.query.iter();
    let authorize_key = query.find(|(name, _)| name == "authorize_key");
    let authorize_key = authorize_key.map_or("", |(_, value)| value.as_str());
    match core.state().tickets.look(authorize_key, core.now()) {
        Some(Ticket::Authorize(request)) => consent_page(request, authorize_key),
        _ => error_page(STALE_FORM),
    }
}

fn consent_page(request: &AuthorizeRequest, ticket: &str) -> Answer {
    let target = redirect_source(&request.redirect_uri);
    let content = html! {
        h1 { "Let " (request.app_name) " use your Coze account?" }
        dl {
            div { dt { "Application" } dd { (request.client_id) } }
            @if let Some(workspace_id) = &request.workspace_id {
                div { dt { "Limited to workspace" } dd { (workspace_id) } }
            }
            div { dt { "You will return to" } dd { (request.redirect_uri) } }
        }
        (decision_form("/_mock/consent", ticket))
    };
    page(StatusCode::OK, "Consent", target.as_deref(), &content)
}

fn decision_form(action: &str, ticket: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            input type="hidden" name="ticket" value=(ticket);
            div.row {
                button type="submit" name="decision" value="deny" { "Deny" }
                button.go type="submit" name="decision" value="approve" { "Approve" }
            }
        }
    }
}

/// The redirect target of the form as a CSP source: browsers apply `form-action` to redirects too.
fn redirect_source(redirect_uri: &str) -> Option<String> {
    let url = url::Url::parse(redirect_uri).ok()?;
    match (url.scheme(), url.host()) {
        ("http" | "https", Some(url::Host::Domain(_) | url::Host::Ipv4(_))) => {
            Some(url.origin().ascii_serialization())
        }
        (scheme, _) => Some(format!("{scheme}:")),
    }
}

/// The fields of the mock's own forms.
struct DecisionForm {
    ticket: String,
    approve: bool,
}

impl DecisionForm {
    fn read(incoming: &Incoming) -> Option<Self> {
        if incoming.content_type().as_deref() != Some("application/x-www-form-urlencoded") {
            return None;
        }
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(incoming.body.as_ref()?)
            .into_owned()
            .collect();
        let field = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let approve = match field("decision")?.as_str() {
            "approve" => true,
            "deny" => false,
            _ => return None,
        };
        Some(Self {
            ticket: field("ticket")?,
            approve,
        })
    }
}

const STALE_FORM: &str = "This form was already sent, has expired, or does not come from this page. Go back to the application and start again.";

/// `POST /_mock/consent`: the decision of the consent page.
pub(crate) fn consent_decided(core: &Core, incoming: &Incoming) -> Answer {
    let Some(form) = DecisionForm::read(incoming) else {
        return error_page(STALE_FORM);
    };
    let ticket = core.state().tickets.take(&form.ticket, core.now());
    let Some(Ticket::Authorize(request)) = ticket else {
        return error_page(STALE_FORM);
    };
    match authorize::decide(core, &request, form.approve) {
        Ok(callback) => Answer::empty(StatusCode::SEE_OTHER)
            .uncached()
            .with_header(header::LOCATION, &callback),
        Err(_) => no_randomness(),
    }
}

/// `GET /_mock/device`: accepts the user code, typed in or from the link.
pub(crate) fn device(core: &Core, incoming: &Incoming) -> Answer {
    let user_code = incoming
        .query
        .iter()
        .find(|(name, _)| name == "user_code")
        .map(|(_, value)| value.trim());
    let Some(user_code) = user_code.filter(|code| !code.is_empty()) else {
        return code_page(None);
    };
    let now = core.now();
    let waiting = core.state().devices.waiting(user_code, now).cloned();
    let Some(device) = waiting else {
        return code_page(Some(user_code));
    };
    let Ok(ticket) = random_token("") else {
        return no_randomness();
    };
    let app_name = core
        .apps
        .get(&device.client_id)
        .map_or(device.client_id.as_str(), |client| client.app.name.as_str());
    let content = html! {
        h1 { "Let " (app_name) " use your Coze account?" }
        p { "Approve only if your device shows this code:" }
        p.code { (device.user_code) }
        dl {
            div { dt { "Application" } dd { (device.client_id) } }
            @if let Some(workspace_id) = &device.workspace_id {
                div { dt { "Limited to workspace" } dd { (workspace_id) } }
            }
        }
        (decision_form("/_mock/device", &ticket))
    };
    core.state().tickets.insert(
        &ticket,
        Ticket::Device {
            user_code: device.user_code.clone(),
        },
        now,
    );
    page(StatusCode::OK, "Connect a device", None, &content)
}

fn code_page(unknown: Option<&str>) -> Answer {
    let content = html! {
        h1 { "Connect a device" }
        p { "Enter the code that your device shows." }
        @if unknown.is_some() {
            p role="alert" id="problem" { "No device is waiting with this code. Codes expire after a few minutes." }
        }
        form method="get" action="/_mock/device" {
            label for="user_code" { "Code" }
            input id="user_code" name="user_code" value=(unknown.unwrap_or_default()) autocomplete="off" autocapitalize="characters"
                spellcheck="false" required maxlength="40" aria-describedby=[unknown.map(|_| "problem")];
            div.row { button.go type="submit" { "Continue" } }
        }
    };
    let status = if unknown.is_some() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::OK
    };
    page(status, "Connect a device", None, &content)
}

/// `POST /_mock/device`: the decision of the verification page.
pub(crate) fn device_decided(core: &Core, incoming: &Incoming) -> Answer {
    let Some(form) = DecisionForm::read(incoming) else {
        return error_page(STALE_FORM);
    };
    let now = core.now();
    let ticket = core.state().tickets.take(&form.ticket, now);
    let Some(Ticket::Device { user_code }) = ticket else {
        return error_page(STALE_FORM);
    };
    if !core.state().devices.decide(&user_code, form.approve, now) {
        return error_page(
            "The device is no longer waiting: its code has expired, or a decision was already made.",
        );
    }
    let content = html! {
        h1 { @if form.approve { "The device is connected" } @else { "The device was refused" } }
        p role="status" { "You can close this page and return to your device." }
    };
    page(StatusCode::OK, "Connect a device", None, &content)
}

fn no_randomness() -> Answer {
    error_page("The operating system provided no random bytes.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_the_redirect_target_of_the_form() {
        for (redirect_uri, source) in [
            (
                "https://example.com:8443/cb?x=1#frag",
                "https://example.com:8443",
            ),
            ("http://127.0.0.1:8080/callback", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/callback", "http:"),
        ] {
            assert_eq!(redirect_source(redirect_uri).as_deref(), Some(source));
        }
    }
}
