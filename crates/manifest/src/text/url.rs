//! URLs of NATS servers: `nats://user:password@host:port`, several with commas.

/// Limit: bytes of all of them together.
const URL_BYTES_MAX: usize = 2_000;
/// Where NATS listens, unless told otherwise.
const PORT: u16 = 4222;

/// What stands in a URL that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Servers {
    /// With user and password, and with the port that is not written.
    pub url: String,
    /// Without user and password.
    pub address: String,
}

/// Reads the URLs, or says what is wrong with them. What is said repeats nothing of them: they may have a password in them.
pub(crate) fn servers(text: &str) -> Result<Servers, &'static str> {
    if text.len() > URL_BYTES_MAX {
        return Err("too long");
    }
    let mut servers = Servers { url: String::new(), address: String::new() };
    for one in text.split(',').map(str::trim) {
        let scheme = ["nats://", "tls://"].into_iter().find(|scheme| one.starts_with(scheme));
        let scheme = scheme.ok_or("it begins neither with `nats://` nor with `tls://`")?;
        let rest = &one[scheme.len()..];
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.is_empty() || !user.bytes().all(is_user_byte)) {
            return Err("user and password have a character that must be percent-encoded");
        }
        let address = address(host)?;
        let user = user.map_or_else(String::new, |user| format!("{user}@"));
        let comma = if servers.url.is_empty() { "" } else { "," };
        servers.url.push_str(&format!("{comma}{scheme}{user}{address}"));
        servers.address.push_str(&format!("{comma}{scheme}{address}"));
    }
    Ok(servers)
}

/// RFC 3986 §3.2.1.
fn is_user_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:%".contains(&byte)
}

/// Host and port, with the port that is not written.
fn address(text: &str) -> Result<String, &'static str> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_name = |host: &str| {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !host.is_empty() && host.bytes().all(is_inside)
    };
    let is_six = |host: &str| {
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if host.contains('/') {
        return Err("it has a path");
    }
    if !is_name(host) && !is_six(host) {
        return Err("no host is named, or it is malformed");
    }
    let port = match port.map(|port| (port.parse::<u16>(), port)) {
        None => PORT,
        Some((Ok(port), written)) if port != 0 && written.bytes().all(|byte| byte.is_ascii_digit()) => port,
        Some(_) => return Err("the port is no number from 1 to 65535"),
    };
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_and_without_a_user() {
        for (text, url, address) in [
            ("nats://localhost", "nats://localhost:4222", "nats://localhost:4222"),
            ("tls://a:b%40c@nats.internal:4443/", "tls://a:b%40c@nats.internal:4443", "tls://nats.internal:4443"),
            (
                "nats://token@[::1]:1, nats://10.0.0.1",
                "nats://token@[::1]:1,nats://10.0.0.1:4222",
                "nats://[::1]:1,nats://10.0.0.1:4222",
            ),
            ("nats://[::1]", "nats://[::1]:4222", "nats://[::1]:4222"),
        ] {
            let expected = Servers { url: url.to_owned(), address: address.to_owned() };
            assert_eq!(servers(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_nats_is_refused() {
        for text in [
            "",
            "localhost",
            "localhost:4222",
            "http://a",
            "nats://",
            "nats://@a",
            "nats://:4222",
            "nats://a:0",
            "nats://a:65536",
            "nats://a:+1",
            "nats://a:",
            "nats://a/b",
            "nats://a b",
            "nats://a,",
            ",",
            "nats://a@b@c:x",
            "nats://ü",
            "nats://[::1",
            "nats://::1",
            "nats://a?x",
            "nats://u:p#@a",
            "nats://a/@b",
            "nats://a//",
            &format!("nats://{}", "a".repeat(2_000)),
        ] {
            assert!(servers(text).is_err(), "{text}");
        }
    }
}
