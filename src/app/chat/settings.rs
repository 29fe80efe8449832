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
const SETTINGS: [Setting; 10] = [
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
];

fn parse<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

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
        let dashed = if dashed == "temperature" { "temp" } else { dashed.as_str() };
        let setting = SETTINGS.iter().find(|setting| setting.name == dashed).ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            Error::usage(format!("{name:?} cannot be set; known are {known}"))
        })?;
        (setting.set)(self, value)
            .map_err(|error| Error::usage(format!("{} cannot be {value:?}: {error}", setting.name)))
    }

    /// All settings with their values, in one line.
    pub(crate) fn list(&self) -> String {
        SETTINGS
            .iter()
            .map(|setting| format!("{} {}", setting.name, (setting.get)(self)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
