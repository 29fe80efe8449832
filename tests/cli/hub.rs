//! Models by name against a server of the hub's protocol on this machine: redirects, ranges, refusals, wrong hashes, cut connections.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::{Outcome, folder, gguf, outcome, program};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does beside serving.
#[derive(Default)]
struct Behaviour {
    /// Requests for bytes that end in the middle.
    n_cuts: usize,
    gives_whole_files_only: bool,
    /// Announces other hashes than the files have.
    lies: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    behaviour: Behaviour,
    /// Method, path, range, whether there was a token.
    requests: Vec<(String, String, Option<String>, bool)>,
}

/// A hub, and on another port the place where its large files lie.
struct Server {
    state: Arc<Mutex<State>>,
    address: String,
}

impl Server {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
        let storage = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (hub_address, storage_address) = (address(&hub), address(&storage));
        for listener in [hub, storage] {
            let (state, storage_address) = (state.clone(), storage_address.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // One that is gone early is the client's affair.
                    let _ = answer(stream, &state, &storage_address);
                }
            });
        }
        Self { state, address: hub_address }
    }

    fn behave(&self, behaviour: Behaviour) {
        let mut state = self.state.lock().unwrap();
        state.behaviour = behaviour;
        state.requests.clear();
    }

    fn requests(&self) -> Vec<(String, String, Option<String>, bool)> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The program with this hub and a home of its own.
    fn program(&self, home: &Path) -> Command {
        let mut command = program();
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with("hf_") || text.ends_with("_proxy") || text == "llama_cache" || text == "xdg_cache_home"
            {
                command.env_remove(&name);
            }
        }
        command.env("HOME", home).env("ADED_MODELS", home.join("store")).env("HF_ENDPOINT", &self.address);
        command
    }

    fn run(&self, home: &Path, arguments: &[&str]) -> Outcome {
        outcome(self.program(home).args(arguments))
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, storage: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let header = |name: &str| {
        let line = lines.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let (range, token) = (header("range"), header("authorization"));
    let mut state = state.lock().unwrap();
    state.requests.push((method.clone(), path.clone(), range.clone(), token.is_some()));
    let mut out = stream;
    let mut respond = |status: &str, headers: &str, body: &[u8]| -> std::io::Result<()> {
        write!(out, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")?;
        if method != "HEAD" {
            out.write_all(body)?;
        }
        out.flush()
    };
    let status = |status: &str| format!("Content-Length: {}\r\n", status.len());
    if let Some(name) = path.strip_prefix("/storage/") {
        let name = name.replace("%20", " ");
        let Some(bytes) = state.files.get(&name).cloned() else {
            return respond("404 Not Found", "Content-Length: 0\r\n", b"");
        };
        let offset: usize = range
            .filter(|_| !state.behaviour.gives_whole_files_only)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let rest = &bytes[offset..];
        let length = format!("Content-Length: {}\r\n", rest.len());
        let is_cut = state.behaviour.n_cuts > 0;
        state.behaviour.n_cuts = state.behaviour.n_cuts.saturating_sub(1);
        let sent = if is_cut { &rest[..rest.len() / 2] } else { rest };
        return match offset {
            0 => respond("200 OK", &length, sent),
            _ => {
                let range = format!("Content-Range: bytes {offset}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                respond("206 Partial Content", &(length + &range), sent)
            }
        };
    }
    let (repo, rest) =
        match path.strip_prefix("/api/models/").unwrap_or(&path[1..]).splitn(3, '/').collect::<Vec<_>>()[..] {
            [user, name, rest] => (format!("{user}/{name}"), rest.to_owned()),
            _ => (String::new(), String::new()),
        };
    match repo.as_str() {
        "old/model" => {
            let new = path.replacen("old/model", "user/model", 1);
            return respond("307 Temporary Redirect", &format!("Location: {new}\r\nContent-Length: 0\r\n"), b"");
        }
        "user/model" => {}
        "private/model" if token.as_deref() == Some("Bearer secret") => {}
        "private/model" => return respond("401 Unauthorized", &status("no"), b"no"),
        _ => return respond("404 Not Found", &status("no"), b"no"),
    }
    if rest == "revision/main" {
        let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "id": repo, "sha": COMMIT, "siblings": siblings }).to_string();
        return respond("200 OK", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes());
    }
    let name = rest.strip_prefix(&format!("resolve/{COMMIT}/")).unwrap_or_default().replace("%20", " ");
    let Some(bytes) = state.files.get(&name) else { return respond("404 Not Found", &status("no"), b"no") };
    let hash = if state.behaviour.lies { "0".repeat(64) } else { sha256(bytes) };
    let headers = format!(
        "Location: {storage}/storage/{}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\n",
        name.replace(' ', "%20"),
        bytes.len()
    );
    respond("302 Found", &headers, b"")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files of no meaning, large enough to be cut.
fn noise(seed: u8) -> Vec<u8> {
    (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect()
}

/// All files below a folder, relative to it.
fn files(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            out.extend(files(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            out.push(name);
        }
    }
    out.sort();
    out
}

fn cache(home: &Path) -> PathBuf {
    home.join(".cache/huggingface/hub/models--user--model")
}

#[test]
fn a_model_is_fetched_once_and_runs() {
    let model = gguf::tiny_llama(7).bytes();
    let server = Server::new(&[
        ("README.md", b"words".to_vec()),
        ("mmproj-Q4_K_M.gguf", noise(1)),
        ("tiny model-Q4_K_M.gguf", model.clone()),
        ("tiny-Q8_0.gguf", noise(2)),
    ]);
    let home = folder();
    let run = ["run", "-hf", "user/model", "-p", "the hen", "-n", "4", "--temp", "0"];
    let first = server.run(home.path(), &run);
    assert_eq!(first.stderr, "");
    let text = first.text();
    let hash = sha256(&model);
    let snapshot = format!("snapshots/{COMMIT}/tiny model-Q4_K_M.gguf");
    assert_eq!(files(&cache(home.path())), [format!("blobs/{hash}"), "refs/main".to_owned(), snapshot.clone()]);
    assert_eq!(std::fs::read(cache(home.path()).join(&snapshot)).unwrap(), model);
    // From now on it is here, and nobody is asked; by any of its names.
    server.behave(Behaviour::default());
    assert_eq!(server.run(home.path(), &run).text(), text);
    let by_file =
        ["run", "-hf", "user/model", "-hff", "tiny model-Q4_K_M.gguf", "-p", "the hen", "-n", "4", "--temp", "0"];
    assert_eq!(server.run(home.path(), &by_file).text(), text);
    let by_variable = server
        .program(home.path())
        .env("LLAMA_ARG_HF_REPO", "user/model:q4_k_m")
        .args(["run", "-p", "the hen", "-n", "4", "--temp", "0"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&by_variable.stdout), text);
    let offline = [&["run", "--offline"], &run[1..]].concat();
    assert_eq!(server.run(home.path(), &offline).text(), text);
    assert_eq!(server.requests(), []);
    // It is listed and removed, and nothing is left of it.
    let listed = server.run(home.path(), &["models", "ls"]).text();
    assert!(listed.contains("user/model/tiny model-Q4_K_M.gguf") && listed.contains("hub"), "{listed}");
    let listed = server.run(home.path(), &["models", "ls", "--json"]).json();
    assert_eq!(
        (listed[0]["repo"].as_str(), listed[0]["bytes"].as_u64()),
        (Some("user/model"), Some(model.len() as u64))
    );
    server.run(home.path(), &["models", "rm", "user/model"]).fails_after_a_list("give --yes");
    server.run(home.path(), &["models", "rm", "user/model:Q8_0", "-y"]).fails(2, "there is no model");
    server.run(home.path(), &["models", "rm", "user/model", "--yes"]).text();
    assert!(!cache(home.path()).exists());
}

#[test]
fn quantisations_and_split_models() {
    let server = Server::new(&[
        ("b/big-Q8_0-00001-of-00002.gguf", noise(1)),
        ("b/big-Q8_0-00002-of-00002.gguf", noise(2)),
        ("c-Q5_K_M.gguf", noise(3)),
        ("d-Q6_K-00001-of-00002.gguf", noise(4)),
    ]);
    let home = folder();
    let pull = |name: &str| server.run(home.path(), &["models", "pull", name]);
    let path = pull("user/model:q8_0").text();
    assert!(path.trim_end().ends_with("b/big-Q8_0-00001-of-00002.gguf"), "{path}");
    let second = path.trim_end().replace("00001-of", "00002-of");
    assert_eq!(std::fs::read(second).unwrap(), noise(2));
    // Without Q4_K_M the first one is meant, and a repository that moved is found.
    let path = pull("old/model").text();
    assert!(path.trim_end().ends_with("b/big-Q8_0-00001-of-00002.gguf"), "{path}");
    let list = server.run(home.path(), &["models", "ls", "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list[0]["bytes"], 2_000_000);
    pull("user/model:Q2_K").fails(2, "has no Q2_K; it has b/big-Q8_0-00001");
    pull("user/model:Q6_K").fails(1, "lacks d-Q6_K-00002-of-00002.gguf");
    pull("user").fails(2, "give user/repo");
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let bytes = noise(5);
    let hash = sha256(&bytes);
    let server = Server::new(&[("m-Q4_K_M.gguf", bytes.clone())]);
    let home = folder();
    let pull = || server.run(home.path(), &["models", "pull", "user/model"]);
    // A few cuts do no harm.
    server.behave(Behaviour { n_cuts: 3, ..Behaviour::default() });
    pull().text();
    let ranges: Vec<Option<String>> = server
        .requests()
        .into_iter()
        .filter(|(_, path, ..)| path.starts_with("/storage/"))
        .map(|(_, _, range, _)| range)
        .collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=500000-".to_owned()), Some("bytes=750000-".to_owned()), Some("bytes=875000-".to_owned())]
    );
    assert_eq!(std::fs::read(cache(home.path()).join("blobs").join(&hash)).unwrap(), bytes);
    server.run(home.path(), &["models", "rm", "user/model", "-y"]).text();
    // What an earlier call left is taken up, and has no final name before it is whole.
    let unfinished = cache(home.path()).join("blobs").join(format!("{hash}.incomplete"));
    std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
    std::fs::write(&unfinished, &bytes[..300_000]).unwrap();
    assert_eq!(server.run(home.path(), &["models", "ls", "--json"]).json(), serde_json::json!([]));
    server.behave(Behaviour::default());
    pull().text();
    assert!(server.requests().iter().any(|(_, _, range, _)| range.as_deref() == Some("bytes=300000-")));
    assert!(!unfinished.exists());
    server.run(home.path(), &["models", "rm", "user/model", "-y"]).text();
    // A server that gives whole files only starts anew.
    std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
    std::fs::write(&unfinished, vec![0; 300_000]).unwrap();
    server.behave(Behaviour { gives_whole_files_only: true, ..Behaviour::default() });
    pull().text();
    server.run(home.path(), &["models", "rm", "user/model", "-y"]).text();
    // A beginning of something else is seen by its hash.
    std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
    std::fs::write(&unfinished, vec![0; 300_000]).unwrap();
    server.behave(Behaviour::default());
    pull().fails(1, "it was removed; fetch it again");
    pull().text();
}

#[test]
fn what_is_not_as_announced_is_not_kept() {
    let server = Server::new(&[("m-Q4_K_M.gguf", noise(6))]);
    server.behave(Behaviour { lies: true, ..Behaviour::default() });
    let home = folder();
    server.run(home.path(), &["models", "pull", "user/model"]).fails(1, "was announced");
    assert_eq!(files(&cache(home.path())), Vec::<String>::new());
}

#[test]
fn refusals_say_the_way_out_and_tokens_go_to_the_hub_alone() {
    let server = Server::new(&[("m-Q4_K_M.gguf", noise(7))]);
    let home = folder();
    let pull = |flags: &[&str]| server.run(home.path(), &[&["models", "pull"], flags].concat());
    pull(&["no/model"]).fails(1, "no/model is not at http://127.0.0.1");
    pull(&["private/model"]).fails(1, "HF_TOKEN");
    pull(&["private/model", "-hft", "wrong"]).fails(1, "the token does not open private/model");
    pull(&["private/model", "-hft", "a\nb"]).fails(2, "no token has");
    pull(&["user/model", "-hff", "x.gguf"]).fails(2, "has no x.gguf; it has m-Q4_K_M.gguf");
    server.behave(Behaviour::default());
    pull(&["private/model", "-hft", "secret"]).text();
    let requests = server.requests();
    assert!(requests.iter().any(|(_, path, ..)| path.starts_with("/storage/")), "{requests:?}");
    for (_, path, _, has_token) in requests {
        assert_eq!(has_token, !path.starts_with("/storage/"), "{path}");
    }
    let by_variable =
        outcome(server.program(home.path()).env("HF_TOKEN", "secret").args(["models", "pull", "private/model"]));
    by_variable.text();
    let bad = outcome(server.program(home.path()).env("HF_ENDPOINT", "ftp://x").args(["models", "pull", "user/model"]));
    bad.fails(2, "HF_ENDPOINT");
}

#[test]
fn without_the_hub_what_is_here_is_used() {
    let model = gguf::tiny_llama(7).bytes();
    let server = Server::new(&[]);
    let home = folder();
    let run = |name: &str, flags: &[&str], variables: &[(&str, &Path)]| {
        let base = ["run", "-hf", name, "-p", "x", "-n", "2"];
        let mut command = server.program(home.path());
        // Nobody listens there.
        command.env("HF_ENDPOINT", "http://127.0.0.1:1").envs(variables.iter().copied());
        outcome(command.args([&base[..], flags].concat()))
    };
    run("user/model", &["--offline"], &[]).fails(2, "is not on this machine");
    // Hugging Face's own switch does the same, unless it is set to no.
    let hub_offline = |value: &'static str| [("HF_HUB_OFFLINE", Path::new(value))];
    run("user/model", &[], &hub_offline("1")).fails(2, "HF_HUB_OFFLINE, keeps it from being fetched");
    run("user/model", &[], &hub_offline("0")).fails(1, "cannot reach http://127.0.0.1:1/api/models/user/model");
    for arguments in [&["models", "pull"][..], &["models", "pull", "user/model"]] {
        let mut command = server.program(home.path());
        outcome(command.env("HF_HUB_OFFLINE", "1").args(arguments)).fails(2, "keeps models from being fetched");
    }
    run("user/model", &[], &[]).fails(1, "cannot reach http://127.0.0.1:1/api/models/user/model");
    // Another quantisation than the one that would be chosen: only if there is no other way.
    let snapshot = cache(home.path()).join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(cache(home.path()).join("refs")).unwrap();
    std::fs::write(cache(home.path()).join("refs/main"), COMMIT).unwrap();
    std::fs::write(snapshot.join("t-Q8_0.gguf"), &model).unwrap();
    let outcome = run("user/model", &[], &[]);
    assert!(
        outcome.stderr.starts_with("warning: cannot reach") && outcome.stderr.contains("t-Q8_0.gguf"),
        "{}",
        outcome.stderr
    );
    outcome.text();
    run("user/model:Q8_0", &[], &[]).text();
    run("user/model", &["--offline"], &[]).text();
    // Found in the other folders too, llama.cpp's older one among them.
    let (elsewhere, old) = (folder(), folder());
    run("user/model:Q8_0", &[], &[("LLAMA_CACHE", elsewhere.path())]).text();
    std::fs::create_dir_all(old.path().join("llama.cpp")).unwrap();
    std::fs::write(old.path().join("llama.cpp/some_repo_t-Q4_K_M.gguf"), &model).unwrap();
    run("some/repo", &[], &[("XDG_CACHE_HOME", old.path())]).text();
    run("some/repo", &["-hff", "t-Q4_K_M.gguf"], &[("XDG_CACHE_HOME", old.path())]).text();
    run("user/model", &["--hf-repo", ""], &[]).fails(2, "make run");
}
