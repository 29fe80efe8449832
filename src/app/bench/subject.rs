//! A model file as the subject of a measurement.

use std::sync::Arc;

use aded::draft::cost::SIZES;
use aded::llama::text::ChatMessage;
use aded::llama::{ContextParams, FlashAttention, Kernels, Model, Target, kernels_enable};
use aded::representative::corpus::Corpus;
use aded::round::Decoder;
use aded::sampling::RowSampler;
use aded::{CancelFlag, Config, Error, Session, Token};

use super::args::BenchArgs;
use super::curve;
use super::measure::{Mode, Run, Subject};
use super::prompts::Question;
use super::report::Cost;
use crate::app::flags::{KernelMode, SamplingArgs};
use crate::app::resolve;

/// The model, once with our kernels and, for the mode `stock`, once with llama.cpp's.
pub(crate) struct ModelSubject {
    model: Arc<Model>,
    stock: Option<Arc<Model>>,
    /// For modes that draft.
    params: ContextParams,
    /// For `plain` and `stock`: one sequence, and the faster attention.
    plain_params: ContextParams,
    stock_params: ContextParams,
    config: Config,
    corpus: Option<Arc<Corpus>>,
    sampling: SamplingArgs,
    end_tokens: Vec<Token>,
    is_chat: bool,
    has_kernels: bool,
    cancel: CancelFlag,
}

impl ModelSubject {
    /// Loads what the arguments name. `questions` decide how long the contexts are; those that fit into none are removed and given back.
    pub(crate) fn new(
        args: &BenchArgs,
        questions: &mut Vec<Question>,
        cancel: &CancelFlag,
    ) -> anyhow::Result<(Self, Vec<Question>)> {
        let has_kernels = switch_kernels(args.kernels.kernels == KernelMode::Auto);
        let model = resolve::model(&args.model, cancel)?;
        let stock = if args.modes.contains(&Mode::Stock) {
            switch_kernels(false);
            Some(resolve::model(&args.model, cancel)?)
        } else {
            None
        };
        let is_chat = !args.no_conversation && model.chat_template().is_some();
        let mut subject = Self {
            config: resolve::config(&args.spec)?,
            corpus: args.spec.corpus.as_ref().map(|path| resolve::corpus(path, &model)).transpose()?,
            end_tokens: model.end_tokens(),
            params: ContextParams::default(),
            plain_params: ContextParams::default(),
            stock_params: ContextParams::default(),
            sampling: args.sampling.clone(),
            is_chat,
            has_kernels,
            cancel: cancel.clone(),
            model,
            stock,
        };
        let n_ctx = match args.context.ctx_size.as_slice() {
            [] => subject.needed(questions, args.predict as usize)?,
            [n_ctx] => *n_ctx,
            several => {
                return Err(Error::usage(format!(
                    "{} contexts are listed, which only --curve takes; give one, or none",
                    several.len()
                ))
                .into());
            }
        };
        let left_out = subject.remove_too_long(questions, n_ctx as usize, args.predict as usize)?;
        let context = args.context.with_size(n_ctx);
        subject.params = resolve::context_params(&context, &args.spec, &subject.model)?;
        subject.plain_params = ContextParams { max_leaves: 1, max_logits_rows: 1, ..subject.params.clone() };
        subject.stock_params = subject.plain_params.clone();
        if subject.params.flash_attention == FlashAttention::Auto {
            let (text, used_cells) = subject.typical_lengths(questions)?;
            subject.plain_params.flash_attention = subject.faster_attention(Mode::Plain, &text, used_cells)?;
            if subject.stock.is_some() {
                subject.stock_params.flash_attention = subject.faster_attention(Mode::Stock, &text, used_cells)?;
            }
        }
        Ok((subject, left_out))
    }

    /// The model that modes other than `stock` use.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The contexts of the drafting modes, and the flash-attention settings of `plain` and `stock`.
    pub(crate) fn params(&self) -> (&ContextParams, FlashAttention, FlashAttention) {
        (&self.params, self.plain_params.flash_attention, self.stock_params.flash_attention)
    }

    /// Whose kernels a mode runs on.
    pub(crate) fn kernels(&self, mode: Mode) -> &'static str {
        if self.has_kernels && mode != Mode::Stock { "aded" } else { "llama.cpp" }
    }

    /// The tokens of the turns with answers of full length between them.
    fn length(&self, question: &Question, n_max: usize) -> anyhow::Result<usize> {
        let mut n_tokens = 0;
        for turn in &question.turns {
            n_tokens += self.prompt(&[], turn)?.len() + n_max;
        }
        // What a template puts between turns, and the rows of a draft.
        Ok(n_tokens + 32)
    }

    fn needed(&self, questions: &[Question], n_max: usize) -> anyhow::Result<u32> {
        const STEP: usize = 512;
        let mut longest = STEP;
        for question in questions {
            longest = longest.max(self.length(question, n_max)?);
        }
        let trained = self.model.n_ctx_train() as usize;
        let needed = longest.next_multiple_of(STEP);
        Ok(if trained > 0 { needed.min(trained) } else { needed } as u32)
    }

    fn remove_too_long(
        &self,
        questions: &mut Vec<Question>,
        n_ctx: usize,
        n_max: usize,
    ) -> anyhow::Result<Vec<Question>> {
        let mut left_out = Vec::new();
        for question in std::mem::take(questions) {
            let fits = self.length(&question, n_max)? <= n_ctx;
            if fits { &mut *questions } else { &mut left_out }.push(question);
        }
        if questions.is_empty() {
            return Err(Error::usage(format!(
                "no question fits into a context of {n_ctx} tokens with {n_max} for each answer; raise -c or lower -n"
            ))
            .into());
        }
        Ok(left_out)
    }

    /// The questions' tokens, and how many cells a short prompt, a middling and a long one use before its last token: the middle of each
    /// third of them.
    fn typical_lengths(&self, questions: &[Question]) -> anyhow::Result<(Vec<Token>, [usize; 3])> {
        let mut lengths = Vec::new();
        let mut text = Vec::new();
        for question in questions {
            let prompt = self.prompt(&[], &question.turns[0])?;
            lengths.push(prompt.len());
            text.extend(prompt);
        }
        lengths.sort_unstable();
        let used_cells = [1, 3, 5].map(|sixth| lengths[lengths.len() * sixth / 6].max(2).min(text.len()) - 1);
        Ok((text, used_cells))
    }

    /// The attention with which steps at all lengths together take less time: one is faster for short texts, the other for long ones.
    fn faster_attention(&self, mode: Mode, text: &[Token], used_cells: [usize; 3]) -> anyhow::Result<FlashAttention> {
        self.enter(mode);
        let mut best = (FlashAttention::On, f64::INFINITY);
        for flash_attention in [FlashAttention::On, FlashAttention::Off] {
            let (model, params) = self.of(mode);
            let params = ContextParams { flash_attention, ..params.clone() };
            if params.validate().is_err() {
                // A quantised memory needs fused attention.
                continue;
            }
            let mut target = Target::new(model.clone(), &params)?;
            target.set_cancel_flag(self.cancel.clone());
            let mut ms = 0.0;
            for used_cells in used_cells {
                ms += curve::curve(&mut target, text, used_cells, &[1], "")?[0].ms;
            }
            if ms < best.1 {
                best = (flash_attention, ms);
            }
        }
        Ok(best.0)
    }

    fn of(&self, mode: Mode) -> (&Arc<Model>, &ContextParams) {
        match (mode, &self.stock) {
            (Mode::Stock, Some(stock)) => (stock, &self.stock_params),
            (Mode::Plain, _) => (&self.model, &self.plain_params),
            _ => (&self.model, &self.params),
        }
    }

    /// What rounds cost, as the drafting modes learnt it, at a middling context.
    pub(crate) fn cost(&self, runs: &[Run], arms: &[(Mode, Session<Target>)]) -> Vec<Cost> {
        let cells: usize = runs.iter().map(|run| run.n_prompt + run.output.len() / 2).sum();
        let used_cells = cells / runs.len().max(1);
        let mut cost = Vec::new();
        for (mode, session) in arms.iter().filter(|(mode, _)| mode.drafts()) {
            let table = session.decoder().cost();
            for rows in SIZES.into_iter().filter(|&rows| table.n_samples(rows) >= 2) {
                cost.extend(table.measured_ms(rows, used_cells).map(|ms| Cost {
                    mode: Some(mode.name().to_owned()),
                    rows,
                    used_cells,
                    kernels: self.kernels(*mode).to_owned(),
                    ms: ms.into(),
                    samples: table.n_samples(rows).into(),
                }));
            }
        }
        cost
    }
}

impl Subject for ModelSubject {
    type Target = Target;

    fn session(&self, mode: Mode) -> anyhow::Result<Session<Target>> {
        let (model, params) = self.of(mode);
        let mut target = Target::new(model.clone(), params)?;
        target.set_cancel_flag(self.cancel.clone());
        let mut session = Session::new(target, mode.config(&self.config))?;
        session.set_cancel_flag(self.cancel.clone());
        Ok(session)
    }

    fn decoder(&self, mode: Mode) -> anyhow::Result<Decoder> {
        let mut decoder = Decoder::new(mode.config(&self.config))?;
        if mode.drafts() {
            decoder.set_corpus(self.corpus.clone());
        }
        Ok(decoder)
    }

    fn enter(&self, mode: Mode) {
        // Products go with the model that was loaded; attention goes with the switch.
        if self.stock.is_some() {
            switch_kernels(self.has_kernels && mode != Mode::Stock);
        }
    }

    fn prompt(&self, earlier: &[(String, String)], turn: &str) -> anyhow::Result<Vec<Token>> {
        if !self.is_chat {
            // Without a template there are no roles: the turns follow each other.
            let said: String = earlier.iter().map(|(turn, answer)| format!("{turn}\n{answer}\n\n")).collect();
            return Ok(self.model.tokenize_prompt((said + turn).as_bytes())?);
        }
        let mut messages = Vec::new();
        for (turn, answer) in earlier {
            messages.push(ChatMessage::new("user", turn));
            messages.push(ChatMessage::new("assistant", answer));
        }
        messages.push(ChatMessage::new("user", turn));
        Ok(self.model.tokenize_chat(&self.model.chat_prompt(&messages, true)?)?)
    }

    fn text(&self, tokens: &[Token]) -> anyhow::Result<String> {
        Ok(self.model.detokenize(tokens, false)?)
    }

    fn end_tokens(&self) -> &[Token] {
        &self.end_tokens
    }

    fn sampler(&self, prompt: &[Token]) -> anyhow::Result<Box<dyn RowSampler>> {
        Ok(Box::new(resolve::sampler(&self.sampling, &self.model, self.params.n_ctx, prompt, false)?))
    }
}

/// Switches our kernels for the whole process. True if there are some to run now.
pub(crate) fn switch_kernels(on: bool) -> bool {
    let kernels = if on { Kernels::default() } else { Kernels::off() };
    kernels_enable(&kernels).is_some()
}
