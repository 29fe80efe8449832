//! `aded chat` on a terminal: prompt, keys, colours, history.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use rexpect::session::{PtySession, spawn_command};

use crate::{SMOLLM2, fetched, folder, program, tiny};

/// Milliseconds until a test gives up; the machine may be busy.
const PATIENCE: u64 = 60_000;

/// What the editor sends when it begins and ends to edit a line: keys sent between go to it and not to the terminal's own line discipline.
const BEGIN: &str = "\u{1b}[?2004h";
const END: &str = "\u{1b}[?2004l";

/// The program on a terminal of its own.
struct Terminal(PtySession);

impl Terminal {
    /// With a home folder of its own.
    fn start(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let program = program().get_program().to_owned();
        Self::start_program(program, home, arguments, variables)
    }

    /// As [`start`](Self::start), another program.
    fn start_program(name: impl AsRef<OsStr>, home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        // Not `program()` itself: its input and output are no terminal.
        let mut command = Command::new(name);
        for (name, value) in program().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("HOME", home).env_remove("XDG_STATE_HOME").env("TERM", "xterm");
        command.envs(variables.iter().copied()).args(arguments);
        Self(spawn_command(command, Some(PATIENCE)).expect("a terminal"))
    }

    /// `aded chat`.
    fn chat(model: &str, home: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(home, &[&["chat", "-m", model, "--temp", "0"], flags].concat(), variables)
    }

    /// Waits until a line is asked for.
    #[track_caller]
    fn asks(&mut self) {
        self.shows(BEGIN);
    }

    /// Waits until this is shown.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        self.0.exp_string(text).unwrap();
    }

    /// Types a line once it is asked for.
    #[track_caller]
    fn line(&mut self, line: &str) {
        self.asks();
        self.0.send_line(line).unwrap();
    }

    /// Types what is no whole line.
    #[track_caller]
    fn keys(&mut self, keys: &str) {
        self.0.send(keys).unwrap();
        self.0.flush().unwrap();
    }

    #[track_caller]
    fn control(&mut self, key: char) {
        self.0.send_control(key).unwrap();
    }

    /// Asks for a long answer and interrupts it once it is under way.
    #[track_caller]
    fn interrupts_an_answer(&mut self) {
        self.line("Count from one upwards, in digits.");
        self.shows(END);
        self.0.exp_regex("[a-z]{2}").unwrap();
        self.control('c');
        self.shows("tokens per round");
    }

    /// The exit code and what was still shown.
    #[track_caller]
    fn ends(mut self) -> (i32, String) {
        let rest = self.0.exp_eof().unwrap();
        // Its type cannot be named, but printed: `Exited(Pid(1), 0)`.
        let status = format!("{:?}", self.0.process().wait().expect("it ends"));
        let code = status
            .strip_prefix("Exited(")
            .and_then(|rest| rest.rsplit_once(", ")?.1.trim_end_matches(')').parse().ok());
        (code.unwrap_or_else(|| panic!("{status}")), rest)
    }

    /// Waits for the end, with this exit code.
    #[track_caller]
    fn ends_with(self, code: i32) {
        let (found, rest) = self.ends();
        assert_eq!(found, code, "{rest}");
    }
}

#[test]
fn a_line_is_answered_and_kept_and_the_end_of_the_input_is_no_failure() {
    let home = folder();
    let mut chat = Terminal::chat(tiny(), home.path(), &["-n", "8"], &[]);
    chat.shows("/help lists the commands");
    chat.line("tell of the hen");
    chat.line("/nonsense");
    chat.shows("error: /nonsense is no command");
    chat.asks();
    chat.control('d');
    chat.ends_with(0);
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
    let mut chat = Terminal::chat(tiny(), home.path(), &["-n", "8"], &[]);
    chat.asks();
    chat.keys("\u{1b}[A\u{1b}[A");
    chat.shows("tell of the hen");
    chat.keys("\r");
    chat.line("/exit");
    chat.ends_with(0);
}

#[test]
fn the_history_can_be_switched_off() {
    let home = folder();
    let mut chat = Terminal::chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    chat.line("/bye");
    chat.ends_with(0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn several_lines_make_one_message() {
    let home = folder();
    let file = home.path().join("chat.json");
    let mut chat = Terminal::chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    chat.asks();
    chat.keys("\"\"\"one\r/two\rthree\"\"\"\r");
    chat.line(&format!("/save {}", file.display()));
    chat.asks();
    chat.control('d');
    chat.ends_with(0);
    assert!(std::fs::read_to_string(&file).unwrap().contains(r"one\n/two\nthree"));
}

#[test]
fn an_interrupt_at_the_prompt_warns_and_the_next_one_leaves() {
    let home = folder();
    let mut chat = Terminal::chat(tiny(), home.path(), &["-n", "8", "--no-history"], &[]);
    chat.asks();
    chat.keys("half a line");
    chat.shows("half a line");
    chat.control('c');
    chat.shows("once more to leave");
    chat.line("/spec");
    chat.shows("auto");
    chat.asks();
    // A line between them makes the next one a first one.
    chat.control('c');
    chat.shows("once more to leave");
    chat.asks();
    chat.control('c');
    chat.ends_with(130);
}

#[test]
fn an_interrupt_stops_the_answer_and_a_second_one_at_the_prompt_leaves() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let home = folder();
    let flags = ["-n", "8000", "--ignore-eos", "--no-history", "--stats"];
    let mut chat = Terminal::chat(model.to_str().unwrap(), home.path(), &flags, &[]);
    chat.interrupts_an_answer();
    // It answers as before.
    chat.line("/set predict 4");
    chat.line("Hello.");
    chat.shows("tokens per round");
    chat.line("/set predict 8000");
    chat.interrupts_an_answer();
    chat.asks();
    chat.control('c');
    chat.ends_with(130);
}

#[test]
fn a_request_to_terminate_leaves_a_terminal_that_shows_typing() {
    let home = folder();
    // The shells stand for the user's: the outer one compares the terminal's modes, the inner one tells the process that it becomes.
    let inner = r#"echo "process $$."; exec "$0" chat -m "$1" --no-history"#;
    let outer = format!(
        r#"before=$(stty -g); sh -c '{inner}' "$0" "$1"; echo "code $?"; test "$before" = "$(stty -g)" && echo as before"#
    );
    let aded = program().get_program().to_str().unwrap().to_owned();
    let mut chat = Terminal::start_program("sh", home.path(), &["-c", &outer, &aded, tiny()], &[]);
    chat.shows("process ");
    let process = chat.0.exp_string(".").unwrap();
    chat.asks();
    chat.keys("half a line");
    chat.shows("half a line");
    assert!(Command::new("kill").args(["-TERM", &process]).status().expect("kill is there").success());
    chat.shows(END);
    chat.shows("code 130");
    let (code, left) = chat.ends();
    assert!(code == 0 && left.contains("as before"), "{code} {left}");
}

#[test]
fn guesses_are_coloured_on_a_terminal_unless_no_color_is_set() {
    let home = folder();
    let flags = ["-n", "40", "--no-history", "--show-draft", "--spec", "on", "--spec-budget", "8", "-st"];
    let all = |variables: &[(&str, &str)]| {
        let prompt = ["-p", "the hen and the hen and the hen and the hen"];
        let (code, text) = Terminal::chat(tiny(), home.path(), &[&flags[..], &prompt].concat(), variables).ends();
        assert_eq!(code, 0, "{text}");
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
        let mut chat = Terminal::start(home.path(), &["chat", "-st", "-n", "4", "-p", "the hen"], &variables);
        chat.shows("fetch its 98 MB? [y/N] ");
        chat.keys(&format!("{answer}\n"));
        chat.ends()
    };
    let (yes, said) = ask("y");
    assert_eq!(yes, 0, "{said}");
    let (no, said) = ask("");
    assert!(no == 2 && said.contains("make run"), "{no} {said}");
    let (code, said) = Terminal::start(home.path(), &["chat", "-st", "--offline", "-p", "x"], &variables).ends();
    assert!(code == 2 && said.contains("no model is named"), "{said}");
}
