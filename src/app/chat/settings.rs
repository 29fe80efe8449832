//! What `/set` can change: the sampling parameters and the length of an answer.

use std::fmt::Display;
use std::str::FromStr;

use aded::Error;

use crate::app::flags::{OutputArgs, SamplingArgs};

/// A setting: its name, how it is read and how it is changed.
struct Setting {
    name: &'static str,
    get: fn(&Settings) -> String,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// The flags that can be changed while the chat goes on.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) sampling: SamplingArgs,
    pub(crate) output: OutputArgs,
}

macro_rules! setting {
    ($name:literal, $($field:ident).+) => {
        Setting {
            name: $name,
            get: |settings| settings.$($field).+.to_string(),
            set: |settings, value| parse(value).map(|value| settings.$($field).+ = value),
        }
    };
}

/// Under the names of the flags, without their dashes.
const SETTINGS: [Setting; 23] = [
    setting!("temp", sampling.temp),
    setting!("top-k", sampling.top_k),
    setting!("top-p", sampling.top_p),
    setting!("min-p", sampling.min_p),
    setting!("seed", sampling.seed),
    setting!("repeat-penalty", sampling.repeat_penalty),
    setting!("repeat-last-n", sampling.repeat_last_n),
    setting!("presence-penalty", sampling.presence_penalty),
    setting!("frequency-penalty", sampling.frequency_penalty),
    setting!("predict", output.predict),
    setting!("dynatemp-range", sampling.chain.dynatemp_range),
    setting!("dynatemp-exp", sampling.chain.dynatemp_exp),
    setting!("typical", sampling.chain.typical),
    setting!("top-nsigma", sampling.chain.top_nsigma),
    setting!("xtc-probability", sampling.chain.xtc_probability),
    setting!("xtc-threshold", sampling.chain.xtc_threshold),
    setting!("mirostat", sampling.chain.mirostat),
    setting!("mirostat-lr", sampling.chain.mirostat_lr),
    setting!("mirostat-ent", sampling.chain.mirostat_ent),
    setting!("dry-multiplier", sampling.chain.dry_multiplier),
    setting!("dry-base", sampling.chain.dry_base),
    setting!("dry-allowed-length", sampling.chain.dry_allowed_length),
    setting!("dry-penalty-last-n", sampling.chain.dry_penalty_last_n),
];

fn parse<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

/// Other names of settings; those of the flags' aliases.
const ALIASES: [(&str, &str); 4] =
    [("temperature", "temp"), ("typical-p", "typical"), ("top-n-sigma", "top-nsigma"), ("n-predict", "predict")];

/// The names of all settings.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name)
}

impl Settings {
    /// Changes a setting; underscores stand for dashes.
    ///
    /// # Errors
    /// [`Error::is_usage`] for a name or a number that is not known. Whether the number is in range is for the sampler to say.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let dashed = name.trim_start_matches('-').replace('_', "-");
        let name_of = ALIASES.iter().find(|(alias, _)| *alias == dashed).map_or(dashed.as_str(), |(_, name)| name);
        let setting = SETTINGS.iter().find(|setting| setting.name == name_of).ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            Error::usage(format!("{name:?} cannot be set; known are {known}"))
        })?;
        (setting.set)(self, value)
            .map_err(|error| Error::usage(format!("{} cannot be {value:?}: {error}", setting.name)))
    }

    /// All settings with their values, several a line.
    pub(crate) fn list(&self) -> String {
        let entries: Vec<_> =
            SETTINGS.iter().map(|setting| format!("{} {}", setting.name, (setting.get)(self))).collect();
        entries.chunks(5).map(|entries| entries.join(", ")).collect::<Vec<_>>().join(",\n")
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    /// Flags that take a text, a file or several values, or that nobody changes while chatting.
    const NO_SETTINGS: [&str; 7] =
        ["dry-sequence-breaker", "logit-bias", "grammar", "grammar-file", "json-schema", "json-schema-file", "help"];

    #[test]
    fn every_number_of_the_sampling_flags_can_be_set() {
        for argument in SamplingArgs::augment_args(Command::new("chat")).get_arguments() {
            let flag = argument.get_long().expect("all have long names");
            let is_known =
                |name: &str| names().any(|known| known == name) || ALIASES.iter().any(|(alias, _)| *alias == name);
            assert_eq!(is_known(flag), !NO_SETTINGS.contains(&flag), "--{flag}");
            for alias in argument.get_all_aliases().into_iter().flatten() {
                assert!(is_known(alias), "--{alias}");
            }
        }
    }
}
