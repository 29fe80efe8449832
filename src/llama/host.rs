//! What the machine has: cores and free memory.

use std::collections::BTreeSet;
use std::fs;

/// Threads to use where nobody says: the physical cores that the process may use, since two threads on one core compute no faster.
pub fn default_threads() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    // Linux lists the hardware threads of each core; one list is one core.
    let siblings =
        |cpu: usize| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok();
    let cores: BTreeSet<String> = (0..1024).map_while(siblings).collect();
    let threads = if cores.is_empty() { allowed } else { cores.len().min(allowed) };
    threads.clamp(1, 512) as u32
}

/// Bytes that the process can still take: free memory, what the system can free at once, and swap; less where a container sets a limit.
/// `None` where the system does not say (only Linux is asked).
pub fn available_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let system = field("MemAvailable")?.saturating_add(field("SwapFree").unwrap_or(0));
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // "max" stands for no limit and is no number. Pages of files count as used there, but can be taken back.
    let container = number("/sys/fs/cgroup/memory.max").map(|limit| {
        let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
        let files = fs::read_to_string("/sys/fs/cgroup/memory.stat").ok().and_then(|stat| {
            stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
        });
        limit.saturating_sub(used.saturating_sub(files.unwrap_or(0)))
    });
    Some(container.map_or(system, |container| container.min(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_core_and_some_memory() {
        assert!((1..=512).contains(&default_threads()));
        if cfg!(target_os = "linux") {
            assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
