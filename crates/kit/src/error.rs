//! Prints an error with all of its causes, once.

use std::error::Error;
use std::fmt;

/// Displays `error: cause: cause of the cause`. The one way in which errors reach a log or a person.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the box")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn causes_follow_in_order() {
        let error = Outer { source: std::io::Error::other("no key") };
        assert_eq!(Chain(&error).to_string(), "cannot open the box: no key");
    }
}
