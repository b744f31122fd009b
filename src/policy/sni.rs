//! Which upstream the name in a TLS hello leads to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::base::UpstreamName;
use crate::config::Model;
use crate::config::model::{Source, Upstream};

/// The names that TLS may ask for, as far as a configuration tells.
#[derive(Debug, Default)]
pub struct Names {
    /// What `sni` of an entry says; with a leading `*.` for every name below.
    claimed: HashMap<Arc<str>, UpstreamName>,
    /// The hosts of the upstreams themselves.
    own: HashMap<Box<str>, UpstreamName>,
}

impl Names {
    /// The names of a model.
    pub fn new(model: &Model) -> Self {
        let mut names = Self { claimed: claimed(&model.upstreams), own: HashMap::new() };
        let written = model.discovery.iter().filter_map(|source| match source {
            Source::Static(map) => Some(map.keys()),
            _ => None,
        });
        for name in model.upstreams.keys().chain(written.flatten()) {
            match name.port() {
                // The port of TLS is more to the point than none.
                Some(443) => drop(names.own.insert(name.host().into(), name.clone())),
                Some(_) => {}
                None => drop(names.own.entry(name.host().into()).or_insert_with(|| name.clone())),
            }
        }
        names
    }

    /// Whether an entry claims any name.
    pub fn has_claims(&self) -> bool {
        !self.claimed.is_empty()
    }

    /// The upstream whose entry claims `name`: as it is, then by the longest
    /// wildcard.
    pub fn claimed(&self, name: &str) -> Option<&UpstreamName> {
        self.claimed.get(name).or_else(|| {
            let below = name.match_indices('.').map(|(at, _)| format!("*{}", &name[at..]));
            below.into_iter().find_map(|wildcard| self.claimed.get(&*wildcard))
        })
    }

    /// The same, and else the upstream that has this name.
    pub fn find(&self, name: &str) -> Option<&UpstreamName> {
        self.claimed(name).or_else(|| self.own.get(name))
    }
}

fn claimed(upstreams: &BTreeMap<UpstreamName, Upstream>) -> HashMap<Arc<str>, UpstreamName> {
    let each = upstreams.iter();
    each.flat_map(|(name, block)| block.sni.iter().map(|sni| (sni.clone(), name.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_wins() {
        let mut model = Model::minimal("front");
        for (name, sni) in [
            ("vault", &["vault.example", "*.vault.example"][..]),
            ("all", &["*.example"]),
            ("git.example", &[]),
            ("git.example:443", &[]),
            ("git.example:22", &[]),
        ] {
            let sni = sni.iter().map(|sni| (*sni).into()).collect();
            model.upstreams.insert(UpstreamName::new(name), Upstream { sni, ..Upstream::default() });
        }
        let names = Names::new(&model);
        assert!(names.has_claims());
        for (name, claimed, found) in [
            ("vault.example", Some("vault"), Some("vault")),
            ("a.vault.example", Some("vault"), Some("vault")),
            ("a.b.vault.example", Some("vault"), Some("vault")),
            ("b.example", Some("all"), Some("all")),
            ("example", None, None),
            ("vault", None, Some("vault")),
            ("elsewhere", None, None),
        ] {
            assert_eq!(names.claimed(name).map(UpstreamName::as_str), claimed, "{name}");
            assert_eq!(names.find(name).map(UpstreamName::as_str), found, "{name}");
        }
        model.upstreams.remove("all");
        assert_eq!(Names::new(&model).find("git.example").map(UpstreamName::as_str), Some("git.example:443"));
    }
}
