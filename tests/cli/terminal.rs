//! `aded chat` on a terminal: prompt, keys, colours, history.

use std::process::Command;

use rexpect::session::{PtySession, spawn_command};

use crate::{SMOLLM2, fetched, folder, program, tiny};

/// Milliseconds until a test gives up; the machine may be busy.
const PATIENCE: u64 = 60_000;

/// What the editor sends when it begins and ends to edit a line: keys sent between go to it and not to the terminal's own line discipline.
const BEGIN: &str = "\u{1b}[?2004h";
const END: &str = "\u{1b}[?2004l";

/// The program on a terminal of its own, with a home folder of its own.
fn start(home: &std::path::Path, arguments: &[&str], variables: &[(&str, &str)]) -> PtySession {
    // Not `program()` itself: its input and output are no terminal.
    let base = program();
    let mut command = Command::new(base.get_program());
    for (name, value) in base.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("HOME", home).env_remove("XDG_STATE_HOME").env("TERM", "xterm");
    command.envs(variables.iter().copied()).args(arguments);
    spawn_command(command, Some(PATIENCE)).expect("a terminal")
}

/// `aded chat` on a terminal.
fn chat(model: &str, home: &std::path::Path, flags: &[&str], variables: &[(&str, &str)]) -> PtySession {
    start(home, &[&["chat", "-m", model, "--temp", "0"], flags].concat(), variables)
}

/// The exit code. Its type cannot be named, but printed: `Exited(Pid(1), 0)`.
#[track_caller]
fn code(session: &PtySession) -> i32 {
    let status = format!("{:?}", session.process().wait().expect("it ends"));
    let code =
        status.strip_prefix("Exited(").and_then(|rest| rest.rsplit_once(", ")?.1.trim_end_matches(')').parse().ok());
    code.unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn a_line_is_answered_and_kept_and_the_end_of_the_input_is_no_failure() {
    let home = folder();
    let mut session = chat(tiny(), home.path(), &["-n", "8"], &[]);
    session.exp_string("/help lists the commands").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("tell of the hen").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("/nonsense").unwrap();
    session.exp_string("error: /nonsense is no command").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(code(&session), 0);
    let history = if cfg!(target_os = "macos") {
        home.path().join("Library/Application Support/aded/chat-history")
    } else {
        home.path().join(".local/state/aded/chat-history")
    };
    let kept = std::fs::read_to_string(&history).expect("it was kept");
    assert!(kept.contains("tell of the hen") && kept.contains("/nonsense"), "{kept}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o077, 0, "nobody else reads it");
    // The next chat finds it by the arrow key.
    let mut session = chat(tiny(), home.path(), &["-n", "8"], &[]);
    session.exp_string(BEGIN).unwrap();
    session.send("\u{1b}[A\u{1b}[A").unwrap();
    session.flush().unwrap();
    session.exp_string("tell of the hen").unwrap();
    session.send_line("").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("/exit").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(code(&session), 0);
}

#[test]
fn the_history_can_be_switched_off() {
    let home = folder();
    let mut session = chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    session.exp_string(BEGIN).unwrap();
    session.send_line("/bye").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(code(&session), 0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn several_lines_make_one_message() {
    let home = folder();
    let file = home.path().join("chat.json");
    let mut session = chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    session.exp_string(BEGIN).unwrap();
    for line in ["\"\"\"one", "/two", "three\"\"\""] {
        session.send_line(line).unwrap();
    }
    session.exp_string(BEGIN).unwrap();
    session.send_line(&format!("/save {}", file.display())).unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_control('d').unwrap();
    session.exp_eof().unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains(r"one\n/two\nthree"));
}

#[test]
fn an_interrupt_at_the_prompt_warns_and_the_next_one_leaves() {
    let home = folder();
    let mut session = chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    session.exp_string(BEGIN).unwrap();
    session.send("half a line").unwrap();
    session.flush().unwrap();
    session.exp_string("half a line").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("once more to leave").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("/spec").unwrap();
    session.exp_string("auto").unwrap();
    session.exp_string(BEGIN).unwrap();
    // A line between them makes the next one a first one.
    session.send_control('c').unwrap();
    session.exp_string("once more to leave").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(code(&session), 130);
}

#[test]
fn an_interrupt_stops_the_answer_and_a_second_one_at_the_prompt_leaves() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let home = folder();
    let flags = ["-n", "8000", "--ignore-eos", "--no-history", "--stats"];
    let mut session = chat(model.to_str().unwrap(), home.path(), &flags, &[]);
    session.exp_string(BEGIN).unwrap();
    session.send_line("Count from one upwards, in digits.").unwrap();
    session.exp_string(END).unwrap();
    session.exp_regex("[a-z]{2}").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("tokens per round").unwrap();
    session.exp_string(BEGIN).unwrap();
    // It answers as before.
    session.send_line("/set predict 4").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("Hello.").unwrap();
    session.exp_string("tokens per round").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("/set predict 8000").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_line("Count from one upwards, in digits.").unwrap();
    session.exp_string(END).unwrap();
    session.exp_regex("[a-z]{2}").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("tokens per round").unwrap();
    session.exp_string(BEGIN).unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    assert_eq!(code(&session), 130);
}

#[test]
fn guesses_are_coloured_on_a_terminal_unless_no_color_is_set() {
    let home = folder();
    let flags = ["-n", "40", "--no-history", "--show-draft", "--spec", "on", "--spec-budget", "8", "-st"];
    let all = |variables: &[(&str, &str)]| {
        let prompt = ["-p", "the hen and the hen and the hen and the hen"];
        let mut session = chat(tiny(), home.path(), &[&flags[..], &prompt].concat(), variables);
        let text = session.exp_eof().unwrap();
        assert_eq!(code(&session), 0);
        text
    };
    assert!(all(&[]).contains("\u{1b}[32m"));
    assert!(!all(&[("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!all(&[("TERM", "dumb")]).contains('\u{1b}'));
}

#[test]
fn the_default_model_is_offered_where_somebody_can_answer() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = folder();
    let tools = home.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    // Stands for Python: it gets our script and the model's name, and says where the file is.
    let python = tools.join("python3");
    let script = format!("#!/bin/sh\ntest \"$1\" = -c && test \"$3\" = smollm2 && echo {}\n", tiny());
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (store, path) = (home.path().join("store"), format!("{}:/usr/bin:/bin", tools.display()));
    let variables = [("ADED_MODELS", store.to_str().unwrap()), ("PATH", path.as_str())];
    let ask = |answer: &str| {
        let mut session = start(home.path(), &["chat", "-st", "-n", "4", "-p", "the hen"], &variables);
        session.exp_string("fetch its 98 MB? [y/N] ").unwrap();
        session.send_line(answer).unwrap();
        let rest = session.exp_eof().unwrap();
        (code(&session), rest)
    };
    let (yes, said) = ask("y");
    assert_eq!(yes, 0, "{said}");
    let (no, said) = ask("");
    assert!(no == 2 && said.contains("make run"), "{no} {said}");
    let mut session = start(home.path(), &["chat", "-st", "--offline", "-p", "x"], &variables);
    let said = session.exp_eof().unwrap();
    assert!(code(&session) == 2 && said.contains("no model is named"), "{said}");
}
