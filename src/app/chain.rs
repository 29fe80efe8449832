//! The flags of llama.cpp's sampler chain beyond the common ones, and grammars.

use std::fs;
use std::path::{Path, PathBuf};

use aded::llama::{SamplingParams, json_schema_to_grammar};
use aded::{Error, Token};
use anyhow::{Context as _, Result};
use clap::Args;

/// The less common stages of the chain; defaults as in llama.cpp.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct ChainArgs {
    /// Half the range in which the text's entropy moves the temperature; 0 = off.
    #[arg(long, value_name = "X", default_value_t = 0.0, env = "ADED_DYNATEMP_RANGE")]
    pub(crate) dynatemp_range: f32,
    /// How entropy maps to the temperature.
    #[arg(long, value_name = "X", default_value_t = 1.0, env = "ADED_DYNATEMP_EXP")]
    pub(crate) dynatemp_exp: f32,
    /// Choose among the most typical tokens that together have this probability; 1 = all.
    #[arg(long, alias = "typical-p", value_name = "P", default_value_t = 1.0, env = "ADED_TYPICAL")]
    pub(crate) typical: f32,
    /// Choose among tokens within so many standard deviations of the largest logit; -1 = all.
    #[arg(long, alias = "top-n-sigma", value_name = "N", default_value_t = -1.0, allow_negative_numbers = true, env = "ADED_TOP_NSIGMA")]
    pub(crate) top_nsigma: f32,
    /// Probability that the likeliest tokens are left out but for the last of them (XTC); 0 = off.
    #[arg(long, value_name = "P", default_value_t = 0.0, env = "ADED_XTC_PROBABILITY")]
    pub(crate) xtc_probability: f32,
    /// Probability from which on a token counts for XTC; above 0.5 = off.
    #[arg(long, value_name = "P", default_value_t = 0.1, env = "ADED_XTC_THRESHOLD")]
    pub(crate) xtc_threshold: f32,
    /// Hold the text's surprise constant: 1 or 2 = versions of Mirostat, in place of most other stages; 0 = off.
    #[arg(long, value_name = "N", default_value_t = 0, env = "ADED_MIROSTAT")]
    pub(crate) mirostat: u32,
    /// Mirostat's speed of adaptation.
    #[arg(long, value_name = "X", default_value_t = 0.1, env = "ADED_MIROSTAT_LR")]
    pub(crate) mirostat_lr: f32,
    /// The surprise that Mirostat aims at.
    #[arg(long, value_name = "X", default_value_t = 5.0, env = "ADED_MIROSTAT_ENT")]
    pub(crate) mirostat_ent: f32,
    /// Strength of the penalty on repeated sequences (DRY); 0 = off.
    #[arg(long, value_name = "X", default_value_t = 0.0, env = "ADED_DRY_MULTIPLIER")]
    pub(crate) dry_multiplier: f32,
    /// Growth of that penalty with the length of the repetition.
    #[arg(long, value_name = "X", default_value_t = 1.75, env = "ADED_DRY_BASE")]
    pub(crate) dry_base: f32,
    /// Length of a repetition that costs nothing.
    #[arg(long, value_name = "N", default_value_t = 2, env = "ADED_DRY_ALLOWED_LENGTH")]
    pub(crate) dry_allowed_length: u32,
    /// Tokens that DRY looks back; 0 = off.
    #[arg(long, value_name = "N", default_value_t = 64, env = "ADED_DRY_PENALTY_LAST_N")]
    pub(crate) dry_penalty_last_n: u32,
    /// Text that ends a sequence for DRY, in place of newline, colon, quotation mark and asterisk; may be given several times; `none` = no
    /// such text.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, env = "ADED_DRY_SEQUENCE_BREAKER")]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// Add to the logit of a token: its number, a sign, the amount, as in 15043-1; -inf forbids it; may be given several times.
    #[arg(short = 'l', long, value_name = "BIAS", allow_hyphen_values = true, env = "ADED_LOGIT_BIAS")]
    pub(crate) logit_bias: Vec<String>,
    /// Grammar (GBNF) that the answer follows.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["grammar_file", "json_schema", "json_schema_file"], env = "ADED_GRAMMAR")]
    pub(crate) grammar: Option<String>,
    /// File with such a grammar.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json_schema", "json_schema_file"], env = "ADED_GRAMMAR_FILE")]
    pub(crate) grammar_file: Option<PathBuf>,
    /// JSON schema that the answer follows; {} = any JSON.
    #[arg(
        short,
        long,
        value_name = "JSON",
        allow_hyphen_values = true,
        conflicts_with = "json_schema_file",
        env = "ADED_JSON_SCHEMA"
    )]
    pub(crate) json_schema: Option<String>,
    /// File with a JSON schema.
    #[arg(long, value_name = "FILE", env = "ADED_JSON_SCHEMA_FILE")]
    pub(crate) json_schema_file: Option<PathBuf>,
}

impl ChainArgs {
    /// Puts the flags' values into the parameters.
    ///
    /// # Errors
    /// A usage error for a bias or a schema that cannot be read; the system's for a file.
    pub(crate) fn fill(&self, params: &mut SamplingParams) -> Result<()> {
        params.dynatemp_range = self.dynatemp_range;
        params.dynatemp_exponent = self.dynatemp_exp;
        params.typical_p = self.typical;
        params.top_n_sigma = self.top_nsigma;
        params.xtc_probability = self.xtc_probability;
        params.xtc_threshold = self.xtc_threshold;
        params.mirostat = self.mirostat;
        params.mirostat_eta = self.mirostat_lr;
        params.mirostat_tau = self.mirostat_ent;
        params.dry_multiplier = self.dry_multiplier;
        params.dry_base = self.dry_base;
        params.dry_allowed_length = self.dry_allowed_length;
        params.dry_last_n = self.dry_penalty_last_n;
        match self.dry_sequence_breaker.last().map(String::as_str) {
            None => {}
            Some("none") => params.dry_breakers.clear(),
            // As in llama.cpp, `none` forgets those before it.
            Some(_) => {
                let after_none = self.dry_sequence_breaker.rsplit(|text| text == "none").next().unwrap_or_default();
                params.dry_breakers = after_none.to_vec();
            }
        }
        for text in &self.logit_bias {
            params.logit_bias.push(bias(text)?);
        }
        let schema = match (&self.json_schema, &self.json_schema_file) {
            (Some(schema), _) => Some(schema.clone()),
            (None, Some(path)) => Some(read(path, "JSON schema")?),
            (None, None) => None,
        };
        params.grammar = match (schema, &self.grammar, &self.grammar_file) {
            (Some(schema), ..) => Some(json_schema_to_grammar(&schema)?),
            (None, Some(grammar), _) => Some(grammar.clone()),
            (None, None, Some(path)) => Some(read(path, "grammar")?),
            (None, None, None) => None,
        };
        Ok(())
    }
}

/// A token, a sign and an amount, such as `15043-1` or `2-inf`.
fn bias(text: &str) -> Result<(Token, f32), Error> {
    let read = || {
        let (token, amount) = text.split_at(text.find(['+', '-'])?);
        Some((Token(token.trim().parse().ok()?), amount.parse::<f32>().ok()?))
    };
    read().ok_or_else(|| {
        Error::usage(format!("the logit bias {text:?} is not a token's number, a sign and an amount, such as 15043-1"))
    })
}

fn read(path: &Path, what: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read the {what} file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_llama_cpps() {
        assert_eq!(bias("15043+1").unwrap(), (Token(15043), 1.0));
        assert_eq!(bias("7-2.5").unwrap(), (Token(7), -2.5));
        assert_eq!(bias("2-inf").unwrap(), (Token(2), f32::NEG_INFINITY));
        for wrong in ["", "7", "+1", "a+1", "7+", "-1-1"] {
            assert!(bias(wrong).unwrap_err().to_string().contains("is not a token's number"), "{wrong}");
        }
    }
}
