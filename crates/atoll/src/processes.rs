//! What /proc tells of processes of this machine (proc(5)): groups, CPU time, memory. Asked by `top`, by `daemon status`
//! and before a signal is sent. Best effort: a process may be gone between two reads. Touches nothing.

use std::fs;

/// Clock ticks a second in /proc: USER_HZ is 100 on every architecture that we build for (time(7)).
pub const TICKS_PER_SECOND: f64 = 100.0;

/// A process that runs; a zombie does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// User and system time so far, in ticks; of its children nothing.
    pub cpu_ticks: u64,
    /// In ticks since boot. With the pid it names one process of this boot for ever.
    pub start_ticks: u64,
}

/// Every process that can be seen. Blocking, some microseconds each.
pub fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| find(entry.file_name().to_str()?.parse().ok()?))
}

/// The process of that id, if it runs.
pub fn find(pid: i32) -> Option<Process> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Its resident memory, in bytes; pages that it shares with others are counted.
pub fn memory_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Files that it has open, and may have; `None` for a process of somebody else.
pub fn files(pid: i32) -> (Option<u64>, Option<u64>) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|entries| entries.count() as u64);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let most =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    (open, most)
}

/// When this machine began, in seconds since 1970.
pub fn boot_seconds() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The name is in parentheses and may hold anything, even parentheses and spaces: the last `)` ends it.
fn parse_stat(pid: i32, line: &str) -> Option<Process> {
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are numbered from 1 in proc(5); the first of `fields` is number 3.
    let field = |number: usize| fields.get(number - 3);
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    if matches!(*field(3)?, "Z" | "X") {
        return None;
    }
    Some(Process {
        pid,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        cpu_ticks: number(14)? + number(15)?,
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields_and_a_zombie_does_not_run() {
        let tail = "4 100 101 0 -1 4194560 0 0 0 0 7 5 0 0 20 0 1 0 987 0 0";
        let expected = Process { pid: 42, parent: 4, group: 100, cpu_ticks: 12, start_ticks: 987 };
        assert_eq!(parse_stat(42, &format!("42 (a) b (c)) S {tail}")), Some(expected));
        assert_eq!(parse_stat(42, &format!("42 (a) Z {tail}")), None);
        assert_eq!(parse_stat(42, "42 (short) S 4"), None);
        assert_eq!(parse_stat(42, ""), None);
    }

    #[test]
    fn this_process_is_seen_with_its_memory() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(all().any(|process| process.pid == own));
        assert!(memory_bytes(own).is_some_and(|bytes| bytes > 100_000));
        let (open, most) = files(own);
        assert!(open.is_some_and(|open| open > 2) && most >= open);
        assert!(boot_seconds().is_some_and(|seconds| seconds > 1_000_000_000));
        assert_eq!((find(i32::MAX), files(i32::MAX)), (None, (None, None)));
    }
}
