//! Who may ask: keys, and the origins of web pages.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use aded::Error;
use anyhow::{Context as _, Result};
use axum::http::{HeaderMap, header};

/// The keys of which a request must bring one; none = no key is needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<String>);

impl Keys {
    /// Those given, and those in the file, one a line.
    pub(super) fn read(given: &[String], file: Option<&Path>) -> Result<Self> {
        let mut keys: Vec<String> =
            given.iter().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect();
        if let Some(path) = file {
            let name = path.display();
            let text = fs::read_to_string(path).with_context(|| format!("cannot read the key file {name}"))?;
            let before = keys.len();
            keys.extend(text.lines().map(|line| line.trim().to_owned()).filter(|key| !key.is_empty()));
            if keys.len() == before {
                // A server that was meant to be locked must not stand open.
                return Err(Error::usage(format!("the key file {name} holds no key: write one a line")).into());
            }
        }
        Ok(Self(keys))
    }

    /// No key is needed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The request brings a key.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).and_then(|value| {
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        let given = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        // All keys are compared in full, so that the time tells nothing.
        let matches = |key: &String| given.is_some_and(|given| is_same(given, key.as_bytes()));
        self.is_empty() || self.0.iter().fold(false, |any, key| any | matches(key))
    }
}

/// Compares in a time that depends on the lengths alone.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let mut difference = given.len() ^ key.len();
    for (index, &byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ key.get(index % key.len().max(1)).copied().unwrap_or(0));
    }
    std::hint::black_box(difference) == 0
}

/// The web pages that may use the server.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    /// As given; empty = pages of this machine.
    given: Vec<String>,
    /// The server is reached by this machine alone.
    is_loopback: bool,
}

impl Origins {
    pub(super) fn new(given: &[String], is_loopback: bool) -> Self {
        let given = given.iter().map(|origin| origin.trim().trim_end_matches('/').to_ascii_lowercase());
        Self { given: given.filter(|origin| !origin.is_empty()).collect(), is_loopback }
    }

    /// Pages of this origin may use the server.
    pub(super) fn allow(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.given.iter().any(|given| given == "*" || *given == origin) {
            return true;
        }
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).map(host_of);
        // The word is llama.cpp's.
        let local_may = self.given.is_empty() || self.given.iter().any(|given| given == "localhost");
        local_may && host.is_some_and(is_local)
    }

    /// A request with this origin, if any, and this host may pass. A page that the server itself gave out may always; and where only
    /// this machine can reach the server, no name but its own may: other names are a page's trick to pass for the server's own.
    pub(super) fn admit(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let origin = origin.map(str::to_ascii_lowercase);
        let host = host.map(str::to_ascii_lowercase);
        let is_strange =
            host.as_deref().map(host_of).is_some_and(|host| !is_local(host) && host.parse::<IpAddr>().is_err());
        if self.is_loopback && is_strange && !self.given.iter().any(|given| given == "*") {
            return false;
        }
        let Some(origin) = origin else { return true };
        let is_own = host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, of)| of == host));
        is_own || self.allow(&origin)
    }
}

/// The host of `host:port` or `[::1]:port`, without brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split([':', '/']).next().unwrap_or_default(),
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_taken_in_both_headers_and_nothing_else_passes() {
        let keys = Keys::read(&["one".to_owned(), " two ".to_owned(), String::new()], None).unwrap();
        let admit = |name: &'static str, value: &str| {
            keys.admit(&HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())]))
        };
        assert!(
            admit("authorization", "Bearer one") && admit("authorization", "bearer two") && admit("x-api-key", "one")
        );
        for wrong in ["", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Bearer oneone", "Basic one", "one"] {
            assert!(!admit("authorization", wrong), "{wrong}");
        }
        assert!(!keys.admit(&HeaderMap::new()) && Keys::default().admit(&HeaderMap::new()));
        assert!(is_same(b"", b"") && !is_same(b"", b"a") && !is_same(b"a", b""));
    }

    #[test]
    fn pages_of_this_machine_pass_and_others_only_on_request() {
        let local = Origins::new(&[], true);
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080", "http://app.localhost"] {
            assert!(local.allow(origin), "{origin}");
        }
        for origin in
            ["http://example.org", "null", "http://localhost.example.org", "file://", "http://127.0.0.1.example.org"]
        {
            assert!(!local.allow(origin) && !local.admit(Some(origin), Some("127.0.0.1:8080")), "{origin}");
        }
        assert!(
            !local.admit(Some("http://evil.example:8080"), Some("evil.example:8080")),
            "a name that was bound to this machine"
        );
        assert!(
            local.admit(None, Some("localhost:8080")) && local.admit(None, None) && local.admit(None, Some("10.0.0.1"))
        );
        let network = Origins::new(&[], false);
        assert!(network.admit(Some("http://box:8080"), Some("box:8080")), "the server's own page");
        assert!(!network.admit(Some("http://other:8080"), Some("box:8080")));
        let given = Origins::new(&["https://a.example/".to_owned()], false);
        assert!(given.allow("https://A.example") && !given.allow("http://localhost:1"));
        let both = Origins::new(&["localhost".to_owned(), "https://a.example".to_owned()], true);
        assert!(both.allow("https://a.example") && both.allow("http://localhost:1") && !both.allow("http://b.example"));
        assert!(Origins::new(&["*".to_owned()], true).admit(Some("http://x.example"), Some("y.example")));
    }
}
