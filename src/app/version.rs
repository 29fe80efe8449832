//! `aded --version`: what was built in, what it runs on, and what the machine could do beyond that.

use std::fmt::Write as _;

use aded::kernels::Features;
use aded::llama;

/// The commit that was built; empty where the sources did not tell it.
pub(crate) const COMMIT: &str = env!("ADED_COMMIT");

/// All of it as lines.
pub(crate) fn text() -> String {
    let mut out = match COMMIT {
        "" => format!("aded {}\n", env!("CARGO_PKG_VERSION")),
        commit => format!("aded {} ({commit})\n", env!("CARGO_PKG_VERSION")),
    };
    let compiled = compiled();
    let _ = writeln!(out, "llama.cpp      {}", llama::LLAMA_CPP_VERSION);
    let devices = llama::devices();
    let names: Vec<String> = devices.iter().map(|(name, what)| format!("{name} ({})", what.trim())).collect();
    let _ = writeln!(out, "backends       {}", names.join(", "));
    let _ = writeln!(out, "compiled for   {}", compiled.join(" "));
    let kernels = match Features::detect().best() {
        Some(isa) if llama::HAS_KERNELS => isa.name(),
        Some(_) => "left out of this build: llama.cpp's run",
        None => "none for this machine: llama.cpp's run",
    };
    let _ = writeln!(out, "own kernels    {kernels}");
    let missing: Vec<&str> = present().into_iter().filter(|name| !compiled.iter().any(|other| other == name)).collect();
    if !missing.is_empty() {
        let _ = writeln!(
            out,
            "warning: this machine also has {}, which llama.cpp was not compiled for: build with -C target-cpu=native \
             after `cargo clean -p llama-cpp-sys-2 --release`",
            missing.join(", ")
        );
    }
    out
}

/// What llama.cpp was compiled for, under its own names.
pub(crate) fn compiled() -> Vec<String> {
    switched_on(&llama::system_info()).into_iter().map(str::to_owned).collect()
}

/// The names before `= 1` in llama.cpp's description of its build.
fn switched_on(info: &str) -> Vec<&str> {
    let fields = info.split(['|', ':']).filter_map(|field| field.split_once('='));
    fields.filter(|(_, value)| value.trim() == "1").map(|(name, _)| name.trim()).collect()
}

/// Features of this machine that make a difference to decoding, under llama.cpp's names.
pub(crate) fn present() -> Vec<&'static str> {
    features().into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("AVX_VNNI", is_x86_feature_detected!("avxvnni")),
        ("AVX512", is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")),
        ("AVX512_VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX512_BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    return vec![
        ("DOTPROD", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("MATMUL_INT8", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_llama_cpps_words() {
        let info = "CPU : SSE3 = 1 | AVX512 = 0 | AVX512_VNNI = 1 | REPACK = 1 | ";
        assert_eq!(switched_on(info), ["SSE3", "AVX512_VNNI", "REPACK"]);
    }
}
