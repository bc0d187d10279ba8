//! NATS servers that stand in place of the broker.

use super::declared::Declared;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::Nats;
use crate::text::url;

/// Keys that are about the broker of Atoll's own.
const EMBEDDED: [&str; 5] = ["listen", "monitor", "sync", "store", "limits"];

/// Whether the manifest names servers, rightly or not: then no broker is embedded.
pub(crate) fn is_written(declared: &Declared<'_>) -> bool {
    declared.root.table("broker").is_some_and(|table| table.has("url"))
}

pub(crate) fn compile(cx: &Context<'_>, declared: &Declared<'_>) -> Option<Nats> {
    let table = declared.root.table("broker").filter(|table| table.has("url"))?;
    for key in EMBEDDED.into_iter().filter(|key| table.has(key)) {
        let message = format!("`{key}` is of a broker that is embedded, and `url` names other servers");
        let diagnostic = Diagnostic::new(Code::Exclusive, &table.place_of(key), message)
            .label("excludes the other one")
            .hint(format!("take `{key}` out, or `url`"))
            .related(&table.place_of("url"), "the other one");
        cx.report(diagnostic);
    }
    let text = table.text("url")?;
    match url::servers(&text.value) {
        Ok(url::Servers { url, address }) => Some(Nats { url, address, max_payload: table.size("max_payload") }),
        Err(why) => {
            let diagnostic = Diagnostic::new(Code::Url, &text.place, "`url` names no NATS server").label(why);
            cx.report(diagnostic.hint("write it as in `nats://nats.internal:4222`, or `nats://${USER}:${PASSWORD}@…`"));
            None
        }
    }
}
