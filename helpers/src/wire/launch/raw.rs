//! A launch, field by field, as it is read.

use super::{
    ARGV, CAPABILITIES, CGROUPS_V1, ENV, Enter, Exec, FILES, FILES_MAX, GID, GROUPS, GROUPS_MAX,
    ID, ID_MAX, IN_ALL, JOIN, KEY, KeyWork, LABEL, LABEL_MAX, LEADER, LIMITS, Launch, MEMORY,
    NAMESPACE_IDS, NamespaceId, ORIGIN, OUTPUT, PATH_MAX, PLACE, PROGRESS, Place, READER, READY,
    REPORTS, RLIMITS, Rlimit, SLOT, Task, UID, WORD_MAX, WORDS_MAX,
};
use crate::wire::FDS_MAX;
use crate::wire::field::{DecodeError, Field, once};
use crate::wire::role::{self, FDS, FdRole};

/// The fields as they come; [`Raw::finish`] makes a launch of them.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) id: Option<Vec<u8>>,
    pub(super) slot: Option<u8>,
    fds: Option<Vec<FdRole>>,
    argv: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    place: Option<Place>,
    join: Option<u32>,
    namespaces: Option<[u64; 16]>,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
    capabilities: Option<u64>,
    label: Option<Vec<u8>>,
    limits: Option<[u64; RLIMITS * 2]>,
    progress: Option<u32>,
    output: Option<u32>,
    leader: Option<u32>,
    memory: Option<u64>,
    reports: Option<bool>,
    cgroups_v1: Vec<Vec<u8>>,
    origin: Option<[u32; 2]>,
    ready: Option<bool>,
    in_all: Option<bool>,
    key: Option<KeyWork>,
    files: Vec<Vec<u8>>,
    reader: Option<[u32; 2]>,
}

impl Raw {
    pub(super) fn take(&mut self, field: Field<'_>) -> Result<(), DecodeError> {
        let tag = field.tag;
        match tag {
            ID => once(&mut self.id, tag, field.bytes(ID_MAX)?.to_vec()),
            SLOT => once(&mut self.slot, tag, field.u8()?),
            FDS => once(&mut self.fds, tag, role::decode(field.bytes(FDS_MAX)?)?),
            ARGV => field.push(&mut self.argv, WORDS_MAX, WORD_MAX),
            ENV => field.push(&mut self.env, WORDS_MAX, WORD_MAX),
            PLACE => match field.u8()? {
                1 => once(&mut self.place, tag, Place::Container),
                2 => once(&mut self.place, tag, Place::Host),
                3 => once(&mut self.place, tag, Place::User),
                4 => once(&mut self.place, tag, Place::Beside),
                _ => Err(DecodeError::Value(tag)),
            },
            JOIN => once(&mut self.join, tag, field.u32()?),
            NAMESPACE_IDS => once(&mut self.namespaces, tag, field.u64s()?),
            UID => once(&mut self.uid, tag, field.u32()?),
            GID => once(&mut self.gid, tag, field.u32()?),
            GROUPS => once(&mut self.groups, tag, field.u32s(GROUPS_MAX)?),
            CAPABILITIES => once(&mut self.capabilities, tag, field.u64()?),
            LABEL => once(&mut self.label, tag, field.bytes(LABEL_MAX)?.to_vec()),
            LIMITS => once(&mut self.limits, tag, field.u64s()?),
            PROGRESS => once(&mut self.progress, tag, field.u32()?),
            OUTPUT => once(&mut self.output, tag, field.u32()?),
            LEADER => once(&mut self.leader, tag, field.u32()?),
            MEMORY => once(&mut self.memory, tag, field.u64()?),
            REPORTS => once(&mut self.reports, tag, field.u8()? != 0),
            CGROUPS_V1 => field.push(&mut self.cgroups_v1, FDS_MAX, PATH_MAX),
            ORIGIN => {
                let numbers = field.u32s(2)?.try_into();
                let numbers = numbers.map_err(|_| DecodeError::Value(tag))?;
                once(&mut self.origin, tag, numbers)
            }
            READY => once(&mut self.ready, tag, field.u8()? != 0),
            IN_ALL => once(&mut self.in_all, tag, field.u8()? != 0),
            KEY => {
                let [serial, authority] = halves(field.u64()?);
                let authority = match authority {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Value(tag)),
                };
                once(&mut self.key, tag, KeyWork { serial, authority })
            }
            FILES => field.push(&mut self.files, FILES_MAX, PATH_MAX),
            READER => once(&mut self.reader, tag, halves(field.u64()?)),
            _ => field.unknown(),
        }
    }

    pub(super) fn finish(self, descriptors: usize) -> Result<Launch, DecodeError> {
        let id = self.id.ok_or(DecodeError::Missing(ID))?;
        let plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
        if id.is_empty() || !id.iter().all(plain) {
            return Err(DecodeError::Value(ID));
        }
        let fds = self.fds.unwrap_or_default();
        let v1 = fds.iter().filter(|role| **role == FdRole::CgroupV1).count();
        let origin = fds.contains(&FdRole::Origin);
        if fds.len() != descriptors
            || v1 != self.cgroups_v1.len()
            || origin != self.origin.is_some()
        {
            return Err(DecodeError::Descriptors);
        }
        if self.argv.is_empty()
            || self
                .argv
                .iter()
                .chain(&self.env)
                .any(|word| word.contains(&0))
        {
            return Err(DecodeError::Value(ARGV));
        }
        let beside = self.place == Some(Place::Beside);
        if beside != self.reader.is_some() || !beside && !self.files.is_empty() {
            return Err(DecodeError::Value(READER));
        }
        let task = match self.place {
            None => Task::Exec(Exec {
                argv: self.argv,
                env: self.env,
                reports: self.reports.unwrap_or(false),
            }),
            Some(place) => Task::Enter(Box::new(Enter {
                place,
                argv: self.argv,
                env: self.env,
                leader: self.leader.ok_or(DecodeError::Missing(LEADER))?,
                join: self.join.ok_or(DecodeError::Missing(JOIN))?,
                namespaces: pairs(&self.namespaces.ok_or(DecodeError::Missing(NAMESPACE_IDS))?)
                    .map(|[dev, ino]| NamespaceId { dev, ino }),
                uid: self.uid.ok_or(DecodeError::Missing(UID))?,
                gid: self.gid.ok_or(DecodeError::Missing(GID))?,
                groups: self.groups.ok_or(DecodeError::Missing(GROUPS))?,
                capabilities: self
                    .capabilities
                    .ok_or(DecodeError::Missing(CAPABILITIES))?,
                label: self.label.ok_or(DecodeError::Missing(LABEL))?,
                limits: pairs(&self.limits.ok_or(DecodeError::Missing(LIMITS))?)
                    .map(|[soft, hard]| Rlimit { soft, hard }),
                cgroups_v1: self.cgroups_v1,
                origin: self.origin,
                ready: self.ready.unwrap_or(false),
                memory: self.memory,
                progress: self.progress.ok_or(DecodeError::Missing(PROGRESS))?,
                in_all: self.in_all.unwrap_or(false),
                output: self.output.ok_or(DecodeError::Missing(OUTPUT))?,
                key: self.key,
                files: self.files,
                reader: self.reader.unwrap_or_default(),
            })),
        };
        Ok(Launch {
            id,
            slot: self.slot.ok_or(DecodeError::Missing(SLOT))?,
            fds,
            task,
        })
    }
}

/// The low and the high half.
fn halves(number: u64) -> [u32; 2] {
    [number & 0xffff_ffff, number >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

/// A row of numbers as pairs; `N` pairs of a row of `2 * N`.
fn pairs<const M: usize, const N: usize>(row: &[u64; M]) -> [[u64; 2]; N] {
    const { assert!(M == 2 * N, "a row of pairs") }
    let mut result = [[0; 2]; N];
    let (chunks, _) = row.as_chunks::<2>();
    for (slot, pair) in result.iter_mut().zip(chunks) {
        *slot = *pair;
    }
    result
}
