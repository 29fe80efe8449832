//! `aded chat`: a conversation on the terminal, or line by line from a pipe.

pub(crate) mod args;
mod command;
mod conversation;
mod input;
mod settings;
mod transcript;

use std::path::Path;
use std::sync::Arc;
use std::{fs, mem};

use aded::config::DraftMode;
use aded::llama::{Model, SamplerChain, Target};
use aded::model::TargetModel as _;
use aded::{CancelFlag, Error, Finish, Session, Stats, Token};
use anyhow::Result;

use args::ChatArgs;
use command::{Command, Entry, HELP, QUOTES};
use conversation::Conversation;
pub(crate) use input::history_file;
use input::{Input, Line};
use settings::Settings;

use super::answer::Answering;
use super::flags::{SpecArgs, SpecMode, StatsDetail};
use super::memory::Memory;
use super::output::{AnswerObject, TextWriter, details, has_colours, note, speed_up, statistics};
use super::prompt::utf8;
use super::{failure, interrupt, log, resolve};

/// Chats until the user has enough.
///
/// # Errors
/// Whatever keeps it from going on; [`Error::is_cancelled`] if the user interrupted it.
pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
    log::install(&args.log)?;
    let cancel = interrupt::install()?;
    let (system, template) = (args.template.system()?, args.template.template()?);
    let messages = args.history.load.as_deref().map(transcript::load).transpose()?;
    interrupt::watched();
    resolve::kernels(args.kernels);
    let model = resolve::model(&args.model, &cancel)?;
    let Some(template) = template.or_else(|| model.chat_template()) else {
        return Err(Error::usage(format!(
            "the model {} has no chat template: give one with --chat-template-file, or ask it with `aded run`",
            model.path().display()
        ))
        .into());
    };
    let mode = resolve::config(&args.spec)?.draft.mode;
    // The context must be able to draft, should /spec switch it on.
    let spec = SpecArgs { spec: SpecMode::Auto, spec_type: None, ..args.spec.clone() };
    let params = resolve::context_params(&args.context, &spec, &model)?;
    let mut session = resolve::session(&model, &params, &args.context, &spec, &cancel)?;
    session.decoder_mut().set_mode(mode);
    let memory = Memory::open(&args.memory, &model, (&params, &args.model, args.kernels), session.decoder_mut())?;
    let mut conversation = Conversation::new(model.clone(), template, None);
    if let Some(messages) = messages {
        conversation.set_messages(messages);
    }
    if system.is_some() {
        conversation.set_system(system);
    }
    let mut chat = Chat {
        args,
        end_tokens: model.end_tokens(),
        model,
        session,
        memory,
        cancel,
        conversation,
        settings: Settings { sampling: args.sampling.clone(), output: args.output.clone() },
        out: TextWriter::new(args.output.show_draft && has_colours(args.log.color)),
        put_before: String::new(),
        taken_back: None,
        n_answers: 0,
        last: None,
        total: Total::default(),
    };
    // Now rather than after the first message.
    chat.sampler(&[])?;
    let talked = chat.talk(Input::new(&args.history)?);
    chat.memory.close(chat.session.decoder_mut());
    talked
}

struct Chat<'a> {
    args: &'a ChatArgs,
    model: Arc<Model>,
    session: Session<Target>,
    memory: Memory,
    cancel: CancelFlag,
    conversation: Conversation,
    settings: Settings,
    end_tokens: Vec<Token>,
    out: TextWriter,
    /// Files that go with the next message.
    put_before: String,
    /// A message that got no answer.
    taken_back: Option<String>,
    n_answers: u32,
    /// The last answer's statistics and speed-up.
    last: Option<(Stats, Option<f64>)>,
    total: Total,
}

/// Statistics of all answers.
#[derive(Default)]
struct Total {
    stats: Stats,
    /// Times of the answers whose speed-up is known, as they were and as they would have been plainly.
    took_ns: f64,
    plain_ns: f64,
}

impl Total {
    fn add(&mut self, stats: &Stats, speed_up: Option<f64>) {
        self.stats += stats;
        if let Some(factor) = speed_up {
            self.took_ns += stats.round_ns as f64;
            self.plain_ns += stats.round_ns as f64 * factor;
        }
    }

    fn speed_up(&self) -> Option<f64> {
        (self.took_ns > 0.0).then(|| self.plain_ns / self.took_ns)
    }
}

impl Chat<'_> {
    fn talk(&mut self, mut input: Input) -> Result<()> {
        if input.is_terminal() {
            self.greet();
        }
        let is_single = self.args.ignored.single_turn;
        let mut was_interrupted = false;
        if let Some(prompt) = &self.args.prompt {
            let text = self.args.template.unescape(prompt);
            was_interrupted = self.attempt(input.is_terminal(), |chat| chat.say(&text))?;
            if is_single {
                return if was_interrupted { Err(Error::cancelled().into()) } else { Ok(()) };
            }
        }
        loop {
            // While the editor or a pipe waits nothing looks at the flag.
            interrupt::unwatched();
            let line = input.next()?;
            interrupt::watched();
            match line {
                Line::End => return Ok(()),
                Line::Interrupt if was_interrupted => return Err(Error::cancelled().into()),
                Line::Interrupt => {
                    note("once more to leave; /exit and Ctrl-D leave as well");
                    was_interrupted = true;
                }
                Line::Text(line) => {
                    let before = self.n_answers;
                    let mut leaves = false;
                    was_interrupted = self.attempt(input.is_terminal(), |chat| {
                        match command::parse(&line)? {
                            Entry::Nothing => {}
                            Entry::Message(text) => return chat.say(&text),
                            Entry::Command(Command::Exit) => leaves = true,
                            Entry::Command(command) => return chat.obey(command),
                        }
                        Ok(false)
                    })?;
                    if leaves || (is_single && self.n_answers > before) {
                        return Ok(());
                    }
                    if was_interrupted && !input.is_terminal() {
                        return Err(Error::cancelled().into());
                    }
                }
            }
        }
    }

    /// Does something and gives whether it was interrupted. On a terminal what goes wrong with a request is told and the chat goes on; from a
    /// pipe it is an error.
    fn attempt(&mut self, is_terminal: bool, action: impl FnOnce(&mut Self) -> Result<bool>) -> Result<bool> {
        let result = action(self);
        let is_raised = self.cancel.is_cancelled();
        self.cancel.reset();
        match result {
            Err(error) if is_terminal && error.chain().any(|cause| cause.is::<Error>()) => {
                self.out.end_line();
                self.out.flush()?;
                note(&format!("error: {}", failure::line(&error)));
                Ok(is_raised)
            }
            result => result.map(|was_stopped| was_stopped || is_raised),
        }
    }

    fn greet(&self) {
        let limits = self.session.target().limits();
        let drafts = if self.settings.output.show_draft { "; guessed tokens are coloured" } else { "" };
        note(&format!(
            "{}, {} tokens of context{drafts}\n/help lists the commands, {QUOTES} begins and ends a message of several lines",
            self.model.name().map_or_else(|| self.model.description(), str::to_owned),
            limits.n_ctx
        ));
    }

    /// Sends a message and answers it. True if the answer was interrupted.
    fn say(&mut self, text: &str) -> Result<bool> {
        let put_before = mem::take(&mut self.put_before);
        let text = if put_before.is_empty() { text.to_owned() } else { format!("{put_before}{text}") };
        self.conversation.push("user", &text);
        let answered = self.answer();
        // A message without an answer would stand before the next one, which templates refuse.
        if self.conversation.pop("user").is_some() {
            self.taken_back = Some(text);
            if matches!(answered, Ok(true)) {
                note("stopped before the answer began: the message is taken back; /regen asks it again");
            }
        }
        answered
    }

    /// Answers the last message. True if it was interrupted.
    fn answer(&mut self) -> Result<bool> {
        let n_ctx = self.session.target().limits().n_ctx as usize;
        let (prompt, n_dropped) = self.conversation.fit(n_ctx)?;
        if n_dropped > 0 {
            let turns = if n_dropped == 1 { "oldest turn is" } else { "oldest turns are" };
            let count = if n_dropped == 1 { String::new() } else { format!("{n_dropped} ") };
            note(&format!(
                "the context of {n_ctx} tokens is full: the {count}{turns} forgotten; /clear begins anew, and a larger -c holds more"
            ));
        }
        let mut sampler = self.sampler(&prompt.tokens)?;
        let answering =
            Answering { args: &self.settings.output, template: &self.args.template, end_tokens: &self.end_tokens };
        let answer = answering.answer(&self.model, &mut self.session, &prompt.tokens, &mut sampler, &mut self.out)?;
        let was_stopped = answer.finish == Some(Finish::Cancelled);
        self.n_answers = self.n_answers.wrapping_add(1);
        let is_cut = answer.finish == Some(Finish::Length) && prompt.tokens.len() + answer.tokens.len() >= n_ctx;
        let speed_up = speed_up(&answer.stats, self.session.decoder().cost());
        if self.settings.output.json {
            AnswerObject::new(&answer, speed_up, self.settings.output.stats == Some(StatsDetail::Full)).write()?;
        } else {
            self.out.end_line();
            self.out.flush()?;
        }
        if !(was_stopped && answer.text.is_empty()) {
            self.conversation.answered(prompt, &answer.text, &answer.tokens)?;
        }
        if is_cut {
            note(&format!(
                "the answer ends here because the context of {n_ctx} tokens is full; a larger -c holds more"
            ));
        }
        self.memory.tick(self.session.decoder_mut());
        self.total.add(&answer.stats, speed_up);
        self.last = Some((answer.stats, speed_up));
        if let Some(detail) = self.settings.output.stats {
            self.tell_last(detail == StatsDetail::Full);
        }
        Ok(was_stopped)
    }

    /// The sampler for an answer. With a seed of the user's each answer has one of its own, so that /regen says something else.
    fn sampler(&self, prompt: &[Token]) -> Result<SamplerChain> {
        let mut sampling = self.settings.sampling.clone();
        if sampling.seed >= 0 {
            // The largest number stands for chance.
            sampling.seed = (sampling.seed + i64::from(self.n_answers)) % i64::from(u32::MAX);
        }
        let n_ctx = self.session.target().limits().n_ctx;
        resolve::sampler(&sampling, &self.model, n_ctx, prompt, self.settings.output.ignore_eos)
    }

    fn tell_last(&self, is_full: bool) {
        let Some((stats, speed_up)) = &self.last else {
            note("nothing was answered yet");
            return;
        };
        note(&statistics(stats, *speed_up));
        if is_full {
            note(details(stats).trim_end());
        }
    }

    /// Does what a command says. True if an answer was interrupted.
    fn obey(&mut self, command: Command) -> Result<bool> {
        match command {
            Command::Help => {
                let lines = HELP.map(|(name, arguments, what)| format!("{:<22} {what}", format!("{name} {arguments}")));
                note(&lines.join("\n"));
            }
            // The loop ends before it comes here.
            Command::Exit => {}
            Command::Clear => {
                self.conversation.clear();
                self.put_before.clear();
                self.taken_back = None;
            }
            Command::Regenerate => return self.regenerate(),
            Command::System(None) => match self.conversation.system() {
                Some(text) => note(text),
                None => note("there is no system prompt"),
            },
            Command::System(Some(text)) => self.conversation.set_system((!text.is_empty()).then_some(text)),
            Command::Set(None) => note(&self.settings.list()),
            Command::Set(Some((name, value))) => {
                let before = self.settings.clone();
                let set = self.settings.set(&name, &value).map_err(Into::into);
                if let Err(error) = set.and_then(|()| self.sampler(&[]).map(drop)) {
                    self.settings = before;
                    return Err(error);
                }
            }
            Command::Stats { is_full } => self.tell_stats(is_full),
            Command::Spec(None) => note(mode_name(self.session.decoder().config().draft.mode)),
            Command::Spec(Some(mode)) => self.session.decoder_mut().set_mode(match mode {
                SpecMode::On => DraftMode::On,
                SpecMode::Off => DraftMode::Off,
                SpecMode::Auto => DraftMode::Auto,
            }),
            Command::Read(path) => self.read(&path)?,
            Command::Save(path) => {
                let name = self.model.path().file_name().unwrap_or_default().to_string_lossy();
                transcript::save(&path, &name, &self.conversation.messages())?;
            }
            Command::Load(path) => {
                self.conversation.set_messages(transcript::load(&path)?);
                self.taken_back = None;
                note(&format!("{} messages", self.conversation.messages().len()));
            }
        }
        Ok(false)
    }

    fn regenerate(&mut self) -> Result<bool> {
        let answer = self.conversation.pop("assistant");
        let question = self.conversation.pop("user").or_else(|| self.taken_back.take());
        let Some(question) = question else {
            if let Some(answer) = answer {
                self.conversation.push("assistant", &answer);
            }
            return Err(Error::usage("there is no message to answer anew").into());
        };
        self.say(&question)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let bytes = fs::read(path).map_err(|error| Error::io(format!("cannot read {name}"), error))?;
        let text = utf8(bytes, &format!("the file {name}"))?;
        self.put_before += &text;
        if !text.ends_with('\n') {
            self.put_before.push('\n');
        }
        note(&format!("{} characters go with the next message", self.put_before.chars().count()));
        Ok(())
    }

    fn tell_stats(&self, is_full: bool) {
        self.tell_last(is_full);
        if self.n_answers > 1 {
            note(&format!("all {} answers: {}", self.n_answers, statistics(&self.total.stats, self.total.speed_up())));
            if is_full {
                note(details(&self.total.stats).trim_end());
            }
        }
        if self.n_answers > 0 {
            let mode = mode_name(self.session.decoder().config().draft.mode);
            note(&format!("--spec {mode}, {}", resolve::manner(self.session.target())));
        }
    }
}

fn mode_name(mode: DraftMode) -> &'static str {
    match mode {
        DraftMode::On => "on",
        DraftMode::Off => "off",
        DraftMode::Auto => "auto",
    }
}
