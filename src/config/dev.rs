//! `pillion.dev.yaml`: several services of one machine, for `pillion dev`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::expand::Environment;
use super::form::Protocol;
use super::load;
use super::problem::{Problem, Problems};
use super::schema::Which;
use super::text::{Bind, Upstream, UrlPath, Word};

/// `pillion.dev.yaml`: services of one machine, each with a sidecar.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["version", "services"]))]
pub struct Dev {
    /// Version of this format.
    #[schemars(schema_with = "version")]
    pub version: Option<u32>,
    /// The services by name.
    pub services: Option<BTreeMap<String, Service>>,
}

/// One service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// The program and its arguments: a list of words, or a line for `sh -c`.
    /// Default: nothing is started, because something listens on `port` already
    /// or another service of this file does.
    pub command: Option<Command>,
    /// Services that must answer, or have ended with code 0, before it starts;
    /// they end after it.
    #[schemars(extend("default" = []))]
    pub after: Option<Vec<Word>>,
    /// Where it runs, relative to this file. Default: this file's folder.
    pub directory: Option<Word>,
    /// A line for `sh -c` that runs before the start, in the same folder.
    pub build: Option<Word>,
    /// The port on 127.0.0.1 where it listens; it is told in `PORT`. Default: a
    /// free port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Path of a GET that answers 2xx. Default: a connection that it accepts is
    /// health.
    pub health: Option<UrlPath>,
    /// Variables for the command and the build.
    pub env: Option<BTreeMap<String, String>>,
    /// Policy files, relative to this file; `*` is a pattern.
    #[schemars(extend("default" = []))]
    pub policies: Option<Vec<Word>>,
    /// What it speaks.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Option<Protocol>,
    /// Services that it calls on a local port instead of through the proxy.
    #[schemars(extend("default" = []))]
    pub outbound: Option<Vec<Outbound>>,
}

/// A command, in one of its two spellings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Command {
    /// For `sh -c`.
    Line(Word),
    /// The program and its arguments.
    Words(Vec<Word>),
}

/// A local port for one upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["to", "listen"]))]
pub struct Outbound {
    /// The service that is called.
    pub to: Option<Upstream>,
    /// The address to bind.
    pub listen: Option<Bind>,
}

impl Command {
    /// The words to run.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => shell(&line.0),
            Self::Words(words) => words.iter().map(|word| word.0.clone()).collect(),
        }
    }
}

/// The words that run `line` in a shell.
pub fn shell(line: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), line.into()]
}

/// The variables of this process and those of `.env` beside `path`.
pub fn environment(path: &Path) -> Result<Environment, String> {
    let file = folder(path).join(".env");
    let environment = Environment::process();
    if file.exists() { environment.with_file(&file) } else { Ok(environment) }
}

/// The folder that a dev file's paths begin at.
pub fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads the file.
pub fn read(path: &Path, environment: &Environment) -> Result<BTreeMap<String, Service>, Problems> {
    let form: Dev = load::read(path, Which::Dev, environment)?;
    let services = form.services.unwrap_or_default();
    let mut problems = Problems::default();
    let file = path.display().to_string();
    if services.is_empty() {
        problems.push(Problem::of_file(&file, "there is no service under `services`"));
    }
    for (name, service) in &services {
        if let Some(why) = unable(name, service, &services) {
            problems.push(Problem::of_file(&file, format!("services: {why}")));
        }
        let named = service.policies.iter().flatten().filter(|path| !path.0.contains(['*', '?', '[']));
        for missing in named.filter(|named| !folder(path).join(&named.0).exists()) {
            let message = format!("services: `{name}`: there is no policy file `{}`", missing.0);
            problems.push(Problem::of_file(&file, message));
        }
        if let Err(why) = super::text::check("pillion-service", name) {
            problems.push(Problem::of_file(
                &file,
                format!("services: `{name}` can't be a service's name: {why}"),
            ));
        }
    }
    if problems.is_empty() { Ok(services) } else { Err(problems) }
}

/// Why the service could never start.
fn unable(name: &str, service: &Service, all: &BTreeMap<String, Service>) -> Option<String> {
    match &service.command {
        Some(command) if command.words().is_empty() => {
            return Some(format!("the command of `{name}` has no words"));
        }
        None if service.port.is_none() => {
            return Some(format!("`{name}` has no `command`: say what to run, or the `port` of what runs"));
        }
        _ => {}
    }
    let unknown = service.after.iter().flatten().find(|other| !all.contains_key(&other.0));
    if let Some(unknown) = unknown {
        return Some(format!("`{name}` is to start after `{}`, which is not a service here", unknown.0));
    }
    // Whoever waits for itself is found from itself.
    let (mut seen, mut open) = (Vec::new(), vec![name]);
    while let Some(next) = open.pop() {
        for other in all.get(next).and_then(|service| service.after.as_ref()).into_iter().flatten() {
            if other.0 == name {
                return Some(format!("`{name}` is to start after itself, by way of `{next}`"));
            }
            if !seen.contains(&other.0.as_str()) {
                seen.push(&other.0);
                open.push(&other.0);
            }
        }
    }
    None
}

/// The text of the `pillion.yaml` of a service's sidecar. JSON is YAML.
pub fn sidecar(
    name: &str,
    service: &Service,
    port: u16,
    folder: &Path,
    registry: &Path,
) -> serde_json::Value {
    use serde_json::json;
    let free = "127.0.0.1:0";
    let policies = service.policies.iter().flatten().map(|path| folder.join(&path.0).display().to_string());
    let outbound = service.outbound.iter().flatten().map(|one| {
        let to = one.to.as_ref().map(|to| to.0.to_string());
        json!({ "to": to, "listen": one.listen.as_ref().map(|listen| listen.0.to_string()) })
    });
    let mut own = json!({ "name": name, "port": port });
    if let Some(protocol) = service.protocol {
        own["protocol"] = json!(crate::base::Protocol::from(protocol));
    }
    if let Some(path) = &service.health {
        // Whoever watches wants to see at once what a change did.
        own["health"] = json!({ "path": path.0, "interval": "2s", "timeout": "2s" });
    }
    json!({
        "version": 1,
        "service": own,
        "listen": { "inbound": free, "outbound": free, "admin": free, "probes": free },
        "workers": 1,
        "policies": policies.collect::<Vec<_>>(),
        "drain": { "delay": "0s", "deadline": "5s" },
        "discovery": [{ "local": { "directory": registry.display().to_string() } }, { "dns": {} }],
        "outbound": outbound.collect::<Vec<_>>(),
    })
}

/// The text of the `pillion.yaml` of the sidecar for the developer's own shell.
pub fn front(listen: &str, registry: &Path) -> serde_json::Value {
    let mut front = sidecar("dev", &Service::default(), 1, Path::new(""), registry);
    front["service"] = serde_json::json!({ "name": "dev" });
    front["listen"]["outbound"] = listen.into();
    front["discovery"][0]["local"]["register"] = false.into();
    front
}

fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "const": 1})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<BTreeMap<String, Service>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pillion.dev.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join(".env"), "# a comment\nexport GREETING='hello #1'\n").unwrap();
        read(&path, &environment(&path).unwrap()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_command_is_words_or_a_line_and_env_comes_from_the_file_beside() {
        let text = "version: 1\nservices:\n  users: {command: [./users, -v], port: 8081, health: /health}\n  \
                    orders: {command: ./orders | cat, env: {GREETING: '${GREETING}'}}\n";
        let services = read_text(text).unwrap();
        assert_eq!(services["users"].command.as_ref().unwrap().words(), ["./users", "-v"]);
        assert_eq!(services["orders"].command.as_ref().unwrap().words(), ["sh", "-c", "./orders | cat"]);
        assert_eq!(services["orders"].env.as_ref().unwrap()["GREETING"], "hello #1");
    }

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let text = "version: 1\nservices:\n  users:\n    comand: [./users]\n    command: [x]\n";
        let problems = read_text(text).unwrap_err();
        assert!(problems.contains("pillion.dev.yaml:4:5:") && problems.contains("command"), "{problems}");
        assert!(read_text("version: 1\nservices: {}\n").unwrap_err().contains("no service"));
        assert!(read_text("version: 1\nservices: {u: {command: []}}\n").is_err());
        let lost = read_text("version: 1\nservices: {u: {command: [x], policies: [no.yaml, p/*.yaml]}}\n");
        assert!(lost.unwrap_err().contains("`u`: there is no policy file `no.yaml`\n1 problem"));
    }

    #[test]
    fn a_service_has_a_command_or_a_port_and_can_start() {
        let refused = |text: &str| read_text(&format!("version: 1\nservices: {text}\n")).unwrap_err();
        assert!(refused("{u: {health: /h}}").contains("`u` has no `command`"));
        assert!(refused("{u: {command: x, after: [db]}}").contains("after `db`, which is not a service"));
        assert!(refused("{u: {command: x, after: [u]}}").contains("`u` is to start after itself"));
        let round =
            refused("{a: {command: x, after: [b]}, b: {port: 1, after: [c]}, c: {port: 2, after: [b]}}");
        assert!(!round.contains("`a`"), "{round}");
        assert!(round.contains("`b` is to start after itself, by way of `c`"), "{round}");
        assert!(read_text("version: 1\nservices: {u: {command: x, after: [db]}, db: {port: 1}}\n").is_ok());
    }

    #[test]
    fn a_sidecars_file_is_one_that_a_sidecar_takes() {
        let text = "version: 1\nservices:\n  users: {command: x, protocol: grpc, health: /h, \
                    outbound: [{to: db, listen: '127.0.0.1:9001'}]}\n";
        let services = read_text(text).unwrap();
        let registry = Path::new("/run/x");
        let yaml = sidecar("users", &services["users"], 8081, Path::new("."), registry).to_string();
        let environment = Environment::of([("A", "b")]);
        let loaded = load::load_str("users", &yaml, &environment).map_err(|p| p.to_string()).unwrap();
        assert_eq!(loaded.model.service.address, Some("127.0.0.1:8081".parse().unwrap()));
        assert_eq!(loaded.model.workers, 1);
        assert_eq!(loaded.model.upstreams["db"].listen, Some("127.0.0.1:9001".parse().unwrap()));
        let front = front("127.0.0.1:0", registry).to_string();
        let front = load::load_str("dev", &front, &environment).map_err(|p| p.to_string()).unwrap();
        assert_eq!(front.model.service.address, None);
    }
}
