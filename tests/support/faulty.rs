//! A target that fails on purpose, round any other one.

use aded::batch::DraftBatch;
use aded::model::{Limits, TargetModel};
use aded::representative::recall::TopRow;
use aded::{CancelFlag, Error, RowId, Slot, Token};

/// What llama.cpp's decode call can end with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Status 1: no room.
    Full,
    /// Status 2: the caller asked to stop.
    Cancelled,
    /// A negative status.
    Status,
    /// A C++ exception.
    Exception,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Full, Self::Cancelled, Self::Status, Self::Exception];

    fn error(self) -> Error {
        match self {
            Self::Full => Error::full("no room, on purpose"),
            Self::Cancelled => Error::cancelled(),
            Self::Status => Error::target("cannot decode: status -3, on purpose"),
            Self::Exception => Error::target("cannot decode: an exception, on purpose"),
        }
    }
}

/// Where a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Instead of the decode call.
    Before,
    /// After a decode call that has written all its rows to memory.
    After,
    /// Instead of keeping what was decoded.
    Keep,
}

/// A target whose call number `at` fails.
pub struct Faulty<T> {
    pub inner: T,
    pub fault: Option<(Fault, When, usize)>,
    pub n_calls: usize,
    /// Rows of each call.
    pub sizes: Vec<usize>,
    /// Calls that began when this flag was raised already.
    pub watched: Option<CancelFlag>,
    pub n_after_cancel: usize,
}

impl<T> Faulty<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, fault: None, n_calls: 0, sizes: Vec::new(), watched: None, n_after_cancel: 0 }
    }

    /// The call number `at` from now on fails.
    pub fn arm(&mut self, fault: Fault, when: When, at: usize) {
        self.fault = Some((fault, when, at));
        self.n_calls = 0;
        self.sizes.clear();
    }

    fn strikes(&mut self, at: When) -> Option<Error> {
        let (fault, _, _) = self.fault.filter(|&(_, when, call)| when == at && call == self.n_calls)?;
        self.fault = None;
        Some(fault.error())
    }
}

impl<T: TargetModel> TargetModel for Faulty<T> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn decode(&mut self, batch: &DraftBatch) -> Result<(), Error> {
        self.sizes.push(batch.len());
        self.n_after_cancel += usize::from(self.watched.as_ref().is_some_and(CancelFlag::is_cancelled));
        if let Some(error) = self.strikes(When::Before) {
            return Err(error);
        }
        self.inner.decode(batch)?;
        match self.strikes(When::After) {
            Some(error) => Err(error),
            None => {
                self.n_calls += 1;
                Ok(())
            }
        }
    }

    fn logits(&self, row: RowId) -> &[f32] {
        self.inner.logits(row)
    }

    fn top(&self, row: RowId) -> Option<TopRow> {
        self.inner.top(row)
    }

    fn keep(&mut self, slot: Slot, last: RowId) -> Result<(), Error> {
        match self.strikes(When::Keep) {
            Some(error) => Err(error),
            None => self.inner.keep(slot, last),
        }
    }

    fn truncate(&mut self, slot: Slot, n_tokens: u32) -> Result<(), Error> {
        self.inner.truncate(slot, n_tokens)
    }

    fn can_shift(&self) -> bool {
        self.inner.can_shift()
    }

    fn shift(&mut self, slot: Slot, n_keep: u32, n_discard: u32) -> Result<(), Error> {
        self.inner.shift(slot, n_keep, n_discard)
    }
}

/// Takes tokens until the generation ends, and how it ended.
pub fn drain<T: TargetModel>(generation: &mut aded::Generation<'_, T>) -> (Vec<Token>, Result<(), Error>) {
    let mut output = Vec::new();
    loop {
        match generation.advance() {
            Ok(Some(tokens)) => output.extend_from_slice(tokens),
            Ok(None) => return (output, Ok(())),
            Err(error) => return (output, Err(error)),
        }
    }
}
