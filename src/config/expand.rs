//! `${VAR}`, `${VAR:-default}`, `${file:/path}` and `${consul:key}` in values.
//! What comes out is text: it can't add keys or lists. It may be a secret, so no
//! message holds it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Problem, Problems};
use super::tree::{File, Kind, Node, Scalar, Span, Style};
use super::values::{Known, Values};

/// Largest file that `${file:…}` reads, and longest value that comes out.
const LARGEST: usize = 64 * 1024;

/// Most keys of Consul that all files may name.
const KEYS: usize = 256;

/// The variables that a file may name, and what is known of Consul's keys.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    values: Option<Values>,
}

/// Where expansion reads, and what it has read.
pub struct Sources<'a> {
    /// The variables.
    pub environment: &'a Environment,
    /// What relative paths begin at.
    pub folder: &'a Path,
    /// The files that were read or should have been, and what was in them.
    pub read: Vec<(PathBuf, Option<String>)>,
    /// The keys of Consul that were named, and what was put in their place.
    pub keys: BTreeMap<Arc<str>, Option<String>>,
    /// Values that are left out until they are known, each with its place.
    pub holes: Problems,
    /// Why `${consul:…}` can't stand where expansion is now.
    not_here: Option<&'static str>,
}

/// What stands for an expansion.
enum Found {
    Text(String),
    /// It is not known yet.
    Hole,
}

impl Environment {
    /// The variables of this process. Those that are not UTF-8 are left out.
    pub fn process() -> Self {
        let text = |text: OsString| text.into_string().ok();
        let variables = std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect();
        Self { variables, values: None }
    }

    /// Exactly these variables.
    pub fn of<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self { variables, values: None }
    }

    /// The same, with Consul's keys as far as `values` knows them.
    pub fn with_values(self, values: Values) -> Self {
        Self { values: Some(values), ..self }
    }

    /// What is known of Consul's keys; `None` where nobody asks.
    pub fn values(&self) -> Option<&Values> {
        self.values.as_ref()
    }

    /// Adds the lines `NAME=value` of a `.env` file. A variable that is already
    /// set keeps its value. The error names the line.
    pub fn with_file(mut self, path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_name(key.trim())) else {
                return Err(format!("{name}:{}:1: a line of an .env file is `NAME=value`", index + 1));
            };
            let value = dotenv_value(value.trim());
            self.variables.entry(key.trim().to_owned()).or_insert(value);
        }
        Ok(self)
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// All of them, for a child process.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// Only the names: a value may be a secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Quotes are taken off; an unquoted value ends at ` #`.
fn dotenv_value(text: &str) -> String {
    for quote in ['"', '\''] {
        if let Some((value, _)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return value.to_owned();
        }
    }
    text.split(" #").next().unwrap_or("").trim_end().to_owned()
}

/// Expands every value of the file whose tree begins at `root`. `${consul:…}`
/// can't stand in `discovery`, which says how Consul is reached.
pub fn expand(file: &File, root: &mut Node, sources: &mut Sources<'_>, problems: &mut Problems) {
    let Kind::Map(map) = &mut root.kind else { return below(file, root, sources, problems) };
    let everywhere = sources.not_here;
    for entry in &mut map.entries {
        let here = (entry.key == "discovery").then_some("in `discovery`, which says where Consul is");
        sources.not_here = everywhere.or(here);
        below(file, &mut entry.value, sources, problems);
    }
}

fn below(file: &File, node: &mut Node, sources: &mut Sources<'_>, problems: &mut Problems) {
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| below(file, item, sources, problems)),
        Kind::Map(map) => {
            map.entries.iter_mut().for_each(|entry| below(file, &mut entry.value, sources, problems));
        }
        Kind::Scalar(scalar) if scalar.text.contains('$') => {
            let whole = scalar.text.starts_with("${") && scalar.text.find('}') == Some(scalar.text.len() - 1);
            let Some(text) = text(file, node.span, &scalar.text, sources, problems) else {
                scalar.style = Style::Failed;
                return;
            };
            if text == scalar.text {
                return;
            }
            let style = if whole { Style::Expanded } else { Style::Text };
            let written = std::mem::take(&mut scalar.text);
            *scalar = Scalar { text, written: Some(written), style };
        }
        Kind::Scalar(_) => {}
    }
}

fn text(
    file: &File,
    span: Span,
    text: &str,
    sources: &mut Sources<'_>,
    problems: &mut Problems,
) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text);
    let (before, mut whole) = (problems.iter().filter(|problem| !problem.warning).count(), true);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix("${") {
            let Some((inner, after)) = inner.split_once('}') else {
                problems
                    .push(file.problem(span, "`${` without its `}`").help("write `$$` for a dollar sign"));
                return None;
            };
            let place = || file.problem(span, "");
            match sources.look_up(inner, place, problems) {
                Ok(Found::Text(value)) => out.push_str(&value),
                Ok(Found::Hole) => whole = false,
                Err(why) => problems.push(file.problem(span, why)),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
        if out.len() > LARGEST {
            problems.push(file.problem(span, "the expanded value is longer than 64 KiB"));
            return None;
        }
    }
    out.push_str(rest);
    let errors = problems.iter().filter(|problem| !problem.warning).count();
    (whole && errors == before).then_some(out)
}

impl<'a> Sources<'a> {
    /// Nothing read yet. `not_here`: why `${consul:…}` can't stand in this file.
    pub fn new(environment: &'a Environment, folder: &'a Path, not_here: Option<&'static str>) -> Self {
        Self {
            environment,
            folder,
            read: Vec::new(),
            keys: BTreeMap::new(),
            holes: Problems::default(),
            not_here,
        }
    }

    /// What stands for `inner` of `${inner}`, which stands at `place`.
    fn look_up(
        &mut self,
        inner: &str,
        place: impl Fn() -> Problem,
        problems: &mut Problems,
    ) -> Result<Found, String> {
        if let Some(path) = inner.strip_prefix("file:") {
            return self.read(path).map(Found::Text);
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if let Some(key) = name.strip_prefix("consul:") {
            return self.of_consul(key, default, &place, problems);
        }
        if !is_name(name) {
            return Err(format!(
                "`${{{inner}}}` is no expansion: write `${{NAME}}`, `${{NAME:-default}}`, `${{file:/path}}` or `${{consul:key}}`"
            ));
        }
        match (self.environment.get(name), default) {
            (Some(""), Some(default)) | (None, Some(default)) => Ok(Found::Text(default.to_owned())),
            (Some(value), _) => Ok(Found::Text(value.to_owned())),
            (None, None) => {
                Err(format!("the variable `{name}` is not set: set it, or write `${{{name}:-default}}`"))
            }
        }
    }

    /// The value of a key of Consul.
    fn of_consul(
        &mut self,
        key: &str,
        default: Option<&str>,
        place: &impl Fn() -> Problem,
        problems: &mut Problems,
    ) -> Result<Found, String> {
        if let Some(why) = self.not_here {
            return Err(format!("`${{consul:…}}` can't stand {why}"));
        }
        if !is_key(key) {
            return Err(format!("`{key}` is no key of Consul: write a path such as `config/orders/rate`"));
        }
        let known = self.environment.values().map(|values| values.get(key));
        let write = format!("write `${{consul:{key}:-default}}` for a value to go on with");
        let found = match (&known, default) {
            (Some(Some(Known::Found(value))), _) => Ok(Found::Text(value.to_string())),
            (Some(Some(Known::Absent)) | None, Some(default)) => Ok(Found::Text(default.to_owned())),
            (Some(Some(Known::Absent)), None) => {
                Err(format!("Consul has no key `{key}`: put it there, or {write}"))
            }
            (Some(Some(Known::Failed(why))), None) => {
                Err(format!("Consul did not tell the key `{key}` ({why}): {write}"))
            }
            (Some(Some(Known::Failed(why))), Some(default)) => {
                let message = format!("Consul did not tell the key `{key}` ({why}): its default is used");
                problems.push(Problem { message, ..place() }.warn());
                Ok(Found::Text(default.to_owned()))
            }
            (Some(None), _) | (None, None) => {
                let message = format!("what depends on Consul's key `{key}` was not checked");
                self.holes.push(Problem { message, ..place() }.warn());
                Ok(Found::Hole)
            }
        };
        let text = match &found {
            Ok(Found::Text(text)) => Some(text.clone()),
            _ => None,
        };
        self.keys.insert(key.into(), text);
        if self.keys.len() > KEYS {
            return Err(format!("more than {KEYS} keys of Consul are named"));
        }
        found
    }

    fn read(&mut self, path: &str) -> Result<String, String> {
        let full = self.folder.join(path);
        let content = match full.metadata().is_ok_and(|meta| !meta.is_file()) {
            true => Err("it is no plain file".into()),
            false => read_bounded(&full, LARGEST),
        };
        let kept = content.as_ref().ok().cloned();
        self.read.push((full, kept));
        match content {
            Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
            Err(why) => Err(format!("can't read `{path}`: {why}")),
        }
    }
}

/// Reads a file of text that is not larger than `most` bytes.
pub fn read_bounded(path: &Path, most: usize) -> Result<String, String> {
    String::from_utf8(read_bytes(path, most)?).map_err(|_| "it is not UTF-8 text".into())
}

/// Reads a file that is not larger than `most` bytes.
pub fn read_bytes(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| plain(&error))?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err("it is a folder".into());
    }
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() > most {
        return Err(format!("it is larger than {} KiB", most / 1024));
    }
    Ok(bytes)
}

/// An error of the system in words that are the same everywhere.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// What Consul's client would send as it stands.
fn is_key(text: &str) -> bool {
    let part = |part: &str| part != "." && part != "..";
    !text.is_empty()
        && text.len() <= 512
        && !text.starts_with('/')
        && !text.contains(char::is_control)
        && text.split('/').all(part)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(value: &str) -> Result<String, String> {
        let environment = Environment::of([("A", "one"), ("EMPTY", "")]);
        let mut sources = Sources::new(&environment, Path::new("/nowhere"), None);
        let (file, mut problems) = (File::new("f", value), Problems::default());
        match text(&file, Span::default(), value, &mut sources, &mut problems) {
            Some(text) => Ok(text),
            None => Err(problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>().join("; ")),
        }
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (value, wanted) in [
            ("${A}", "one"),
            ("a ${A} b ${A}", "a one b one"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${B:-}", ""),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("cost: 5$ or $A", "cost: 5$ or $A"),
        ] {
            assert_eq!(run(value).as_deref(), Ok(wanted), "{value}");
        }
        for value in ["${B}", "${A", "${}", "${1}", "${A-B}", "${file:x}", "${file:}"] {
            assert!(run(value).is_err(), "{value}");
        }
    }

    #[test]
    fn an_env_file_adds_what_is_not_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, "# c\nA=two\nexport B = 'x # y'\nC=z # note\n\nD=\"q\"\nE=\n").unwrap();
        let environment = Environment::of([("A", "one")]).with_file(&path).unwrap();
        let all: Vec<_> = environment.iter().collect();
        assert_eq!(all, [("A", "one"), ("B", "x # y"), ("C", "z"), ("D", "q"), ("E", "")]);
        std::fs::write(&path, "A=1\nnonsense\n").unwrap();
        let error = Environment::default().with_file(&path).unwrap_err();
        assert!(error.contains(".env:2:1:"), "{error}");
    }
}
