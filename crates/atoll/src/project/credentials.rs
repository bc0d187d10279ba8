//! `credentials.json`: what the passwords of the broker's users are made from. It stays, because instances outlive the
//! daemon, and with it the password of each service; whoever removes it while nothing runs has new ones.

use std::fmt::{self, Write as _};
use std::io;

use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};

use crate::project::{Project, kept};

/// Limit: bytes of the secret, those of the digest.
const SECRET_BYTES: usize = 32;
/// Limit: bytes of a password, before they are written in hex.
const PASSWORD_BYTES: usize = 20;

/// The secret that passwords are made from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    secret: [u8; SECRET_BYTES],
}

impl Credentials {
    /// Those of nobody: no broker knows passwords that are made from them.
    pub const NOBODYS: Self = Self { secret: [0; SECRET_BYTES] };

    /// Reads them; blocking. Where nothing ran before they are nobody's.
    pub fn load(project: &Project) -> Self {
        kept::load(&project.credentials_file()).valid().unwrap_or(Self::NOBODYS)
    }

    /// Reads them, or makes new ones and keeps them, durably; blocking. For whoever holds the folder's lock.
    pub fn load_or_make(project: &Project) -> io::Result<Self> {
        if let Some(credentials) = kept::load(&project.credentials_file()).valid() {
            return Ok(credentials);
        }
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| io::Error::other("no randomness can be had"))?;
        let credentials = Self { secret };
        kept::store(&project.credentials_file(), &credentials)?;
        Ok(credentials)
    }

    /// What this user of the broker proves itself with; the same for the same name, and nothing about that of another.
    pub fn password(&self, user: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, format!("broker/{user}").as_bytes());
        let mut password = String::with_capacity(2 * PASSWORD_BYTES);
        for byte in &tag.as_ref()[..PASSWORD_BYTES] {
            let _ = write!(password, "{byte:02x}");
        }
        password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn passwords_stay_and_differ_from_user_to_user_and_folder_to_folder() {
        let folder = || {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("atoll.toml"), "").expect("a manifest");
            let project = Project::find(None, Some(folder.path())).expect("a project");
            project.make_folders().expect("folders");
            (folder, project)
        };
        let ((_one, one), (_two, two)) = (folder(), folder());
        let made = Credentials::load_or_make(&one).expect("made");
        assert_eq!(made, Credentials::load_or_make(&one).expect("read"));
        let mode = std::fs::metadata(one.credentials_file()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = Credentials::load_or_make(&two).expect("made");
        let all = [made.password("cart"), made.password("orders"), other.password("cart")];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert!(all.iter().all(|password| password.len() == 40));
        assert!(!format!("{made:?}").contains(char::is_numeric));
    }
}
