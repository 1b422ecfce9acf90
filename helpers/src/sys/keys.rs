//! keyctl(2): what a helper of /sbin/request-key's kind needs, raw.
//!
//! The authority to answer a request is possession: the process that the kernel started has the authorisation key in
//! its session keyring, and its children with it. Assuming it is a second step, undone by joining a user namespace
//! (kernel/user_namespace.c, `set_cred_user_ns`), so it may have to be taken again.

use std::ffi::CStr;

use nix::errno::Errno;

/// `KEY_SPEC_REQKEY_AUTH_KEY`: the authorisation key that was assumed (linux/keyctl.h).
const ASSUMED: i32 = -7;

/// `KEY_SPEC_PROCESS_KEYRING`: the keyring of this process (linux/keyctl.h).
const PROCESS: i32 = -2;

/// The operations, by the kernel's numbers (linux/keyctl.h).
pub mod operation {
    #![expect(missing_docs, reason = "keyctl(2)'s own names")]
    pub const GET_KEYRING_ID: u32 = 0;
    pub const DESCRIBE: u32 = 6;
    pub const READ: u32 = 11;
    pub const INSTANTIATE: u32 = 12;
    pub const NEGATE: u32 = 13;
    pub const SET_TIMEOUT: u32 = 15;
    pub const ASSUME_AUTHORITY: u32 = 16;
    pub const REJECT: u32 = 19;
    pub const INSTANTIATE_IOV: u32 = 20;
}

/// The longest callout information (security/keys/keyctl.c: below a page).
pub const CALLOUT_MAX: usize = 4096;

/// The longest description that [`describe`] gives: `type;uid;gid;permissions;description`.
pub const DESCRIPTION_MAX: usize = 4096 + 256;

/// Asks for a key, as request_key(2): into the keyring of this process, which ends with it.
///
/// # Errors
/// What whoever answers says; `ENOKEY` for a type that the kernel does not have.
pub fn request(kind: &CStr, description: &CStr, callout: &CStr) -> Result<i32, Errno> {
    let (kind, description, callout) = (kind.as_ptr(), description.as_ptr(), callout.as_ptr());
    // SAFETY: request_key reads three terminated texts, which outlive the call.
    let key = unsafe { libc::syscall(libc::SYS_request_key, kind, description, callout, PROCESS) };
    i32::try_from(Errno::result(key)?).map_err(|_| Errno::EOVERFLOW)
}

/// Takes the authority over this key, which is under construction; returns the authorisation key's serial number.
///
/// # Errors
/// `ENOKEY` where the session keyring has none, or the key was answered.
pub fn assume_authority(key: i32) -> Result<i32, Errno> {
    // SAFETY: KEYCTL_ASSUME_AUTHORITY takes a number.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, operation::ASSUME_AUTHORITY, key) };
    i32::try_from(Errno::result(serial)?).map_err(|_| Errno::EOVERFLOW)
}

/// Gives up the authority that was assumed.
///
/// # Errors
/// As keyctl(2).
pub fn renounce_authority() -> Result<(), Errno> {
    assume_authority(0).map(drop)
}

/// `type;uid;gid;permissions;description` of a key, without the terminating NUL. The description may hold semicolons.
///
/// # Errors
/// As keyctl(2): `EACCES` for a key that we may not see and have no authority over; `EMSGSIZE` for a longer one.
pub fn describe(key: i32) -> Result<Vec<u8>, Errno> {
    let mut text = into_buffer(operation::DESCRIBE, key, DESCRIPTION_MAX)?;
    text.pop();
    Ok(text)
}

/// The callout information of the request whose authority was assumed.
///
/// # Errors
/// As keyctl(2).
pub fn callout() -> Result<Vec<u8>, Errno> {
    into_buffer(operation::READ, ASSUMED, CALLOUT_MAX)
}

/// An operation that fills a buffer and says how long it would have to be.
fn into_buffer(operation: u32, key: i32, max: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0_u8; max];
    let (start, length) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: KEYCTL_DESCRIBE and KEYCTL_READ write at most the given number of bytes; the buffer has them.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, key, start, length) };
    let length = usize::try_from(Errno::result(result)?).map_err(|_| Errno::EOVERFLOW)?;
    if length > max {
        return Err(Errno::EMSGSIZE);
    }
    buffer.truncate(length);
    Ok(buffer)
}

/// Gives the key its payload and ends the authority; the key goes to the requester's keyring and to no other.
///
/// # Errors
/// `EINVAL` for a payload that the key's type does not take, `EDQUOT` for one over the quota of its user, `EPERM` without
/// authority, and one of several where the key was answered already.
pub fn instantiate(key: i32, payload: &[u8]) -> Result<(), Errno> {
    let (start, length) = (payload.as_ptr(), payload.len());
    let no_keyring = 0;
    // SAFETY: KEYCTL_INSTANTIATE reads the given number of bytes; the payload has them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            operation::INSTANTIATE,
            key,
            start,
            length,
            no_keyring,
        )
    };
    Errno::result(result).map(drop)
}

/// Refuses the key with this error for so many seconds, and ends the authority.
///
/// # Errors
/// `EPERM` without authority, and one of several where the key was answered already.
pub fn reject(key: i32, seconds: u32, error: u32) -> Result<(), Errno> {
    let no_keyring = 0;
    // SAFETY: KEYCTL_REJECT takes four numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            operation::REJECT,
            key,
            seconds,
            error,
            no_keyring,
        )
    };
    Errno::result(result).map(drop)
}

/// How long the key is good for, in seconds from now; before it has its payload.
///
/// # Errors
/// As keyctl(2).
pub fn set_timeout(key: i32, seconds: u32) -> Result<(), Errno> {
    // SAFETY: KEYCTL_SET_TIMEOUT takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation::SET_TIMEOUT, key, seconds) };
    Errno::result(result).map(drop)
}
