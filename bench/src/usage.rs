//! What processes have used, from /proc (proc(5)): CPU time of all their threads and memory. A thread that ended between
//! two looks is lost; proxies keep theirs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// CPU time of one thread so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Thread {
    run_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time of all threads of some processes, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look(HashMap<u32, Thread>);

/// CPU time between two looks, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) total: f64,
    /// The scheduler knows the sum in nanoseconds, its parts in ticks only: their proportion divides the sum.
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// Memory of some processes together, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident; pages that they share count for each.
    pub(crate) rss: u64,
    /// Proportional: pages that they share are divided among them.
    pub(crate) pss: u64,
}

impl Look {
    pub(crate) fn at(pids: &[u32]) -> Result<Self> {
        let mut threads = HashMap::new();
        for pid in pids {
            let tasks = format!("/proc/{pid}/task");
            let entries = fs::read_dir(&tasks).with_context(|| format!("process {pid} has gone"))?;
            for entry in entries.flatten() {
                let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                if let Some(thread) = Thread::read(&entry.path()) {
                    threads.insert(id, thread);
                }
            }
        }
        Ok(Self(threads))
    }

    #[expect(clippy::cast_precision_loss)]
    pub(crate) fn since(&self, earlier: &Self) -> Cpu {
        let (mut run, mut user, mut system) = (0, 0, 0);
        for (id, now) in &self.0 {
            let before = earlier.0.get(id).copied().unwrap_or_default();
            run += now.run_ns.saturating_sub(before.run_ns);
            user += now.user_ticks.saturating_sub(before.user_ticks);
            system += now.system_ticks.saturating_sub(before.system_ticks);
        }
        let total = run as f64 / 1_000.0;
        let share = user as f64 / ((user + system) as f64).max(1.0);
        Cpu { total, user: total * share, system: total * (1.0 - share) }
    }
}

impl Thread {
    fn read(folder: &Path) -> Option<Self> {
        let run_ns = parse_schedstat(&fs::read_to_string(folder.join("schedstat")).ok()?)?;
        let (user_ticks, system_ticks) = parse_stat(&fs::read_to_string(folder.join("stat")).ok()?)?;
        Some(Self { run_ns, user_ticks, system_ticks })
    }
}

impl Memory {
    pub(crate) fn at(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .with_context(|| format!("cannot read the memory of process {pid}"))?;
            let field = |name| parse_kib(&text, name).with_context(|| format!("no {name} of process {pid}"));
            sum.rss += field("Rss:")?;
            sum.pss += field("Pss:")?;
        }
        Ok(sum)
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { rss: self.rss.saturating_sub(earlier.rss), pss: self.pss.saturating_sub(earlier.pss) }
    }
}

/// Processes whose command line, as words, is what is looked for.
pub(crate) fn find(is_meant: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let pids = all_pids().filter(|pid| is_meant(&words(*pid)));
    pids.collect()
}

/// A process and all that come from it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all_pids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(of) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn words(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat_field(&stat, 4)?.parse().ok()
}

/// The first number: nanoseconds on a CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// User and system time, in ticks.
fn parse_stat(line: &str) -> Option<(u64, u64)> {
    Some((stat_field(line, 14)?.parse().ok()?, stat_field(line, 15)?.parse().ok()?))
}

/// By proc(5)'s numbers, from 3. The second one is in parentheses and may hold anything: the last `)` ends it.
fn stat_field(line: &str, number: usize) -> Option<&str> {
    line.rsplit_once(") ")?.1.split_ascii_whitespace().nth(number - 3)
}

fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_schedstat_is_time_on_a_cpu() {
        assert_eq!(parse_schedstat("52934812 1203 7\n"), Some(52_934_812));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("x 1 2"), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (nginx: w) (x) S 4 100 101 0 -1 4194560 0 0 0 0 7 5 0 0 20 0 1 0 987 0 0";
        assert_eq!(parse_stat(line), Some((7, 5)));
        assert_eq!(stat_field(line, 4), Some("4"));
        assert_eq!(parse_stat("42 (short) S 4"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_in_kib() {
        let text = "5581 [rollup]\nRss:    21184 kB\nPss:   7421 kB\nPss_Dirty: 1 kB\n";
        assert_eq!((parse_kib(text, "Rss:"), parse_kib(text, "Pss:")), (Some(21_184), Some(7_421)));
        assert_eq!(parse_kib(text, "Swap:"), None);
    }

    #[test]
    fn the_sum_is_divided_as_its_ticks_are() {
        let look = |threads: &[(u32, u64, u64, u64)]| {
            let thread = |(id, run_ns, user_ticks, system_ticks)| (id, Thread { run_ns, user_ticks, system_ticks });
            Look(threads.iter().copied().map(thread).collect())
        };
        let cpu = look(&[(1, 3_000, 2, 7), (2, 1_000, 0, 0)]).since(&look(&[(1, 1_000, 1, 4), (9, 5_000, 9, 9)]));
        assert_eq!(cpu, Cpu { total: 3.0, user: 0.75, system: 2.25 });
        assert_eq!(look(&[]).since(&look(&[])), Cpu::default());
    }

    #[test]
    fn this_process_is_found_with_its_time_and_memory() {
        let own = std::process::id();
        assert!(find(|words| words.first().is_some_and(|word| word.contains("bench"))).contains(&own));
        assert!(family(own).contains(&own));
        assert!(Look::at(&[own]).is_ok() && Memory::at(&[own]).is_ok_and(|memory| memory.rss > 100));
        assert!(Look::at(&[u32::MAX]).is_err());
    }
}
