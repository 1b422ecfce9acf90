//! How much at once, and how often: one tenant's storm must not cost another's crash, nor stall the kernel.
//!
//! Decided before a byte is read. The global limit waits a moment and then leaves the core to the shim's spool; a
//! container's own limits and a rule's refuse, and the refusal is recorded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use upcall_config::facts::{Facts, Reason};
use upcall_config::plan::{Limit, Rate};
use upcall_config::rule::RuleRef;
use upcall_config::settings::LimitSettings;

/// How long an upcall waits for a place: below the shim's own deadline of two seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an upcall waits for the one before it of its tenant.
const TURN: Duration = Duration::from_millis(50);

/// Upcalls of one container that wait for a place; more are refused at once.
const WAITING_MAX: usize = 64;

/// A container or user that was quiet for this long is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

/// Whose upcall it is: limits are counted apart for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// A registered container, by runtime and id.
    Container(&'static str, Vec<u8>),
    /// A user of the host, outside of any container we know, with all his subordinate ids (subuid(5)).
    User(u32),
    /// Nobody knows.
    Unknown,
}

impl Tenant {
    /// Whose the facts are. The ids of a lost process are many where its user has many (subuid(5)), and all are nobody's.
    pub fn of(facts: &Facts) -> Self {
        if facts.host_only == Some(Reason::IdentityLost) {
            return Self::Unknown;
        }
        if let Some(container) = &facts.container {
            return Self::Container(container.runtime.as_str(), container.id.clone());
        }
        // In a namespace that a user made, all ids are his; in one that root made, they are whoever's root meant.
        let owner = facts.process.namespace_owner.filter(|owner| *owner != 0);
        owner
            .or(facts.process.uid)
            .map_or(Self::Unknown, Self::User)
    }
}

/// A refusal by a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Everything is busy: the shim keeps the core.
    Overload,
    /// A limit of this container's or of this rule: refused for good.
    Limit {
        /// `rate_limit` or `concurrency`.
        reason: Reason,
        /// One line for people.
        message: String,
    },
}

/// How much of a rule's limit is left for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// So many more at once, of its rate.
    pub rate: Option<u32>,
    /// So many are running.
    pub running: Option<u32>,
}

/// Leave to go on; giving it back makes room for the next.
#[derive(Debug)]
pub struct Ticket {
    _global: OwnedSemaphorePermit,
    _tenant: OwnedSemaphorePermit,
    _rule: Option<OwnedSemaphorePermit>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Ticket {
    /// Its programs have ended: the tenant's next one may begin, before this one's record is written and its keeper reaped.
    pub fn next_may_begin(&mut self) {
        self.turn = None;
    }
}

/// All limits.
#[derive(Debug)]
pub struct Admit {
    settings: LimitSettings,
    global: Arc<Semaphore>,
    tenants: Mutex<HashMap<Tenant, Places>>,
    rules: Mutex<HashMap<(RuleRef, Tenant), RulePlaces>>,
}

#[derive(Debug)]
struct Places {
    semaphore: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    used: Instant,
}

#[derive(Debug)]
struct RulePlaces {
    bucket: Option<Bucket>,
    semaphore: Option<Arc<Semaphore>>,
    used: Instant,
}

/// A token bucket: as many at once as the rate's count, refilled evenly.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: f64::from(rate.count),
            filled: now,
        }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.rate.count) / self.rate.per.as_secs_f64().max(0.001)
    }

    /// Its tokens, and parts of one.
    fn now(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second();
        (self.tokens + gained).min(f64::from(self.rate.count))
    }

    /// How many could be taken.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the rate's count, and `as` saturates"
    )]
    fn whole(&self, now: Instant) -> u32 {
        self.now(now) as u32
    }

    /// Takes a token, or says in how long there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.tokens = self.now(now);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (1.0 - self.tokens) / self.per_second().max(1e-9),
        ))
    }
}

impl Admit {
    /// With these limits.
    pub fn new(settings: LimitSettings) -> Self {
        Self {
            settings,
            global: Arc::new(Semaphore::new(
                usize::try_from(settings.concurrent).unwrap_or(1),
            )),
            tenants: Mutex::default(),
            rules: Mutex::default(),
        }
    }

    /// Asks for a place. `rule` is the rule that matched and its limit.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn enter(
        &self,
        tenant: &Tenant,
        rule: Option<(&RuleRef, Limit)>,
    ) -> Result<Ticket, Refused> {
        let rule = match rule {
            Some((rule, limit)) => self.enter_rule(rule, limit, tenant)?,
            None => None,
        };
        let per_container = self.settings.per_container;
        let [places, waiting, turn] = self.places(tenant);
        let crowded = || Refused::Limit {
            reason: Reason::Concurrency,
            message: format!(
                "{per_container} of its upcalls are being handled already \
                 (limits.per_container in upcalld.toml)"
            ),
        };
        let tenant = if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            permit
        } else {
            let _waiting = waiting.try_acquire_owned().map_err(|_| crowded())?;
            let permit = tokio::time::timeout(PATIENCE, places.acquire_owned()).await;
            permit.ok().and_then(Result::ok).ok_or_else(crowded)?
        };
        let global = if let Ok(permit) = Arc::clone(&self.global).try_acquire_owned() {
            permit
        } else {
            let global = Arc::clone(&self.global);
            let permit = tokio::time::timeout(PATIENCE, global.acquire_owned()).await;
            permit.ok().and_then(Result::ok).ok_or(Refused::Overload)?
        };
        // One after the other, so that a storm of one leaves the processors to others; what takes longer, as a helper
        // that uploads, holds up its own for a moment only.
        let turn = tokio::time::timeout(TURN, turn.acquire_owned()).await;
        Ok(Ticket {
            _global: global,
            _tenant: tenant,
            _rule: rule,
            turn: turn.ok().and_then(Result::ok),
        })
    }

    /// How many upcalls hold a place of the global limit.
    pub fn running(&self) -> u64 {
        let all = usize::try_from(self.settings.concurrent).unwrap_or(usize::MAX);
        let taken = all.saturating_sub(self.global.available_permits());
        u64::try_from(taken).unwrap_or(u64::MAX)
    }

    /// How much of a rule's limit is left, for explaining: takes nothing.
    pub fn left(&self, rule: &RuleRef, limit: Limit, tenant: &Tenant) -> Left {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let places = rules.get(&(rule.clone(), tenant.clone()));
        let free = places.and_then(|places| places.semaphore.as_ref());
        let free = free.map(|semaphore| semaphore.available_permits());
        let bucket = places.and_then(|places| places.bucket);
        Left {
            rate: limit.rate.map(|rate| {
                let now = Instant::now();
                bucket.map_or(rate.count, |bucket| bucket.whole(now))
            }),
            running: limit.concurrent.map(|count| {
                let free = free.and_then(|free| u32::try_from(free).ok());
                count.saturating_sub(free.unwrap_or(count))
            }),
        }
    }

    fn places(&self, tenant: &Tenant) -> [Arc<Semaphore>; 3] {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Strong count 1 is ours alone: nobody of theirs is here or waits.
        tenants.retain(|_, places| {
            now.saturating_duration_since(places.used) < MEMORY
                || Arc::strong_count(&places.semaphore) > 1
        });
        let per_container = usize::try_from(self.settings.per_container).unwrap_or(1);
        let places = tenants.entry(tenant.clone()).or_insert_with(|| Places {
            semaphore: Arc::new(Semaphore::new(per_container)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            used: now,
        });
        places.used = now;
        [&places.semaphore, &places.waiting, &places.turn].map(Arc::clone)
    }

    fn enter_rule(
        &self,
        rule: &RuleRef,
        limit: Limit,
        tenant: &Tenant,
    ) -> Result<Option<OwnedSemaphorePermit>, Refused> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        rules.retain(|_, places| {
            now.saturating_duration_since(places.used) < MEMORY.max(places.period())
                || places
                    .semaphore
                    .as_ref()
                    .is_some_and(|semaphore| Arc::strong_count(semaphore) > 1)
        });
        let places = rules
            .entry((rule.clone(), tenant.clone()))
            .or_insert_with(|| RulePlaces {
                bucket: limit.rate.map(|rate| Bucket::new(rate, now)),
                semaphore: limit
                    .concurrent
                    .map(|count| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(1)))),
                used: now,
            });
        places.used = now;
        let permit = match &places.semaphore {
            None => None,
            Some(semaphore) => {
                let permit = Arc::clone(semaphore).try_acquire_owned();
                Some(permit.map_err(|_| Refused::Limit {
                    reason: Reason::Concurrency,
                    message: format!(
                        "{} at once is what {rule} allows",
                        limit.concurrent.unwrap_or_default()
                    ),
                })?)
            }
        };
        if let Some(bucket) = &mut places.bucket {
            bucket.take(now).map_err(|next| Refused::Limit {
                reason: Reason::RateLimit,
                message: format!(
                    "{rule} allows {} in {} s; next in {} s",
                    bucket.rate.count,
                    bucket.rate.per.as_secs(),
                    next.as_secs() + 1
                ),
            })?;
        }
        Ok(permit)
    }
}

impl RulePlaces {
    fn period(&self) -> Duration {
        self.bucket.map_or(Duration::ZERO, |bucket| bucket.rate.per)
    }
}

#[cfg(test)]
mod tests {
    use upcall_config::facts::ProcessFacts;

    use super::*;

    fn rule() -> RuleRef {
        RuleRef {
            file: std::path::Path::new("/r/50-shop.toml").into(),
            line: 12,
            name: None,
        }
    }

    fn container(id: &str) -> Tenant {
        Tenant::Container("runc", id.as_bytes().to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_counted_for_each_container_apart() {
        let admit = Admit::new(LimitSettings {
            concurrent: 64,
            per_container: 64,
        });
        let rate = Some(Rate {
            count: 3,
            per: Duration::from_mins(1),
        });
        let limit = Limit {
            rate,
            concurrent: None,
        };
        let rule = rule();
        assert_eq!(admit.left(&rule, limit, &container("a")).rate, Some(3));
        for _ in 0..3 {
            drop(
                admit
                    .enter(&container("a"), Some((&rule, limit)))
                    .await
                    .unwrap(),
            );
        }
        let left = admit.left(&rule, limit, &container("a"));
        assert_eq!((left.rate, left.running), (Some(0), None));
        let refused = admit
            .enter(&container("a"), Some((&rule, limit)))
            .await
            .unwrap_err();
        let Refused::Limit { reason, message } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(reason, Reason::RateLimit);
        assert!(
            message.contains("50-shop.toml:12 allows 3 in 60 s; next in "),
            "{message}"
        );
        assert!(
            admit
                .enter(&container("b"), Some((&rule, limit)))
                .await
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_one_container_leaves_room_for_another() {
        let admit = Admit::new(LimitSettings {
            concurrent: 3,
            per_container: 2,
        });
        let _one = admit.enter(&container("a"), None).await.unwrap();
        let two = admit.enter(&container("a"), None).await.unwrap();
        let refused = admit.enter(&container("a"), None).await.unwrap_err();
        assert!(matches!(
            refused,
            Refused::Limit {
                reason: Reason::Concurrency,
                ..
            }
        ));
        let _other = admit.enter(&container("b"), None).await.unwrap();
        assert_eq!(
            admit.enter(&container("c"), None).await.unwrap_err(),
            Refused::Overload
        );
        drop(two);
        assert!(admit.enter(&container("a"), None).await.is_ok());
    }

    #[test]
    fn whoever_gets_lost_is_one_tenant_whatever_his_ids() {
        let lost = |uid| Facts {
            process: ProcessFacts {
                uid: Some(uid),
                ..ProcessFacts::default()
            },
            host_only: Some(Reason::IdentityLost),
            ..Facts::default()
        };
        assert_eq!(Tenant::of(&lost(300_000)), Tenant::Unknown);
        assert_eq!(Tenant::of(&lost(300_001)), Tenant::Unknown);
        let known = Facts {
            host_only: None,
            ..lost(1000)
        };
        assert_eq!(Tenant::of(&known), Tenant::User(1000));
    }

    #[test]
    fn a_user_is_one_tenant_with_all_ids_of_his_namespaces() {
        let of = |uid, owner| Facts {
            process: ProcessFacts {
                uid: Some(uid),
                namespace_owner: owner,
                ..ProcessFacts::default()
            },
            ..Facts::default()
        };
        assert_eq!(Tenant::of(&of(300_000, Some(1000))), Tenant::User(1000));
        assert_eq!(Tenant::of(&of(300_001, Some(1000))), Tenant::User(1000));
        assert_eq!(Tenant::of(&of(300_001, Some(0))), Tenant::User(300_001));
        assert_eq!(Tenant::of(&of(1000, None)), Tenant::User(1000));
    }

    #[test]
    fn a_bucket_fills_up_again_and_not_over_its_brim() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                count: 2,
                per: Duration::from_secs(10),
            },
            start,
        );
        assert!(bucket.take(start).is_ok() && bucket.take(start).is_ok());
        assert_eq!(bucket.take(start).unwrap_err().as_secs(), 5);
        assert!(bucket.take(start + Duration::from_secs(5)).is_ok());
        let later = start + Duration::from_hours(1);
        assert!(bucket.take(later).is_ok() && bucket.take(later).is_ok());
        assert!(bucket.take(later).is_err());
    }
}
