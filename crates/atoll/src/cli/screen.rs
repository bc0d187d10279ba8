//! The terminal while `top` or `edges -w` has it: a screen of its own, redrawn in one piece, and given back however that
//! ends.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::cli::Failure;

/// Alternate screen on, cursor off (xterm control sequences, DECSET 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Of a terminal that does not tell its size.
const SIZE_ASSUMED: (usize, usize) = (24, 80);

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Leave,
    Redraw,
}

/// Dropped, it gives the terminal back as it was.
pub struct Screen {
    /// The keyboard, where it is a terminal too.
    keyboard: Option<Keyboard>,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    resize: Signal,
}

struct Keyboard {
    before: Termios,
    left: oneshot::Receiver<()>,
}

impl Screen {
    pub fn open() -> io::Result<Self> {
        let screen = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            resize: signal(SignalKind::window_change())?,
            keyboard: Keyboard::open(),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(ENTER.as_bytes())?;
        stdout.flush()?;
        Ok(screen)
    }

    /// Writes over what is there, so that nothing flickers; what does not fit is cut.
    pub fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (height, width) = size();
        let mut frame = "\x1b[H".to_owned();
        for (row, line) in lines.iter().take(height).enumerate() {
            let end = if row + 1 < lines.len().min(height) { "\r\n" } else { "" };
            let shown: String = line.chars().take(width).collect();
            let _ = write!(frame, "{shown}\x1b[K{end}");
        }
        frame.push_str("\x1b[J");
        let mut stdout = io::stdout().lock();
        stdout.write_all(frame.as_bytes())?;
        stdout.flush()
    }

    /// Waits for q, a signal that ends, or another size of the window. Cancel safe.
    pub async fn key(&mut self) -> Key {
        let typed = async {
            match &mut self.keyboard {
                // Also when nobody can type any more.
                Some(keyboard) => drop((&mut keyboard.left).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = typed => Key::Leave,
            _ = self.interrupt.recv() => Key::Leave,
            _ = self.terminate.recv() => Key::Leave,
            _ = self.hangup.recv() => Key::Leave,
            _ = self.resize.recv() => Key::Redraw,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &keyboard.before);
        }
        // A terminal that is gone needs nothing back.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush());
    }
}

impl Keyboard {
    /// Takes keys one by one and unseen; Ctrl-C stays a signal. `None` where stdin is no terminal.
    fn open() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut keys = before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &keys).ok()?;
        let (leave, left) = oneshot::channel();
        // A thread and no task: a read of a terminal cannot be taken back, and this one ends with the process.
        std::thread::spawn(move || {
            let mut typed = io::stdin().lock().bytes();
            let _ = typed.find(|key| !matches!(key, Ok(key) if !b"qQ".contains(key)));
            let _ = leave.send(());
        });
        Some(Self { before, left })
    }
}

/// Rows and columns.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (usize::from(size.ws_row), usize::from(size.ws_col)),
        _ => SIZE_ASSUMED,
    }
}

/// Draws what is measured, first after one interval and then after the other, until somebody leaves or measuring fails.
pub async fn watch(
    first: Duration,
    interval: Duration,
    mut measure: impl AsyncFnMut() -> Result<Vec<String>, Failure>,
) -> anyhow::Result<()> {
    let mut screen = Screen::open().map_err(|error| Failure::new("cannot use this terminal").because(error))?;
    let mut due = Instant::now() + first;
    let mut lines = Vec::new();
    loop {
        tokio::select! {
            () = sleep_until(due) => {
                due = Instant::now() + interval;
                lines = measure().await?;
                screen.draw(&lines)?;
            }
            key = screen.key() => match key {
                Key::Leave => return Ok(()),
                Key::Redraw => screen.draw(&lines)?,
            }
        }
    }
}
