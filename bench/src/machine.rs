//! What was measured on.

use std::fs;

use rustix::system::uname;
use serde_json::{Value, json};

/// A description without names or addresses of the machine.
pub(crate) fn describe() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_mib = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib / 1024);
    json!({
        "cpus": cpus,
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "memory_mib": memory_mib,
        "kernel": uname().release().to_string_lossy(),
        "load_before": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

fn field(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let text = "MemTotal:       24682532 kB\nMemFree: 1 kB\n";
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24682532 kB"));
        assert_eq!(field("model name\t: A B\n", "model name").as_deref(), Some("A B"));
        assert_eq!(field(text, "Mem"), None);
        assert!(describe()["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    }
}
