//! An image of a root file system: an OCI layout in one tar, as `ctr images import` takes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command::{command, run};

/// Packs a directory as the image `localhost/NAME:e2e`; what its containers run by themselves are these words.
///
/// # Errors
/// tar or sha256sum fail; as write(2).
pub fn pack(directory: &Path, place: &Path, name: &str, entrypoint: &[&str]) -> Result<PathBuf> {
    let layout = place.join(format!("{name}.layout"));
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let layer = blobs.join("layer");
    run(command("tar")
        .arg("-C")
        .arg(directory)
        .arg("-cf")
        .arg(&layer)
        .arg("."))?;
    let (digest, size) = store(&blobs, &layer)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Entrypoint": entrypoint },
        "rootfs": { "type": "layers", "diff_ids": [digest] },
    });
    let config = blob(&blobs, &config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2,
        "config": config,
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size }],
    });
    let mut manifest = blob(
        &blobs,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    if let Some(manifest) = manifest.as_object_mut() {
        let names = json!({ "io.containerd.image.name": format!("localhost/{name}:e2e") });
        manifest.insert("annotations".to_owned(), names);
    }
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(
        layout.join("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
    )?;
    let tar = place.join(format!("{name}.tar"));
    run(command("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&tar)
        .arg("."))?;
    std::fs::remove_dir_all(layout)?;
    Ok(tar)
}

fn blob(blobs: &Path, content: &Value, kind: &str) -> Result<Value> {
    let path = blobs.join("json");
    std::fs::write(&path, content.to_string())?;
    let (digest, size) = store(blobs, &path)?;
    Ok(json!({ "mediaType": kind, "digest": digest, "size": size }))
}

/// Gives a blob its name.
fn store(blobs: &Path, path: &Path) -> Result<(String, u64)> {
    let sum = run(command("sha256sum").arg(path))?;
    let sum = sum.split_whitespace().next().context("sha256sum")?;
    std::fs::rename(path, blobs.join(sum))?;
    let size = std::fs::metadata(blobs.join(sum))?.len();
    Ok((format!("sha256:{sum}"), size))
}
