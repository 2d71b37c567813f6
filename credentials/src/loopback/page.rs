//! The pages that the browser shows. They load nothing, contain no script, and show no token, code or state.

use coze_auth::Error;

const STYLE: &str = "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:32rem;margin:20vh auto 0;padding:0 1.5rem}\
h1{font-size:1.5rem}:root{color-scheme:light dark}";

/// The content security policy of the pages: it allows nothing but the style above, by its hash.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-TD7T8DvdpxR9y7Bnoj7TJ+i7cCorsUREi0dRgInLqv4='; \
base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn signed_in(program: Option<&str>) -> String {
    let program = program.map(escaped);
    let back = match &program {
        Some(program) => format!("You can close this page and return to {program}."),
        None => "You can close this page.".to_owned(),
    };
    page("Signed in 登录成功", &[&back, "你可以关闭此页面。"])
}

pub(super) fn failed(error: &Error) -> String {
    let why = escaped(&error.to_string());
    page(
        "Not signed in 登录失败",
        &[
            &why,
            "Close this page, and start the sign-in again. 请关闭此页面，重新登录。",
        ],
    )
}

pub(super) fn stray() -> String {
    page(
        "This is not the current sign-in 登录已失效",
        &[
            "The program waits for another sign-in: this page may be old. Close it, and use the page that was opened last.",
            "此页面可能已过期，请使用最后打开的登录页面。",
        ],
    )
}

pub(super) fn repeated() -> String {
    page(
        "The sign-in was already received 登录请求已收到",
        &["You can close this page. 你可以关闭此页面。"],
    )
}

pub(super) fn not_found() -> String {
    page("There is no such page", &["页面不存在。"])
}

/// `paragraphs` are HTML.
fn page(title: &str, paragraphs: &[&str]) -> String {
    let paragraphs: String = { paragraphs.iter() }
        .map(|paragraph| format!("<p>{paragraph}</p>"))
        .collect();
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1>{paragraphs}</body></html>"
    )
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use coze_auth::ErrorKind;

    use super::*;

    #[test]
    fn the_policy_allows_the_style_of_the_pages_and_nothing_else() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        let hash = STANDARD.encode(digest);
        assert!(
            POLICY.contains(&format!("style-src 'sha256-{hash}';")),
            "{hash}"
        );
        assert!(POLICY.starts_with("default-src 'none';"));
    }

    #[test]
    fn text_from_elsewhere_is_escaped() {
        let hostile = "<script>alert(\"1\")</script> & 'x'";
        let error = Error::new(ErrorKind::Refused, hostile);
        for page in [signed_in(Some(hostile)), failed(&error)] {
            assert!(
                !page.contains("<script") && !page.contains("\"1\""),
                "{page}"
            );
            assert!(
                page.contains("&lt;script&gt;alert(&quot;1&quot;)"),
                "{page}"
            );
        }
    }
}
