//! Reads the head of a GGUF file: metadata and tensor table, not the weights.
//!
//! llama.cpp reads it again; but it trusts the numbers in it (a foreign or damaged file makes it allocate what they say, or abort), and
//! its messages need a reader who knows its code. So each file passes here first. The format: docs/gguf.md in ggml's repository.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use crate::error::Error;

/// The vocabulary. Of all that a file can have wrong in its metadata, a token that occurs twice is what llama.cpp aborts on.
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Longest text value that is kept; longer ones are skipped. Chat templates are the longest in practice, some tens of kilobytes.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Longest key that is taken; llama.cpp's are below 100.
const MAX_KEY_BYTES: u64 = 1 << 16;
/// Most metadata entries and tensors; the largest models known have some hundred and some thousand.
const MAX_ENTRIES: u64 = 1 << 17;
/// Arrays of arrays: the format allows them, no known file has them.
const MAX_NESTING: u32 = 4;
/// Alignment of tensor data where the file says nothing.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value. Arrays are counted, not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either floating-point type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// An array of so many entries, or a text too long to keep, with its length in bytes.
    Skipped(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
            Self::Skipped(length) => write!(f, "[{length}]"),
        }
    }
}

/// The head of a GGUF file.
#[derive(Clone, Debug)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Number of tensors in this file.
    pub n_tensors: u64,
    /// Number of tensors of each of ggml's types.
    pub tensor_types: BTreeMap<u32, u64>,
    /// The metadata by key.
    pub values: BTreeMap<String, Value>,
}

impl Header {
    /// Reads the head of a file and checks it: that its counts are sane, and that the data of each tensor lies within the file.
    ///
    /// `layout` gives values and bytes of a block of one of ggml's types.
    ///
    /// # Errors
    /// [`Error::is_io`] if the file cannot be read, [`Error::is_format`] if it is no GGUF file, or a damaged one.
    pub fn read(path: &Path, layout: impl Fn(u32) -> Option<(u64, u64)>) -> Result<Self, Error> {
        let name = path.display();
        let io_error = |error: io::Error| Error::io(format!("cannot read the model {name}: {error}"), error);
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::io(format!("the model file {name} does not exist"), error),
            _ => io_error(error),
        })?;
        if metadata.is_dir() {
            return Err(Error::format(format!("{name} is a folder; give the .gguf file in it")));
        }
        if metadata.len() == 0 {
            return Err(Error::format(format!("the model file {name} is empty; fetch it again")));
        }
        let file = File::open(path).map_err(io_error)?;
        let mut source = Source { reader: BufReader::with_capacity(1 << 16, file), left: metadata.len() };
        read_header(&mut source, metadata.len(), &layout).map_err(|fault| match fault {
            Fault::Io(error) => io_error(error),
            Fault::Foreign => Error::format(format!("{name} is not a GGUF file; a model in GGUF format is needed")),
            Fault::Truncated => Error::format(format!("the model file {name} is truncated; fetch it again")),
            Fault::Damaged(what) => Error::format(format!("the model file {name} is damaged: {what}; fetch it again")),
        })
    }

    /// A text value.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Unsigned(value)) => Some(*value),
            Some(Value::Signed(value)) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The model's architecture by llama.cpp's name, such as `llama`.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or("unknown")
    }

    /// An integer under the architecture's prefix, such as `block_count`.
    pub fn architecture_number(&self, key: &str) -> Option<u64> {
        self.number(&format!("{}.{key}", self.architecture()))
    }

    /// The attention of a layer, as far as the metadata say.
    pub fn heads(&self) -> Option<Heads> {
        let number = |key| self.architecture_number(key);
        let n = number("attention.head_count").filter(|&n| n > 0)?;
        let is_given = self.values.contains_key(&format!("{}.attention.head_count_kv", self.architecture()));
        let width = || number("embedding_length").map(|width| width / n);
        Some(Heads {
            n,
            n_kv: number("attention.head_count_kv").or((!is_given).then_some(n)),
            key_size: number("attention.key_length").or_else(width)?,
            value_size: number("attention.value_length").or_else(width)?,
        })
    }

    /// A truth value under the architecture's prefix.
    pub fn architecture_flag(&self, key: &str) -> Option<bool> {
        match self.values.get(&format!("{}.{key}", self.architecture())) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }
}

/// Heads of an attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    /// Heads of the queries.
    pub n: u64,
    /// Heads of keys and values; `None` where their number differs by layer.
    pub n_kv: Option<u64>,
    /// Elements of a key.
    pub key_size: u64,
    /// Elements of a value.
    pub value_size: u64,
}

/// Why a file is refused.
enum Fault {
    Io(io::Error),
    Foreign,
    Truncated,
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

/// A reader that knows how many bytes are left, so that no count in the file is believed beyond them.
struct Source<R> {
    reader: R,
    left: u64,
}

impl<R: Read + SeekForward> Source<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.left = self.left.checked_sub(N as u64).ok_or(Fault::Truncated)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn skip(&mut self, n_bytes: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(n_bytes).ok_or(Fault::Truncated)?;
        Ok(self.reader.skip(n_bytes)?)
    }

    /// A text; `None` if it is longer than `limit` and was skipped.
    fn text(&mut self, limit: u64) -> Result<Result<String, u64>, Fault> {
        let n_bytes = self.u64()?;
        if n_bytes > limit {
            self.skip(n_bytes)?;
            return Ok(Err(n_bytes));
        }
        self.left = self.left.checked_sub(n_bytes).ok_or(Fault::Truncated)?;
        let mut bytes = vec![0; n_bytes as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(Ok(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn name(&mut self) -> Result<String, Fault> {
        self.text(MAX_KEY_BYTES)?.map_err(|length| Fault::Damaged(format!("a name of {length} bytes")))
    }

    fn value(&mut self, kind: u32, nesting: u32) -> Result<Value, Fault> {
        Ok(match kind {
            0 => Value::Unsigned(self.bytes::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => self.text(MAX_TEXT_BYTES)?.map_or_else(Value::Skipped, Value::Text),
            9 => self.array(nesting)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(Fault::Damaged(format!("a metadata value of the unknown type {kind}"))),
        })
    }

    /// An array of texts; an error if one occurs twice.
    fn distinct_texts(&mut self) -> Result<Value, Fault> {
        let n_entries = self.u64()?;
        let mut hashes = Vec::new();
        let mut text = Vec::new();
        for _ in 0..n_entries {
            let n_bytes = self.u64()?;
            if n_bytes > MAX_KEY_BYTES {
                return Err(Fault::Damaged(format!("a token of {n_bytes} bytes")));
            }
            self.left = self.left.checked_sub(n_bytes).ok_or(Fault::Truncated)?;
            text.resize(n_bytes as usize, 0);
            self.reader.read_exact(&mut text)?;
            // llama.cpp takes a token up to its first zero byte, and gives empty ones names of their own.
            let token = text.split(|&byte| byte == 0).next().unwrap_or_default();
            if !token.is_empty() {
                let mut hasher = DefaultHasher::new();
                token.hash(&mut hasher);
                hashes.push(hasher.finish());
            }
        }
        hashes.sort_unstable();
        if hashes.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Fault::Damaged("a token occurs twice in the vocabulary".to_owned()));
        }
        Ok(Value::Skipped(n_entries))
    }

    fn array(&mut self, nesting: u32) -> Result<Value, Fault> {
        let kind = self.u32()?;
        let n_entries = self.u64()?;
        let entry_bytes = match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        match entry_bytes {
            Some(entry_bytes) => self.skip(n_entries.checked_mul(entry_bytes).ok_or(Fault::Truncated)?)?,
            // Each entry of the other types takes eight bytes at least, so that a wild count ends at the end of the file.
            None if nesting < MAX_NESTING => {
                for _ in 0..n_entries {
                    match kind {
                        8 => {
                            let n_bytes = self.u64()?;
                            self.skip(n_bytes)?;
                        }
                        _ => _ = self.value(kind, nesting + 1)?,
                    }
                }
            }
            None => return Err(Fault::Damaged("metadata arrays nested too deep".to_owned())),
        }
        Ok(Value::Skipped(n_entries))
    }
}

/// Skipping that stays in the buffer where it can.
trait SeekForward {
    fn skip(&mut self, n_bytes: u64) -> io::Result<()>;
}

impl<R: Read + Seek> SeekForward for BufReader<R> {
    fn skip(&mut self, n_bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(n_bytes).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?)
    }
}

fn read_header<R: Read + SeekForward>(
    source: &mut Source<R>,
    file_bytes: u64,
    layout: &dyn Fn(u32) -> Option<(u64, u64)>,
) -> Result<Header, Fault> {
    if source.left < 4 || source.bytes()? != *b"GGUF" {
        return Err(Fault::Foreign);
    }
    let version = source.u32()?;
    if !(2..=3).contains(&version) {
        let text = if version.swap_bytes() <= 3 {
            "it is in big-endian byte order"
        } else {
            "only versions 2 and 3 are known"
        };
        return Err(Fault::Damaged(format!("format version {version}: {text}")));
    }
    let n_tensors = source.u64()?;
    let n_values = source.u64()?;
    if n_tensors > MAX_ENTRIES || n_values > MAX_ENTRIES {
        return Err(Fault::Damaged(format!("{n_tensors} tensors and {n_values} metadata entries")));
    }
    let mut values = BTreeMap::new();
    for _ in 0..n_values {
        let key = source.name()?;
        let kind = source.u32()?;
        let value = if key == TOKENS && kind == 9 {
            if source.u32()? != 8 {
                return Err(Fault::Damaged("the vocabulary is not an array of texts".to_owned()));
            }
            source.distinct_texts()?
        } else {
            source.value(kind, 0)?
        };
        if values.insert(key.clone(), value).is_some() {
            return Err(Fault::Damaged(format!("the metadata entry {key:?} occurs twice")));
        }
    }
    let alignment = match values.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= 1 << 20 => *value,
        Some(value) => return Err(Fault::Damaged(format!("a tensor alignment of {value} bytes"))),
    };
    // llama.cpp reads these arrays by token, whatever their length.
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if let (Some(Value::Skipped(n_tokens)), Some(Value::Skipped(length))) = (values.get(TOKENS), values.get(key))
            && length < n_tokens
        {
            return Err(Fault::Damaged(format!("{n_tokens} tokens, but {length} entries in {key}")));
        }
    }
    let mut tensor_types = BTreeMap::new();
    // The name and the end of the tensor that reaches furthest, counted from the start of the data.
    let mut furthest = (String::new(), 0);
    for _ in 0..n_tensors {
        let name = source.name()?;
        let n_dimensions = source.u32()?;
        if !(1..=4).contains(&n_dimensions) {
            return Err(Fault::Damaged(format!("tensor {name:?} has {n_dimensions} dimensions")));
        }
        let mut shape = [1; 4];
        for extent in &mut shape[..n_dimensions as usize] {
            *extent = source.u64()?;
        }
        let kind = source.u32()?;
        let offset = source.u64()?;
        let (block_values, block_bytes) =
            layout(kind).ok_or_else(|| Fault::Damaged(format!("tensor {name:?} has the unknown type {kind}")))?;
        let row_bytes =
            (shape[0] % block_values == 0).then(|| (shape[0] / block_values).checked_mul(block_bytes)).flatten();
        let n_bytes =
            shape[1..].iter().try_fold(row_bytes, |bytes, extent| Some(bytes?.checked_mul(*extent))).flatten();
        let end =
            n_bytes.and_then(|n_bytes| offset.checked_add(n_bytes)).filter(|_| shape.iter().all(|&extent| extent > 0));
        let Some(end) = end.filter(|_| offset % alignment == 0) else {
            return Err(Fault::Damaged(format!("tensor {name:?} has the shape {shape:?} at offset {offset}")));
        };
        if end > furthest.1 {
            furthest = (name, end);
        }
        *tensor_types.entry(kind).or_default() += 1;
    }
    let data_begin = (file_bytes - source.left).next_multiple_of(alignment);
    let data_bytes = file_bytes.saturating_sub(data_begin);
    if furthest.1 > data_bytes {
        // Wild offsets are damage; an end past the file's by less than its own size is a download that stopped.
        return Err(if furthest.1 / 64 > file_bytes {
            Fault::Damaged(format!("tensor {:?} ends at byte {} of {data_bytes}", furthest.0, furthest.1))
        } else {
            Fault::Truncated
        });
    }
    Ok(Header { version, file_bytes, n_tensors, tensor_types, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(kind: u32) -> Option<(u64, u64)> {
        match kind {
            0 => Some((1, 4)),
            2 => Some((32, 18)),
            _ => None,
        }
    }

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    /// A file with three metadata entries and two tensors.
    fn file() -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(3u64.to_le_bytes());
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, "llama");
        text(&mut bytes, "llama.block_count");
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        text(&mut bytes, "tokenizer.ggml.tokens");
        bytes.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
        bytes.extend(2u64.to_le_bytes());
        text(&mut bytes, "a");
        text(&mut bytes, "bc");
        for (name, kind, offset) in [("x", 0u32, 0u64), ("y", 2, 128)] {
            text(&mut bytes, name);
            bytes.extend(2u32.to_le_bytes());
            bytes.extend([32u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + 128 + 18, 7);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        Header::read(&path, layout)
    }

    #[test]
    fn a_sound_file_is_read() {
        let header = read(&file()).unwrap();
        assert_eq!((header.version, header.n_tensors, header.architecture()), (3, 2, "llama"));
        assert_eq!(header.architecture_number("block_count"), Some(2));
        assert_eq!(header.values["tokenizer.ggml.tokens"], Value::Skipped(2));
        assert_eq!(header.tensor_types, BTreeMap::from([(0, 1), (2, 1)]));
    }

    #[test]
    fn every_truncation_and_every_changed_byte_gives_an_error_or_a_header() {
        let whole = file();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(error.is_format() && !error.to_string().contains('\n'), "{length}: {error}");
        }
        for index in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[index] = value;
                if let Err(error) = read(&bytes) {
                    assert!(error.is_format(), "{index}: {error}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Header::read(&folder.path().join("none.gguf"), layout).unwrap_err();
        assert!(missing.is_io() && missing.to_string().contains("does not exist"));
        assert!(Header::read(folder.path(), layout).unwrap_err().to_string().contains("is a folder"));
        assert!(read(b"").unwrap_err().to_string().contains("is empty"));
        assert!(read(b"PK\x03\x04 something").unwrap_err().to_string().contains("not a GGUF file"));
        assert!(read(&file()[..100]).unwrap_err().to_string().contains("truncated"));
        // The offset of the last tensor, whose highest byte lies just before the padding and the data.
        let mut wild = file();
        let offset = wild.windows(8).rposition(|bytes| bytes == 128u64.to_le_bytes()).unwrap();
        wild[offset + 5] = 1;
        assert!(read(&wild).unwrap_err().to_string().contains("damaged: tensor \"y\" ends at byte"));
    }
}
