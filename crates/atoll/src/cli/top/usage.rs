//! CPU and memory of groups of processes, between two looks at /proc.

use std::collections::HashMap;

use crate::processes::{self, Process, TICKS_PER_SECOND};

/// Whose processes belong to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Every member of the process group of this number.
    Group(u32),
    /// This process alone.
    Process(u32),
}

/// What the processes of one row take together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Of one core.
    pub cpu_percent: f64,
    pub memory_bytes: u64,
    pub processes: u32,
}

/// Remembers what each process had used at the last look.
#[derive(Debug, Default)]
pub struct Meter {
    /// By pid and start time; `None` before the first look.
    last: Option<HashMap<(i32, u64), u64>>,
}

impl Meter {
    /// The total of each row, `None` where nothing of its owners runs. `seconds` is the time since the last look; the first one
    /// knows no CPU time. What a process used that came and went in between is not seen.
    pub fn measure(&mut self, rows: &[Vec<Owner>], seconds: f64) -> Vec<Option<Total>> {
        self.add_up(processes::all(), rows, seconds, |pid| processes::memory_bytes(pid).unwrap_or_default())
    }

    fn add_up(
        &mut self,
        running: impl Iterator<Item = Process>,
        rows: &[Vec<Owner>],
        seconds: f64,
        memory_bytes: impl Fn(i32) -> u64,
    ) -> Vec<Option<Total>> {
        let owned = rows.iter().enumerate().flat_map(|(row, owners)| owners.iter().map(move |owner| (*owner, row)));
        let row_of: HashMap<Owner, usize> = owned.collect();
        let mut totals: Vec<Option<Total>> = vec![None; rows.len()];
        let mut seen = HashMap::new();
        for process in running {
            let (pid, group) = (process.pid.unsigned_abs(), process.group.unsigned_abs());
            let row = row_of.get(&Owner::Process(pid)).or_else(|| row_of.get(&Owner::Group(group)));
            let Some(total) = row.and_then(|row| totals.get_mut(*row)) else { continue };
            let total = total.get_or_insert_default();
            let key = (process.pid, process.start_ticks);
            if let Some(last) = &self.last {
                // One that was not there has used all that it has used since.
                let ticks = process.cpu_ticks.saturating_sub(last.get(&key).copied().unwrap_or_default());
                total.cpu_percent += ticks as f64 / TICKS_PER_SECOND / seconds * 100.0;
            }
            total.memory_bytes += memory_bytes(process.pid);
            total.processes += 1;
            seen.insert(key, process.cpu_ticks);
        }
        self.last = Some(seen);
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, group: i32, cpu_ticks: u64) -> Process {
        Process { pid, parent: 1, group, cpu_ticks, start_ticks: 1 }
    }

    #[test]
    fn members_of_a_group_are_added_up_and_cpu_time_is_that_since_the_last_look() {
        let rows =
            [vec![Owner::Group(10)], vec![Owner::Process(20), Owner::Process(21)], vec![], vec![Owner::Group(30)]];
        let mut meter = Meter::default();
        let mut look = |running: &[Process]| meter.add_up(running.iter().cloned(), &rows, 2.0, |_| 1000);
        let first = look(&[process(10, 10, 500), process(20, 5, 70), process(99, 99, 1)]);
        let total = |cpu_percent, processes: u32| {
            Some(Total { cpu_percent, memory_bytes: 1000 * u64::from(processes), processes })
        };
        assert_eq!(first, [total(0.0, 1), total(0.0, 1), None, None]);
        // A new member counts with all that it has used.
        let second = look(&[process(10, 10, 600), process(11, 10, 50), process(20, 5, 70)]);
        assert_eq!(second, [total(75.0, 2), total(0.0, 1), None, None]);
        // The same pid with another start time is another process.
        let reused = Process { start_ticks: 9, ..process(20, 5, 20) };
        assert_eq!(look(&[reused])[1], total(10.0, 1));
    }
}
