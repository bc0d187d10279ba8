//! What /proc tells of other processes (proc(5)). Best effort: a process may be gone between two reads.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use crate::shim::wire::ProcessId;
use crate::status::Exit;

/// The fields of /proc/pid/stat that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) name: String,
    /// Dead, but not waited for.
    pub(crate) is_zombie: bool,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In clock ticks since boot. With the pid it names one process of this boot for ever.
    pub(crate) start_time: u64,
}

/// Reads one process; `None` when there is none.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// How this very process ended, while it is a zombie; `None` once it is reaped, or where it may not be looked at.
pub(crate) fn exit(process: ProcessId) -> Option<Exit> {
    let line = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    let stat = parse_stat(&line)?;
    // The last field, number 52 in proc(5), has the form of waitpid(2).
    let status: i32 = line.split_ascii_whitespace().next_back()?.parse().ok()?;
    let exit = match status & 0x7f {
        0 => Exit::Status((status >> 8) & 0xff),
        signal => Exit::Signal(signal),
    };
    (stat.is_zombie && stat.start_time == process.start_time).then_some(exit)
}

/// Names this boot: a pid and a start time of another boot mean nothing.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether a process of the group still runs. Zombies do not count: where pid 1 reaps nothing they stay for ever.
pub(crate) fn has_running_members(group: i32) -> bool {
    pids().filter_map(stat).any(|stat| stat.group == group && !stat.is_zombie)
}

/// What a process was started with, as `NAME=value`; empty for one of another user.
pub(crate) fn environment(pid: i32) -> Vec<OsString> {
    let content = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    content.split(|byte| *byte == 0).map(|entry| OsString::from_vec(entry.to_vec())).collect()
}

/// The TCP ports on which somebody listens, on whatever address, IPv4 and IPv6. Empty where /proc cannot be read.
/// Blocking, a few milliseconds.
#[must_use]
pub fn listening_ports() -> BTreeSet<u16> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| listeners(table)).map(|(port, _)| port).collect()
}

/// Names the process that listens on `address`, as `pid 4711 (nginx)`, if it can be seen.
pub fn holder(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| listeners(table)).filter(|(port, _)| *port == address.port());
    let links: Vec<String> = inodes.map(|(_, inode)| format!("socket:[{inode}]")).collect();
    let holds = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
    };
    let pid = (!links.is_empty()).then(|| pids().find(holds))??;
    Some(format!("pid {pid} ({})", stat(pid).map_or_else(|| "?".to_owned(), |stat| stat.name)))
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name is in parentheses and may hold anything, even parentheses and spaces: the last `)` ends it.
fn parse_stat(line: &str) -> Option<Stat> {
    let (start, rest) = line.rsplit_once(") ")?;
    let name = start.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are numbered from 1 in proc(5); the first of `fields` is number 3.
    let field = |number: usize| fields.get(number - 3);
    let is_zombie = matches!(*field(3)?, "Z" | "X");
    Some(Stat {
        name,
        is_zombie,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

/// The ports and inodes of sockets that listen, from a table of /proc/net.
fn listeners(table: &str) -> impl Iterator<Item = (u16, &str)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (*fields.get(3)? == LISTEN).then(|| Some((port, *fields.get(9)?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "4 100 101 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        for (state, is_zombie) in [("S", false), ("Z", true)] {
            let line = format!("42 (a) b (c)) {state} {tail}");
            let expected =
                Stat { name: "a) b (c)".to_owned(), is_zombie, parent: 4, group: 100, session: 101, start_time: 987 };
            assert_eq!(parse_stat(&line), Some(expected));
        }
        assert_eq!(parse_stat("42 (short) S 4"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_listener_is_named_with_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = holder(listener.local_addr().unwrap()).unwrap();
        assert!(holder.starts_with(&format!("pid {} (", std::process::id())), "{holder}");
    }

    #[test]
    fn ports_in_use_are_those_of_listeners_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let ports = listening_ports();
        assert!(ports.contains(&address.port()));
        assert!(!ports.contains(&client.local_addr().unwrap().port()));
    }
}
