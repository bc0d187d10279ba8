//! Where words were found: SQLite puts one control character before and one behind, here they become `<mark>` in text
//! that is otherwise escaped. Pure.

pub(crate) const BEGIN: char = '\u{2}';
pub(crate) const END: char = '\u{3}';

/// HTML of a text with marks.
pub(crate) fn html(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    let mut is_open = false;
    for c in text.chars() {
        match c {
            BEGIN if !is_open => {
                html.push_str("<mark>");
                is_open = true;
            }
            END if is_open => {
                html.push_str("</mark>");
                is_open = false;
            }
            BEGIN | END => {}
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    if is_open {
        html.push_str("</mark>");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_become_tags() {
        assert_eq!(html("a \u{2}<b>\u{3} & \u{2}c"), "a <mark>&lt;b&gt;</mark> &amp; <mark>c</mark>");
        assert_eq!(html("\u{3}\u{2}\u{2}x\u{3}\u{3}"), "<mark>x</mark>");
    }
}
