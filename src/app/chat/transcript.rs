//! Conversations as files: the JSON of `/save` and `/load`, described in docs/chat.md.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use aded::Error;
use aded::llama::text::ChatMessage;
use serde::{Deserialize, Serialize};

const FORMAT: &str = "aded-chat";
const VERSION: u32 = 1;

/// Longest file that is read; a conversation that fills a large context has a few megabytes.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Serialize)]
struct Transcript<'a> {
    format: &'a str,
    version: u32,
    model: &'a str,
    messages: Vec<Message>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// What can be read: our own files, and the body of a request to an OpenAI-compatible server.
#[derive(Deserialize)]
struct Stored {
    format: Option<String>,
    version: Option<u32>,
    messages: Vec<Message>,
}

/// Writes a conversation. A file that is there already is replaced if it holds a conversation.
///
/// # Errors
/// If the file cannot be written, or is something else.
pub(crate) fn save(path: &Path, model: &str, messages: &[ChatMessage]) -> Result<(), Error> {
    let name = path.display();
    if path.exists() && load(path).is_err() {
        return Err(Error::usage(format!("{name} is there already and holds no conversation; give another name")));
    }
    let messages = messages.iter().cloned().map(|ChatMessage { role, content }| Message { role, content }).collect();
    let transcript = Transcript { format: FORMAT, version: VERSION, model, messages };
    let failed = |error: io::Error| Error::io(format!("cannot write the conversation {name}"), error);
    let mut text = serde_json::to_string_pretty(&transcript).map_err(|error| failed(error.into()))?;
    text.push('\n');
    // An older file stays until the new one is whole.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.unfinished", std::process::id()));
    let written = fs::File::create(&unfinished)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        failed(error)
    })
}

/// Reads a conversation.
///
/// # Errors
/// [`Error::is_io`] if it cannot be read, [`Error::is_format`] if it is no conversation.
pub(crate) fn load(path: &Path) -> Result<Vec<ChatMessage>, Error> {
    let name = path.display();
    let failed = |error| Error::io(format!("cannot read the conversation {name}"), error);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(Error::format(format!("{name} has {size} bytes, and a conversation at most {MAX_BYTES}")));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| {
        Error::format(format!(
            "{name} holds no conversation, which is a JSON object with `messages` of `role` and `content`: {error}"
        ))
    })?;
    let (format, version) = (stored.format.as_deref().unwrap_or(FORMAT), stored.version.unwrap_or(VERSION));
    if (format, version) != (FORMAT, VERSION) {
        return Err(Error::format(format!(
            "{name} is of format {format} {version}, and only {FORMAT} {VERSION} is known"
        )));
    }
    for (index, message) in stored.messages.iter().enumerate() {
        let known = ["user", "assistant"].contains(&message.role.as_str()) || (index == 0 && message.role == "system");
        if !known {
            return Err(Error::format(format!(
                "message {} of {name} is of role {:?}; user and assistant are known, and system for the first one",
                index + 1,
                message.role
            )));
        }
    }
    Ok(stored.messages.into_iter().map(|message| ChatMessage::new(message.role, message.content)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_other_files_are_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.json");
        let mut messages = vec![ChatMessage::new("system", "be\n\"brief\""), ChatMessage::new("user", "é")];
        save(&path, "m.gguf", &messages).expect("written");
        assert_eq!(load(&path).expect("read"), messages);
        messages.push(ChatMessage::new("assistant", ""));
        save(&path, "m.gguf", &messages).expect("replaced");
        assert_eq!(load(&path).expect("read"), messages);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left behind");
        fs::write(&path, "notes").expect("written");
        assert!(save(&path, "m.gguf", &messages).is_err_and(|error| error.is_usage()));
        assert_eq!(fs::read(&path).expect("there"), b"notes");
        assert!(save(&folder.path().join("no/such/folder"), "", &[]).is_err_and(|error| error.is_io()));
    }

    #[test]
    fn files_that_are_no_conversation_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.json");
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "[]",
            "{}",
            deep.as_str(),
            r#"{"messages": [{"role": "user"}]}"#,
            r#"{"messages": [{"role": "user", "content": 1}]}"#,
            r#"{"messages": [{"role": "user", "content": ""}, {"role": "system", "content": ""}]}"#,
            r#"{"format": "other", "messages": []}"#,
            r#"{"format": "aded-chat", "version": 2, "messages": []}"#,
        ] {
            fs::write(&path, text).expect("written");
            assert!(load(&path).is_err_and(|error| error.is_format()), "{text:.60}");
        }
        fs::write(&path, r#"{"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": true}"#)
            .expect("written");
        assert_eq!(load(&path).expect("a request's body will do"), [ChatMessage::new("user", "hi")]);
    }
}
