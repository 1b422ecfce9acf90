//! Kept cores, as they were before they were kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use upcalld::store::cores::{compressed, find};

/// The core of the record with this id in a state directory.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn kept(state: &Path, id: &str) -> Result<Vec<u8>> {
    let path = path(state, id)?;
    let bytes = std::fs::read(&path)?;
    match compressed(&path) {
        "zstd" => unpacked(&bytes),
        _ => Ok(bytes),
    }
}

/// Its file.
///
/// # Errors
/// There is none.
pub fn path(state: &Path, id: &str) -> Result<PathBuf> {
    find(&state.join("cores"), id).with_context(|| format!("no core of {id} is kept"))
}

/// All that a zstd file says, frame after frame.
///
/// # Errors
/// It is not whole.
pub fn unpacked(mut packed: &[u8]) -> Result<Vec<u8>> {
    let wrong = |code| anyhow!("zstd: {}", zstd_safe::get_error_name(code));
    let mut all = Vec::new();
    while !packed.is_empty() {
        let length = zstd_safe::find_frame_compressed_size(packed).map_err(wrong)?;
        let (frame, rest) = packed.split_at_checked(length).context("a frame")?;
        let size = zstd_safe::get_frame_content_size(frame).map_err(|_| anyhow!("a frame"))?;
        let mut part = vec![0; usize::try_from(size.context("no size")?)?];
        zstd_safe::decompress(part.as_mut_slice(), frame).map_err(wrong)?;
        all.extend(part);
        packed = rest;
    }
    Ok(all)
}
