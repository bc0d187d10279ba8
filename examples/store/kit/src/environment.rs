//! Configuration as the platform gives it: variables of the environment, read once at the start. A variable that is
//! missing or wrong is an error that names it; there are no silent defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use http::Uri;
use percent_encoding::percent_decode_str;

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name} is not set: it must be {expected}")]
    Missing { name: String, expected: &'static str },
    #[error("{name} is {value:?}: it must be {expected}")]
    Invalid { name: String, value: String, expected: &'static str },
}

/// The variables of a process, or those of a test.
#[derive(Clone, Debug)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Takes the variables of this process; those that are not UTF-8 are as if unset.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    /// Where to listen: `HOST` and `PORT`.
    ///
    /// # Errors
    /// When one is missing, or is not an IP address or a port.
    pub fn listen(&self) -> Result<SocketAddr, Error> {
        let host: IpAddr = self.parsed("HOST", "an IP address", |value| value.parse().ok())?;
        let port = self.parsed("PORT", "a port number", |value| value.parse().ok())?;
        Ok(SocketAddr::new(host, port))
    }

    /// Address of an upstream: `CATALOG_URL` for `catalog`.
    ///
    /// # Errors
    /// When it is missing or not an `http` address.
    pub fn upstream(&self, name: &str) -> Result<Uri, Error> {
        let variable = format!("{}_URL", name.to_ascii_uppercase().replace('-', "_"));
        self.parsed(&variable, "an address such as http://127.0.0.1:9000", |value| {
            let uri: Uri = value.parse().ok()?;
            (uri.scheme_str() == Some("http") && uri.authority().is_some()).then_some(uri)
        })
    }

    /// File of this service's database: the path in `DATABASE_URL`, whose escapes are decoded (RFC 3986 §2.1).
    ///
    /// # Errors
    /// When it is missing or not a `sqlite:///` address.
    pub fn database(&self) -> Result<PathBuf, Error> {
        self.parsed("DATABASE_URL", "an address such as sqlite:///absolute/path.db", |value| {
            let path = value.strip_prefix("sqlite://").filter(|path| path.starts_with('/'))?;
            Some(PathBuf::from(OsString::from_vec(percent_decode_str(path).collect())))
        })
    }

    fn parsed<T>(&self, name: &str, expected: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        let Some(value) = self.0.get(name) else {
            return Err(Error::Missing { name: name.to_owned(), expected });
        };
        parse(value).ok_or_else(|| Error::Invalid { name: name.to_owned(), value: value.clone(), expected })
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_gives_is_understood() {
        let given = Environment::from([
            ("HOST", "127.0.0.1"),
            ("PORT", "9000"),
            ("PRICE_LIST_URL", "http://127.0.0.1:9001"),
            ("DATABASE_URL", "sqlite:///srv/My%20Projects/50%25/café/catalog.db"),
        ]);
        assert_eq!(given.listen().unwrap().to_string(), "127.0.0.1:9000");
        assert_eq!(given.upstream("price-list").unwrap().to_string(), "http://127.0.0.1:9001/");
        assert_eq!(given.database().unwrap(), PathBuf::from("/srv/My Projects/50%/café/catalog.db"));
    }

    #[test]
    fn an_error_names_the_variable_and_what_it_must_be() {
        let given = Environment::from([("HOST", "localhost"), ("CART_URL", "cart:80"), ("DATABASE_URL", "sqlite://x")]);
        let message = |error: Error| error.to_string();
        assert_eq!(message(given.listen().unwrap_err()), "HOST is \"localhost\": it must be an IP address");
        let expected = "must be an address such as http://127.0.0.1:9000";
        assert_eq!(message(given.upstream("cart").unwrap_err()), format!("CART_URL is \"cart:80\": it {expected}"));
        assert_eq!(message(given.upstream("catalog").unwrap_err()), format!("CATALOG_URL is not set: it {expected}"));
        assert!(message(given.database().unwrap_err()).starts_with("DATABASE_URL is \"sqlite://x\""));
    }
}
