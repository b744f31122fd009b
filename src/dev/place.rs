//! The private folder of one `pillion dev`: the registry and the sidecars'
//! files. Gone when the value is dropped.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder that only this user may enter.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        let process = std::process::id();
        let path = parent.join(format!("pillion-dev-{process}-{:08x}", fastrand::u32(..)));
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&path)?;
        let place = Self(path);
        builder.create(place.registry())?;
        Ok(place)
    }

    pub(super) fn registry(&self) -> PathBuf {
        self.0.join("registry")
    }

    /// Writes the file of one sidecar.
    pub(super) fn write(&self, name: &str, content: &serde_json::Value) -> io::Result<PathBuf> {
        let path = self.0.join(format!("{name}.yaml"));
        std::fs::write(&path, format!("{content:#}\n"))?;
        Ok(path)
    }

    #[cfg(test)]
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed: {error}", Path::new(&self.0).display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_and_goes() {
        let place = Place::new().unwrap();
        let path = place.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        place.write("users", &serde_json::json!({"version": 1})).unwrap();
        assert!(place.registry().is_dir());
        drop(place);
        assert!(!path.exists());
    }
}
