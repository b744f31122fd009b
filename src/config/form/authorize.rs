//! Who may call, and how callers prove who they are.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::config::text::{Header, JwksUrl, Network, Pause, Word};

/// How callers prove who they are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// Who issues tokens that are believed.
    pub jwt: Option<Vec<JwtIssuer>>,
}

/// Who issues tokens that are believed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["issuer", "jwks"]))]
pub struct JwtIssuer {
    /// The `iss` of its tokens, to the letter.
    pub issuer: Option<Word>,
    /// Its public keys.
    pub jwks: Option<Jwks>,
    /// How its tokens may be signed. Default: all of key pairs, which are all
    /// but `HS256`, `HS384` and `HS512`.
    #[schemars(length(min = 1))]
    pub algorithms: Option<Vec<JwtAlgorithm>>,
    /// How far its clock and ours may differ; at most 10 min.
    #[schemars(extend("default" = "30s"))]
    pub skew: Option<Pause>,
    /// Where its tokens stand in a request, in the order in which they are looked for.
    #[schemars(length(min = 1), extend("default" = [{"header": "authorization"}]))]
    pub from: Option<Vec<TokenFrom>>,
    /// Claims that the service gets, each in the header of this name.
    #[schemars(extend("default" = {}))]
    pub forward_claims: Option<BTreeMap<String, Header>>,
}

/// The public keys of an issuer: a JWK set.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jwks {
    /// A file, relative to this one; this or `url`.
    pub file: Option<Word>,
    /// Where it is fetched; this or `file`.
    pub url: Option<JwksUrl>,
    /// Certificates that an `https` URL is trusted by, in PEM, relative to this
    /// file. Default: those of the system.
    pub ca_file: Option<Word>,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA (PKCS #1 v1.5) with SHA-256.
    RS256,
    /// The same with SHA-384.
    RS384,
    /// The same with SHA-512.
    RS512,
    /// RSA (PSS) with SHA-256.
    PS256,
    /// The same with SHA-384.
    PS384,
    /// The same with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDSA,
    /// HMAC with SHA-256 and a shared secret.
    HS256,
    /// The same with SHA-384.
    HS384,
    /// The same with SHA-512.
    HS512,
}

/// Where a token stands; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct TokenFrom {
    /// In this header, behind `Bearer `, which only `authorization` needs.
    pub header: Option<Header>,
    /// In this cookie.
    pub cookie: Option<Word>,
    /// In this parameter of the query.
    pub query: Option<Word>,
}

/// Who may call: everyone, or those of whom one entry holds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Allow {
    /// Everyone.
    Everyone(Everyone),
    /// Those of whom one entry holds.
    Any(#[schemars(length(min = 1))] Vec<Allowed>),
    /// The same, with a mode.
    Policy(AllowPolicy),
}

/// Everyone.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Everyone {
    /// No proof is asked for.
    Anyone,
}

/// Who may call, with a mode.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["any"]))]
pub struct AllowPolicy {
    /// Those who may: one entry has to hold.
    #[schemars(length(min = 1))]
    pub any: Option<Vec<Allowed>>,
    /// Whether others are refused, or only counted and logged.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<AllowMode>,
}

/// Whether calls are refused.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllowMode {
    /// They are.
    Enforce,
    /// They pass, and are counted and logged.
    Shadow,
}

/// Who may call; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Allowed {
    /// Who has such a token, of an issuer that `authentication` declares.
    pub jwt: Option<JwtRule>,
    /// Who has a key of this file.
    pub api_key: Option<ApiKey>,
    /// Who calls from one of these addresses.
    pub source: Option<Networks>,
    /// Everyone, also without a proof.
    #[schemars(schema_with = "yes")]
    pub anyone: Option<bool>,
    /// A service of the mesh. It is refused: a service proves its name by mutual
    /// TLS, which is not there yet.
    pub service: Option<Words>,
}

/// What a token has to say.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtRule {
    /// Its issuer. Default: any that is declared.
    pub issuer: Option<Word>,
    /// One of these is its `aud`, or in it. Default: it is not looked at.
    pub audience: Option<Words>,
    /// All of these are in its `scope` or `scp`.
    pub scope: Option<Words>,
    /// For each of these claims, one of the values is it, or is in it; `a.b` is
    /// the claim `b` within `a`.
    pub claims: Option<BTreeMap<String, Words>>,
}

/// Keys of callers, in a file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["file"]))]
pub struct ApiKey {
    /// Lines of a client's name and the SHA-256 of its key, in hex; relative to
    /// this file.
    pub file: Option<Word>,
    /// Where a caller writes its key.
    #[schemars(extend("default" = "x-api-key"))]
    pub header: Option<Header>,
    /// Names of clients of the file who may call. Default: all.
    pub clients: Option<Words>,
}

/// One or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// One.
    One(Word),
    /// Several.
    Several(#[schemars(length(min = 1))] Vec<Word>),
}

/// One or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Networks {
    /// One.
    One(Network),
    /// Several.
    Several(#[schemars(length(min = 1))] Vec<Network>),
}

impl Words {
    /// All of them.
    pub fn all(&self) -> &[Word] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

impl Networks {
    /// All of them.
    pub fn all(&self) -> &[Network] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}

fn yes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "boolean", "const": true})
}
