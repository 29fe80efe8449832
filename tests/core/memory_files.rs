//! Memory files in real processes: one is killed at any moment, two save at once.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aded::model::ScriptedModel;
use aded::representative::memory::{self, MAX_BYTES, MemoryFile, Owner};
use aded::representative::store::{Fingerprint, Kept};
use aded::sampling::Greedy;
use aded::{Config, Request, Session, Token};

const OWNER: Owner = Owner { tokenizer: Fingerprint(1), model: 2, n_vocab: 500 };

/// What a child process does: (file, number of the process, saves).
const TASK: &str = "ADED_TEST_MEMORY_TASK";

fn start(path: &Path, process: usize, n_saves: usize) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "memory_files::child", "--ignored", "--nocapture"])
        .env(TASK, format!("{}\n{process}\n{n_saves}", path.display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("this test can be started")
}

/// A text that only this process and save know: its first token is theirs alone, so that it shares no cells with another.
fn prompt(process: usize, save: usize) -> Vec<Token> {
    let (process, save) = (process as u32, save as u32);
    (0..12).map(|index| Token((process * 100 + save + index * index) % 500)).collect()
}

fn session() -> Session<ScriptedModel> {
    Session::new(ScriptedModel::new(500, 2, 12.0, 9), Config::default()).expect("valid")
}

/// Not a test: the child process of those below.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [path, process, n_saves] = task.split('\n').collect::<Vec<_>>()[..] else { panic!("three lines") };
    let (process, n_saves) = (process.parse().expect("a number"), n_saves.parse().expect("a number"));
    let mut session = session();
    let mut file = MemoryFile::new(path, OWNER, MAX_BYTES, true);
    file.load(session.decoder_mut().representative_mut()).expect("sound or missing");
    for save in 0..n_saves {
        let mut greedy = Greedy;
        let prompt = prompt(process, save);
        let request = Request { prompt: &prompt, n_max: 30, end_tokens: &[] };
        session.generate(&request, &mut greedy).expect("starts").for_each(|token| _ = token.expect("decodes"));
        while file.save(session.decoder_mut().representative_mut()).expect("saves") == Kept::Busy {
            sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_the_old_or_the_new_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.aded");
    // How long a process takes until it has saved a dozen times tells where to kill it.
    let begun = Instant::now();
    assert!(start(&path, 0, 12).wait().expect("ends").success());
    let whole = begun.elapsed();
    let (mut n_changed, mut before) = (0, std::fs::read(&path).expect("saved"));
    for kill in 0..100u32 {
        let mut child = start(&path, kill as usize + 1, usize::MAX);
        // Points that no clock of the child's own falls into step with.
        sleep(whole * (kill * 37 % 100) / 100);
        child.kill().expect("it runs until it is killed");
        child.wait().expect("ends");
        let summary = memory::summary(&path).unwrap_or_else(|error| panic!("after kill {kill}: {error}"));
        assert_eq!(summary.owner, OWNER);
        let after = std::fs::read(&path).expect("there");
        n_changed += u32::from(after != before);
        before = after;
    }
    assert!(n_changed > 20, "only {n_changed} of the processes were killed after a save");
    // What the killed left behind goes with the next save.
    assert!(start(&path, 200, 1).wait().expect("ends").success());
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("there").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(names.len(), 2, "the file and its lock: {names:?}");
}

#[test]
fn two_processes_at_once_lose_nothing_that_both_had_saved() {
    const N_SAVES: usize = 25;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.aded");
    for mut child in [1, 2].map(|process| start(&path, process, N_SAVES)) {
        assert!(child.wait().expect("ends").success());
    }
    let texts = memory::texts(&path).expect("sound");
    assert_eq!(texts.len(), 2 * N_SAVES);
    let begins: HashSet<&[Token]> = texts.iter().map(|text| &text[..12]).collect();
    let mut session = session();
    let known = session.decoder_mut().representative_mut();
    MemoryFile::new(&path, OWNER, MAX_BYTES, true).load(known).expect("sound");
    for (process, save) in [1, 2].into_iter().flat_map(|process| (0..N_SAVES).map(move |save| (process, save))) {
        assert!(begins.contains(&prompt(process, save)[..]), "text {save} of process {process}");
    }
    for window in texts.iter().flat_map(|text| text.windows(3)) {
        let row = known.overlay().pair(window[0], window[1]).expect("counted");
        assert!(row.iter().any(|(token, _)| token == window[2]) || row.iter().count() == 8);
    }
}
