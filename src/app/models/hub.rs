//! The hub's protocol (feature `hub`): which files a repository has, their size and hash, and their bytes.
//!
//! A small blocking client rather than the crate hf-hub: that one resumes no download that was cut, checks no hash of what it wrote, knows
//! nothing of llama.cpp's cache folders, and brings some 280 crates with it.

use std::error::Error as StdError;
use std::io::{self, Read};
use std::time::Duration;

use aded::Error;
use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::name::RepoName;

const ENDPOINT: &str = "https://huggingface.co";

/// Redirects in a row that are followed: to the new name of a repository, and to where its large files lie.
const MAX_REDIRECTS: usize = 10;

/// Longest list of files that is read.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// A server that sends nothing for so long is taken for gone.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to a hub.
pub(crate) struct Hub {
    agent: Agent,
    /// Without a slash at its end.
    endpoint: String,
    token: Option<String>,
}

/// The files of a repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// One file as the hub describes it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) bytes: u64,
    /// For large files their SHA-256, else an identifier of the hub's. Lower case, without quotation marks.
    pub(crate) etag: String,
}

impl Remote {
    /// The SHA-256, if the hub tells it.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64).then_some(&self.etag)
    }
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// No connection is made yet.
    ///
    /// # Errors
    /// [`Error::is_usage`] for an address or a token that cannot be one.
    pub(crate) fn new(token: Option<&str>) -> Result<Self, Error> {
        let endpoint = ["MODEL_ENDPOINT", "HF_ENDPOINT"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
            .unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if origin(&endpoint).is_none() {
            return Err(Error::usage(format!(
                "the hub's address is {endpoint:?}; give one that begins with https:// or http:// in HF_ENDPOINT"
            )));
        }
        let token = token.map(str::trim).filter(|token| !token.is_empty());
        if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::usage(
                "the token for the hub holds characters that no token has; see HF_TOKEN and -hft",
            ));
        }
        let agent = Agent::config_builder()
            .user_agent(concat!("aded/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed here, so that the token goes to the hub alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, token: token.map(str::to_owned) })
    }

    /// What a repository's `main` holds.
    ///
    /// # Errors
    /// [`Error::is_io`] where the hub cannot be reached or refuses, [`Error::is_format`] where it answers nonsense.
    pub(crate) fn list(&self, name: &RepoName) -> Result<Listing, Error> {
        let repo = &name.repo;
        let address = format!("{}/api/models/{repo}/revision/main", self.endpoint);
        let mut response = self.follow("GET", &address, None)?;
        self.expect(&response, &[StatusCode::OK], repo)?;
        let nonsense = |what: String| Error::format(format!("{} answers nonsense about {repo}: {what}", self.endpoint));
        let mut text = String::new();
        let reader = response.body_mut().as_reader().take(MAX_LIST_BYTES);
        io::BufReader::new(reader).read_to_string(&mut text).map_err(|error| self.unreachable(&address, error))?;
        let info: Info = serde_json::from_str(&text).map_err(|error| nonsense(error.to_string()))?;
        let is_commit = !info.sha.is_empty() && info.sha.len() <= 64 && info.sha.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit {
            return Err(nonsense(format!("a commit {:?}", info.sha)));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(bad) = files.iter().find(|file| !is_inside(file)) {
            return Err(nonsense(format!("a file {bad:?}")));
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// Size and hash of a file.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub(crate) fn describe(&self, name: &RepoName, commit: &str, file: &str) -> Result<Remote, Error> {
        let address = self.address(name, commit, file);
        let response = self.follow("HEAD", &address, None)?;
        self.expect(&response, &[StatusCode::OK, StatusCode::FOUND], &format!("{}/{file}", name.repo))?;
        let header = |names: [&str; 2]| names.into_iter().find_map(|name| response.headers().get(name)?.to_str().ok());
        let bytes = header(["x-linked-size", "content-length"]).and_then(|text| text.trim().parse().ok());
        let etag = header(["x-linked-etag", "etag"]).map(|text| text.trim().trim_start_matches("W/").trim_matches('"'));
        let is_plain = |etag: &&str| (1..=128).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric());
        match (bytes, etag.filter(is_plain)) {
            (Some(bytes), Some(etag)) => Ok(Remote { bytes, etag: etag.to_ascii_lowercase() }),
            _ => {
                Err(Error::format(format!("{address} tells no size and no hash; is HF_ENDPOINT the address of a hub?")))
            }
        }
    }

    /// The bytes of a file from `offset` on, and the offset that they really begin at: 0 where the server gives whole files only.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub(crate) fn open(
        &self,
        name: &RepoName,
        commit: &str,
        file: &str,
        offset: u64,
    ) -> Result<(impl Read, u64), Error> {
        let address = self.address(name, commit, file);
        let response = self.follow("GET", &address, (offset > 0).then_some(offset))?;
        let wanted = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
        self.expect(&response, &wanted, &format!("{}/{file}", name.repo))?;
        let begins = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
            let first =
                range.and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
            if first != Some(offset) {
                return Err(Error::format(format!(
                    "{address} was asked for the bytes from {offset} on and gave {range:?}"
                )));
            }
            offset
        } else {
            0
        };
        Ok((response.into_body().into_reader(), begins))
    }

    /// The page where a user accepts the terms of a repository.
    fn page(&self, repo: &str) -> String {
        let repo = repo.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        format!("{}/{repo}", self.endpoint)
    }

    fn address(&self, name: &RepoName, commit: &str, file: &str) -> String {
        let mut path = String::new();
        for byte in file.bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'~' => path.push(byte.into()),
                _ if byte.is_ascii_alphanumeric() => path.push(byte.into()),
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
        format!("{}/{}/resolve/{commit}/{path}", self.endpoint, name.repo)
    }

    /// Sends a request and follows redirects: all of them for bytes, those within the hub alone for a description, since it comes with the redirect
    /// to where the file lies.
    fn follow(&self, method: &str, address: &str, offset: Option<u64>) -> Result<Response<Body>, Error> {
        let mut address = address.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let mut request = if method == "HEAD" { self.agent.head(&address) } else { self.agent.get(&address) };
            if let Some(token) = self.token.as_ref().filter(|_| origin(&address) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(offset) = offset {
                request = request.header("range", format!("bytes={offset}-"));
            }
            let response = request.call().map_err(|error| self.unreachable(&address, error))?;
            let status = response.status();
            let is_described = method == "HEAD" && response.headers().contains_key("x-linked-etag");
            if !status.is_redirection() || is_described {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|location| location.to_str().ok());
            address = match (location, origin(&address)) {
                (Some(path), Some(origin)) if path.starts_with('/') && !path.starts_with("//") => {
                    format!("{origin}{path}")
                }
                (Some(other), _) if origin(other).is_some() => other.to_owned(),
                _ => return Err(Error::format(format!("{address} redirects to {location:?}, which is no address"))),
            };
        }
        Err(Error::format(format!("{address} redirects more than {MAX_REDIRECTS} times in a row")))
    }

    fn expect(&self, response: &Response<Body>, wanted: &[StatusCode], what: &str) -> Result<(), Error> {
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(());
        }
        let refused = |why: String| Err(Error::io(why, io::Error::other(format!("HTTP status {}", status.as_u16()))));
        match status.as_u16() {
            401 | 403 if self.token.is_none() => refused(format!(
                "{what} is not there, or it is private or gated: check the name, accept its terms at {}, and give a token by -hft or \
                 HF_TOKEN",
                self.page(what)
            )),
            401 | 403 => refused(format!(
                "the token does not open {what}: check the name, and accept its terms at {} with the account of the token",
                self.page(what)
            )),
            404 => refused(format!("{what} is not at {}: check the name", self.endpoint)),
            429 => refused(format!(
                "{} asks for a pause: try again later, or with a token by -hft or HF_TOKEN",
                self.endpoint
            )),
            _ => refused(format!("{} cannot give {what}: try again later", self.endpoint)),
        }
    }

    fn unreachable(&self, address: &str, error: impl StdError + Send + Sync + 'static) -> Error {
        Error::io(
            format!("cannot reach {address}: check the network, or use what is here already with --offline"),
            io::Error::other(error),
        )
    }
}

/// Scheme, host and port of an address; none for what is no address.
fn origin(address: &str) -> Option<&str> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| address.starts_with(scheme))?;
    let length = address[scheme.len()..].find(['/', '?', '#']).unwrap_or(address.len() - scheme.len());
    // Names and passwords before the host would make another one of what looks like the hub.
    let host = &address[scheme.len()..scheme.len() + length];
    (!host.is_empty() && !host.contains('@')).then(|| &address[..scheme.len() + length])
}

/// Whether the name of a file stays in the folder that it is put into.
pub(crate) fn is_inside(file: &str) -> bool {
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    file.len() <= 1024 && file.split('/').all(is_name) && !file.contains(['\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_files_that_lead_elsewhere_are_seen() {
        assert_eq!(origin("https://a.b:8/c?d"), Some("https://a.b:8"));
        assert_eq!(origin("http://a"), Some("http://a"));
        for bad in ["", "a.b/c", "file:///etc", "https://", "https://hub@evil/x"] {
            assert_eq!(origin(bad), None, "{bad}");
        }
        assert!(is_inside("a/b.gguf") && is_inside("a b.gguf"));
        for bad in ["", "/a", "../a", "a/../b", "a//b", "a\\b", "C:x", "a/."] {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
