//! Messages as clients read them: MSG, or HMSG for one with headers.

/// A message on its way. The content begins with the headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subject: &'a [u8],
    pub(crate) reply: Option<&'a [u8]>,
    /// 0 for none.
    pub(crate) header_len: usize,
    pub(crate) content: &'a [u8],
}

/// Limit: bytes that the verb, separators, numbers and ends take up beside subject, sid, reply and content.
const OVERHEAD: usize = 64;

impl Message<'_> {
    /// What [`Message::write`] takes up at most.
    pub(crate) fn len_max(&self, sid: &[u8]) -> usize {
        OVERHEAD + self.subject.len() + sid.len() + self.reply.map_or(0, <[u8]>::len) + self.content.len()
    }

    /// The same message for a client that does not know headers.
    pub(crate) fn without_headers(&self) -> Self {
        Self { header_len: 0, content: &self.content[self.header_len..], ..*self }
    }

    pub(crate) fn write(&self, sid: &[u8], out: &mut Vec<u8>) {
        let mut digits = [0; DIGITS];
        out.extend_from_slice(if self.header_len > 0 { b"HMSG " } else { b"MSG " });
        out.extend_from_slice(self.subject);
        out.push(b' ');
        out.extend_from_slice(sid);
        out.push(b' ');
        if let Some(reply) = self.reply {
            out.extend_from_slice(reply);
            out.push(b' ');
        }
        if self.header_len > 0 {
            out.extend_from_slice(number(self.header_len, &mut digits));
            out.push(b' ');
        }
        out.extend_from_slice(number(self.content.len(), &mut digits));
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.content);
        out.extend_from_slice(b"\r\n");
    }
}

/// Digits of the largest number.
const DIGITS: usize = 20;

/// A number in decimal, without an allocation: this is on the path of every message.
fn number(mut value: usize, digits: &mut [u8; DIGITS]) -> &[u8] {
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_written_with_and_without_headers_and_replies() {
        let written = |message: &Message<'_>| {
            let mut out = Vec::new();
            message.write(b"7", &mut out);
            assert!(out.len() <= message.len_max(b"7"));
            String::from_utf8(out).unwrap()
        };
        let plain = Message { subject: b"a.b", reply: None, header_len: 0, content: b"hello" };
        assert_eq!(written(&plain), "MSG a.b 7 5\r\nhello\r\n");
        assert_eq!(written(&Message { reply: Some(b"r"), content: b"", ..plain }), "MSG a.b 7 r 0\r\n\r\n");
        let headed = Message { header_len: 12, content: b"NATS/1.0\r\n\r\nok", ..plain };
        assert_eq!(written(&headed), "HMSG a.b 7 12 14\r\nNATS/1.0\r\n\r\nok\r\n");
        assert_eq!(written(&headed.without_headers()), "MSG a.b 7 2\r\nok\r\n");
        assert_eq!(number(usize::MAX, &mut [0; DIGITS]), usize::MAX.to_string().as_bytes());
    }
}
