//! Texts that the model writes itself, to learn from: what it says is what it is asked to verify later, so that a little of it
//! is worth a lot of foreign text (docs/tuning.md).
//!
//! A model with a chat template first writes a question, from the bare beginning of a user's turn, then answers it; any other model
//! writes on from nothing. Many texts share each decode call. Whole texts go to a file of their own beside the corpus, so that a run
//! that was interrupted, or a larger one, goes on from them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aded::config::{Config, DraftConfig, DraftMode};
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, Model, SamplerChain, SamplingParams, Target};
use aded::model::TargetModel as _;
use aded::representative::corpus::CorpusBuilder;
use aded::round::{Decoder, Turn};
use aded::{CancelFlag, Error, Request, Sequence, Slot, Token};
use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

/// Texts that are written side by side.
const N_SLOTS: u32 = 16;
/// Cells for each of them: the template, a question and an answer.
const SLOT_CELLS: u32 = 640;
const QUESTION_TOKENS: usize = 64;
const ANSWER_TOKENS: usize = 256;
/// How the file begins; another version begins otherwise.
const FORMAT: u32 = 1;

/// The first line of a file of texts.
#[derive(Serialize, Deserialize, PartialEq)]
struct Head {
    aded_own_texts: u32,
    /// Of the tokenizer and the weights' metadata: another model's texts are worth less than they seem.
    model: String,
    seed: u32,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Texts are numbered; a text's number and the seed decide what it says.
    text: u32,
    tokens: Vec<u32>,
}

/// Where the texts of a corpus are kept.
pub(super) fn texts_path(corpus: &Path) -> PathBuf {
    let mut name = corpus.file_name().unwrap_or_default().to_owned();
    name.push(".texts.jsonl");
    corpus.with_file_name(name)
}

/// The texts that were written so far.
struct Texts {
    file: File,
    path: PathBuf,
    /// Number of the next text.
    next: u32,
    n_tokens: u64,
}

impl Texts {
    /// Opens the file, or begins it, and learns what it holds. A last line that was cut off is removed.
    fn open(path: PathBuf, head: &Head, builder: &mut CorpusBuilder) -> Result<Self> {
        let name = path.display().to_string();
        let cannot = || format!("cannot write the texts to {name}");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut texts = Self { file: file.with_context(cannot)?, path, next: 0, n_tokens: 0 };
        let mut reader = BufReader::new(texts.file.try_clone().with_context(cannot)?);
        let (mut line, mut whole) = (String::new(), 0_u64);
        for index in 1.. {
            line.clear();
            let n = reader.read_line(&mut line).with_context(|| format!("cannot read {name}"))?;
            if !line.ends_with('\n') {
                // The end, or a line that was not finished.
                break;
            }
            let other = |what: String| {
                Error::format(format!("{name}, line {index}: {what}; move the file away or choose another --output"))
            };
            if index == 1 {
                let found: Head = serde_json::from_str(&line).map_err(|error| other(reason(&error)))?;
                if found != *head {
                    let found = format!("it holds texts of another model, seed or version ({})", line.trim_end());
                    return Err(other(found).into());
                }
            } else {
                let found: Line = serde_json::from_str(&line).map_err(|error| other(reason(&error)))?;
                texts.learn(&found, builder)?;
                texts.next = texts.next.max(found.text.saturating_add(1));
            }
            whole += n as u64;
        }
        drop(reader);
        texts.file.set_len(whole).and_then(|()| texts.file.seek(SeekFrom::End(0))).with_context(cannot)?;
        if whole == 0 {
            texts.append(head)?;
        }
        Ok(texts)
    }

    fn learn(&mut self, line: &Line, builder: &mut CorpusBuilder) -> Result<(), Error> {
        let tokens: Vec<Token> = line.tokens.iter().map(|&token| Token(token)).collect();
        self.n_tokens += tokens.len() as u64;
        builder.push_document(&tokens)
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            (&self.file).write_all(&bytes)
        };
        write().with_context(|| format!("cannot write the texts to {}", self.path.display()))
    }
}

fn reason(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => "it is no file of texts".to_owned(),
        _ => "it is not JSON".to_owned(),
    }
}

/// What every text begins from.
struct Opening {
    prompt: Vec<Token>,
    /// A user's words are to follow.
    asks: bool,
}

/// What a slot writes.
struct Writer {
    sequence: Sequence,
    text: u32,
    n_prompt: usize,
    /// It writes a question, which is to be answered.
    asks: bool,
    sampler: SamplerChain,
}

/// Writes texts of at least `n_tokens` tokens in all, and puts them into `builder`.
pub(super) struct OwnTexts<'a> {
    pub(super) model: &'a Arc<Model>,
    pub(super) n_tokens: u64,
    pub(super) seed: u32,
    pub(super) n_threads: u32,
    pub(super) cancel: &'a CancelFlag,
    pub(super) bar: &'a ProgressBar,
}

impl OwnTexts<'_> {
    /// Returns the number of texts that the corpus is built from.
    ///
    /// # Errors
    /// The target's and the file's; [`Error::is_cancelled`] if it was interrupted, with all whole texts in the file.
    pub(super) fn write(&self, corpus: &Path, builder: &mut CorpusBuilder) -> Result<u32> {
        let head = Head {
            aded_own_texts: FORMAT,
            model: format!("{:016x}", self.model.metadata_fingerprint()),
            seed: self.seed,
        };
        let mut texts = Texts::open(texts_path(corpus), &head, builder)?;
        self.bar.set_position(texts.n_tokens.min(self.n_tokens));
        if texts.n_tokens >= self.n_tokens {
            return Ok(texts.next);
        }
        let mut target = Target::new(self.model.clone(), &self.context_params())?;
        target.set_cancel_flag(self.cancel.clone());
        let draft = DraftConfig { mode: DraftMode::Off, ..DraftConfig::default() };
        let mut decoder = Decoder::new(Config { draft, ..Config::default() })?;
        let end_tokens = self.model.end_tokens();
        let opening = self.opening()?;
        let n_ctx = target.limits().n_ctx;
        let mut writers = Vec::new();
        for slot in 0..target.limits().n_slots {
            let mut writer = Writer {
                sequence: Sequence::new(Slot(slot), n_ctx),
                text: 0,
                n_prompt: 0,
                asks: false,
                sampler: self.sampler(0)?,
            };
            self.begin(&mut writer, &mut texts.next, &opening, &mut target, &mut decoder, &end_tokens)?;
            writers.push(writer);
        }
        while texts.n_tokens < self.n_tokens {
            if self.cancel.is_cancelled() {
                return Err(Error::cancelled().into());
            }
            let mut turns: Vec<Turn<'_>> = writers
                .iter_mut()
                .map(|writer| Turn { sequence: &mut writer.sequence, sampler: &mut writer.sampler })
                .collect();
            decoder.round(&mut target, &mut turns)?;
            drop(turns);
            for writer in writers.iter_mut().filter(|writer| writer.sequence.finish().is_some()) {
                let question = self.finished(writer, &mut texts, builder)?;
                if question.is_empty() {
                    self.begin(writer, &mut texts.next, &opening, &mut target, &mut decoder, &end_tokens)?;
                } else {
                    let prompt = self.answer_prompt(&question)?;
                    let prompt = &prompt[..prompt.len().min(SLOT_CELLS as usize - ANSWER_TOKENS)];
                    writer.asks = false;
                    start(writer, prompt, ANSWER_TOKENS, &mut target, &mut decoder, &end_tokens)?;
                }
            }
        }
        Ok(texts.next)
    }

    fn context_params(&self) -> ContextParams {
        ContextParams {
            n_ctx: SLOT_CELLS,
            n_slots: N_SLOTS,
            max_logits_rows: N_SLOTS,
            max_leaves: 1,
            n_threads: self.n_threads,
            n_threads_batch: self.n_threads,
            ..ContextParams::default()
        }
    }

    /// What every text begins from: the template up to where a user's words begin, or a token that begins a text.
    fn opening(&self) -> Result<Opening, Error> {
        const WORDS: &str = "\u{1}words\u{1}";
        if let Some(template) = self.model.chat_template() {
            let text = self.model.chat_prompt_with(&template, &[ChatMessage::new("user", WORDS)], false)?;
            // A template that changes the words beyond recognition: write without it.
            if let Some((before, _)) = text.split_once(WORDS) {
                return Ok(Opening { prompt: self.model.tokenize_chat(before)?, asks: true });
            }
        }
        let prompt = self.model.begin_token().or_else(|| self.model.end_token()).into_iter().collect();
        Ok(Opening { prompt, asks: false })
    }

    fn answer_prompt(&self, question: &[Token]) -> Result<Vec<Token>, Error> {
        let words = self.model.detokenize(question, false)?;
        self.model.tokenize_chat(&self.model.chat_prompt(&[ChatMessage::new("user", words.trim())], true)?)
    }

    /// Texts are to be various, as users are.
    fn sampler(&self, text: u32) -> Result<SamplerChain, Error> {
        let seed = self.seed.wrapping_add(text.wrapping_mul(0x9e37_79b9));
        SamplerChain::new(self.model, &SamplingParams { seed, ..SamplingParams::default() })
    }

    /// A slot begins the next text.
    fn begin(
        &self,
        writer: &mut Writer,
        next: &mut u32,
        opening: &Opening,
        target: &mut Target,
        decoder: &mut Decoder,
        end_tokens: &[Token],
    ) -> Result<(), Error> {
        writer.text = *next;
        *next = next.saturating_add(1);
        writer.sampler = self.sampler(writer.text)?;
        if opening.prompt.is_empty() {
            return Err(Error::usage(
                "the model has neither a chat template nor a token that begins a text: it cannot write by itself",
            ));
        }
        writer.asks = opening.asks;
        let n_max = if opening.asks { QUESTION_TOKENS } else { ANSWER_TOKENS };
        start(writer, &opening.prompt, n_max, target, decoder, end_tokens)
    }

    /// What a slot has written goes to the file and the corpus. Gives the words that are to be answered; none unless it asked.
    fn finished(&self, writer: &Writer, texts: &mut Texts, builder: &mut CorpusBuilder) -> Result<Vec<Token>> {
        let tokens = &writer.sequence.tokens()[writer.n_prompt..];
        if !tokens.is_empty() {
            let line = Line { text: writer.text, tokens: tokens.iter().map(|token| token.0).collect() };
            texts.append(&line)?;
            texts.learn(&line, builder)?;
            self.bar.set_position(texts.n_tokens.min(self.n_tokens));
        }
        let is_word = |token: &Token| writer.asks && !self.model.is_control(*token);
        Ok(tokens.iter().copied().filter(is_word).collect())
    }
}

/// Starts a slot on a prompt; the beginning that it holds already stays.
fn start(
    writer: &mut Writer,
    prompt: &[Token],
    n_max: usize,
    target: &mut Target,
    decoder: &mut Decoder,
    end_tokens: &[Token],
) -> Result<(), Error> {
    let n_held = writer.sequence.n_common(prompt).min(prompt.len() - 1);
    target.truncate(writer.sequence.slot(), n_held as u32)?;
    writer.n_prompt = prompt.len();
    decoder.begin(&mut writer.sequence, &Request { prompt, n_max, end_tokens }, n_held);
    Ok(())
}
