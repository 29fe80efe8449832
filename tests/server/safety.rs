//! Who may ask: keys, origins, host names.

use crate::http::{get, post, send};
use crate::{Server, greedy, program};

#[test]
fn without_the_key_nothing_but_health_and_page_comes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "from-file\n\n  another  \n").unwrap();
    let server = Server::tiny(&["--api-key", "one,two", "--api-key-file", file.to_str().unwrap(), "--metrics"]);
    assert_eq!((get(&server.address, "/health").status, get(&server.address, "/").status), (200, 200));
    for path in ["/v1/models", "/props", "/slots", "/metrics", "/nothing"] {
        get(&server.address, path).fails(401, "API key");
    }
    let body = greedy("the", 2).to_string();
    post(&server.address, "/completion", body.as_bytes()).fails(401, "API key");
    post(&server.address, "/completion", b"not even JSON").fails(401, "API key");
    let with = |name: &str, value: &str| {
        send(&server.address, "POST", "/completion", &[(name, value)], body.as_bytes()).status
    };
    for key in ["one", "two", "from-file", "another"] {
        assert_eq!((with("Authorization", &format!("Bearer {key}")), with("X-Api-Key", key)), (200, 200), "{key}");
    }
    for key in ["", "on", "ones", "One", "one,two"] {
        assert_eq!((with("Authorization", &format!("Bearer {key}")), with("X-Api-Key", key)), (401, 401), "{key}");
    }
}

#[test]
fn a_key_file_without_keys_is_no_open_door() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "\n \n").unwrap();
    for (path, code) in [(file.to_str().unwrap(), 2), ("/nonexistent/keys", 1)] {
        let output = program().args(["serve", "--port", "0", "--api-key-file", path]).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).contains("key file"));
    }
}

#[test]
fn pages_from_elsewhere_may_not_ask() {
    let server = Server::tiny(&[]);
    let health = |headers: &[(&str, &str)]| send(&server.address, "GET", "/health", headers, b"");
    let own = format!("http://{}", server.address);
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173", &own] {
        let reply = health(&[("Origin", origin), ("Host", &server.address)]);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some(origin)));
    }
    let reply = health(&[("Origin", "https://example.org")]);
    reply.fails(403, "--cors-origins");
    assert_eq!(reply.header("access-control-allow-origin"), None);
    // A name that somebody else's DNS leads to this machine.
    health(&[("Host", "example.org")]).fails(403, "host name");
    health(&[("Host", "example.org:80"), ("Origin", "http://example.org:80")]).fails(403, "host name");
    // A form's post needs no permission of the browser's; it does of ours.
    let form = [("Origin", "https://example.org"), ("Content-Type", "text/plain")];
    send(&server.address, "POST", "/completion", &form, greedy("x", 1).to_string().as_bytes()).fails(403, "origin");
    let ask = [
        ("Origin", "http://localhost:3000"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let preflight = send(&server.address, "OPTIONS", "/v1/chat/completions", &ask, b"");
    assert_eq!((preflight.status, preflight.header("access-control-allow-headers")), (200, Some("authorization")));
    assert_eq!(preflight.header("access-control-allow-origin"), Some("http://localhost:3000"));
    let open = Server::tiny(&["--cors-origins", "*"]);
    let reply =
        send(&open.address, "GET", "/health", &[("Origin", "https://example.org"), ("Host", "example.org")], b"");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("https://example.org")));
}

#[test]
fn it_listens_on_this_machine_alone_and_says_where() {
    let mut server = Server::tiny(&[]);
    assert!(server.address.starts_with("127.0.0.1:"));
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let output = program().args(["serve", "--port", &port, "-m", crate::tiny()]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && stderr.contains("cannot listen on 127.0.0.1 port"), "{stderr}");
    server.child.kill().unwrap();
}
