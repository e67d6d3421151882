//! The style sheet, the script and the icon. Each is asked for by a name that changes with its content, so that browsers
//! may keep it for ever.

use std::sync::LazyLock;

use axum::extract::{Path, Query};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::trouble::Trouble;

/// The style sheet.
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style.css", "text/css; charset=utf-8", include_str!("style.css")));
/// The script.
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("ceremony.js", "text/javascript; charset=utf-8", include_str!("ceremony.js"))
});
/// The icon.
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon.svg", "image/svg+xml", include_str!("icon.svg")));

/// A file of ours.
#[derive(Debug, Clone)]
pub(super) struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
    path: String,
    version: String,
}

/// Which content the page meant.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Version {
    v: Option<String>,
}

impl Asset {
    fn new(name: &'static str, kind: &'static str, content: &'static str) -> Self {
        let version = hex::encode(&Sha256::digest(content)[..8]);
        Self { name, kind, content, path: format!("/assets/{name}?v={version}"), version }
    }

    /// Where pages find it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Serves a file.
pub(super) async fn serve(
    Path(name): Path<String>,
    Query(Version { v }): Query<Version>,
) -> Result<Response, Trouble> {
    let assets = [&*STYLE, &*SCRIPT, &*ICON];
    let asset = assets.into_iter().find(|asset| asset.name == name).ok_or(Trouble::NotThere)?;
    let life = match v.is_some_and(|version| version == asset.version) {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let headers = [("content-type", asset.kind), ("cache-control", life)];
    let mut response = (headers, asset.content).into_response();
    response.extensions_mut().insert(asset.clone());
    Ok(response)
}
