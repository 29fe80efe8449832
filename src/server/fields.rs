//! Reads the fields of a JSON object. A field that is `null` counts as absent; names that are not known are nobody's fault; a value of
//! the wrong type or out of range is an error that names the field, the value and what is expected.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// An object, and where it stands in the request.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) map: &'a Map<String, Value>,
    place: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of a whole request.
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, place: "" }
    }

    /// A value that must be an object; `place` is its name in errors.
    pub(super) fn of(value: &'a Value, place: &'a str) -> Result<Self, ApiError> {
        let map = value.as_object().ok_or_else(|| wrong(place, value, "an object"))?;
        Ok(Self { map, place })
    }

    /// A field that is there and not `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> ApiError {
        let dot = if self.place.is_empty() { "" } else { "." };
        wrong(&format!("{}{dot}{name}", self.place), value, expected)
    }

    /// A number.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        number.map(|number| Some(number as f32)).ok_or_else(|| self.wrong(name, value, &expected()))
    }

    /// A whole number; `3.0` is one.
    pub(super) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // Every whole number below 2^53 is a double, and no limit here lies beyond it but those of seeds.
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        let number = value.as_i64().or_else(|| value.as_f64().and_then(whole)).filter(|number| range.contains(number));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, value, &expected()))
    }

    /// True or false.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a text"))
    }

    /// A text or a list of at most `n` texts, each at most `length` bytes long.
    pub(super) fn texts(&self, name: &str, n: usize, length: usize) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let expected = || format!("a text or a list of at most {n} texts, each at most {length} bytes long");
        let texts = match value {
            Value::String(text) => Some(vec![text.as_str()]),
            Value::Array(values) => values.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let texts = texts.filter(|texts| texts.len() <= n && texts.iter().all(|text| text.len() <= length));
        let texts = texts.ok_or_else(|| self.wrong(name, value, &expected()))?;
        Ok(Some(texts.into_iter().map(str::to_owned).collect()))
    }

    /// An object.
    pub(super) fn object(&self, name: &'a str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Fields::of(value, name)).transpose()
    }

    /// A list.
    pub(super) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_array().map(|values| Some(values.as_slice())).ok_or_else(|| self.wrong(name, value, "a list"))
    }

    /// The error for a field that must be there.
    pub(super) fn missing(&self, name: &str, expected: &str) -> ApiError {
        ApiError::invalid_field(name, format!("{name} is missing; give {expected}"))
    }
}

/// The error for a value of the wrong type or out of range.
pub(super) fn wrong(name: &str, value: &Value, expected: &str) -> ApiError {
    let mut text = value.to_string();
    if text.len() > 60 {
        text = text.chars().take(57).chain("...".chars()).collect();
    }
    ApiError::invalid_field(name, format!("{name} is {text}, but must be {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_and_wrong_ones_are_named() {
        let value = json!({"a": 1.5, "b": 3.0, "c": null, "d": ["x", "y"], "e": "x", "f": 1e300, "g": true, "long": "x".repeat(99)});
        let fields = Fields::of(&value, "at").unwrap();
        assert_eq!(fields.number("a", 0.0..=2.0).unwrap(), Some(1.5));
        assert_eq!(fields.integer("b", 0..=9).unwrap(), Some(3));
        assert_eq!((fields.flag("c").unwrap(), fields.flag("none").unwrap()), (None, None));
        assert_eq!(fields.texts("d", 2, 1).unwrap().unwrap(), ["x", "y"]);
        assert_eq!(fields.texts("e", 2, 1).unwrap().unwrap(), ["x"]);
        for error in [
            fields.number("a", 0.0..=1.0).unwrap_err(),
            fields.integer("a", 0..=9).unwrap_err(),
            fields.integer("f", i64::MIN..=i64::MAX).unwrap_err(),
            fields.text("a").unwrap_err(),
            fields.texts("d", 1, 1).unwrap_err(),
            fields.texts("d", 2, 0).unwrap_err(),
            fields.flag("long").unwrap_err(),
        ] {
            let message = error.body()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with("at.") && message.contains("but must be") && message.len() < 200, "{message}");
        }
    }
}
