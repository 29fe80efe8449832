//! A client as small as can be: one request on one connection, and what comes back.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::LONG;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; the status must be this.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Asserts that it is an error of this status whose message holds `part`.
    #[track_caller]
    pub(crate) fn fails(&self, status: u16, part: &str) {
        let value = self.json(status);
        let error = &value["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{part:?} is not in: {value}");
        assert_eq!(error["code"], status, "{value}");
        assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("_error")), "{value}");
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// The events of a stream.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("events are UTF-8");
        assert_eq!(self.status, 200, "{text}");
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("a time limit");
    stream.set_write_timeout(Some(LONG)).expect("a time limit");
    stream
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        bytes += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    bytes += "\r\n";
    [bytes.as_bytes(), body].concat()
}

pub(crate) fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = connect(address);
    // A server that refuses a large body may close before it has read all of it.
    let _ = stream.write_all(&request(method, path, headers, body));
    read(stream).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

pub(crate) fn get(address: &str, path: &str) -> Reply {
    send(address, "GET", path, &[], b"")
}

pub(crate) fn post(address: &str, path: &str, body: &[u8]) -> Reply {
    send(address, "POST", path, &[("Content-Type", "application/json")], body)
}

/// Reads the head of an answer.
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Ok(Reply { status, headers, body: Vec::new() })
}

/// Reads a whole answer.
pub(crate) fn read(stream: TcpStream) -> io::Result<Reply> {
    let mut reader = BufReader::new(stream);
    let mut reply = read_head(&mut reader)?;
    if reply.header("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = read_chunk(&mut reader)? {
            reply.body.extend(chunk);
        }
    } else {
        let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(u64::MAX);
        reader.take(length).read_to_end(&mut reply.body)?;
    }
    Ok(reply)
}

/// Reads a chunk of a body that comes in chunks; `None` after the last one.
pub(crate) fn read_chunk(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length =
        usize::from_str_radix(line.trim_end(), 16).map_err(|_| io::Error::other(format!("no length in {line:?}")))?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}
