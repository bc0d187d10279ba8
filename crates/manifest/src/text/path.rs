//! The one reading of a request's path that the data plane compares with: what has two readings is refused there, and the
//! rest is brought into a normal form (RFC 3986 §6.2.2). A path in a manifest must be such a form, or nothing matches it.

/// Why no request has the path, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPath {
    pub why: &'static str,
    pub hint: &'static str,
}

/// Gives the form in which a request's path is seen: escapes of unreserved characters decoded, the digits of others in
/// upper case, what is not ASCII escaped.
pub(crate) fn normal_path(path: &str) -> Result<String, NoPath> {
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let escaped = bytes.next().and_then(hex).zip(bytes.next().and_then(hex));
                let hint = "write `%25` for a percent sign that means itself";
                let (high, low) = escaped.ok_or(NoPath { why: "it has a broken escape", hint })?;
                push_escaped(&mut normal, high << 4 | low)?;
            }
            b'\\' => {
                return Err(NoPath { why: "it has a backslash", hint: "write `/`: requests with `\\` are refused" });
            }
            0..=0x20 | 0x7f | b'<' | b'>' | b'`' => {
                let hint = "percent-encode it, a blank as `%20`";
                return Err(NoPath { why: "it has a character that must be encoded", hint });
            }
            0x80.. => push_hex(&mut normal, byte),
            byte => normal.push(char::from(byte)),
        }
    }
    if normal.split('/').any(is_dot_segment) {
        return Err(NoPath { why: "it has a segment `.` or `..`", hint: "write the path that is meant" });
    }
    Ok(normal)
}

fn push_escaped(normal: &mut String, byte: u8) -> Result<(), NoPath> {
    match byte {
        b'/' | b'\\' | 0..0x20 | 0x7f | 0xc0 | 0xc1 => {
            let hint = "leave it out: requests with `%2F`, `%5C`, `%C0`, `%C1` or a control character are refused";
            return Err(NoPath { why: "it has an escape that no request may have", hint });
        }
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(char::from(byte)),
        byte => push_hex(normal, byte),
    }
    Ok(())
}

fn push_hex(normal: &mut String, byte: u8) {
    normal.push_str(&format!("%{byte:02X}"));
}

/// Some servers cut `;parameters` off a segment before they resolve it.
fn is_dot_segment(segment: &str) -> bool {
    let bare = segment.split_once(';').map_or(segment, |(bare, _)| bare);
    let bare = bare.split_once("%3B").map_or(bare, |(bare, _)| bare);
    bare == "." || bare == ".."
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_read_as_the_data_plane_reads_them() {
        for (path, normal) in [
            ("/", "/"),
            ("/api/orders/", "/api/orders/"),
            ("/%61dmin", "/admin"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/.../.well-known/x", "/.../.well-known/x"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ] {
            assert_eq!(normal_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn what_the_data_plane_refuses_is_no_path() {
        for path in [
            "/50%",
            "/a%2",
            "/a%zz",
            "/..",
            "/a/../b",
            "/a/.",
            "/%2e%2e/x",
            "/.%2e",
            "/..;x/b",
            "/..%3bx/b",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/%c0",
            "/%c0%af",
            "/a%00",
            "/a%0d%0aX: y",
            "/a%7f",
            "/a b",
            "/<a>",
        ] {
            assert!(normal_path(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_form(path in "/(\\PC|%[0-9a-fA-F]{2}|[./;%\\\\]){0,24}") {
            if let Ok(normal) = normal_path(&path) {
                prop_assert_eq!(normal_path(&normal), Ok(normal));
            }
        }
    }
}
