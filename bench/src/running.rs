//! Programs in the background. Whatever becomes of the bench, its drop ends them with all that they have started.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Bytes of a log that are shown when its program has ended.
const LOG_SHOWN_MAX: usize = 2_000;

/// How long a program may take to stop when it is asked, and how often that is looked at.
const STOP_MAX: Duration = Duration::from_secs(2);
const STOP_INTERVAL: Duration = Duration::from_millis(10);

/// A program with a process group of its own.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it, with its output in a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9` of it alone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Fails once it has ended, with the end of its output.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let text = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("it ended with {status}: {}", end_of(&text))
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // A master that is asked waits for its workers, and leaves no zombies behind.
        let _ = kill_process_group(group, Signal::TERM);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < STOP_MAX {
            std::thread::sleep(STOP_INTERVAL);
        }
        // The group also holds workers that outlive their master, so it is signalled even when the master has ended.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

fn end_of(text: &str) -> &str {
    let text = text.trim();
    let start = (text.len().saturating_sub(LOG_SHOWN_MAX)..).find(|at| text.is_char_boundary(*at));
    &text[start.unwrap_or_default()..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{family, find};

    /// Waits for a state, with a bound.
    #[track_caller]
    fn until(mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(10), "waited in vain");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_is_dropped_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // A word that no other process has.
        let mark = folder.path().join("mark").display().to_string();
        command.args(["-c", "sh -c 'sleep 100; :' \"$0\" & sleep 100; :", &mark]);
        let mut program = Program::start(command, &folder.path().join("log")).unwrap();
        let pid = program.pid();
        program.check().unwrap();
        let is_ours = |words: &[String]| words.contains(&mark);
        until(|| find(is_ours).len() >= 2);
        until(|| family(pid).len() >= 3);
        drop(program);
        until(|| find(is_ours).is_empty());
    }

    #[test]
    fn a_program_that_has_ended_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such port; exit 3"]);
        let mut program = Program::start(command, &folder.path().join("log")).unwrap();
        until(|| program.check().is_err());
        let error = program.check().unwrap_err().to_string();
        assert!(error.contains("no such port") && error.contains('3'), "{error}");
    }

    #[test]
    fn the_end_of_a_long_text_is_cut_between_characters() {
        assert_eq!(end_of(" short \n"), "short");
        let long = "ä".repeat(LOG_SHOWN_MAX);
        assert!(end_of(&format!("x{long}")).len() <= LOG_SHOWN_MAX);
    }
}
