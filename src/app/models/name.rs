//! Names of models on a hub: `user/repo[:quant]`, and which file of a repository is meant.

use std::str::FromStr;

use aded::Error;

/// Quantisation that is taken where none is named.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// A repository and perhaps a quantisation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RepoName {
    /// `user/repo`.
    pub(crate) repo: String,
    pub(crate) quant: Option<String>,
}

impl FromStr for RepoName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (repo, quant) = text.split_once(':').map_or((text, None), |(repo, quant)| (repo, Some(quant)));
        // The name becomes a part of paths and addresses.
        let is_word = |part: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !part.is_empty()
                && part.len() <= 128
                && part.chars().all(inner)
                && !part.starts_with('.')
                && !part.contains("..")
        };
        let is_repo = repo.split_once('/').is_some_and(|(user, name)| is_word(user) && is_word(name));
        if !is_repo || !quant.is_none_or(is_word) {
            return Err(Error::usage(format!("{text:?} is no name of a model; give user/repo or user/repo:quant")));
        }
        Ok(Self { repo: repo.to_owned(), quant: quant.map(str::to_owned) })
    }
}

impl RepoName {
    /// The folder of the repository in a hub's cache.
    #[cfg(any(test, feature = "hub"))]
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }

    /// The file that is meant among a repository's: the named quantisation, else Q4_K_M, else the first model. Of a split model the first part.
    pub(crate) fn choose<'a>(&self, paths: &[&'a str]) -> Option<&'a str> {
        let models =
            || paths.iter().copied().filter(|path| is_model(path) && Split::of(path).is_none_or(|s| s.index == 1));
        let of_quant = |quant: &str| models().find(|path| has_quant(path, quant));
        match &self.quant {
            Some(quant) => of_quant(quant),
            None => of_quant(DEFAULT_QUANT).or_else(|| models().next()),
        }
    }

    /// As [`choose`](Self::choose), but nothing where another file might be chosen if all of the repository were known.
    pub(crate) fn choose_surely<'a>(&self, paths: &[&'a str]) -> Option<&'a str> {
        let quant = self.quant.clone().unwrap_or_else(|| DEFAULT_QUANT.to_owned());
        Self { quant: Some(quant), ..self.clone() }.choose(paths)
    }
}

/// Whether a file name carries a quantisation: as a word before a dot or a dash, in any case.
fn has_quant(path: &str, quant: &str) -> bool {
    let (path, quant) = (path.to_ascii_lowercase(), quant.to_ascii_lowercase());
    path.match_indices(&quant).any(|(at, _)| {
        let before = path[..at].chars().next_back();
        let after = path[at + quant.len()..].chars().next();
        before.is_none_or(|c| !c.is_ascii_alphanumeric()) && after.is_some_and(|c| c == '.' || c == '-' || c == '/')
    })
}

/// Whether a file can be run: a GGUF file that is no companion of a model.
pub(crate) fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let companions = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];
    name.ends_with(".gguf") && !companions.iter().any(|part| name.contains(part))
}

/// One part of a model that is split over files: `...-00001-of-00003.gguf`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Split<'a> {
    prefix: &'a str,
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl<'a> Split<'a> {
    /// What the name says; `None` for a model in one file.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, index) = rest.rsplit_once('-')?;
        let number = |digits: &str| (digits.len() == 5).then(|| digits.parse::<u32>().ok()).flatten();
        let (index, count) = (number(index)?, number(count)?);
        (index >= 1 && index <= count && count <= 999).then_some(Self { prefix, index, count })
    }

    /// The names of all parts.
    pub(crate) fn parts(&self) -> Vec<String> {
        (1..=self.count).map(|index| format!("{}-{index:05}-of-{:05}.gguf", self.prefix, self.count)).collect()
    }
}

/// The files that make up a model.
pub(crate) fn parts(path: &str) -> Vec<String> {
    Split::of(path).map_or_else(|| vec![path.to_owned()], |split| split.parts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_they_become_paths() {
        let name: RepoName = "some-user/My_Model-GGUF:Q8_0".parse().expect("a name");
        assert_eq!((name.repo.as_str(), name.quant.as_deref()), ("some-user/My_Model-GGUF", Some("Q8_0")));
        assert_eq!(name.folder(), "models--some-user--My_Model-GGUF");
        for bad in ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b:", "a/b:../x", "a b/c", "a/b?x=1", "é/b"] {
            assert!(bad.parse::<RepoName>().is_err_and(|error| error.is_usage()), "{bad:?}");
        }
    }

    #[test]
    fn the_quantisation_decides_and_companions_are_no_models() {
        let files = [
            "README.md",
            "mmproj-model-f16.gguf",
            "model-Q2_K.gguf",
            "model-q4_k_m.gguf",
            "model.Q8_0.gguf",
            "BF16/model-BF16-00002-of-00002.gguf",
            "BF16/model-BF16-00001-of-00002.gguf",
        ];
        let choose = |name: &str| name.parse::<RepoName>().expect("a name").choose(&files);
        assert_eq!(choose("a/b"), Some("model-q4_k_m.gguf"));
        assert_eq!(choose("a/b:q8_0"), Some("model.Q8_0.gguf"));
        assert_eq!(choose("a/b:Q2_K"), Some("model-Q2_K.gguf"));
        assert_eq!(choose("a/b:4_K_M"), None, "a word, not the end of one");
        assert_eq!(choose("a/b:bf16"), Some("BF16/model-BF16-00001-of-00002.gguf"));
        let name: RepoName = "a/b".parse().expect("a name");
        assert_eq!(name.choose(&["x.bin", "z-Q8_0.gguf"]), Some("z-Q8_0.gguf"));
        assert_eq!(name.choose_surely(&["x.bin", "z-Q8_0.gguf"]), None);
        assert_eq!(name.choose(&[]), None);
    }

    #[test]
    fn split_models_name_their_parts() {
        assert_eq!(parts("a/m-00002-of-00003.gguf"), [1, 2, 3].map(|n| format!("a/m-0000{n}-of-00003.gguf")));
        assert_eq!(parts("m.gguf"), ["m.gguf"]);
        for no in ["m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-99999.gguf"] {
            assert_eq!(parts(no), [no]);
        }
    }
}
