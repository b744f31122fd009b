//! The key/value store.

use bytes::Bytes;
use consulrs::api::kv::requests::{DeleteKeyRequest, ReadRawKeyRequest, SetKeyRequest};
use http::StatusCode;

use super::{Answer, Blocking, Client, Error, How};

/// The longest key, in bytes, as in Consul.
const MAX_KEY: usize = 512;
/// The longest value, in bytes, as in Consul.
const MAX_VALUE: usize = 512 << 10;

impl Client {
    /// The value of `key`; `None` where there is none, also if the token may
    /// not see it. With `blocking`, held until it changes: an answer without a
    /// value has an index too.
    pub async fn kv(&self, key: &str, blocking: Option<Blocking>) -> Result<Answer<Option<Bytes>>, Error> {
        check_key(key)?;
        let request = ReadRawKeyRequest {
            key: key.to_owned(),
            dc: self.shared.datacenter.clone(),
            raw: true,
            ..ReadRawKeyRequest::default()
        };
        let received = self.send(request, How { blocking, ..How::default() }).await?;
        match received.reply.status {
            StatusCode::NOT_FOUND => Ok(received.with(None)),
            status if status.is_success() => {
                let value = received.reply.body.clone();
                Ok(received.with(Some(value)))
            }
            _ => Err(received.reply.into_error()),
        }
    }

    /// Writes `key`. Returns false where Consul refused it without a reason.
    pub async fn set_kv(&self, key: &str, value: Vec<u8>) -> Result<bool, Error> {
        check_key(key)?;
        if value.len() > MAX_VALUE {
            return Err(Error::Invalid("value"));
        }
        let request = SetKeyRequest {
            key: key.to_owned(),
            value,
            dc: self.shared.datacenter.clone(),
            ..SetKeyRequest::default()
        };
        self.call(request, How::default()).await?.json().map(|answer| answer.value)
    }

    /// Removes `key`; one that is not there counts as removed.
    pub async fn delete_kv(&self, key: &str) -> Result<bool, Error> {
        check_key(key)?;
        let request = DeleteKeyRequest {
            key: key.to_owned(),
            dc: self.shared.datacenter.clone(),
            ..DeleteKeyRequest::default()
        };
        self.call(request, How::default()).await?.json().map(|answer| answer.value)
    }
}

/// Refuses a key that would be sent as another one.
fn check_key(key: &str) -> Result<(), Error> {
    let bad = key.is_empty()
        || key.len() > MAX_KEY
        || key.starts_with('/')
        || key.contains(char::is_control)
        || key.split('/').any(|part| part == "." || part == "..");
    if bad { Err(Error::Invalid("key")) } else { Ok(()) }
}
