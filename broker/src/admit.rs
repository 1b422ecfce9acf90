//! How much at once, and how often: one tenant's storm must not cost another's crash, nor stall the kernel.
//!
//! Decided before a byte is read. The global limit waits a moment and then leaves the core to the shim's spool; a
//! container's own limits and a rule's refuse, and the refusal is recorded.

mod bucket;
mod tenant;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use upcall_config::facts::Reason;
use upcall_config::plan::Limit;
use upcall_config::rule::RuleRef;
use upcall_config::settings::LimitSettings;

use bucket::Bucket;
pub use tenant::Tenant;

/// How long an upcall waits for a place: below the shim's own deadline of two seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an upcall waits for the one before it of its tenant.
const TURN: Duration = Duration::from_millis(50);

/// Upcalls of one container that wait for a place; more are refused at once.
const WAITING_MAX: usize = 64;

/// A container or user that was quiet for this long is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

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
        let [places, waiting, turn] = self.places(tenant);
        let crowded = || self.crowded();
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

    /// Asks for a place that is free now: for upcalls that cannot wait. Those of one tenant run beside each other.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn enter_now(
        &self,
        tenant: &Tenant,
        rule: Option<(&RuleRef, Limit)>,
    ) -> Result<Ticket, Refused> {
        let rule = match rule {
            Some((rule, limit)) => self.enter_rule(rule, limit, tenant)?,
            None => None,
        };
        let [places, _, _] = self.places(tenant);
        let crowded = |_| self.crowded();
        Ok(Ticket {
            _tenant: places.try_acquire_owned().map_err(crowded)?,
            _global: Arc::clone(&self.global)
                .try_acquire_owned()
                .map_err(|_| Refused::Overload)?,
            _rule: rule,
            turn: None,
        })
    }

    fn crowded(&self) -> Refused {
        let per_container = self.settings.per_container;
        Refused::Limit {
            reason: Reason::Concurrency,
            message: format!(
                "{per_container} of its upcalls are being handled already \
                 (limits.per_container in upcalld.toml)"
            ),
        }
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
    use upcall_config::plan::Rate;

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

    #[tokio::test(start_paused = true)]
    async fn a_tenants_next_one_waits_for_the_one_before_it_and_not_for_long() {
        let admit = Admit::new(LimitSettings {
            concurrent: 8,
            per_container: 4,
        });
        let start = tokio::time::Instant::now();
        let mut first = admit.enter(&container("a"), None).await.unwrap();
        let _other = admit.enter(&container("b"), None).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        let _second = admit.enter(&container("a"), None).await.unwrap();
        assert!(start.elapsed() >= TURN);
        first.next_may_begin();
        let start = tokio::time::Instant::now();
        let _third = admit.enter(&container("a"), None).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
