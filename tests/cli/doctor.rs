//! `aded doctor`: the report as text and as JSON.

use serde_json::Value;

use crate::{aded, folder, outcome, program, tiny};

#[test]
fn the_report_has_a_known_shape_and_a_curve() {
    let report = aded(&["doctor", "-m", tiny(), "--json"]).json();
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["aded", "folders", "llama_cpp", "memory", "model", "models", "processor", "schema", "threads", "warnings"];
    assert_eq!(keys, expected);
    assert_eq!(report["schema"], "aded-doctor-1");
    assert_eq!(report["threads"]["used"], 1);
    let model = &report["model"];
    assert_eq!((model["drafts"].as_str(), model["chat_template"].as_bool()), (Some("tree"), Some(true)));
    assert_eq!(model["path"], tiny());
    let curve = model["curve"].as_array().unwrap();
    let rows: Vec<u64> = curve.iter().map(|point| point["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 2, 3, 4, 8, 16, 32]);
    assert_eq!(curve[0]["relative"], 1.0);
    for point in curve {
        assert!(point["ms"].as_f64().unwrap() > 0.0 && point["samples"].as_u64().unwrap() >= 3, "{point}");
    }
    // A machine with something else to do is told of.
    let spread = curve.iter().map(|point| point["spread"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(spread >= 0.0);
    let warnings = report["warnings"].as_array().unwrap();
    let is_told = warnings.iter().any(|warning| warning.as_str().unwrap().starts_with("the times vary"));
    assert_eq!(is_told, spread > 0.25, "{spread}: {warnings:?}");
    assert!(model["row_cost"].is_number());
}

#[test]
fn without_a_model_the_rest_is_told() {
    let home = folder();
    let doctor = |flags: &[&str]| {
        outcome(program().env("ADED_MODELS", home.path()).env("HOME", home.path()).arg("doctor").args(flags))
    };
    let text = doctor(&[]).text();
    for part in
        ["processor", "own kernels", "memory", "threads", "hub cache", "models here      none", "aded models pull"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let report = doctor(&["--json", "--no-curve", "-t", "100"]).json();
    assert!(report["model"].is_null());
    let warnings: Vec<&Value> = report["warnings"].as_array().unwrap().iter().collect();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().starts_with("100 threads")), "{warnings:?}");
    doctor(&["-m", "/no/such/file"]).fails(1, "does not exist");
}
