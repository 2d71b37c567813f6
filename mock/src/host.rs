//! The host that a request names, and the defence against DNS rebinding.
//!
//! With DNS rebinding, a web page of `evil.example` makes that name resolve to the mock's address, and then calls the mock as
//! its own origin. It is recognised by the name in `Host`, which the browser writes and the page cannot change.

use http::HeaderValue;
use url::Host;

/// The host of a request, from its target and its `Host` header (RFC 9112 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    At(Authority),
    /// Neither names a host.
    Unnamed,
    /// An invalid host, or two different hosts.
    Unclear,
}

impl Called {
    pub(crate) fn of<'h>(
        target: Option<&str>,
        headers: impl IntoIterator<Item = &'h HeaderValue>,
    ) -> Self {
        let mut headers = headers.into_iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Self::Unclear;
        }
        let header = header.map(|value| value.to_str().ok().and_then(Authority::parse));
        let target = target.map(Authority::parse);
        match (target, header) {
            (None, None) => Self::Unnamed,
            (Some(Some(one)), None) | (None, Some(Some(one))) => Self::At(one),
            (Some(Some(target)), Some(Some(header))) if target.host == header.host => {
                Self::At(target)
            }
            _ => Self::Unclear,
        }
    }

    pub(crate) fn authority(&self) -> Option<&Authority> {
        match self {
            Self::At(authority) => Some(authority),
            Self::Unnamed | Self::Unclear => None,
        }
    }
}

/// A host with or without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    text: String,
    host: Host,
}

impl Authority {
    /// Parses a host and an optional port: no user, no path, no percent-encoding.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end_of_host = match text.starts_with('[') {
            true => text.find(']')? + 1,
            false => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(end_of_host);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        if !host.bytes().all(plain) {
            return None;
        }
        if !port.is_empty() {
            let digits = port.strip_prefix(':')?;
            let number: u16 = digits.parse().ok()?;
            if number == 0 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
        }
        Some(Self {
            host: Host::parse(host).ok()?,
            text: text.to_owned(),
        })
    }

    /// Whether it is the same host and port.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.host == other.host && self.text.eq_ignore_ascii_case(&other.text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.to_canonical().is_loopback(),
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }

    /// Whether DNS rebinding is impossible for this name: it is an address, a loopback name, or the name of a
    /// machine in the local network.
    pub(crate) fn is_beyond_rebinding(&self) -> bool {
        match &self.host {
            Host::Ipv4(_) | Host::Ipv6(_) => true,
            Host::Domain(name) => self.is_loopback() || !name.contains('.'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_an_optional_port() {
        for (text, loopback, beyond_rebinding) in [
            ("127.0.0.1", true, true),
            ("127.0.0.1:80", true, true),
            ("127.9.9.9", true, true),
            ("127.1", true, true),
            ("LocalHost:65535", true, true),
            ("localhost.", true, true),
            ("a.localhost", true, true),
            ("[::1]", true, true),
            ("[::1]:8377", true, true),
            ("[::ffff:127.0.0.1]:8377", true, true),
            ("10.0.0.7:8377", false, true),
            ("[fe80::1]", false, true),
            ("coze_mock:8377", false, true),
            ("evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("notlocalhost.example", false, false),
            ("evil.example.", false, false),
        ] {
            let authority = Authority::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(authority.is_loopback(), loopback, "{text}");
            assert_eq!(authority.is_beyond_rebinding(), beyond_rebinding, "{text}");
        }
        for text in [
            "",
            ":80",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[127.0.0.1]",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:+1",
            "127.0.0.1:99999",
            "127.0.0.1:80:80",
            "evil.example:80@127.0.0.1",
            "user@127.0.0.1",
            "127.0.0.1/",
            "127.0.0.1#",
            "127.0.0.1?",
            "127.0.0.1,evil.example",
            "127.0.0.1 evil.example",
            " 127.0.0.1",
            "local%68ost",
            "localhost\t",
            "１２７.0.0.1",
            "localhost\u{200b}",
            "256.0.0.1",
        ] {
            assert_eq!(Authority::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn two_hosts_are_invalid() {
        let called = |target: Option<&str>, headers: &[&str]| {
            let headers: Vec<HeaderValue> = headers
                .iter()
                .map(|value| HeaderValue::from_str(value).expect("a header"))
                .collect();
            Called::of(target, &headers)
        };
        let at = |text| Called::At(Authority::parse(text).expect("an authority"));
        assert_eq!(called(None, &[]), Called::Unnamed);
        assert_eq!(called(None, &["localhost:1"]), at("localhost:1"));
        assert_eq!(called(Some("localhost:1"), &[]), at("localhost:1"));
        assert_eq!(called(Some("a.test:443"), &["A.test"]), at("a.test:443"));
        for (target, headers) in [
            (None, &["localhost", "localhost"] as &[&str]),
            (None, &["localhost", "evil.example"]),
            (None, &["[::1"]),
            (None, &[""]),
            (Some("evil.example"), &["localhost"]),
            (Some("localhost"), &["evil.example"]),
            (Some("localhost"), &["[::1"]),
            (Some("user@localhost"), &[]),
        ] {
            assert_eq!(
                called(target, headers),
                Called::Unclear,
                "{target:?} {headers:?}"
            );
        }
    }
}
