//! What crosses the boundary: statuses and messages, handles, and memory that the caller owns.
//!
//! A handle is a number that is never used again, and the object behind it is found in a [`Registry`]: a handle that was freed, or
//! never handed out, is refused, not followed. An object that another thread is using is refused as well.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::{ptr, slice};

use crate::error::Error;

/// How a call ended. Numbers are never given a new meaning; later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum aded_status {
    /// Done.
    ADED_OK = 0,
    /// A pointer is NULL that must not be, or a value is outside its range. Nothing was done.
    ADED_INVALID_ARGUMENT = 1,
    /// A buffer is too small; the size that is needed was written. Nothing was done.
    ADED_TOO_SMALL = 2,
    /// The call does not belong here: rounds have an order. Nothing was done.
    ADED_WRONG_STATE = 3,
    /// Another thread is using the object. Nothing was done.
    ADED_BUSY = 4,
    /// The handle was freed or is none. Nothing was done.
    ADED_NO_SUCH_HANDLE = 5,
    /// A fault in the library (a panic). The object is of no further use: free it.
    ADED_INTERNAL = 6,
    /// An earlier call on this object ended with ADED_INTERNAL: free it.
    ADED_POISONED = 7,
    /// Reading or writing a file failed.
    ADED_IO = 8,
    /// A file is not what it should be.
    ADED_FORMAT = 9,
    /// The model, or llama.cpp, failed.
    ADED_TARGET = 10,
    /// The model's memory is full.
    ADED_NO_ROOM = 11,
    /// Stopped by aded_session_cancel().
    ADED_CANCELLED = 12,
}

pub(super) use aded_status::*;

/// Why a call did nothing: the status and the message.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: aded_status,
    pub(super) text: String,
}

pub(super) type Answer<T = ()> = Result<T, Failure>;

impl Failure {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self { status: ADED_INVALID_ARGUMENT, text: text.into() }
    }

    pub(super) fn state(text: impl Into<String>) -> Self {
        Self { status: ADED_WRONG_STATE, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            error if error.is_usage() => ADED_INVALID_ARGUMENT,
            error if error.is_format() => ADED_FORMAT,
            error if error.is_io() => ADED_IO,
            error if error.is_full() => ADED_NO_ROOM,
            error if error.is_cancelled() => ADED_CANCELLED,
            _ => ADED_TARGET,
        };
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self { status, text }
    }
}

thread_local! {
    static LAST_MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The message of this thread's last call that failed.
pub(super) fn last_message() -> String {
    LAST_MESSAGE.with_borrow(Clone::clone)
}

/// Runs a call. No panic gets out: unwinding into C is undefined.
pub(super) fn call(body: impl FnOnce() -> Answer) -> aded_status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return ADED_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure { status: ADED_INTERNAL, text: format!("a fault in aded: {}", text_of(&*panic)) },
    };
    // A thread that is ending may have no message any more; the status remains.
    let _ = LAST_MESSAGE.try_with(|last| *last.borrow_mut() = failure.text);
    failure.status
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

/// The objects of one kind that callers hold handles of. `S` is what of each can be reached while a call works on the rest.
pub(super) struct Registry<T, S = ()> {
    what: &'static str,
    objects: Mutex<BTreeMap<usize, Object<T, S>>>,
}

type Object<T, S> = Arc<(Mutex<T>, S)>;

/// Numbers of handles; 0 is NULL. Counting on takes longer than any process lives.
static NEXT: AtomicUsize = AtomicUsize::new(1);

impl<T, S> Registry<T, S> {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, objects: Mutex::new(BTreeMap::new()) }
    }

    /// Keeps an object and gives its handle. `H` is the opaque type that C knows it by.
    pub(super) fn insert<H>(&self, object: T, shared: S) -> *mut H {
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        self.objects().insert(handle, Arc::new((Mutex::new(object), shared)));
        ptr::without_provenance_mut(handle)
    }

    /// Runs `body` with the object. A panic in it leaves the object poisoned.
    pub(super) fn with<H, R>(&self, handle: *const H, body: impl FnOnce(&mut T) -> Answer<R>) -> Answer<R> {
        let object = self.find(handle)?;
        match object.0.try_lock() {
            Ok(mut object) => body(&mut object),
            Err(TryLockError::WouldBlock) => Err(self.busy()),
            Err(TryLockError::Poisoned(_)) => {
                let text = format!("an earlier call left the {} in an unknown state; free it", self.what);
                Err(Failure { status: ADED_POISONED, text })
            }
        }
    }

    /// Runs `body` with what can be reached at any time.
    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "drafters share nothing"))]
    pub(super) fn with_shared<H, R>(&self, handle: *const H, body: impl FnOnce(&S) -> R) -> Answer<R> {
        Ok(body(&self.find(handle)?.1))
    }

    /// Drops the object. NULL is fine.
    pub(super) fn free<H>(&self, handle: *mut H) -> Answer {
        if handle.is_null() {
            return Ok(());
        }
        let object = self.find(handle)?;
        if matches!(object.0.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(self.busy());
        }
        let removed = self.objects().remove(&handle.addr());
        // Outside the lock of the table: dropping a model takes its time.
        drop(object);
        drop(removed);
        Ok(())
    }

    fn find<H>(&self, handle: *const H) -> Answer<Object<T, S>> {
        if handle.is_null() {
            return Err(Failure::invalid(format!("the {} is NULL", self.what)));
        }
        let found = self.objects().get(&handle.addr()).cloned();
        let text = || format!("the {} was freed before, or never made", self.what);
        found.ok_or_else(|| Failure { status: ADED_NO_SUCH_HANDLE, text: text() })
    }

    fn busy(&self) -> Failure {
        Failure { status: ADED_BUSY, text: format!("another thread is using the {}", self.what) }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<usize, Object<T, S>>> {
        // Nothing that can panic runs under this lock.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn null(name: &str) -> Failure {
    Failure::invalid(format!("{name} is NULL"))
}

/// The caller's array. `len` 0 goes with any pointer.
///
/// # Safety
/// `data` is NULL, or points to `len` values that nobody writes to during the call.
pub(super) unsafe fn array<'a, T>(data: *const T, len: usize, name: &str) -> Answer<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(name));
    }
    check_array::<T>(data.addr(), len, name)?;
    // SAFETY: not NULL, aligned, of a size that a slice can have, and as the caller promises.
    Ok(unsafe { slice::from_raw_parts(data, len) })
}

/// What can be seen of a wrong array: a length that no memory has, a pointer that is not aligned.
fn check_array<T>(address: usize, len: usize, name: &str) -> Answer {
    let fits = len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    if !fits {
        return Err(Failure::invalid(format!("{name} has a length of {len}, more than memory holds")));
    }
    if !address.is_multiple_of(align_of::<T>()) {
        return Err(Failure::invalid(format!("{name} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// Writes one value to the caller.
///
/// # Safety
/// `out` is NULL or may be written to.
pub(super) unsafe fn put<T>(out: *mut T, value: T, name: &str) -> Answer {
    check_out(out, name)?;
    // SAFETY: not NULL, aligned, and as the caller promises.
    unsafe { out.write(value) };
    Ok(())
}

/// Whether a value can be written there: asked before anything is done.
pub(super) fn check_out<T>(out: *mut T, name: &str) -> Answer {
    if out.is_null() {
        return Err(null(name));
    }
    check_array::<T>(out.addr(), 1, name)
}

/// Writes an array to the caller, whole or not at all, and its length to `needed`.
///
/// # Safety
/// `out` is NULL or has room for `capacity` values; `needed` is NULL or may be written to.
pub(super) unsafe fn put_array<T: Copy>(
    values: &[T],
    out: *mut T,
    capacity: usize,
    needed: *mut usize,
    name: &str,
) -> Answer {
    check_out(needed, "the place for the needed size")?;
    // Before anything is written: a size is written with a success, or where the array is too small.
    if !values.is_empty() && values.len() <= capacity {
        check_out(out, name)?;
    }
    // SAFETY: as the caller promises.
    unsafe { put(needed, values.len(), "the place for the needed size")? };
    if values.len() > capacity {
        let text = format!("{name} has room for {capacity}, and {} are needed", values.len());
        return Err(Failure { status: ADED_TOO_SMALL, text });
    }
    if values.is_empty() {
        return Ok(());
    }
    // SAFETY: not NULL, aligned, with room for `capacity` values, which are enough.
    unsafe { ptr::copy_nonoverlapping(values.as_ptr(), out, values.len()) };
    Ok(())
}

/// Copies a text to the caller with a zero at its end; `needed` counts that zero.
///
/// # Safety
/// As [`put_array`].
pub(super) unsafe fn put_text(text: &str, out: *mut c_char, capacity: usize, needed: *mut usize) -> Answer {
    // A zero inside would hide the rest.
    let bytes: Vec<c_char> = text.bytes().filter(|&byte| byte != 0).chain([0]).map(|byte| byte as c_char).collect();
    // SAFETY: as the caller promises.
    unsafe { put_array(&bytes, out, capacity, needed, "the buffer for the text") }
}

/// The caller's text, which must be UTF-8.
///
/// # Safety
/// `text` is NULL or ends with a zero.
pub(super) unsafe fn text<'a>(text: *const c_char, name: &str) -> Answer<&'a str> {
    if text.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL, and as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid(format!("{name} is not UTF-8")))
}

/// A structure whose first field is the size that the caller's header gives it.
///
/// # Safety
/// Plain data: any bit pattern is a value. The first field is a `size_t`.
pub(super) unsafe trait Versioned: Copy {
    /// Its size in the first release that had it.
    const FIRST_SIZE: usize;
    /// What fields have that an older header does not know.
    fn defaults() -> Self;
}

/// Reads such a structure: what the caller's version of it does not have takes its default.
///
/// # Safety
/// `data` is NULL or points to as many bytes as its first field says.
pub(super) unsafe fn sized<T: Versioned>(data: *const T, name: &str) -> Answer<T> {
    if data.is_null() {
        return Err(null(name));
    }
    check_array::<T>(data.addr(), 1, name)?;
    // SAFETY: the first field is a size_t, and the caller promises as many bytes as it says, which are at least its own.
    let size = unsafe { data.cast::<usize>().read() };
    check_size::<T>(size, name)?;
    let mut value = T::defaults();
    // SAFETY: `size` bytes can be read, and no more than `value` has are written; any bytes are a value.
    unsafe { ptr::copy_nonoverlapping(data.cast::<u8>(), ptr::from_mut(&mut value).cast(), size) };
    Ok(value)
}

/// Writes the beginning of such a structure that the caller has room for.
///
/// # Safety
/// `out` is NULL or has room for `size` bytes.
pub(super) unsafe fn put_sized<T: Versioned>(value: &T, out: *mut T, size: usize, name: &str) -> Answer {
    check_out(out, name)?;
    check_size::<T>(size, name)?;
    // SAFETY: `value` has `size` bytes and `out` room for them; the first field is a size_t.
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), out.cast(), size);
        out.cast::<usize>().write(size);
    }
    Ok(())
}

fn check_size<T: Versioned>(size: usize, name: &str) -> Answer {
    if (T::FIRST_SIZE..=size_of::<T>()).contains(&size) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "{name} says that its size is {size}; give sizeof of the structure, here {} to {}, and a header of this library",
        T::FIRST_SIZE,
        size_of::<T>()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    static OBJECTS: Registry<u32> = Registry::new("object");

    #[test]
    fn handles_are_refused_after_they_were_freed_and_while_they_are_in_use() {
        let handle: *mut u8 = OBJECTS.insert(7, ());
        let nested = OBJECTS.with(handle, |_| OBJECTS.with(handle, |_| Ok(())));
        assert_eq!(nested.unwrap_err().status, ADED_BUSY);
        assert_eq!(OBJECTS.with(handle, |_| Ok(OBJECTS.free(handle))).unwrap().unwrap_err().status, ADED_BUSY);
        assert!(OBJECTS.free(handle).is_ok());
        assert_eq!(OBJECTS.free(handle).unwrap_err().status, ADED_NO_SUCH_HANDLE);
        assert_eq!(OBJECTS.with(handle, |_| Ok(())).unwrap_err().status, ADED_NO_SUCH_HANDLE);
        assert_eq!(OBJECTS.with(ptr::null::<u8>(), |_| Ok(())).unwrap_err().status, ADED_INVALID_ARGUMENT);
        assert!(!OBJECTS.objects().contains_key(&handle.addr()));
    }

    #[test]
    fn a_panic_becomes_a_status_and_poisons_its_object_alone() {
        let (bad, good): (*mut u8, *mut u8) = (OBJECTS.insert(1, ()), OBJECTS.insert(2, ()));
        let panics = call(|| OBJECTS.with(bad, |_| panic!("on purpose")));
        assert_eq!((panics, last_message().as_str()), (ADED_INTERNAL, "a fault in aded: on purpose"));
        assert_eq!(call(|| OBJECTS.with(bad, |_| Ok(()))), ADED_POISONED);
        assert_eq!(call(|| OBJECTS.with(good, |_| Ok(()))), ADED_OK);
        assert_eq!((call(|| OBJECTS.free(bad)), call(|| OBJECTS.free(good))), (ADED_OK, ADED_OK));
    }
}
