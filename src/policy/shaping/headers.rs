//! Header fields that are taken out, set and added.

use http::HeaderMap;

use crate::config::model::shaping::HeaderEdit;

/// Applies an edit.
pub fn apply(edit: &HeaderEdit, headers: &mut HeaderMap) {
    for name in &edit.remove {
        headers.remove(name);
    }
    for (name, value) in &edit.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn fields_go_are_set_and_are_added() {
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let edit = HeaderEdit {
            remove: vec![HeaderName::from_static("x-gone")],
            set: vec![field("x-set", "new")],
            add: vec![field("x-add", "two"), field("x-new", "one")],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [field("x-gone", "1"), field("x-set", "old"), field("x-add", "one")] {
            headers.append(name.clone(), value.clone());
            headers.append(name, value);
        }
        apply(&edit, &mut headers);
        let values = |name: &str| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values("x-gone").len(), 0);
        assert_eq!(values("x-set"), ["new"]);
        assert_eq!(values("x-add"), ["one", "one", "two"]);
        assert_eq!(values("x-new"), ["one"]);
    }
}
