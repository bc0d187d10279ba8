//! The last lines of a process, kept to be shown when it ends.

use std::collections::VecDeque;

/// Limit: lines kept.
const LINES_MAX: usize = 20;

/// Limit: a line of those is cut to this many characters.
const LINE_CHARS_MAX: usize = 400;

/// The last lines, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(VecDeque<String>);

impl Tail {
    pub(crate) fn remember(&mut self, text: &str) {
        if self.0.len() == LINES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(text.chars().take(LINE_CHARS_MAX).collect());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}
