//! The public keys of an issuer of tokens: a JWK Set (RFC 7517), read once and
//! made ready to check signatures (RFC 7515, RFC 7518, RFC 8037).
//!
//! Must hold: a key checks only the algorithms of its own type, so that nobody
//! signs with a public key as if it were a shared secret.

use std::fmt;

use aws_lc_rs::signature::{self as sig, ParsedPublicKey, RsaPublicKeyComponents};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Keys of one set that are looked at.
const MOST: usize = 256;
/// Bytes of the shortest shared secret that is used: as many as the digest of
/// HS256 has (RFC 7518, section 3.2).
const SECRET: usize = 32;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// The same with SHA-384.
    Rs384,
    /// The same with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// The same with SHA-384.
    Ps384,
    /// The same with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256, by a shared secret.
    Hs256,
    /// The same with SHA-384.
    Hs384,
    /// The same with SHA-512.
    Hs512,
}

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    digest: Vec<u8>,
}

/// One key.
pub struct Key {
    id: Option<Box<str>>,
    /// The only one that it is for, where it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(ParsedPublicKey),
    P384(ParsedPublicKey),
    Ed25519(ParsedPublicKey),
    Secret(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The members of a key that are read; a missing one is empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    crv: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    n: String,
    e: String,
    x: String,
    y: String,
    k: String,
}

impl Algorithm {
    /// Those of key pairs: what is allowed unless a provider says otherwise.
    pub const ASYMMETRIC: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// Those of shared secrets.
    pub const SYMMETRIC: [Self; 3] = [Self::Hs256, Self::Hs384, Self::Hs512];

    /// The word that tokens use (RFC 7518, section 3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// The algorithm of this name; none is called `none`.
    pub fn of(name: &str) -> Option<Self> {
        Self::ASYMMETRIC.into_iter().chain(Self::SYMMETRIC).find(|one| one.as_str() == name)
    }

    fn rsa(self) -> Option<&'static sig::RsaParameters> {
        Some(match self {
            Self::Rs256 => &sig::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &sig::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &sig::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &sig::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &sig::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &sig::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        Some(match self {
            Self::Hs256 => hmac::HMAC_SHA256,
            Self::Hs384 => hmac::HMAC_SHA384,
            Self::Hs512 => hmac::HMAC_SHA512,
            _ => return None,
        })
    }
}

impl KeySet {
    /// Bytes of one set.
    pub const LARGEST: usize = 1 << 20;

    /// Reads a set. Keys of types that are not known, and those that are not for
    /// signatures, are passed over (RFC 7517, section 5); a key that is broken
    /// is, too. The error is for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > Self::LARGEST {
            return Err(format!("it is larger than {} KiB", Self::LARGEST >> 10));
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("it is no JWK set: {error}"))?;
        let keys: Vec<Key> = set.keys.into_iter().take(MOST).filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("it holds no key that can check a signature".to_owned());
        }
        Ok(Self { keys, digest: digest::digest(&digest::SHA256, bytes).as_ref().to_vec() })
    }

    /// How many keys can be used.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether it was read from the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Whether a key that can be used is a shared secret.
    pub fn has_secret(&self) -> bool {
        self.keys.iter().any(|key| matches!(key.material, Material::Secret(_)))
    }

    /// The keys that may have made a signature: those with this id, or those
    /// without any if there is none; without an id all that fit.
    pub fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        let known = id.is_some_and(|id| self.keys.iter().any(|key| key.id.as_deref() == Some(id)));
        let named = move |key: &&Key| match id {
            Some(_) if known => key.id.as_deref() == id,
            Some(_) => key.id.is_none(),
            None => true,
        };
        self.keys.iter().filter(named).filter(move |key| key.is_for(algorithm))
    }
}

impl Key {
    fn read(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let algorithm = match jwk.alg.as_deref() {
            None => None,
            // For something else than what is known here.
            Some(name) => Some(Algorithm::of(name)?),
        };
        let material = Material::read(&jwk).filter(|_| signs)?;
        let key = Self { id: jwk.kid.map(String::into_boxed_str), algorithm, material };
        let some = Algorithm::ASYMMETRIC.into_iter().chain(Algorithm::SYMMETRIC).any(|one| key.is_for(one));
        some.then_some(key)
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match self.material {
            Material::Rsa(_) => algorithm.rsa().is_some(),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
            Material::Secret(_) => algorithm.hmac().is_some(),
        };
        fits && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether this key has made `signature` of `message`.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa(key) => {
                algorithm.rsa().is_some_and(|how| key.verify(how, message, signature).is_ok())
            }
            Material::P256(key) | Material::P384(key) | Material::Ed25519(key) => {
                key.verify_sig(message, signature).is_ok()
            }
            Material::Secret(secret) => algorithm
                .hmac()
                .is_some_and(|how| hmac::verify(&hmac::Key::new(how, secret), message, signature).is_ok()),
        }
    }
}

impl Material {
    fn read(jwk: &Jwk) -> Option<Self> {
        match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => {
                let number = |text: &str| {
                    let bytes = decoded(text)?;
                    let start = bytes.iter().position(|byte| *byte != 0)?;
                    Some(bytes[start..].to_vec())
                };
                let key = RsaPublicKeyComponents { n: number(&jwk.n)?, e: number(&jwk.e)? };
                // Shorter ones are broken, and longer ones only take time.
                let fits = (256..=1024).contains(&key.n.len());
                (fits && key.to_parsed_public_key(&sig::RSA_PKCS1_2048_8192_SHA256).is_ok())
                    .then_some(Self::Rsa(key))
            }
            ("EC", "P-256") => point(jwk, 32, &sig::ECDSA_P256_SHA256_FIXED).map(Self::P256),
            ("EC", "P-384") => point(jwk, 48, &sig::ECDSA_P384_SHA384_FIXED).map(Self::P384),
            ("OKP", "Ed25519") => {
                ParsedPublicKey::new(&sig::ED25519, decoded(&jwk.x)?).ok().map(Self::Ed25519)
            }
            ("oct", _) => decoded(&jwk.k).filter(|secret| secret.len() >= SECRET).map(Self::Secret),
            _ => None,
        }
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// A point of a curve, not compressed (SEC 1, section 2.3.3).
fn point(jwk: &Jwk, length: usize, how: &'static sig::EcdsaVerificationAlgorithm) -> Option<ParsedPublicKey> {
    let (x, y) = (decoded(&jwk.x)?, decoded(&jwk.y)?);
    if x.len() != length || y.len() != length {
        return None;
    }
    ParsedPublicKey::new(how, [&[4], &x[..], &y[..]].concat()).ok()
}

/// Never shows a secret.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet {{ keys: {} }}", self.keys.len())
    }
}
