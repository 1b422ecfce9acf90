//! A key that a process which is alive would need.

use upcall_config::keytype::{self, Caller, KeyUpcall};
use upcall_config::text::{printable, unescape};
use upcall_config::upcall::Upcall;

use super::{Case, Check, ExplainError, Explainer, KeyAsked, KeyText};

/// What is said of a request that is refused before any rule is looked at.
pub(super) const FORGED: &str = "only the kernel asks for keys of this type, and this is a program";

/// What its asking for this key would be.
pub(super) fn case(
    explainer: &Explainer<'_>,
    pid: u32,
    asked: &KeyAsked,
) -> Result<Case, ExplainError> {
    let (key, forged, mut taken_for) = wanted(asked)?;
    let own = Some(Check::claims(forged));
    let text = KeyText::new(&key, forged);
    let mut case = explainer.asker(pid, Upcall::Key(key), own)?;
    case.explanation.taken_for.append(&mut taken_for);
    case.explanation.key = Some(text);
    case.explanation.refused = forged.then(|| FORGED.to_owned());
    Ok(case)
}

/// The key, whether whoever asks claims to be the kernel and is not, and what was taken for granted.
fn wanted(asked: &KeyAsked) -> Result<(KeyUpcall, bool, Vec<String>), ExplainError> {
    let bytes = |text: &String| {
        let bytes = unescape(text);
        bytes.ok_or_else(|| ExplainError::NoText(printable(text)))
    };
    let kind = bytes(&asked.kind)?;
    let mut taken_for = vec!["the key's number is taken to be 0: the kernel draws one".to_owned()];
    let keyring = keytype::kernels_keyring(&kind);
    let by_kernel = match asked.caller.as_deref().and_then(Caller::from_word) {
        Some(Caller::Kernel) if keyring.is_none() => {
            return Err(ExplainError::NotTheKernels(printable(&asked.kind)));
        }
        Some(caller) => caller == Caller::Kernel,
        None => {
            if keyring.is_some() {
                let kind = printable(&asked.kind);
                taken_for.push(format!(
                    "the kernel itself is taken to ask, as it does for {kind}; else --caller user"
                ));
            }
            keyring.is_some()
        }
    };
    let keyring = keyring.filter(|_| by_kernel).map(str::as_bytes);
    let caller = keytype::caller(&kind, keyring);
    let key = KeyUpcall {
        serial: 0,
        description: bytes(&asked.description)?,
        callout: Some(bytes(&asked.callout)?),
        caller: caller.unwrap_or(Caller::User),
        kind,
    };
    Ok((key, caller.is_none(), taken_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: &str, caller: Option<&str>) -> KeyAsked {
        KeyAsked {
            kind: kind.to_owned(),
            description: "a\\x20b".to_owned(),
            callout: String::new(),
            caller: caller.map(str::to_owned),
        }
    }

    #[test]
    fn who_asks_is_who_usually_does_unless_it_is_said() {
        let of = |kind, caller| {
            let (key, forged, taken) = wanted(&asked(kind, caller)).unwrap();
            assert_eq!(key.description, b"a b");
            (key.caller, forged, taken.len())
        };
        assert_eq!(of("user", None), (Caller::User, false, 1));
        assert_eq!(of("dns_resolver", None), (Caller::Kernel, false, 2));
        assert_eq!(of("dns_resolver", Some("user")), (Caller::User, false, 1));
        assert_eq!(of("id_resolver", Some("user")), (Caller::User, true, 1));
        assert_eq!(
            of("id_resolver", Some("kernel")),
            (Caller::Kernel, false, 1)
        );
        let wrong = wanted(&asked("user", Some("kernel")));
        assert!(matches!(wrong, Err(ExplainError::NotTheKernels(_))));
        let wrong = wanted(&asked("a\\", None));
        assert!(matches!(wrong, Err(ExplainError::NoText(_))));
    }
}
