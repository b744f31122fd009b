//! Makes tokens, good ones and bad ones.
#![allow(missing_docs)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Who signs tokens.
pub struct Signer {
    pub kid: &'static str,
    pub alg: &'static str,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// With a new key.
    pub fn new(kid: &'static str, alg: &'static str) -> Self {
        let key = match alg {
            "ES256" => Key::Ec(EcdsaKeyPair::generate(&sig::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "ES384" => Key::Ec(EcdsaKeyPair::generate(&sig::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Key::Ed(Ed25519KeyPair::generate().unwrap()),
            alg if alg.starts_with("HS") => Key::Secret((0..64).map(|_| fastrand::u8(..)).collect()),
            _ => Key::Rsa(Box::new(rsa::KeyPair::generate(KeySize::Rsa2048).unwrap())),
        };
        Self { kid, alg, key }
    }

    /// HS256 with these bytes as the secret.
    pub fn secret(kid: &'static str, bytes: &[u8]) -> Self {
        Self { kid, alg: "HS256", key: Key::Secret(bytes.to_vec()) }
    }

    /// The public key as its issuer shows it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair) => {
                let [n, e] = numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": encoded(n), "e": encoded(e)})
            }
            Key::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)})
            }
            Key::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key())}),
            Key::Secret(secret) => json!({"kty": "oct", "k": encoded(secret)}),
        };
        jwk["kid"] = self.kid.into();
        jwk
    }

    /// The public key's bytes, in the form that its own type has.
    pub fn public(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Key::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Key::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Key::Secret(secret) => secret.clone(),
        }
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": self.alg, "typ": "JWT", "kid": self.kid}), claims)
    }

    /// The same, with another head.
    pub fn sign_with(&self, head: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(head.to_string()), encoded(claims.to_string()));
        format!("{message}.{}", encoded(self.signature(message.as_bytes())))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair) => {
                let how: &'static dyn sig::RsaEncoding = match self.alg {
                    "RS384" => &sig::RSA_PKCS1_SHA384,
                    "RS512" => &sig::RSA_PKCS1_SHA512,
                    "PS256" => &sig::RSA_PSS_SHA256,
                    "PS384" => &sig::RSA_PSS_SHA384,
                    "PS512" => &sig::RSA_PSS_SHA512,
                    _ => &sig::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Key::Secret(secret) => {
                let how = match self.alg {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(how, secret), message).as_ref().to_vec()
            }
        }
    }
}

/// The keys of all of them, as an issuer shows them.
pub fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// The two numbers of an RSA key in DER (RFC 8017, appendix A.1.1).
fn numbers(der: &[u8]) -> [Vec<u8>; 2] {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, start) = match der[1] {
            short @ 0..=127 => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 0x7f);
                let length = der[2..2 + count].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, 2 + count)
            }
        };
        (&der[start..start + length], &der[start + length..])
    }
    let (inner, _) = element(der);
    let (n, rest) = element(inner);
    let (e, _) = element(rest);
    [n, e].map(|number| number.iter().copied().skip_while(|byte| *byte == 0).collect())
}
