//! Any bytes as the head of a request. What is taken has one host and one path in their normal forms, and is waited for
//! as long as its end is missing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::with_head;

fuzz_target!(|bytes: &[u8]| {
    let seen = with_head(bytes, |head| {
        assert!(head.path() == "*" || head.path().starts_with('/'));
        assert!(!head.path().contains("//") && head.path().is_ascii());
        assert!(head.path().split('/').all(|segment| segment != "." && segment != ".."));
        assert!(!head.host().bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || byte == b'@'));
        (head.method().clone(), head.path().to_owned(), head.host().to_owned())
    });
    let Ok((method, path, host)) = seen else { return };
    // A path in its normal form, sent on, is read the same.
    let host = if host.is_empty() { "a".to_owned() } else { host };
    let sent = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let again = with_head(sent.as_bytes(), |head| (head.path().to_owned(), head.host().to_owned()));
    assert_eq!(again, Ok((path, host)), "{sent:?}");
});
