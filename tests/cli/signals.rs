//! Ctrl-C and readers that go away.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::{SMOLLM2, fetched, folder, program, tiny};

fn interrupt(child: &Child) {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(killed.success());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        program().args(["run", "-m", tiny(), "-p", "x", "--ignore-eos", "-n", "900"]).spawn().expect("it was built");
    let mut byte = [0];
    child.stdout.take().expect("a pipe").read_exact(&mut byte).expect("text comes");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut child = program().arg("--help").stdout(Stdio::piped()).spawn().expect("it was built");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn an_interrupt_while_answering_keeps_what_was_said() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let arguments = ["-p", "Count up from one.", "--ignore-eos", "-n", "8000", "--temp", "0"];
    let mut child = program().args(["run", "-m"]).arg(&model).args(arguments).spawn().expect("it was built");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 8]).expect("text comes");
    interrupt(&child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("UTF-8 to the end");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(rest.len() < 16_000, "it went on for {} bytes", rest.len());
}

#[test]
fn an_interrupt_inside_a_long_prompt_stops_it() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let prompt = "A long text that takes its time. ".repeat(950);
    let arguments = ["-p", &prompt, "-c", "8192", "-n", "1", "-b", "8192", "-ub", "8192", "--json"];
    let child = program().args(["run", "-m"]).arg(&model).args(arguments).spawn().expect("it was built");
    sleep(Duration::from_secs(4));
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(answer.is_null() || answer["finish_reason"] == "cancelled" && answer["tokens"] == serde_json::json!([]));
}

#[test]
fn a_second_interrupt_ends_the_process_at_once() {
    let Some(model) = fetched(SMOLLM2) else { return };
    for _ in 0..3 {
        let arguments = ["-p", "Count up from one.", "--ignore-eos", "-n", "8000", "--temp", "0"];
        let mut child = program().args(["run", "-m"]).arg(&model).args(arguments).spawn().expect("it was built");
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 8]).expect("text comes");
        interrupt(&child);
        interrupt(&child);
        assert_eq!(child.wait().expect("it ends").code(), Some(130));
    }
}

#[test]
fn an_interrupt_of_quantising_leaves_nothing_behind() {
    let Some(model) = fetched(SMOLLM2) else { return };
    let folder = folder();
    let files = || folder.path().read_dir().expect("it is there").flatten().map(|entry| entry.path()).next();
    let arguments = ["q6_k", "--allow-requantize", "-t", "1"];
    let output = folder.path().join("out.gguf");
    let mut child = program().arg("quantize").arg(&model).arg(output).args(arguments).spawn().expect("it was built");
    while files().is_none() {
        assert!(child.try_wait().expect("it is ours").is_none(), "it ended without a file");
        sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(130));
    assert_eq!(files(), None);
}

#[test]
fn an_interrupt_while_waiting_for_the_prompt_ends_the_process() {
    let child = program().args(["run", "-m", tiny()]).stdin(Stdio::piped()).spawn().expect("it was built");
    sleep(Duration::from_millis(700));
    interrupt(&child);
    let mut child = child;
    // Its input stays open: it must not wait for the end of it.
    let stdin = child.stdin.take();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    drop(stdin);
}
