//! INFO: what the broker says about itself, in the fields that clients look at.

use serde::Serialize;

/// The version whose behaviour clients may expect: they choose by it what they use.
pub(crate) const VERSION: &str = "2.11.10";

/// INFO's JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Info {
    pub(crate) server_id: String,
    pub(crate) server_name: String,
    pub(crate) version: &'static str,
    /// 1: INFO may come again at any time.
    pub(crate) proto: u8,
    /// Some clients require it.
    pub(crate) go: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) headers: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tls_required: bool,
    pub(crate) max_payload: usize,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) jetstream: bool,
    pub(crate) client_id: u64,
    pub(crate) client_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) ldm: bool,
    /// Says that this is the answer to the first PING after CONNECT.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) connect_info: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote_account: Option<&'static str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Info {
    /// The line as it is sent.
    pub(crate) fn line(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("plain fields have a JSON form");
        format!("INFO {json}\r\n").into_bytes()
    }
}
