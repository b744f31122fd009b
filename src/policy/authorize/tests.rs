//! Callers with good and bad credentials.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::signer::{Signer, encoded, set};
use super::*;
use crate::base::Origin;
use crate::config::model::{Algorithm, Allowed, Keys};

const NOW: f64 = 1_800_000_000.0;

/// Somebody who lets callers in.
struct World {
    issuers: Vec<Arc<Issuer>>,
    keys: Vec<Option<Arc<KeySet>>>,
    tokens: Tokens,
    now: f64,
}

fn origin() -> Origin {
    Origin { file: "a.yaml".into(), line: 1, column: 1 }
}

fn keys(signers: &[&Signer]) -> Arc<KeySet> {
    Arc::new(KeySet::parse(set(signers).as_bytes()).unwrap())
}

fn issuer(name: &str, algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        name: name.into(),
        keys: Keys::Set(keys(&[&Signer::new("unused", "EdDSA")])),
        algorithms: algorithms.to_vec(),
        skew: Duration::from_secs(30),
        from: vec![TokenFrom::Header(AUTHORIZATION)],
        forward: vec![("role".into(), HeaderName::from_static("x-role"))],
        origin: origin(),
    }
}

impl World {
    fn new(signers: &[&Signer]) -> Self {
        Self {
            issuers: vec![Arc::new(issuer("id", &Algorithm::ASYMMETRIC))],
            keys: vec![Some(keys(signers))],
            tokens: Tokens::default(),
            now: NOW,
        }
    }

    fn decide(&self, any: Vec<Who>, fields: &[(&str, &str)]) -> Result<Option<Identity>, Denied> {
        self.asks(any, fields, None)
    }

    fn asks(
        &self,
        any: Vec<Who>,
        fields: &[(&str, &str)],
        query: Option<&str>,
    ) -> Result<Option<Identity>, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let any = any.into_iter().map(|who| Allowed { who, origin: origin() }).collect();
        let allow = Allow { any, shadow: false, origin: origin() };
        let caller = Caller { ip: "10.1.2.3".parse().unwrap(), headers: &headers, query };
        let keys = |number: usize| self.keys[number].clone();
        let believed = Believed { issuers: &self.issuers, keys: &keys, tokens: &self.tokens, now: self.now };
        decide(&allow, caller, &believed)
    }

    /// The cause of the denial of a token, or "" where it is let in.
    fn says(&self, token: &str) -> &'static str {
        self.asked(TokenRule::default(), token)
    }

    fn asked(&self, rule: TokenRule, token: &str) -> &'static str {
        let value = format!("Bearer {token}");
        match self.decide(vec![Who::Jwt(rule)], &[("authorization", &value)]) {
            Ok(_) => "",
            Err(denied) => denied.cause,
        }
    }
}

fn claims() -> Value {
    json!({"iss": "id", "sub": "alice", "exp": NOW + 60.0})
}

/// The claims with some of them changed.
#[allow(clippy::needless_pass_by_value, reason = "it is written in place")]
fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn a_token_of_each_algorithm_is_believed_and_an_altered_one_is_not() {
    for alg in Algorithm::ASYMMETRIC {
        let signer = Signer::new("a", alg.as_str());
        let world = World::new(&[&Signer::new("other", alg.as_str()), &signer]);
        let token = signer.sign(&claims());
        assert_eq!(world.says(&token), "", "{alg:?}");
        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let altered = encoded(with(json!({"sub": "root"})).to_string());
        assert_eq!(world.says(&format!("{head}.{altered}.{signature}")), "signature", "{alg:?}");
        let stranger = Signer::new("a", alg.as_str());
        assert_eq!(world.says(&stranger.sign(&claims())), "signature", "{alg:?}");
    }
}

#[test]
fn hostile_tokens_are_refused_each_for_its_own_reason() {
    let signer = Signer::new("a", "RS256");
    let world = World::new(&[&signer]);
    let sign = |changes: Value| signer.sign(&with(changes));
    let head = |head: Value| signer.sign_with(&head, &claims());
    let public = Signer::secret("a", &signer.public());
    let good = signer.sign(&claims());
    let unsigned =
        format!("{}.{}.", encoded(json!({"alg": "none"}).to_string()), encoded(claims().to_string()));
    let deep = encoded(format!("{{\"iss\":\"id\",\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)));
    for (cause, token) in [
        ("", good.clone()),
        ("expired", sign(json!({"exp": NOW - 31.0}))),
        ("", sign(json!({"exp": NOW - 29.0}))),
        ("not_yet_valid", sign(json!({"nbf": NOW + 31.0}))),
        ("", sign(json!({"nbf": NOW + 29.0}))),
        ("not_yet_valid", sign(json!({"iat": NOW + 3600.0}))),
        ("malformed_token", sign(json!({"exp": "tomorrow"}))),
        ("no_expiry", signer.sign(&json!({"iss": "id"}))),
        ("issuer", sign(json!({"iss": "evil"}))),
        ("malformed_token", sign(json!({"iss": ["id"]}))),
        ("issuer", signer.sign(&json!({"exp": NOW + 60.0}))),
        ("algorithm", unsigned.clone()),
        (
            "algorithm",
            unsigned.replace(&encoded(json!({"alg": "none"}).to_string()), &encoded(r#"{"alg":"NONE"}"#)),
        ),
        ("algorithm", public.sign(&claims())),
        ("unknown_key", head(json!({"alg": "RS256", "kid": "b"}))),
        ("unknown_key", head(json!({"alg": "ES256", "kid": "a"}))),
        ("signature", head(json!({"alg": "PS256", "kid": "a"}))),
        ("", head(json!({"alg": "RS256"}))),
        ("malformed_token", head(json!({"alg": "RS256", "crit": ["exp"]}))),
        ("malformed_token", head(json!({"alg": "RS256", "b64": false}))),
        ("malformed_token", head(json!({"kid": "a"}))),
        ("malformed_token", head(json!({"alg": 5}))),
        ("malformed_token", "a".repeat(20_000)),
        ("malformed_token", "..".to_owned()),
        ("malformed_token", ".".repeat(10_000)),
        ("malformed_token", "a.b.c.d.e".to_owned()),
        ("malformed_token", good[..60].to_owned()),
        ("malformed_token", format!("{good}=")),
        ("malformed_token", format!("{good}.")),
        ("signature", format!("{}.{deep}.{}", good.split('.').next().unwrap(), "AAAA")),
        ("missing", String::new()),
    ] {
        let shown = token.chars().take(90).collect::<String>();
        assert_eq!(world.says(&token), cause, "{shown}");
    }
}

#[test]
fn whatever_bytes_come_nobody_gets_in_and_nothing_panics() {
    let signer = Signer::new("a", "ES256");
    let world = World::new(&[&signer]);
    let good = signer.sign(&claims()).into_bytes();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..3000 {
        let mut token = good.clone();
        match round % 3 {
            0 => token.truncate(random.usize(..token.len())),
            1 => {
                let at = random.usize(..token.len());
                token[at] = b"ABCabc019-_.={"[random.usize(..14)];
            }
            _ => token = (0..random.usize(..200)).map(|_| random.u8(33..127)).collect(),
        }
        let text = String::from_utf8(token.clone()).unwrap();
        let said = world.says(&text);
        assert_eq!(said.is_empty(), token == good, "{text}");
    }
}

#[test]
fn a_public_key_is_never_a_secret_even_where_secrets_are_allowed() {
    let (rsa, secret) = (Signer::new("a", "RS256"), Signer::new("s", "HS256"));
    let mut world = World::new(&[&rsa, &secret]);
    let all: Vec<_> = Algorithm::ASYMMETRIC.into_iter().chain(Algorithm::SYMMETRIC).collect();
    world.issuers = vec![Arc::new(issuer("id", &all))];
    assert_eq!((world.says(&rsa.sign(&claims())), world.says(&secret.sign(&claims()))), ("", ""));
    for bytes in [rsa.public(), rsa.jwk().to_string().into_bytes(), Vec::new()] {
        let forged = Signer::secret("a", &bytes).sign(&claims());
        assert_eq!(world.says(&forged), "unknown_key", "by the key's own id");
        let head = json!({"alg": "HS256"});
        let forged = Signer::secret("a", &bytes).sign_with(&head, &claims());
        assert_eq!(world.says(&forged), "signature", "without an id only the secret is tried");
    }
}

#[test]
fn a_token_that_was_checked_holds_no_longer_than_its_times_and_its_keys() {
    let signer = Signer::new("a", "ES256");
    let mut world = World::new(&[&signer]);
    let token = signer.sign(&claims());
    assert_eq!((world.says(&token), world.tokens.count()), ("", 1));
    world.now += 89.0;
    assert_eq!(world.says(&token), "", "a replay while it holds is the caller's own affair");
    world.now += 2.0;
    assert_eq!(world.says(&token), "expired");
    world.now = NOW;
    world.keys[0] = Some(keys(&[&Signer::new("a", "ES256")]));
    assert_eq!(world.says(&token), "signature");
    world.keys[0] = None;
    assert_eq!(world.says(&token), "keys_unavailable");
    world.keys[0] = Some(keys(&[&signer]));
    for number in 0..3000 {
        assert_eq!(world.says(&signer.sign(&with(json!({"jti": number})))), "");
    }
    assert!(world.tokens.count() <= 1024, "{}", world.tokens.count());
}

#[test]
fn a_rule_asks_for_audience_scope_and_claims() {
    let signer = Signer::new("a", "EdDSA");
    let world = World::new(&[&signer]);
    let words = |words: &[&str]| words.iter().map(|word| Arc::from(*word)).collect::<Vec<Arc<str>>>();
    let audience = |list: &[&str]| TokenRule { audience: words(list), ..TokenRule::default() };
    let scope = |list: &[&str]| TokenRule { scope: words(list), ..TokenRule::default() };
    let claim = |name: &str, list: &[&str]| TokenRule {
        claims: vec![(name.into(), words(list))],
        ..TokenRule::default()
    };
    for (rule, changes, cause) in [
        (audience(&["orders"]), json!({"aud": "orders"}), ""),
        (audience(&["orders", "x"]), json!({"aud": ["a", "x"]}), ""),
        (audience(&["orders"]), json!({"aud": "orders2"}), "audience"),
        (audience(&["orders"]), json!({}), "audience"),
        (scope(&["a", "b"]), json!({"scope": "b c a"}), ""),
        (scope(&["a", "b"]), json!({"scp": ["a", "b"]}), ""),
        (scope(&["a", "b"]), json!({"scope": "a", "scp": "b"}), ""),
        (scope(&["a", "b"]), json!({"scope": "a bb"}), "scope"),
        (scope(&["a"]), json!({}), "scope"),
        (claim("role", &["admin"]), json!({"role": "admin"}), ""),
        (claim("role", &["admin", "root"]), json!({"role": ["x", "root"]}), ""),
        (claim("role", &["admin"]), json!({"role": "admins"}), "claim"),
        (claim("role", &["admin"]), json!({"role": {"admin": true}}), "claim"),
        (claim("level", &["3"]), json!({"level": 3}), ""),
        (claim("verified", &["true"]), json!({"verified": true}), ""),
        (claim("realm.roles", &["a"]), json!({"realm": {"roles": ["a"]}}), ""),
        (claim("https://x.y/z", &["a"]), json!({"https://x.y/z": "a"}), ""),
        (claim("role", &["admin"]), json!({}), "claim"),
    ] {
        let token = signer.sign(&with(changes.clone()));
        assert_eq!(world.asked(rule.clone(), &token), cause, "{rule:?} {changes}");
    }
    let other = TokenRule { issuer: Some("other".into()), ..TokenRule::default() };
    assert_eq!(world.asked(other, &signer.sign(&claims())), "missing");
}

#[test]
fn entries_are_tried_in_order_and_the_worst_that_can_be_helped_is_told() {
    let signer = Signer::new("a", "EdDSA");
    let world = World::new(&[&signer]);
    let network = |text: &str| Who::Source(vec![text.parse().unwrap()]);
    let token = || Who::Jwt(TokenRule { scope: vec!["w".into()], ..TokenRule::default() });
    let good = format!("bearer  {}", signer.sign(&claims()));
    let kind = |any, fields: &[(&str, &str)]| world.decide(any, fields).map_err(|denied| denied.kind);
    assert_eq!(kind(vec![network("10.0.0.0/8"), token()], &[]).map(|id| id.is_some()), Ok(false));
    assert_eq!(kind(vec![network("11.0.0.0/8")], &[]).map(drop), Err(Kind::Address));
    assert_eq!(kind(vec![network("11.0.0.0/8"), token()], &[]).map(drop), Err(Kind::Missing));
    let fields = [("authorization", good.as_str())];
    assert_eq!(kind(vec![token(), network("11.0.0.0/8")], &fields).map(drop), Err(Kind::Forbidden));
    assert_eq!(kind(vec![token(), Who::Anyone], &fields).map(|id| id.is_some()), Ok(false));
    let twice = [("authorization", good.as_str()), ("authorization", "Bearer x")];
    assert_eq!(kind(vec![token()], &twice).map(drop), Err(Kind::Bad));
    assert_eq!(kind(vec![token()], &[("authorization", "Basic abc")]).map(drop), Err(Kind::Missing));
}

#[test]
fn a_token_is_found_where_its_issuer_puts_it_and_nowhere_else() {
    let signer = Signer::new("a", "EdDSA");
    let mut world = World::new(&[&signer]);
    let from = vec![
        TokenFrom::Header(HeaderName::from_static("x-token")),
        TokenFrom::Cookie("session".into()),
        TokenFrom::Query("access_token".into()),
    ];
    world.issuers = vec![Arc::new(Issuer { from, ..issuer("id", &Algorithm::ASYMMETRIC) })];
    let token = signer.sign(&claims());
    let any = || vec![Who::Jwt(TokenRule::default())];
    let in_query = |query: &str| world.asks(any(), &[], Some(query)).map(drop).map_err(|denied| denied.cause);
    assert!(world.decide(any(), &[("x-token", &token)]).is_ok());
    assert!(world.decide(any(), &[("cookie", &format!("a=b; session={token}"))]).is_ok());
    assert_eq!(in_query(&format!("a=1&access_token={token}")), Ok(()));
    assert_eq!(in_query(&format!("access_token={token}&access_token=x")), Err("ambiguous"));
    let elsewhere = world.decide(any(), &[("authorization", &format!("Bearer {token}"))]);
    assert_eq!(elsewhere.map(drop).map_err(|denied| denied.cause), Err("missing"));
}

#[test]
fn an_api_key_names_its_client() {
    let digest = |key: &str| {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
        out
    };
    let keys = ApiKeys {
        header: HeaderName::from_static("x-api-key"),
        keys: vec![("shop".into(), digest("k1")), ("shop".into(), digest("k2"))],
        others: vec![digest("k3")],
        file: "keys.txt".into(),
    };
    let world = World::new(&[&Signer::new("a", "EdDSA")]);
    let any = || vec![Who::ApiKey(Arc::new(keys.clone()))];
    let got = world.decide(any(), &[("x-api-key", "k2")]).unwrap().unwrap();
    assert_eq!((got.client(), got.by()), (Some("shop"), "api_key"));
    for (key, kind) in [("k3", Kind::Forbidden), ("k4", Kind::Bad), ("", Kind::Bad)] {
        assert_eq!(
            world.decide(any(), &[("x-api-key", key)]).map(drop).map_err(|denied| denied.kind),
            Err(kind)
        );
    }
    assert!(!format!("{keys:?}").contains("keys: ["), "no digest is shown");
}

#[test]
fn the_service_is_told_what_a_field_can_carry() {
    let signer = Signer::new("a", "EdDSA");
    let world = World::new(&[&signer]);
    let told = |changes: Value| {
        let value = format!("Bearer {}", signer.sign(&with(changes)));
        let identity = world
            .decide(vec![Who::Jwt(TokenRule::default())], &[("authorization", &value)])
            .unwrap()
            .unwrap();
        let mut headers = HeaderMap::new();
        identity.write(&mut headers);
        let get = |name: &str| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        (get("pillion-client-id"), get("pillion-client-by"), get("x-role"))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told(json!({"role": ["a", "b"]})), (some("alice"), some("id"), some("a,b")));
    assert_eq!(told(json!({"sub": "José", "role": 5})), (some("José"), some("id"), some("5")));
    assert_eq!(told(json!({"sub": "a\r\nx: y", "role": ["a,b"]})), (None, some("id"), None));
    assert_eq!(told(json!({"sub": " root", "role": {"a": 1}})), (None, some("id"), None));
}

#[test]
fn a_set_keeps_the_keys_that_it_can_use() {
    let (a, b) = (Signer::new("a", "RS256"), Signer::new("b", "ES256"));
    let mut odd = b.jwk();
    odd["use"] = "enc".into();
    let mut short = a.jwk();
    short["n"] = encoded([1; 100]).into();
    let mut off = b.jwk();
    off["y"] = off["x"].clone();
    let text = json!({"keys": [a.jwk(), odd, short, off, {"kty": "PQ"}, 5, {"kty": "oct", "k": "c2hvcnQ"}], "more": 1});
    assert_eq!(KeySet::parse(text.to_string().as_bytes()).unwrap().count(), 1);
    for (text, wanted) in [
        ("", "it is no JWK set"),
        ("<html>", "it is no JWK set"),
        ("{\"keys\": []}", "it holds no key"),
        ("{\"keys\": [{\"kty\": \"RSA\"}]}", "it holds no key"),
        ("[]", "it is no JWK set"),
    ] {
        let error = KeySet::parse(text.as_bytes()).unwrap_err();
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
    let huge = KeySet::parse(&vec![b' '; (1 << 20) + 1]).unwrap_err();
    assert!(huge.starts_with("it is larger than"), "{huge}");
    let shown = format!("{:?}", keys(&[&Signer::new("s", "HS256")]));
    assert_eq!(shown, "KeySet { keys: 1 }", "no secret is shown");
}
