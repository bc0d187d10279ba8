//! CONNECT's JSON, read as leniently as nats-server reads it: names in any case, unknown ones ignored, missing ones as
//! they were, but never a value of a wrong type.

use std::fmt;

use serde_json::{Map, Value};

/// What a client says about itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) is_verbose: bool,
    pub(crate) is_pedantic: bool,
    /// Whether it wants its own messages back.
    pub(crate) has_echo: bool,
    pub(crate) has_headers: bool,
    pub(crate) has_no_responders: bool,
    /// 1: INFO may come at any time.
    pub(crate) protocol: i64,
    pub(crate) name: String,
    pub(crate) lang: String,
    pub(crate) version: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) token: String,
    pub(crate) nkey: String,
    pub(crate) signature: String,
    pub(crate) account: String,
}

/// Without secrets.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("name", &self.name).field("user", &self.user).finish_non_exhaustive()
    }
}

/// What holds before CONNECT.
impl Default for Connect {
    fn default() -> Self {
        Self {
            is_verbose: true,
            is_pedantic: true,
            has_echo: true,
            has_headers: false,
            has_no_responders: false,
            protocol: 0,
            name: String::new(),
            lang: String::new(),
            version: String::new(),
            user: String::new(),
            password: String::new(),
            token: String::new(),
            nkey: String::new(),
            signature: String::new(),
            account: String::new(),
        }
    }
}

impl Connect {
    /// Overwrites what the JSON names. `None`, and nothing of use, if it is no object or a value has a wrong type.
    pub(crate) fn updated(self, json: &[u8]) -> Option<Self> {
        let mut connect = self;
        let fields: Map<String, Value> = match serde_json::from_slice(json).ok()? {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => return None,
        };
        for (name, value) in fields {
            let place = match name.to_ascii_lowercase().as_str() {
                "verbose" => Place::Bool(&mut connect.is_verbose),
                "pedantic" => Place::Bool(&mut connect.is_pedantic),
                "echo" => Place::Bool(&mut connect.has_echo),
                "headers" => Place::Bool(&mut connect.has_headers),
                "no_responders" => Place::Bool(&mut connect.has_no_responders),
                "protocol" => Place::Number(&mut connect.protocol),
                "name" => Place::Text(&mut connect.name),
                "lang" => Place::Text(&mut connect.lang),
                "version" => Place::Text(&mut connect.version),
                "user" => Place::Text(&mut connect.user),
                "pass" => Place::Text(&mut connect.password),
                "auth_token" => Place::Text(&mut connect.token),
                "nkey" => Place::Text(&mut connect.nkey),
                "sig" => Place::Text(&mut connect.signature),
                "account" => Place::Text(&mut connect.account),
                _ => continue,
            };
            place.put(value)?;
        }
        Some(connect)
    }
}

enum Place<'a> {
    Bool(&'a mut bool),
    Number(&'a mut i64),
    Text(&'a mut String),
}

impl Place<'_> {
    fn put(self, value: Value) -> Option<()> {
        match (self, value) {
            (_, Value::Null) => {}
            (Place::Bool(place), Value::Bool(value)) => *place = value,
            (Place::Number(place), Value::Number(value)) => *place = value.as_i64()?,
            (Place::Text(place), Value::String(value)) => *place = value,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Connect> {
        Connect::default().updated(json.as_bytes())
    }

    #[test]
    fn names_have_any_case_and_missing_ones_keep_their_value() {
        let connect = read(r#"{"VERBOSE":false,"Pass":"x","unknown":[1],"name":null}"#).unwrap();
        assert!(!connect.is_verbose && connect.is_pedantic && connect.has_echo);
        assert_eq!((connect.password.as_str(), connect.name.as_str()), ("x", ""));
        assert_eq!(read("null"), Some(Connect::default()));
    }

    #[test]
    fn wrong_types_are_refused() {
        for json in ["", "[]", "1", "{", r#"{"verbose":"x"}"#, r#"{"user":1}"#, r#"{"protocol":1.5}"#, "{}{}"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
