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
    page(
        ("Signed in", "登录成功"),
        &[back, chinese("你可以关闭此页面。")],
    )
}

pub(super) fn failed(error: &Error) -> String {
    page(
        ("Not signed in", "登录失败"),
        &[
            escaped(&error.to_string()),
            "Close this page, and start the sign-in again.".to_owned(),
            chinese("请关闭此页面，然后重新登录。"),
        ],
    )
}

pub(super) fn stray() -> String {
    page(
        ("This is not the current sign-in", "这不是当前的登录请求"),
        &[
            "The program waits for another sign-in: this page may be old. Close it, and use the page that was opened last.".to_owned(),
            chinese("此页面可能已过期，请使用最近一次打开的登录页面。"),
        ],
    )
}

pub(super) fn repeated() -> String {
    page(
        ("The sign-in was already received", "已收到登录结果"),
        &[
            "You can close this page.".to_owned(),
            chinese("你可以关闭此页面。"),
        ],
    )
}

pub(super) fn not_found() -> String {
    page(("There is no such page", "页面不存在"), &[])
}

/// Chinese text, marked so that browsers choose its fonts, and screen readers its pronunciation.
fn chinese(text: &str) -> String {
    format!("<span lang=\"zh-CN\">{text}</span>")
}

/// A title in English and in Chinese. `paragraphs` are HTML.
fn page((title, in_chinese): (&str, &str), paragraphs: &[String]) -> String {
    let paragraphs: String = { paragraphs.iter() }
        .map(|paragraph| format!("<p>{paragraph}</p>"))
        .collect();
    let heading = format!("{title} {}", chinese(in_chinese));
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} {in_chinese}</title><style>{STYLE}</style></head>\
         <body><h1>{heading}</h1>{paragraphs}</body></html>"
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

    /// Otherwise a browser may choose Japanese fonts for the characters.
    #[test]
    fn chinese_text_is_marked_as_chinese() {
        let error = Error::new(ErrorKind::Refused, "no");
        for (page, parts) in [
            (signed_in(None), ["登录成功", "你可以关闭此页面。"]),
            (failed(&error), ["登录失败", "请关闭此页面，然后重新登录。"]),
            (
                stray(),
                [
                    "这不是当前的登录请求",
                    "此页面可能已过期，请使用最近一次打开的登录页面。",
                ],
            ),
            (repeated(), ["已收到登录结果", "你可以关闭此页面。"]),
            (not_found(), ["页面不存在", ""]),
        ] {
            let (_, mut body) = page.split_once("<body>").unwrap();
            for part in parts {
                assert!(body.contains(part), "{part}: {page}");
            }
            let mut marked = 0;
            while let Some((before, rest)) = body.split_once("<span lang=\"zh-CN\">") {
                assert!(before.is_ascii(), "{page}");
                body = rest.split_once("</span>").unwrap().1;
                marked += 1;
            }
            assert!(body.is_ascii() && marked > 0, "{page}");
        }
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
