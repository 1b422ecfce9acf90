//! request_key(2) and what is read of its key; the program's only unsafe.

#![expect(unsafe_code, reason = "system calls; every other module is without")]

use std::ffi::CStr;

use nix::errno::Errno;

const JOIN_SESSION_KEYRING: i32 = 1;
const SEARCH: i32 = 10;
const READ: i32 = 11;
const SET_TIMEOUT: i32 = 15;
const SESSION: i32 = -3;

/// A session keyring of our own, so that nothing is found in another's.
pub(crate) fn join_session() -> Result<(), Errno> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this operation takes a name that may be null.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, none) };
    Errno::result(joined).map(drop)
}

/// Adds a key of type `user` to our session keyring.
pub(crate) fn add_user_key(description: &CStr, payload: &[u8]) -> Result<(), Errno> {
    let (kind, description) = (c"user".as_ptr(), description.as_ptr());
    let (bytes, length) = (payload.as_ptr(), payload.len());
    // SAFETY: add_key reads two terminated texts and so many bytes, which live here.
    let key =
        unsafe { libc::syscall(libc::SYS_add_key, kind, description, bytes, length, SESSION) };
    Errno::result(key).map(drop)
}

/// Asks for a key, into our session keyring.
pub(crate) fn request_key(kind: &CStr, description: &CStr, callout: &CStr) -> Result<i32, Errno> {
    let (kind, description, callout) = (kind.as_ptr(), description.as_ptr(), callout.as_ptr());
    // SAFETY: request_key reads three terminated texts, which live here.
    let key = unsafe { libc::syscall(libc::SYS_request_key, kind, description, callout, SESSION) };
    i32::try_from(Errno::result(key)?).map_err(|_| Errno::EOVERFLOW)
}

/// A key's payload.
pub(crate) fn read(key: i32) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0_u8; 65_536];
    let (start, length) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: KEYCTL_READ writes at most the given number of bytes; the buffer has them.
    let length = unsafe { libc::syscall(libc::SYS_keyctl, READ, key, start, length) };
    buffer.truncate(usize::try_from(Errno::result(length)?).unwrap_or(0));
    Ok(buffer)
}

/// A key of our session keyring, answered or not.
pub(crate) fn search(kind: &CStr, description: &CStr) -> Result<i32, Errno> {
    let (kind, description) = (kind.as_ptr(), description.as_ptr());
    // SAFETY: KEYCTL_SEARCH reads two terminated texts, which live here, and takes two numbers.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, kind, description, 0) };
    i32::try_from(Errno::result(key)?).map_err(|_| Errno::EOVERFLOW)
}

/// The key expires at the next full second.
pub(crate) fn expire_in_a_second(key: i32) -> Result<(), Errno> {
    // SAFETY: KEYCTL_SET_TIMEOUT takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, SET_TIMEOUT, key, 1) };
    Errno::result(result).map(drop)
}
