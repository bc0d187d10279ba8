//! `web` and `web.1`: a service or one instance of it, as commands take it.

use crate::api::dto::Subject;

/// Splits `SERVICE[.INDEX]`. A service's name holds no dot.
pub fn parse(text: &str) -> Result<Subject, String> {
    let (service, instance) = match text.split_once('.') {
        None => (text, None),
        Some((service, index)) => {
            let index = index.parse().map_err(|_| format!("`{index}` is no number of an instance, as in `web.0`"))?;
            (service, Some(index))
        }
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if service.is_empty() || !service.chars().all(is_plain) {
        return Err("it is no name of a service, as in `web`, or of an instance, as in `web.0`".to_owned());
    }
    Ok(Subject { service: service.to_owned(), instance })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_an_instance_are_told_apart() {
        for (text, service, instance) in [("web", "web", None), ("a-b_c", "a-b_c", None), ("web.12", "web", Some(12))] {
            assert_eq!(parse(text), Ok(Subject { service: service.to_owned(), instance }));
        }
        for text in ["", ".", ".1", "web.", "web.x", "web.-1", "web.1.2", "web/1", "a b", "web.99999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
