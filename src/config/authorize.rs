//! Who is believed and who may call, with the files of keys that say so: read
//! with the configuration, so that a change of one is a reload like any other,
//! and a broken one leaves the earlier keys in force.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::expand::read_bytes;
use super::form;
use super::model::{
    Algorithm, Allow, Allowed, ApiKeys, Authentication, Issuer, KeySet, Keys, KeysUrl, TokenFrom, TokenRule,
    Who,
};
use super::problem::Problems;
use super::resolve::{At, Routes};
use super::shape::nearest;

/// Clocks that differ by more are wrong.
const MOST_SKEW: Duration = Duration::from_secs(600);
/// Bytes of a file of API keys.
const LARGEST: usize = 4 << 20;
/// Keys of one file: each call looks at all of them.
const MOST_KEYS: usize = 10_000;
/// What the sidecar itself writes, or what makes a message what it is.
const TAKEN: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "authorization",
    "cookie",
    "pillion-client-id",
    "pillion-client-by",
];

/// Clients, each with the SHA-256 of a key of its own.
type Clients = Vec<(Arc<str>, [u8; 32])>;

/// What one configuration reads of keys.
#[derive(Default)]
pub(super) struct Files {
    /// Each file that was looked for, and its content.
    pub read: Vec<(PathBuf, Option<Vec<u8>>)>,
    clients: HashMap<PathBuf, Result<Arc<Clients>, String>>,
}

impl Files {
    /// Who is believed by `authentication` of the main file at `at`.
    pub(super) fn authentication(
        &mut self,
        form: Option<&form::Authentication>,
        at: At<'_>,
        problems: &mut Problems,
    ) -> Authentication {
        let folder = folder_of(at);
        let list = at.key("authentication").key("jwt");
        let mut jwt: Vec<Arc<Issuer>> = Vec::new();
        for (index, form) in form.iter().flat_map(|form| form.jwt.iter().flatten()).enumerate() {
            let at = list.item(index);
            let Some(issuer) = self.issuer(form, &folder, at, problems) else { continue };
            if let Some(first) = jwt.iter().find(|other| other.name == issuer.name) {
                let message = format!("this issuer stands here twice; the first is at {}", first.origin);
                problems.push(at.key("issuer").problem(message));
                continue;
            }
            jwt.push(Arc::new(issuer));
        }
        Authentication { jwt }
    }

    fn issuer(
        &mut self,
        form: &form::JwtIssuer,
        folder: &Path,
        at: At<'_>,
        problems: &mut Problems,
    ) -> Option<Issuer> {
        let algorithms: Vec<Algorithm> = match &form.algorithms {
            None => Algorithm::ASYMMETRIC.to_vec(),
            Some(list) => list.iter().copied().map(algorithm).collect(),
        };
        let skew = form.skew.as_ref().map_or(Duration::from_secs(30), |skew| skew.0);
        if skew > MOST_SKEW {
            problems.push(at.key("skew").problem("`skew` is at most 10m"));
        }
        let forward = forward(form.forward_claims.as_ref(), at.key("forward_claims"), problems);
        let keys = self.keys(form.jwks.as_ref()?, folder, at.key("jwks"), problems);
        let symmetric = algorithms.iter().any(|one| Algorithm::SYMMETRIC.contains(one));
        if symmetric && matches!(keys, Some(Keys::Remote(_))) {
            let problem = at.key("algorithms").problem("a shared secret is nothing that anybody may fetch");
            problems.push(problem.help("name the set in `jwks: {file: …}`"));
        }
        Some(Issuer {
            name: form.issuer.as_ref()?.0.as_str().into(),
            keys: keys?,
            algorithms,
            skew,
            from: form.from.as_ref().map_or_else(
                || vec![TokenFrom::Header(AUTHORIZATION)],
                |list| list.iter().filter_map(from).collect(),
            ),
            forward,
            origin: at.origin(),
        })
    }

    fn keys(
        &mut self,
        form: &form::Jwks,
        folder: &Path,
        at: At<'_>,
        problems: &mut Problems,
    ) -> Option<Keys> {
        if form.ca_file.is_some() && !form.url.as_ref().is_some_and(|url| url.0.starts_with("https:")) {
            problems.push(at.word("ca_file").problem("`ca_file` is for an `https` URL"));
        }
        match (&form.file, &form.url) {
            (Some(_), Some(_)) => {
                problems.push(at.word("url").problem("`file` and `url` say the same: keep one of them"));
                None
            }
            (None, None) => {
                if !at.lost("file") && !at.lost("url") {
                    problems.push(at.problem("the key `file` or `url` is missing"));
                }
                None
            }
            (None, Some(url)) => {
                let ca_file = form.ca_file.as_ref().map(|file| folder.join(&file.0).display().to_string());
                Some(Keys::Remote(KeysUrl { url: url.0.as_str().into(), ca_file: ca_file.map(Arc::from) }))
            }
            (Some(file), None) => {
                let path = folder.join(&file.0);
                let content = read_bytes(&path, KeySet::LARGEST);
                self.read.push((path, content.as_ref().ok().cloned()));
                let place = at.key("file");
                let read =
                    content.map_err(|why| format!("`{}` can't be read: {why}", place.shown())).and_then(
                        |bytes| KeySet::parse(&bytes).map_err(|why| format!("`{}`: {why}", place.shown())),
                    );
                match read {
                    Ok(keys) => Some(Keys::Set(Arc::new(keys))),
                    Err(message) => {
                        let problem = place.problem(message);
                        problems.push(
                            problem.help("it is a JWK set, as in `{\"keys\": [{\"kty\": \"RSA\", …}]}`"),
                        );
                        None
                    }
                }
            }
        }
    }

    /// Reads what the entries of one file say. Without `known` nobody can tell
    /// which issuers are declared.
    pub(super) fn read(
        &mut self,
        routes: &mut Routes,
        known: Option<&Authentication>,
        problems: &mut Problems,
    ) {
        let root = At::root(&routes.file, &routes.root);
        for (number, gateway) in routes.gateway.iter().enumerate() {
            for (index, form) in gateway.routes.iter().flatten().enumerate() {
                let Some(form) = &form.allow else { continue };
                let at = root.key("gateway").item(number).key("routes").item(index).key("allow");
                let allow = self.allow(form, at, known, problems);
                routes.gateway_allow.extend(allow.map(|allow| ((number, index), Arc::new(allow))));
            }
        }
        let mut list = BTreeMap::new();
        for (index, form) in routes.inbound.iter().enumerate() {
            let Some(form) = &form.allow else { continue };
            let at = root.key("inbound").item(index).key("allow");
            if let Some(allow) = self.allow(form, at, known, problems) {
                list.insert(index, Arc::new(allow));
            }
        }
        routes.inbound_allow = list;
    }

    /// What one `allow`, which stands at `at`, says.
    pub(super) fn allow(
        &mut self,
        form: &form::Allow,
        at: At<'_>,
        known: Option<&Authentication>,
        problems: &mut Problems,
    ) -> Option<Allow> {
        let (forms, list, shadow): (&[form::Allowed], _, _) = match form {
            form::Allow::Everyone(form::Everyone::Anyone) => {
                let any = vec![Allowed { who: Who::Anyone, origin: at.origin() }];
                return Some(Allow { any, shadow: false, origin: at.origin() });
            }
            form::Allow::Any(forms) => (forms, at, false),
            form::Allow::Policy(form) => {
                (form.any.as_deref()?, at.key("any"), matches!(form.mode, Some(form::AllowMode::Shadow)))
            }
        };
        let mut any = Vec::new();
        for (index, form) in forms.iter().enumerate() {
            let at = list.item(index);
            if let Some(who) = self.who(form, at, known, problems) {
                any.push(Allowed { who, origin: at.origin() });
            }
        }
        Some(Allow { any, shadow, origin: at.origin() })
    }

    fn who(
        &mut self,
        form: &form::Allowed,
        at: At<'_>,
        known: Option<&Authentication>,
        problems: &mut Problems,
    ) -> Option<Who> {
        if form.service.is_some() {
            let message = "`service` needs mutual TLS, which is not there yet: nobody can prove such a name";
            let problem = at.word("service").problem(message);
            problems.push(problem.help("until then use `jwt`, `api_key` or `source`"));
            return None;
        }
        if let Some(networks) = &form.source {
            return Some(Who::Source(networks.all().iter().map(|network| network.0).collect()));
        }
        if let Some(form) = &form.api_key {
            return self.api_key(form, at.key("api_key"), problems).map(|keys| Who::ApiKey(Arc::new(keys)));
        }
        if let Some(form) = &form.jwt {
            return token(form, at.key("jwt"), known, problems).map(Who::Jwt);
        }
        form.anyone.map(|_| Who::Anyone)
    }

    fn api_key(&mut self, form: &form::ApiKey, at: At<'_>, problems: &mut Problems) -> Option<ApiKeys> {
        let (file, place) = (form.file.as_ref()?, at.key("file"));
        let clients = match self.clients(&folder_of(at).join(&file.0)) {
            Ok(clients) => clients,
            Err(why) => {
                let problem = place.problem(format!("`{}` {why}", place.shown()));
                problems.push(problem.help(
                    "a line is a client's name and the SHA-256 of its key: `echo shop $(printf %s KEY | sha256sum | cut -c-64)`",
                ));
                return None;
            }
        };
        if let Some(words) = &form.clients {
            for (index, word) in words.all().iter().enumerate() {
                if clients.iter().all(|(name, _)| **name != *word.0) {
                    let at = at.key("clients").item(index);
                    let problem = at.problem(format!("the file knows no client `{}`", at.shown()));
                    let near = nearest(&word.0, clients.iter().map(|(name, _)| &**name));
                    problems.push(match near {
                        Some(near) => problem.help(format!("did you mean `{near}`?")),
                        None => problem,
                    });
                }
            }
        }
        let may =
            |name: &str| form.clients.as_ref().is_none_or(|all| all.all().iter().any(|one| one.0 == name));
        let (keys, others): (Clients, Clients) = clients.iter().cloned().partition(|(name, _)| may(name));
        Some(ApiKeys {
            header: form.header.as_ref().map_or(HeaderName::from_static("x-api-key"), |name| name.0.clone()),
            keys,
            others: others.into_iter().map(|(_, digest)| digest).collect(),
            file: place.shown().into(),
        })
    }

    fn clients(&mut self, path: &Path) -> Result<Arc<Clients>, String> {
        if let Some(known) = self.clients.get(path) {
            return known.clone();
        }
        let content = read_bytes(path, LARGEST);
        self.read.push((path.to_owned(), content.as_ref().ok().cloned()));
        let clients = content
            .map_err(|why| format!("can't be read: {why}"))
            .and_then(|bytes| clients(&bytes).map(Arc::new));
        self.clients.insert(path.to_owned(), clients.clone());
        clients
    }
}

fn folder_of(at: At<'_>) -> PathBuf {
    Path::new(at.file_name()).parent().map(Path::to_owned).unwrap_or_default()
}

/// The lines of a file of keys. What stands in a wrong one is not told: it may
/// be a key.
fn clients(bytes: &[u8]) -> Result<Clients, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    let mut clients: Clients = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(digest), None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("has not two words in line {number}"));
        };
        let plain = name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain {
            return Err(format!("has no name in line {number}: at most 128 visible ASCII characters"));
        }
        let Some(digest) = hex(digest) else {
            return Err(format!("has no SHA-256 in line {number}: 64 hex digits"));
        };
        if clients.iter().any(|(_, other)| *other == digest) {
            return Err(format!("has in line {number} a key that stands there already"));
        }
        clients.push((name.into(), digest));
    }
    match clients.len() {
        0 => Err("holds no key".into()),
        count if count > MOST_KEYS => Err(format!("holds more than {MOST_KEYS} keys")),
        _ => Ok(clients),
    }
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, index) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[index..index + 2], 16).ok()?;
    }
    Some(digest)
}

fn token(
    form: &form::JwtRule,
    at: At<'_>,
    known: Option<&Authentication>,
    problems: &mut Problems,
) -> Option<TokenRule> {
    let texts = |words: &Option<form::Words>| {
        words
            .iter()
            .flat_map(form::Words::all)
            .map(|word| Arc::from(word.0.as_str()))
            .collect::<Vec<Arc<str>>>()
    };
    if let Some(known) = known {
        let names = known.jwt.iter().map(|issuer| &*issuer.name);
        if known.jwt.is_empty() {
            let problem = at.problem("no issuer of tokens is declared");
            problems
                .push(problem.help("add `authentication: {jwt: [{issuer: …, jwks: …}]}` to pillion.yaml"));
            return None;
        }
        if let Some(issuer) =
            form.issuer.as_ref().filter(|issuer| !names.clone().any(|name| *name == issuer.0))
        {
            let place = at.key("issuer");
            let problem = place.problem(format!("`authentication` declares no issuer `{}`", place.shown()));
            problems.push(match nearest(&issuer.0, names) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            });
            return None;
        }
    }
    let claims = form.claims.iter().flatten();
    let claims = claims.map(|(name, values)| {
        (name.as_str().into(), values.all().iter().map(|word| word.0.as_str().into()).collect())
    });
    Some(TokenRule {
        issuer: form.issuer.as_ref().map(|issuer| issuer.0.as_str().into()),
        audience: texts(&form.audience),
        scope: texts(&form.scope),
        claims: claims.collect(),
    })
}

fn forward(
    form: Option<&BTreeMap<String, crate::config::text::Header>>,
    at: At<'_>,
    problems: &mut Problems,
) -> Vec<(Arc<str>, HeaderName)> {
    let mut forward: Vec<(Arc<str>, HeaderName)> = Vec::new();
    for (claim, header) in form.into_iter().flatten() {
        let place = at.key(claim);
        if TAKEN.contains(&header.0.as_str()) {
            problems.push(place.problem(format!("`{}` means something else: take another name", header.0)));
        } else if forward.iter().any(|(_, other)| *other == header.0) {
            problems.push(place.problem(format!("two claims go into `{}`", header.0)));
        }
        forward.push((claim.as_str().into(), header.0.clone()));
    }
    forward
}

fn from(form: &form::TokenFrom) -> Option<TokenFrom> {
    match form {
        form::TokenFrom { header: Some(header), .. } => Some(TokenFrom::Header(header.0.clone())),
        form::TokenFrom { cookie: Some(cookie), .. } => Some(TokenFrom::Cookie(cookie.0.as_str().into())),
        form::TokenFrom { query, .. } => {
            query.as_ref().map(|query| TokenFrom::Query(query.0.as_str().into()))
        }
    }
}

fn algorithm(form: form::JwtAlgorithm) -> Algorithm {
    use form::JwtAlgorithm as Form;
    match form {
        Form::RS256 => Algorithm::Rs256,
        Form::RS384 => Algorithm::Rs384,
        Form::RS512 => Algorithm::Rs512,
        Form::PS256 => Algorithm::Ps256,
        Form::PS384 => Algorithm::Ps384,
        Form::PS512 => Algorithm::Ps512,
        Form::ES256 => Algorithm::Es256,
        Form::ES384 => Algorithm::Es384,
        Form::EdDSA => Algorithm::EdDsa,
        Form::HS256 => Algorithm::Hs256,
        Form::HS384 => Algorithm::Hs384,
        Form::HS512 => Algorithm::Hs512,
    }
}
