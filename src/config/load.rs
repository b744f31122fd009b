//! Reads all files, whole, and reports everything that is wrong in one run.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::authorize;
use super::certificate;
use super::descriptor;
use super::expand::{self, Environment, Sources};
use super::form;
use super::model::{Authentication, Model, Source};
use super::problem::{Problem, Problems};
use super::resolve::{self, At, Routes};
use super::schema::{self, Which};
use super::shape;
use super::tree::{self, File, Kind, Node};
use super::values::Wants;
use crate::base::{Origin, UpstreamName};

/// More policy files than this are refused.
const FILES: usize = 1_000;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the files say.
    pub model: Arc<Model>,
    /// Every file that was read, and every folder in which one may turn up.
    pub watched: Vec<PathBuf>,
    /// What is odd but can be used.
    pub warnings: Problems,
    /// Values of Consul that are not known yet. What depends on them is left
    /// out of the model, so it must not be used unless this is empty.
    pub holes: Problems,
    /// The keys of Consul that the files name.
    pub(super) keys: BTreeSet<Arc<str>>,
    /// Differs if any file's content does.
    pub(super) fingerprint: u64,
}

/// A configuration that can't be used.
pub(super) struct Refused {
    /// Why, with the warnings.
    pub problems: Problems,
    /// As in [`Loaded`].
    pub watched: Vec<PathBuf>,
    /// As in [`Loaded`], as far as the files could be read.
    pub keys: BTreeSet<Arc<str>>,
    /// As in [`Loaded`].
    pub fingerprint: u64,
}

/// Reads `pillion.yaml` at `path` and the policy files that it names. A value of
/// Consul that is not known is a problem.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let mut loaded = draft(path, environment)?;
    if loaded.holes.is_empty() {
        return Ok(loaded);
    }
    loaded.holes.as_errors("write `${consul:key:-default}` for a value to go on with");
    Err(loaded.holes)
}

/// The same, where values of Consul may be left out as long as they are not known.
pub fn draft(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    load_for_reload(path, environment).map_err(|refused| refused.problems)
}

pub(super) fn load_for_reload(path: &Path, environment: &Environment) -> Result<Loaded, Refused> {
    let mut loader = Loader::new(environment, folder_of(path));
    loader.watched.push(path.to_owned());
    match loader.read(path) {
        Some(text) => loader.load(&path.display().to_string(), &text, true),
        None => loader.refuse(),
    }
}

/// Reads a `pillion.yaml` that is in memory. Policy files are read only if it
/// names them; their paths begin at the current folder.
pub fn load_str(name: &str, text: &str, environment: &Environment) -> Result<Loaded, Problems> {
    let loader = Loader::new(environment, PathBuf::from(""));
    loader.load(name, text, false).map_err(|refused| refused.problems)
}

/// Reads one policy file by itself: what only the whole can show is not checked.
pub fn load_policy(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let mut loader = Loader::new(environment, folder_of(path));
    let name = path.display().to_string();
    let Some(text) = loader.read(path) else { return Err(loader.refuse_problems()) };
    let routes = loader.policy(&name, &text, "");
    let main = "version: 1\nservice: {name: policy}\n";
    let file = File::new("", main);
    let root = file.parse(main, &mut loader.problems);
    let Some(root) = root else { return Err(loader.refuse_problems()) };
    let mut routes: Vec<Routes> = routes.into_iter().collect();
    loader.descriptors(&mut routes);
    loader.authorization(None, None, &mut routes);
    let at = At::root(&file, &root);
    let model = resolve::resolve(&form::Main::default(), at, &routes, environment, &mut loader.problems);
    loader.finish(model).map_err(|refused| refused.problems)
}

/// Reads one file of another form than those of a sidecar.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    which: Which,
    environment: &Environment,
) -> Result<T, Problems> {
    let mut loader = Loader::new(environment, folder_of(path));
    let name = path.display().to_string();
    let Some(text) = loader.read(path) else { return Err(loader.refuse_problems()) };
    let form = loader.tree(&name, &text, which).and_then(|(file, root)| loader.typed(&file, &root));
    match form {
        Some(form) if !loader.problems.iter().any(|problem| !problem.warning) => Ok(form),
        _ => Err(loader.refuse_problems()),
    }
}

/// What is used where there is no file: a service's name, and perhaps the port
/// on 127.0.0.1 where it listens.
pub fn defaults(name: &str, port: Option<u16>, environment: &Environment) -> Model {
    let address = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    resolve::model(UpstreamName::new(name), address, environment)
}

struct Loader<'a> {
    environment: &'a Environment,
    folder: PathBuf,
    problems: Problems,
    watched: Vec<PathBuf>,
    hasher: DefaultHasher,
    /// Names of the files in the order of reading.
    files: Vec<Arc<str>>,
    sources: BTreeMap<String, Origin>,
    holes: Problems,
    keys: BTreeSet<Arc<str>>,
}

impl Loaded {
    /// What has to be asked of Consul, and where it is.
    pub fn wants(&self) -> Wants {
        Wants { keys: self.keys.clone(), discovery: self.model.discovery.clone() }
    }
}

impl<'a> Loader<'a> {
    fn new(environment: &'a Environment, folder: PathBuf) -> Self {
        Self {
            environment,
            folder,
            problems: Problems::default(),
            watched: Vec::new(),
            hasher: DefaultHasher::new(),
            files: Vec::new(),
            sources: BTreeMap::new(),
            holes: Problems::default(),
            keys: BTreeSet::new(),
        }
    }

    fn load(mut self, name: &str, text: &str, policies: bool) -> Result<Loaded, Refused> {
        let Some((file, root)) = self.tree(name, text, Which::Main) else { return self.refuse() };
        let Some(mut main) = self.typed::<form::Main>(&file, &root) else { return self.refuse() };
        self.note(&file, &root, "");
        let mut routes = vec![Routes {
            inbound: main.inbound.take().unwrap_or_default(),
            outbound: main.outbound.take().unwrap_or_default(),
            gateway: main.gateway.take().unwrap_or_default(),
            tests: main.tests.take().unwrap_or_default(),
            file: file.clone(),
            root: root.clone(),
            inbound_json: BTreeMap::new(),
            outbound_json: BTreeMap::new(),
            inbound_allow: BTreeMap::new(),
            gateway_json: BTreeMap::new(),
            gateway_allow: BTreeMap::new(),
            gateway_tls: BTreeMap::new(),
        }];
        for path in self.policies(&main, At::root(&file, &root), policies) {
            let Some(text) = self.read(&path) else { continue };
            let short = path.strip_prefix(&self.folder).unwrap_or(&path).display().to_string();
            routes.extend(self.policy(&path.display().to_string(), &text, &format!("{short}#")));
        }
        self.descriptors(&mut routes);
        let at = At::root(&file, &root);
        let authentication = self.authorization(main.authentication.as_ref(), Some(at), &mut routes);
        let mut model = resolve::resolve(&main, at, &routes, self.environment, &mut self.problems);
        let consul = model.discovery.iter().any(|source| matches!(source, Source::Consul(_)));
        if let Some(first) = self.holes.iter().next()
            && !consul
            && !at.lost("discovery")
        {
            let message = "`${consul:…}` needs Consul, which `discovery` does not name";
            let problem = Problem { message: message.into(), warning: false, ..first.clone() };
            self.problems.push(problem.help("add `- consul: {}` to `discovery` in pillion.yaml"));
        }
        model.authentication = authentication;
        self.finish(model)
    }

    fn finish(mut self, mut model: Model) -> Result<Loaded, Refused> {
        self.problems.sort(&self.files);
        if self.problems.iter().any(|problem| !problem.warning) {
            return self.refuse();
        }
        model.sources = Arc::new(std::mem::take(&mut self.sources));
        self.holes.sort(&self.files);
        let (_, warnings) = self.problems.split();
        self.watched.dedup();
        Ok(Loaded {
            model: Arc::new(model),
            watched: self.watched,
            warnings,
            holes: self.holes,
            keys: self.keys,
            fingerprint: self.hasher.finish(),
        })
    }

    fn refuse(mut self) -> Result<Loaded, Refused> {
        let (watched, fingerprint) = (std::mem::take(&mut self.watched), self.hasher.finish());
        let keys = std::mem::take(&mut self.keys);
        Err(Refused { problems: self.refuse_problems(), watched, keys, fingerprint })
    }

    fn refuse_problems(mut self) -> Problems {
        self.problems.sort(&self.files);
        self.problems
    }

    /// The text of a file; what can't be read is a problem.
    fn read(&mut self, path: &Path) -> Option<String> {
        let name = path.display().to_string();
        path.hash(&mut self.hasher);
        match expand::read_bounded(path, tree::LARGEST) {
            Ok(text) => {
                text.hash(&mut self.hasher);
                Some(text)
            }
            Err(why) => {
                why.hash(&mut self.hasher);
                self.problems.push(Problem::of_file(&name, format!("can't read this file: {why}")));
                None
            }
        }
    }

    /// The tree of a file, expanded and in the right shape.
    fn tree(&mut self, name: &str, text: &str, which: Which) -> Option<(File, Node)> {
        let file = File::new(name, text);
        self.files.push(file.name.clone());
        let mut root = file.parse(text, &mut self.problems)?;
        let folder = self.folder.clone();
        let not_here = matches!(which, Which::Dev).then_some("in this file");
        let mut sources = Sources::new(self.environment, &folder, not_here);
        expand::expand(&file, &mut root, &mut sources, &mut self.problems);
        for (key, text) in sources.keys {
            (&key, text).hash(&mut self.hasher);
            self.keys.insert(key);
        }
        self.holes.extend(sources.holes);
        for (path, content) in sources.read {
            (&path, content).hash(&mut self.hasher);
            self.watched.push(path);
        }
        if !matches!(root.kind, Kind::Map(_)) {
            self.problems.push(file.problem(root.span, "the file must hold keys with values"));
            return None;
        }
        shape::check(&file, &mut root, schema::shape(which), &mut self.problems);
        Some((file, root))
    }

    fn typed<T: DeserializeOwned>(&mut self, file: &File, root: &Node) -> Option<T> {
        match serde_yaml::from_value(root.to_value()) {
            Ok(form) => Some(form),
            Err(error) => {
                self.problems.push(file.problem(root.span, error.to_string()));
                None
            }
        }
    }

    fn policy(&mut self, name: &str, text: &str, prefix: &str) -> Option<Routes> {
        let (file, root) = self.tree(name, text, Which::Policy)?;
        let form: form::Policy = self.typed(&file, &root)?;
        self.note(&file, &root, prefix);
        let (inbound, outbound) = (form.inbound.unwrap_or_default(), form.outbound.unwrap_or_default());
        Some(Routes {
            file,
            root,
            inbound,
            outbound,
            gateway: Vec::new(),
            tests: form.tests.unwrap_or_default(),
            inbound_json: BTreeMap::new(),
            outbound_json: BTreeMap::new(),
            inbound_allow: BTreeMap::new(),
            gateway_json: BTreeMap::new(),
            gateway_allow: BTreeMap::new(),
            gateway_tls: BTreeMap::new(),
        })
    }

    /// The descriptor files and certificates that the entries name.
    fn descriptors(&mut self, routes: &mut [Routes]) {
        let mut files = descriptor::Files::default();
        let mut certificates = certificate::Files::default();
        for file in routes {
            files.read(file, &mut self.problems);
            certificates.read(file, &mut self.problems);
        }
        let read = files.read.into_iter().chain(certificates.read);
        for (path, content) in read {
            (&path, content).hash(&mut self.hasher);
            self.watched.push(path);
        }
    }

    /// Who is believed, and who may call, with the files of keys that say so.
    /// `main` is missing for a policy file by itself.
    fn authorization(
        &mut self,
        form: Option<&form::Authentication>,
        main: Option<At<'_>>,
        routes: &mut [Routes],
    ) -> Authentication {
        let mut files = authorize::Files::default();
        let known = main.map(|at| files.authentication(form, at, &mut self.problems));
        // An issuer that could not be read is known all the same.
        let written = form.and_then(|form| form.jwt.as_ref()).map_or(0, Vec::len);
        let lost = |at: At<'_>| at.lost("authentication") || at.key("authentication").lost("jwt");
        let whole = |known: &&Authentication| known.jwt.len() == written && !main.is_some_and(lost);
        let issuers = known.as_ref().filter(whole);
        for file in routes {
            files.read(file, issuers, &mut self.problems);
        }
        for (path, content) in files.read {
            (&path, content).hash(&mut self.hasher);
            self.watched.push(path);
        }
        known.unwrap_or_default()
    }

    /// The policy files, sorted; each once.
    fn policies(&mut self, main: &form::Main, at: At<'_>, by_default: bool) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        match &main.policies {
            None if by_default && !at.lost("policies") => {
                self.matching("policies/*.yaml", &mut paths, None);
            }
            None => {}
            Some(patterns) => {
                for (index, pattern) in patterns.iter().enumerate() {
                    self.matching(&pattern.0, &mut paths, Some(at.key("policies").item(index)));
                }
            }
        }
        paths
    }

    fn matching(&mut self, pattern: &str, paths: &mut Vec<PathBuf>, at: Option<At<'_>>) {
        let base = glob::Pattern::escape(&self.folder.display().to_string());
        let full = match (pattern.starts_with('/'), base.is_empty()) {
            (false, false) => format!("{base}/{pattern}"),
            _ => pattern.to_owned(),
        };
        self.watched.push(self.folder.join(fixed_part(pattern)));
        let before = paths.len();
        match glob::glob(&full) {
            Ok(found) => {
                for path in found.flatten().filter(|path| !path.is_dir()).take(FILES + 1) {
                    if !paths.contains(&path) {
                        self.watched.push(path.clone());
                        paths.push(path);
                    }
                }
            }
            Err(error) => {
                let message = format!("this is no pattern: {}", error.msg);
                self.problems.extend_from(at.map(|at| at.problem(message)));
                return;
            }
        }
        if paths.len() > FILES {
            self.problems.extend_from(at.map(|at| at.problem(format!("more than {FILES} policy files"))));
            paths.truncate(FILES);
        }
        if paths.len() == before {
            let shown = at.map_or("", At::shown);
            // A folder of policies may be empty; one that is named must be there.
            let problem = match pattern.contains(['*', '?', '[']) {
                true => at.map(|at| at.problem(format!("no file matches `{shown}`")).warn()),
                false => at.map(|at| at.problem(format!("there is no file `{shown}`"))),
            };
            self.problems.extend_from(problem);
        }
    }

    /// Keeps where each value below `node` stands.
    fn note(&mut self, file: &File, node: &Node, path: &str) {
        let join = |key: &str| match path.is_empty() || path.ends_with('#') {
            true => format!("{path}{key}"),
            false => format!("{path}.{key}"),
        };
        match &node.kind {
            Kind::Scalar(_) => {}
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.note(file, item, &path);
                    self.sources.insert(path, file.origin(item.span));
                }
            }
            Kind::Map(map) => {
                for entry in &map.entries {
                    let path = join(&entry.key);
                    self.note(file, &entry.value, &path);
                    self.sources.insert(path, file.origin(entry.value.span));
                }
            }
        }
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// The folder of a pattern: its parts before the first one that varies.
fn fixed_part(pattern: &str) -> PathBuf {
    let varies =
        |part: &std::path::Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let path = Path::new(pattern);
    let fixed: PathBuf = path.components().take_while(|part| !varies(part)).collect();
    if fixed == path { folder_of(path) } else { fixed }
}
