//! The descriptor files that `json` names: read, checked, and their HTTP rules
//! made ready to be matched.

mod rules;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::FileDescriptorSet;

use super::expand::read_bytes;
use super::form;
use super::model::{Json, MAX_MESSAGE};
use super::problem::Problems;
use super::resolve::{At, Routes};
use super::shape::nearest;

/// Bytes of a descriptor file.
const LARGEST: usize = 16 << 20;

/// What one configuration reads of descriptor files.
#[derive(Default)]
pub(super) struct Files {
    /// Each file that was looked for, and its content.
    pub read: Vec<(PathBuf, Option<Vec<u8>>)>,
    pools: HashMap<PathBuf, Result<(DescriptorPool, u64), Fault>>,
}

/// What is wrong with a file, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    message: String,
    help: String,
}

impl Files {
    /// Reads what the entries of one file name.
    pub(super) fn read(&mut self, routes: &mut Routes, problems: &mut Problems) {
        let root = At::root(&routes.file, &routes.root);
        let folder = Path::new(&*routes.file.name).parent().map(Path::to_owned).unwrap_or_default();
        for (number, gateway) in routes.gateway.iter().enumerate() {
            for (index, form) in gateway.routes.iter().flatten().enumerate() {
                let at = root.key("gateway").item(number).key("routes").item(index).key("json");
                let read = form.json.as_ref().and_then(|form| self.entry(form, &folder, at, problems));
                routes.gateway_json.extend(read.map(|json| ((number, index), Arc::new(json))));
            }
        }
        let mut entries = |key: &str, forms: Vec<Option<&form::Json>>| -> BTreeMap<usize, Arc<Json>> {
            let forms = forms.into_iter().enumerate();
            let named = forms.filter_map(|(index, form)| Some((index, form?)));
            let read = named.filter_map(|(index, form)| {
                let at = root.key(key).item(index).key("json");
                Some((index, Arc::new(self.entry(form, &folder, at, problems)?)))
            });
            read.collect()
        };
        routes.inbound_json = entries("inbound", routes.inbound.iter().map(|f| f.json.as_ref()).collect());
        routes.outbound_json = entries("outbound", routes.outbound.iter().map(|f| f.json.as_ref()).collect());
    }

    fn entry(
        &mut self,
        form: &form::Json,
        folder: &Path,
        at: At<'_>,
        problems: &mut Problems,
    ) -> Option<Json> {
        let name = form.descriptor.as_ref()?.0.as_str();
        let place = at.key("descriptor");
        let (pool, digest) = match self.pool(&folder.join(name)) {
            Ok(found) => found,
            Err(fault) => {
                let problem = place.problem(format!("`{}` {}", place.shown(), fault.message));
                problems.push(problem.help(fault.help));
                return None;
            }
        };
        let services = services(form, &pool, at, problems);
        let bindings = rules::bindings(&pool, &services);
        for fault in &bindings.faults {
            problems.push(place.problem(fault.message.clone()).help(fault.help.clone()));
        }
        let max_message = match &form.max_message {
            None => MAX_MESSAGE,
            Some(size) if (1 << 10..=256 << 20).contains(&size.0) => {
                usize::try_from(size.0).unwrap_or(MAX_MESSAGE)
            }
            Some(_) => {
                let at = at.key("max_message");
                let message = format!("`{}` is out of range: it must be from 1KiB to 256MiB", at.shown());
                problems.push(at.problem(message));
                MAX_MESSAGE
            }
        };
        Some(Json {
            file: place.shown().into(),
            pool,
            services,
            bindings: bindings.list,
            preserve_names: form.preserve_names.unwrap_or(false),
            emit_defaults: form.emit_defaults.unwrap_or(false),
            ignore_unknown: form.ignore_unknown.unwrap_or(false),
            max_message,
            digest,
        })
    }

    fn pool(&mut self, path: &Path) -> Result<(DescriptorPool, u64), Fault> {
        if let Some(known) = self.pools.get(path) {
            return known.clone();
        }
        let content = read_bytes(path, LARGEST);
        self.read.push((path.to_owned(), content.as_ref().ok().cloned()));
        let pool = match content {
            Ok(bytes) => pool(&bytes),
            Err(why) => Err(Fault::new(format!("can't be read: {why}"), how_to_make(path))),
        };
        self.pools.insert(path.to_owned(), pool.clone());
        pool
    }
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

fn how_to_make(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("make it with `protoc --include_imports --descriptor_set_out={name} FILE.proto`")
}

/// Every type of a descriptor file, and what tells its content from another.
pub(super) fn pool(bytes: &[u8]) -> Result<(DescriptorPool, u64), Fault> {
    let no_set = |error: &dyn std::fmt::Display| {
        let message = format!("is no descriptor set: {error}");
        Fault::new(message, "it is what `protoc --include_imports --descriptor_set_out=FILE` writes")
    };
    let set = FileDescriptorSet::decode(bytes).map_err(|error| no_set(&error))?;
    let names: HashSet<&str> = set.file.iter().map(|file| file.name()).collect();
    for file in &set.file {
        if let Some(missing) = file.dependency.iter().find(|name| !names.contains(name.as_str())) {
            let message = format!("lacks `{missing}`, which `{}` imports", file.name());
            return Err(Fault::new(message, "make it with `--include_imports`"));
        }
    }
    // Once more, from the bytes: only so do the options keep their extensions.
    let pool = DescriptorPool::decode(bytes).map_err(|error| no_set(&error))?;
    if pool.services().len() == 0 {
        return Err(Fault::new("holds no service", "name a `.proto` file with a `service` when you make it"));
    }
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok((pool, hasher.finish()))
}

/// The services that can be called.
fn services(form: &form::Json, pool: &DescriptorPool, at: At<'_>, problems: &mut Problems) -> Vec<Arc<str>> {
    let all: Vec<String> = pool.services().map(|service| service.full_name().to_owned()).collect();
    let Some(named) = &form.services else { return all.iter().map(|name| name.as_str().into()).collect() };
    let mut services = Vec::new();
    for (index, name) in named.iter().enumerate() {
        let name = name.0.as_str();
        if all.iter().any(|known| known == name) {
            services.push(name.into());
            continue;
        }
        let place = at.key("services").item(index);
        let problem = place.problem(format!("the descriptor holds no service `{}`", place.shown()));
        problems.push(match nearest(name, all.iter().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("it holds {}", all.join(", "))),
        });
    }
    services
}
