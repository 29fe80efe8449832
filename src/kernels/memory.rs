//! Where the tests' buffers lie: on the heap, or beside a page that nobody may touch, so that a kernel which reads or writes a
//! byte too much ends the process.

use std::ops::{Deref, DerefMut};

/// Where a buffer lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    /// In a box of its exact size, whose surroundings AddressSanitizer watches.
    Heap,
    /// Its last byte stands before a page that nobody may touch.
    #[cfg(unix)]
    BeforeGuard,
    /// Its first byte stands behind such a page.
    #[cfg(unix)]
    BehindGuard,
}

impl Memory {
    /// The places with a guard; none where there are no such pages.
    pub(super) const GUARDED: &[Self] = &[
        #[cfg(unix)]
        Self::BeforeGuard,
        #[cfg(unix)]
        Self::BehindGuard,
    ];

    /// `length` times `value`.
    pub(super) fn filled<T: Copy>(self, length: usize, value: T) -> Buffer<T> {
        self.copy(&vec![value; length])
    }

    /// These values.
    pub(super) fn copy<T: Copy>(self, values: &[T]) -> Buffer<T> {
        match self {
            Self::Heap => Buffer::Boxed(values.into()),
            #[cfg(unix)]
            Self::BeforeGuard => Buffer::Mapped(guard::Mapping::new(values, true)),
            #[cfg(unix)]
            Self::BehindGuard => Buffer::Mapped(guard::Mapping::new(values, false)),
        }
    }
}

/// Some values in such memory.
pub(super) enum Buffer<T> {
    Boxed(Box<[T]>),
    #[cfg(unix)]
    Mapped(guard::Mapping<T>),
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Boxed(values) => values,
            #[cfg(unix)]
            Self::Mapped(values) => values.get(),
        }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Boxed(values) => values,
            #[cfg(unix)]
            Self::Mapped(values) => values.get_mut(),
        }
    }
}

#[cfg(unix)]
mod guard {
    use std::ffi::c_void;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;
    use std::slice;

    use nix::libc;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, SysconfVar, fork, sysconf};

    use super::Memory;

    /// Pages of its own, one of them a guard.
    pub(in crate::kernels) struct Mapping<T> {
        pages: NonNull<c_void>,
        n_bytes: usize,
        first: *mut T,
        length: usize,
    }

    impl<T: Copy> Mapping<T> {
        /// Values that end where the guard begins, or begin where it ends.
        pub(super) fn new(values: &[T], ends_at_guard: bool) -> Self {
            let page = sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize;
            let (size, room) = (size_of_val(values), size_of_val(values).next_multiple_of(page));
            let n_bytes = room + page;
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: new pages, which nothing else uses; the guard is one of them, and the values lie in the others. A size is a
            // multiple of its type's alignment, and so is a page's, so that both ends of the pages suit the type.
            unsafe {
                let pages =
                    mmap_anonymous(None, NonZeroUsize::new(n_bytes).unwrap(), access, MapFlags::MAP_PRIVATE).unwrap();
                let (guard, first) = if ends_at_guard { (room, room - size) } else { (0, page) };
                mprotect(pages.byte_add(guard), page, ProtFlags::PROT_NONE).unwrap();
                let first: *mut T = pages.byte_add(first).cast().as_ptr();
                first.copy_from_nonoverlapping(values.as_ptr(), values.len());
                Self { pages, n_bytes, first, length: values.len() }
            }
        }
    }

    impl<T> Mapping<T> {
        pub(super) fn get(&self) -> &[T] {
            // SAFETY: the pages hold so many values until they are given back.
            unsafe { slice::from_raw_parts(self.first, self.length) }
        }

        pub(super) fn get_mut(&mut self) -> &mut [T] {
            // SAFETY: as above, and nobody else has them.
            unsafe { slice::from_raw_parts_mut(self.first, self.length) }
        }
    }

    impl<T> Drop for Mapping<T> {
        fn drop(&mut self) {
            // SAFETY: these pages came from `mmap_anonymous`, and nothing refers to them any longer.
            unsafe { munmap(self.pages, self.n_bytes).unwrap() };
        }
    }

    /// True if a process that does this ends well; false if the system ends it because of an address. It must do no more than read
    /// memory: other threads may hold any lock.
    fn ends_well(read: impl FnOnce()) -> bool {
        // SAFETY: the child reads memory and ends without unwinding or giving anything back.
        match unsafe { fork() }.unwrap() {
            // SAFETY: the system's own calls, with its own numbers. They take handlers away that would report the address (std's, a
            // sanitizer's), and end the child at once.
            ForkResult::Child => unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                read();
                libc::_exit(0)
            },
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, 0) => true,
                WaitStatus::Signaled(_, Signal::SIGSEGV | Signal::SIGBUS, _) => false,
                other => panic!("the child ended as {other:?}"),
            },
        }
    }

    #[test]
    fn a_byte_too_much_ends_the_process() {
        for n in [1, 4095, 4096, 70_000] {
            let (before, behind) = (Memory::BeforeGuard.filled(n, 7u8), Memory::BehindGuard.filled(n, 7u8));
            assert_eq!((before.len(), behind.iter().map(|&value| usize::from(value)).sum::<usize>()), (n, 7 * n));
            // SAFETY: the last of the values; what is beyond is asked for in a process that may die of it.
            let read = |p: *const u8| move || _ = unsafe { p.read_volatile() };
            let (first, last) = (behind.as_ptr(), before[n - 1..].as_ptr());
            assert!(ends_well(read(first)) && ends_well(read(last)), "{n}");
            assert!(!ends_well(read(first.wrapping_sub(1))), "{n}");
            assert!(!ends_well(read(last.wrapping_add(1))), "{n}");
        }
    }
}
